"""Reading films as FFmpeg does: range, matrix, start, fields and turns of each frame, whatever the codec."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter.graph import Graph
from PIL import Image, features

from colorize.video import decoding, probing
from colorize.video.chroma import coded_planes, grey_image
from colorize.video.probing import Film, FilmFrame
from tests.filming import grey_frames, write_film

WIDTH, HEIGHT = 64, 48
RAMP = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))


def read(path: Path, telecine: bool = False) -> tuple[Film, list[FilmFrame], set[str]]:
    film, left_out = probing.probe(str(path)), set[str]()
    film = decoding.with_telecine(film) if telecine else film
    return film, list(decoding.frames(film, film.start, None, None, [], left_out)), left_out


def run_graph(frame: av.VideoFrame, filters: dict[str, str], unit: Fraction = Fraction(1, 25)) -> av.VideoFrame:
    graph = Graph()
    colour = {"range": str(int(frame.color_range)), "colorspace": str(int(frame.colorspace))}
    source = graph.add(
        *("buffer",), video_size=f"{WIDTH}x{HEIGHT}", pix_fmt=frame.format.name, time_base=str(unit), **colour
    )
    graph.link_nodes(source, *(graph.add(*item) for item in filters.items()), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def plane(frame: av.VideoFrame) -> np.ndarray[Any, Any]:
    deep = np.uint8 if frame.format.components[0].bits <= 8 else np.uint16
    return np.frombuffer(frame.planes[0], deep).reshape(HEIGHT, -1)[:, :WIDTH]


FULL, NO_TAG = (True, False), (False,)


@pytest.mark.parametrize(
    ("suffix", "codec", "formats", "ranges"),
    [
        ("mkv", "ffv1", "yuv420p yuv422p10le yuv420p16le bgr0 gbrp10le gbrp16le rgb48le", FULL),
        ("mkv", "libx264", "yuv420p yuv444p10le", FULL),
        ("mp4", "libx264rgb", "rgb24", FULL),
        ("mkv", "libx265", "gbrp yuv420p12le", FULL),
        ("mkv", "libvpx-vp9", "gbrp yuv420p", FULL),
        ("mov", "png", "rgb24 rgba rgb48be gray ya8 pal8", (True,)),
        ("mov", "tiff", "rgb24 gray16le", (True,)),
        ("avi", "mjpeg", "yuvj420p", (True,)),
        ("avi", "ffvhuff", "bgra gbrp yuv420p", NO_TAG),
        ("avi", "utvideo", "gbrp", NO_TAG),
        ("avi", "rawvideo", "bgr24 uyvy422 yuyv422 rgb555le", NO_TAG),
        ("mkv", "rawvideo", "uyvy422", FULL),
        ("mov", "v210", "yuv422p10le", NO_TAG),
        ("mov", "dpx", "gbrp10be", (True,)),
        ("mov", "qtrle", "rgb24 argb", (True,)),
    ],
)
@pytest.mark.parametrize("start", [0, 48003])
def test_luma_is_what_ffmpeg_reads_whatever_the_codec_pixels_range_matrix_and_start(
    suffix: str, codec: str, formats: str, ranges: tuple[bool, ...], start: int, tmp_path: Path
) -> None:
    options = {"libx264rgb": {"qp": "0"}, "libx264": {"qp": "0"}, "libvpx-vp9": {"lossless": "1"}}.get(codec, {})
    options |= {"x265-params": "lossless=1:log-level=none"} if codec == "libx265" else {}
    for pixels in formats.split():
        for full, matrix in [(full, matrix) for full in ranges for matrix in (1, 6)]:
            rgb = np.repeat((RAMP * 65535).round().astype(np.uint16)[..., None], 3, axis=2)
            drawn = av.VideoFrame.from_ndarray(rgb, "rgb48le")
            drawn.color_range, drawn.colorspace, drawn.pts = 2, 0, 0
            scale = f"out_range={'full' if full else 'limited'}:out_color_matrix={'bt709' if matrix == 1 else 'bt601'}"
            frame = run_graph(drawn, {"scale": f"{scale}:flags=accurate_rnd", "format": f"pix_fmts={pixels}"})
            path = tmp_path / f"{pixels}{full}{matrix}.{suffix}"
            with av.open(path, "w") as container:
                stream = container.add_stream(codec, rate=25, options=options)
                stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
                stream.codec_context.color_range = 2 if full else 1
                stream.codec_context.colorspace = 0 if "rgb" in pixels or pixels[0] in "bg" else matrix
                stream.codec_context.time_base = Fraction(1, 90_000) if suffix in ("mov", "mp4") else Fraction(1, 25)
                for number in range(3):
                    moment = number * 3600 + start if suffix in ("mov", "mp4") else number + start % 7
                    frame.pts, frame.time_base = moment, stream.codec_context.time_base
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            film, found, _ = read(path)
            with av.open(path) as container:
                stored = next(container.decode(video=0))
            wide = {"scale": "out_range=full:flags=accurate_rnd", "format": "pix_fmts=yuv444p16le"}
            wanted = plane(run_graph(stored, wide)) / 65535
            bits = film.bits - 8
            luma = found[0].luma / (1 << bits)
            luma = luma / 255 if film.full_range else (luma - 16) / 219
            assert len(found) == 3 and np.abs(luma - wanted).max() * 255 < 1.6, path.name
            assert np.abs(grey_image(found[0].luma, film) / 255 - RAMP).mean() < 0.02 or pixels == "pal8", path.name


@pytest.mark.parametrize("pixels", ["gray", "gray10le"])
def test_grey_keeps_the_range_that_it_says(pixels: str, tmp_path: Path) -> None:
    for full in (True, False):
        with av.open(tmp_path / "in.mkv", "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
            stream.codec_context.color_range = 2 if full else 1
            frame = av.VideoFrame(WIDTH, HEIGHT, pixels)
            plane(frame)[:] = (RAMP * 255).round().astype(np.uint16) << (0 if pixels == "gray" else 2)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        film, found, _ = read(tmp_path / "in.mkv")
        with av.open(tmp_path / "in.mkv") as container:
            assert np.array_equal(found[0].luma, plane(next(container.decode(video=0))))
        assert film.full_range == full


def test_exif_in_frames_turns_them_and_breaks_nothing(tmp_path: Path) -> None:
    """FFmpeg hands EXIF on with each frame, as side data that PyAV has no name for."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "camera"
    jpegs = []
    for luma in grey_frames(3):
        Image.fromarray(luma).save(file := io.BytesIO(), "JPEG", quality=100, exif=exif)
        jpegs.append(file.getvalue())
    with av.open(tmp_path / "in.avi", "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, jpeg in enumerate(jpegs):
            packet = av.Packet(jpeg)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    film, found, _ = read(tmp_path / "in.avi")
    assert (film.width, film.height, len(found)) == (48, 64, 3)
    off = [
        np.abs(np.rot90(luma, -1).astype(int) - frame.luma).mean()
        for luma, frame in zip(grey_frames(3), found, strict=True)
    ]
    assert max(off) < 2


@pytest.mark.parametrize("suffix", ["mpg", "ts"])
def test_no_frame_is_lost_where_a_start_is_no_whole_microsecond(suffix: str, tmp_path: Path) -> None:
    for start in range(0, 9):
        times = [3003 * number + start for number in range(6)]
        path = write_film(tmp_path / f"{start}.{suffix}", grey_frames(6), times, time_base=Fraction(1, 90_000))
        film, found, _ = read(path)
        with av.open(path) as container:
            stored = [frame.pts for frame in container.decode(video=0)]
        assert len(found) == len(stored) == 6 and found[0].time == stored[0]
        assert film.start == stored[0] * film.time_base


def moments(count: int, width: int = 64, height: int = 48) -> list[np.ndarray[Any, Any]]:
    columns = np.arange(width) + np.zeros((height, 1))
    return [(120 + 80 * np.sin((columns + 3 * time) / 5)).astype(np.uint8) for time in range(count)]


def test_fields_that_begin_later_become_whole_frames(tmp_path: Path) -> None:
    given = moments(30)
    odd = np.arange(48)[:, None] % 2 == 1
    combed = [np.where(odd, first, second) for first, second in zip(given[10::2], given[11::2], strict=True)]
    plain = write_film(tmp_path / "p.h264", given[:10], options={"crf": "1", "bf": "0"}).read_bytes()
    options = {"x264-params": "interlaced=1", "crf": "1", "bf": "0"}
    mixed = write_film(tmp_path / "i.h264", combed, options=options).read_bytes()
    (tmp_path / "pi.h264").write_bytes(plain + mixed)
    _, found, _ = read(tmp_path / "pi.h264")
    assert len(found) == 20
    for frame, whole in zip(found[:10], given[:10], strict=True):
        assert np.abs(frame.luma.astype(int) - whole).mean() < 1.5
    for frame, comb, moment in zip(found[11:-1], combed[1:-1], given[12:-2:2], strict=True):
        off = [np.abs(luma[::2].astype(int) - moment[::2]).mean() for luma in (frame.luma, comb)]
        assert off[0] < 0.25 * off[1]


@pytest.mark.parametrize("pattern", [(2, 3, 2, 3), (2, 3, 3, 2)])
@pytest.mark.parametrize("top_first", [True, False])
def test_woven_film_gets_all_its_frames_back_and_none_twice(
    pattern: tuple[int, ...], top_first: bool, tmp_path: Path
) -> None:
    film_frames = grey_frames(48)
    fields = [luma for number, luma in enumerate(film_frames) for _ in range(pattern[number % 4])]
    woven = []
    for first, second in zip(fields[::2], fields[1::2], strict=True):
        luma = first.copy()
        luma[1 if top_first else 0 :: 2] = second[1 if top_first else 0 :: 2]
        woven.append(luma)
    times = [number * 1001 // 30 for number in range(len(woven))]
    path = write_film(tmp_path / "in.mkv", woven, times, "ffv1", rate=Fraction(30000, 1001))
    film, found, _ = read(path, telecine=True)
    assert float(film.rate) == pytest.approx(24000 / 1001, abs=0.01) and film.second_field == (1 if top_first else 0)
    assert len(found) == 48
    assert all(np.array_equal(frame.luma, luma) for frame, luma in zip(found, film_frames, strict=True))
    steps = np.diff([float(frame.time * film.time_base) for frame in found])
    assert steps == pytest.approx([1001 / 24000] * 47, abs=2e-3)
    rest = list(decoding.frames(film, film.start, None, found[20].time, [], set()))
    assert [(frame.time, frame.luma.sum()) for frame in rest] == [(one.time, one.luma.sum()) for one in found[21:]]
    assert len(read(path)[1]) == 60  # telecine=off


def test_what_is_not_woven_stays(tmp_path: Path) -> None:
    given = moments(120)
    odd = np.arange(48)[:, None] % 2 == 1
    fields = [np.where(odd, first, second) for first, second in zip(given[::2], given[1::2], strict=True)]
    for luma in (given[:60], fields, [given[number // 2] for number in range(60)], [given[0]] * 60):
        times = [number * 1000 // 30 for number in range(60)]
        path = write_film(tmp_path / "in.mkv", luma, times, "ffv1", rate=30)
        film, found, _ = read(path, telecine=True)
        assert film.second_field is None and len(found) == 60


def test_captions_are_missed_aloud(tmp_path: Path) -> None:
    coded = write_film(tmp_path / "in.m2v", codec="mpeg2video", time_base=Fraction(1, 25)).read_bytes()
    captions = b"\0\0\1\xb2GA94\3\x41\xff\xfc\x94\x20\xff"
    made, is_first = bytearray(), False
    for number, part in enumerate(coded.split(b"\0\0\1")):
        if part[:1] == b"\1" and is_first:  # the first slice of a frame
            made += captions
        is_first = part[:1] != b"\1" if number else False
        made += (b"\0\0\1" if number else b"") + part
    (tmp_path / "cc.m2v").write_bytes(made)
    assert read(tmp_path / "cc.m2v")[2] == {"the captions in its frames"} and not read(tmp_path / "in.m2v")[2]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write it")
@pytest.mark.parametrize("brand", [b"avif", b"heic", b"mif1"])
def test_a_photo_in_a_films_container_is_none(brand: bytes, tmp_path: Path) -> None:
    Image.fromarray(grey_frames(1)[0]).save(tmp_path / "in.avif")
    photo = tmp_path / "in.heic"
    photo.write_bytes((tmp_path / "in.avif").read_bytes().replace(b"ftypavif", b"ftyp" + brand, 1))
    with pytest.raises(probing.UserError, match="no moving picture in it, only a photo"):
        probing.probe(str(photo))


def test_chroma_lies_on_even_columns() -> None:
    """Of a ramp in every column, a sample of 4:2:0 is the colour at its own even column; rows share theirs."""
    film = Film("", 64, 48, Fraction(1, 25), Fraction(25), bits=8, full_range=False, matrix=6)
    for width in (64, 16):  # as large as the film, as with little films, and smaller
        columns = (np.arange(width) + 0.5) * 64 / width - 0.5
        ramp = np.tile(((columns - 31.5) / 400).astype(np.float32), (48 * width // 64, 1))
        _, blue, red = coded_planes(film, np.full((48, 64), 120, np.uint8), np.stack((ramp, -ramp), -1), "yuv420p")
        wanted = 128 + 224 * (np.arange(0, 64, 2) - 31.5) / 400
        assert np.abs(blue[:, 4:-4] - wanted[4:-4]).max() < 0.8 and np.abs(red + blue.astype(int) - 256).max() <= 1
