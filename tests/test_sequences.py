"""Image sequences as films: names, depth and luma of the frames, and that they go on where they stopped."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from PIL import Image

from colorize.inference import sequence
from colorize.inference.photo_batches import Outcome
from colorize.video import probing
from tests.filming import grey_frames, read_film, write_film
from tests.predicting import Colour, files

LUMA = np.array((0.299, 0.587, 0.114))


def deep_frames(count: int) -> list[np.ndarray[Any, Any]]:
    return [frame.astype(np.uint16) * 251 + 77 for frame in grey_frames(count)]


def write_frames(folder: Path, name: str, first: int, frames: list[np.ndarray[Any, Any]]) -> str:
    folder.mkdir()
    for number, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / (name % number), dpi=(300, 300))
    return f"{folder.name}/{name}"


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """RGB of its own depth."""
    if path.suffix == ".tif":
        return tifffile.imread(path)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        return frame.to_ndarray(format="rgb24" if frame.format.components[0].bits == 8 else "rgb48le")


@pytest.mark.parametrize(
    ("name", "frames", "deep"),
    [
        ("scan_%06d.tif", deep_frames(6), True),
        ("%d.png", deep_frames(6), True),
        ("a%%b.%03d.png", grey_frames(6), False),
        ("%d.jpg", grey_frames(6), False),
    ],
)
def test_frames_keep_numbers_depth_luma_and_metadata(
    name: str, frames: list[np.ndarray[Any, Any]], deep: bool, colour: Colour, tmp_path: Path
) -> None:
    given = write_frames(tmp_path / "in", name, 97, frames)
    status, err = colour(given, output=None, fps=18)
    assert status == 0 and "frames 97 to 102, 18 a second" in err and "1 coloured" in err, err
    assert files(tmp_path / "in_colour") == sorted(name % number for number in range(97, 103))
    for number, frame in enumerate(frames, 97):
        path = tmp_path / "in_colour" / (name % number)
        if name.endswith(".jpg"):  # its luma as it was stored
            with Image.open(path) as made, Image.open(tmp_path / "in" / (name % number)) as source:
                made.draft("L", made.size)
                assert np.array_equal(np.asarray(made), np.asarray(source))
            continue
        rgb = pixels(path)
        assert rgb.dtype == (np.uint16 if deep else np.uint8) and np.ptp(rgb.astype(int), axis=2).mean() > 3
        assert np.abs(rgb @ LUMA - frame).max() < 0.6
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert "0 coloured, 1 skipped" in colour(given, output=None)[1]


@pytest.mark.parametrize(("bits", "pixel_format"), [(8, "rgb24"), (10, "gbrp10be"), (12, "gbrp12le"), (16, "rgb48be")])
def test_dpx_keeps_its_depth_and_what_its_header_says(
    bits: int, pixel_format: str, colour: Colour, tmp_path: Path
) -> None:
    order = b"SDPX" if pixel_format.endswith("be") else b"XPDS"
    frames = [(frame.astype(np.uint16) << 8) + 5 >> (16 - bits) for frame in grey_frames(2, 63, 48)]
    (tmp_path / "in").mkdir()
    with av.open(tmp_path / "in" / "%04d.dpx", "w") as container:  # FFmpeg's own
        stream = container.add_stream("dpx", rate=24)
        stream.width, stream.height, stream.pix_fmt = 63, 48, pixel_format
        for frame in frames:
            rgb = np.repeat(frame[..., None], 3, axis=2).astype(np.uint8 if bits == 8 else np.uint16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format=pixel_format)))
    for path in (tmp_path / "in").iterdir():
        content = bytearray(path.read_bytes())
        assert content[:4] == order and content[4:8] == content[808:812]
        content[4:8] = content[808:812] = (2048).to_bytes(4, "little" if order == b"XPDS" else "big")
        content[801], content[1664:1664] = 3, b"\xff" * 256 + b"\x01\x02\x03\x04" + b"\xff" * 124  # log; a time code
        path.write_bytes(content)
    status, err = colour("in/%04d.dpx", output="out/%04d.dpx")
    assert status == 0, err
    for number, frame in enumerate(frames, 1):
        content = (tmp_path / "out" / f"{number:04}.dpx").read_bytes()
        assert content[:4] == order and content[801] == 3 and content[1920:1924] == b"\x01\x02\x03\x04"
        with av.open(tmp_path / "out" / f"{number:04}.dpx") as container:
            found = next(container.decode(video=0))
        rgb = found.to_ndarray()
        assert found.format.components[0].bits == bits and np.ptp(rgb.astype(int), axis=2).mean() > 1
        assert np.abs(rgb @ LUMA - frame).max() < 0.6
    if bits == 10:
        status, err = colour("in/%04d.dpx", output="tiff/%04d.tif")
        assert status == 0 and "without its DPX header, for which a TIFF has no place (2 frames)" in err
        assert pixels(tmp_path / "tiff" / "0001.tif").dtype == np.uint16


def test_an_interrupted_sequence_goes_on_to_the_same_frames(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write_frames(tmp_path / "in", "%06d.tif", 5, deep_frames(20))
    monkeypatch.setattr(sequence.FramePiece, "most_frames", 6)
    words = {"every": 2, "batch_size": 3, "fps": 20}
    assert colour(given, output="whole", **words)[0] == 0
    write, written = sequence.write_result, list[str]()

    def interrupted(job: Any, *arguments: Any) -> Outcome:
        if job.result.name == "000020.tif":  # in the third piece
            raise KeyboardInterrupt
        written.append(job.result.name)
        return write(job, *arguments)

    monkeypatch.setattr(sequence, "write_result", interrupted)
    assert colour(given, **words)[0] == 130
    assert 12 <= len(written) < 20 and "000019.tif" in written and (tmp_path / "out" / ".%06d.tif.parts").is_dir()
    monkeypatch.setattr(sequence, "write_result", write)
    status, err = colour(given, **words)
    assert status == 0 and "going on after 12 frames" in err, err
    assert files(tmp_path / "out") == files(tmp_path / "whole") and len(files(tmp_path / "out")) == 20
    for name in files(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    (tmp_path / "out" / "000011.tif").write_bytes(b"mine")  # what is there stays
    (tmp_path / "out" / "000024.tif").unlink()
    assert colour(given, **words)[0] == 0
    assert (tmp_path / "out" / "000011.tif").read_bytes() == b"mine"
    assert (tmp_path / "out" / "000024.tif").read_bytes() == (tmp_path / "whole" / "000024.tif").read_bytes()
    part = colour(given, output="part", start=0.5, duration=0.2, **words)[1]
    assert "1 coloured" in part and files(tmp_path / "part") == [f"{number:06}.tif" for number in range(15, 19)]


@pytest.mark.slow
def test_frames_become_a_film_and_a_film_frames(colour: Colour, tmp_path: Path) -> None:
    frames = deep_frames(12)
    status, err = colour(write_frames(tmp_path / "in", "%d.png", 1, frames), output="out.mkv", codec="ffv1")
    assert status == 0 and "frames 1 to 12, 24 a second, since fps is not given" in err
    assert probing.probe(str(tmp_path / "out.mkv")).rate == 24 and len(read_film(tmp_path / "out.mkv").times) == 12
    assert colour("in/%d.png", output="out.mp4", fps=18)[0] == 0
    made = read_film(tmp_path / "out.mp4")
    assert made.times == pytest.approx([number / 18 for number in range(12)], abs=1e-6)
    assert made.end == pytest.approx(12 / 18, abs=1e-3) and made.codecs == ["h264"]
    for luma, frame in zip(made.luma, frames, strict=True):
        assert np.abs(luma.astype(int) - (frame >> 6)).mean() < 12  # of 1023

    source = write_film(tmp_path / "in.mkv", grey_frames(5), codec="ffv1", pixel_format="yuv444p")
    assert colour(source, output="frames/%03d.png")[0] == 0
    assert files(tmp_path / "frames") == [f"{number:03}.png" for number in range(1, 6)]
    for number, luma in enumerate(read_film(source).luma, 1):
        wanted = np.clip((luma.astype(float) - 16) * 255 / 219, 0, 255).round()
        assert np.abs(pixels(tmp_path / "frames" / f"{number:03}.png") @ LUMA - wanted).max() < 0.6
    assert "0 coloured, 1 skipped" in colour(source, output="frames/%03d.png")[1]


@pytest.mark.slow
def test_a_film_runs_at_another_speed_without_its_sound(colour: Colour, tmp_path: Path) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(24), sound="flac", subtitles="subrip")
    for name in ("out.mkv", "out.mp4"):
        status, err = colour(source, output=name, fps=18, start=0.5, duration=0.5)
        assert status == 0 and "without its sound and subtitles: at fps=18 they would not fit" in err, err
        made = read_film(tmp_path / name)
        assert made.times == pytest.approx([number / 18 for number in range(9)], abs=6e-4)
        off = [np.abs(made.luma[0].astype(int) - luma).mean() for luma in read_film(source).luma]
        assert off.index(min(off)) == 9 and made.sound == [] and made.codecs == ["h264"]
        with av.open(tmp_path / name) as container:
            assert container.streams.video[0].average_rate == 18 and not container.chapters()


WRONG = (
    ("in/%02d.tif", {}, "in/04.tif is missing: of the frames 1 to 5 only 4 are there"),
    ("in/%03d.tif", {}, "input=in/%03d.tif: there is no file of such a name"),
    ("in/%02d.exr", {}, "EXR holds linear light and is not read; make 16-bit TIFFs or DPX of it first"),
    ("whole/%d.png", {"output": "whole/x_%d.png"}, "is where the source is"),
    ("whole/%d.png", {"output": "one.png"}, "give a folder, NAME_%06d or a film's NAME"),
    ("whole/%d.png", {"output": "out/%d.gif"}, "give a folder, NAME_%06d or a film's NAME"),
    ("whole/%d.png", {"output": "out/%d.jpg"}, "a JPEG file cannot hold 16 bits a channel"),
    ("whole/%d.png", {"start": 1}, "start=1 is after its end, at 0.1 s"),
    ("mixed/%d.png", {}, "mixed/2.png: 64 × 48 px of 8 bits, where the first frame has others"),
    ("whole", {"output": "out/%d.png"}, "is no film"),
)


def test_what_is_wrong_with_a_sequence_is_said(colour: Colour, tmp_path: Path) -> None:
    write_frames(tmp_path / "in", "%02d.tif", 1, grey_frames(5))
    (tmp_path / "in" / "04.tif").unlink()
    write_frames(tmp_path / "whole", "%d.png", 1, deep_frames(2))
    write_frames(tmp_path / "mixed", "%d.png", 1, [*deep_frames(1), *grey_frames(1)])
    for given, keys, message in WRONG:
        status, err = colour(given, **keys)
        assert status == 1 and message in err, err
        assert not (tmp_path / "out").exists() or not files(tmp_path / "out")
