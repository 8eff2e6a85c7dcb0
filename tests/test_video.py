"""Films: what is kept of them, what is said of broken ones, and that they go on where they stopped."""

import errno
import os
import resource
import signal
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Barrier
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from colorize.color import Plane
from colorize.inference import film
from colorize.inference.colorizer import Colorizer
from colorize.photos.reading import Photo
from colorize.video import decoding, encoding, probing, sniff
from colorize.video.chroma import chroma_of, coded_planes, grey_image
from tests.filming import SUBTITLES, grey_frames, read_film, write_film
from tests.predicting import Colour, files, save


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the network's place, a tint that depends on the frame."""

    def render(self: Colorizer, photos: list[Photo], *_: Any) -> list[Plane]:
        made = []
        for photo in photos:
            small = torch.from_numpy(photo.luma[::4, ::4].astype(np.float32) / 255)
            tint = 0.3 * torch.tensor([1.0, float(small[0, 0]), 0.2])[:, None, None]
            made.append((small + tint).numpy())
        return made

    monkeypatch.setattr(Colorizer, "render", render)


def is_coloured(rgb: list[np.ndarray[Any, Any]]) -> bool:
    return all(np.ptp(frame.astype(int), axis=2).mean() > 3 for frame in rgb)


# --------------------------------------------------------------------------------------------------- what is kept of it


def test_pictures_sound_subtitles_and_times_come_through(colour: Colour, tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 210, 500, 540, 900]
    source = write_film(tmp_path / "in.mkv", grey_frames(8), times=times, sound="libopus", subtitles="subrip")
    given = read_film(source)
    for name in ("out.mkv", "out.mp4", "out.webm"):
        status, err = colour(source, output=name, quality=100 if name == "out.mkv" else 95)
        assert status == 0 and "1 coloured, 0 skipped" in err, err
        made = read_film(tmp_path / name)
        assert is_coloured(made.rgb)
        assert made.times == pytest.approx([time / 1000 for time in times], abs=1e-6)
        assert made.end == pytest.approx(0.94, abs=0.002) or name == "out.webm"  # where FFmpeg writes no lengths
        assert made.sound == given.sound and len(given.sound) > 10
        assert [time for time, _ in made.subtitles] == pytest.approx([0, 0.2], abs=0.002) or name == "out.mp4"
        assert [text.strip() for _, text in made.subtitles if text.strip()] == list(SUBTITLES)
        off = np.abs(np.stack(made.luma).astype(int) - np.stack(given.luma))
        assert off.mean() < (1 if name == "out.mkv" else 3)
    assert made.codecs == ["vp9", "opus", "webvtt"]
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # playable while it loads
    assert files(tmp_path) == ["in.mkv", "out.mkv", "out.mp4", "out.webm"]  # no piece is left


def test_luma_is_kept_to_the_bit_with_10_bits_and_odd_sides(quick: None, colour: Colour, tmp_path: Path) -> None:
    frames = grey_frames(3, 51, 37)
    write_film(tmp_path / "odd.mkv", frames, codec="ffv1", pixel_format="yuv444p")
    assert colour("odd.mkv", output="out.mkv", codec="ffv1")[0] == 0
    made = read_film(tmp_path / "out.mkv")
    assert all(np.array_equal(*pair) for pair in zip(made.luma, frames, strict=True)) and is_coloured(made.rgb)
    assert made.stream == (51, 37, Fraction(1))

    deep = [(frame.astype(np.uint16) << 2) + 3 for frame in grey_frames(3)]
    with av.open(tmp_path / "deep.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        for luma in deep:
            frame = av.VideoFrame(64, 48, "yuv420p10le")
            for plane, values in zip(frame.planes, (luma, *[np.full((24, 32), 512, np.uint16)] * 2), strict=True):
                np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width] = values
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert colour("deep.mkv", output="deeper.mkv", codec="ffv1")[0] == 0
    made = read_film(tmp_path / "deeper.mkv")
    assert all(np.array_equal(*pair) for pair in zip(made.luma, deep, strict=True))


def test_fields_of_two_moments_become_one_picture(quick: None, colour: Colour, tmp_path: Path) -> None:
    columns = np.arange(64) + np.zeros((48, 1))
    moments = [(120 + 80 * np.sin((columns + 3 * time) / 5)).astype(np.uint8) for time in range(40)]
    odd = np.arange(48)[:, None] % 2 == 1  # the rows that x264 takes for the first field
    combed = [np.where(odd, first, second) for first, second in zip(moments[::2], moments[1::2], strict=True)]
    options = {"x264-params": "interlaced=1", "crf": "1", "g": "8"}
    source = write_film(tmp_path / "in.mkv", combed, options=options)
    assert colour(source, output="out.mkv", codec="ffv1")[0] == 0
    made, given = read_film(tmp_path / "out.mkv"), read_film(source)
    assert (made.times, len(made.luma)) == (given.times, 20)
    for luma, stored, moment in zip(made.luma[1:-1], given.luma[1:-1], moments[2:-2:2], strict=True):
        assert np.array_equal(luma[1::2], stored[1::2])  # one field as it is coded
        off = [np.abs(rows.astype(int) - moment[::2]).mean() for rows in (luma[::2], stored[::2])]
        assert off[0] < 0.2 * off[1]
    probed = probing.probe(str(source))
    whole = list(decoding.frames(probed, Fraction(0), None, None, [], set()))
    rest = list(decoding.frames(probed, Fraction(0), None, whole[10].time, [], set()))
    assert len(rest) == 9
    assert all(np.array_equal(a.luma, b.luma) and a.time == b.time for a, b in zip(whole[11:], rest, strict=True))


@pytest.mark.parametrize(("turn", "upright"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_film_comes_out_upright_with_the_shape_of_its_pixels(
    turn: int, upright: int, quick: None, colour: Colour, tmp_path: Path
) -> None:
    frames = grey_frames(2)
    source = write_film(tmp_path / "in.mp4", frames, turn=turn, pixel_aspect=Fraction(2, 1), options={"crf": "1"})
    assert colour(source, output="out.mkv", quality=100)[0] == 0
    made, stored = read_film(tmp_path / "out.mkv"), read_film(source).luma
    off = [
        np.abs(np.rot90(stored[0], turns).astype(int) - made.luma[0]).mean() if (turns - upright) % 2 == 0 else 99
        for turns in range(4)
    ]
    assert off[upright] < 1.5 and sorted(off)[1] > 10
    assert made.stream == ((48, 64, Fraction(1, 2)) if turn != 180 else (64, 48, Fraction(2, 1)))


def test_a_part_for_a_trial(quick: None, colour: Colour, tmp_path: Path) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(40), sound="flac", options={"g": "10"})
    given = read_film(source)
    assert colour(source, output="out.mp4", start=0.8, duration=0.4)[0] == 0
    made = read_film(tmp_path / "out.mp4")
    assert made.times == pytest.approx([index / 25 for index in range(10)], abs=1e-6)
    off = [np.abs(np.stack(given.luma[k : k + 10]).astype(int) - np.stack(made.luma)).mean() for k in (19, 20, 21)]
    assert off.index(min(off)) == 1
    first = next(index for index, packet in enumerate(given.sound) if packet == made.sound[0])
    assert made.sound == given.sound[first : first + len(made.sound)]
    assert 0.3 < len(made.sound) / len(given.sound) / 0.25 < 1.3
    status, err = colour(source, output="late.mp4", start=9)
    assert status == 1 and "start=9 is after its end, at 1.6 s" in err


def test_sound_that_does_not_fit_is_coded_anew(quick: None, colour: Colour, tmp_path: Path) -> None:
    source = write_film(tmp_path / "in.mkv", sound="flac", subtitles="ass")
    status, err = colour(source, output="out.webm")
    assert status == 0 and "its sound (flac) coded anew, as libopus" in err
    assert read_film(tmp_path / "out.webm").codecs == ["vp9", "opus", "webvtt"]
    source = write_film(tmp_path / "in.avi", codec="mpeg4", sound="mp2", time_base=Fraction(1, 25))
    assert colour(source, output="out")[0] == 0  # and what nobody else writes becomes Matroska
    assert read_film(tmp_path / "out" / "in.mkv").sound == read_film(source).sound


def sound_of(path: Path) -> tuple[str, float]:
    """How a film's sound is coded, and how long it is, in seconds."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(stream))
        return stream.codec_context.codec.canonical_name, samples / stream.codec_context.sample_rate


@pytest.mark.parametrize(
    ("source", "sound", "result", "coded"),
    [
        ("in.avi", "adpcm_ima_wav", "out.mp4", "aac"),  # which says how many channels it has, and not which
        ("in.mov", "pcm_mulaw", "out.mkv", "flac"),  # that FFmpeg's Matroska does not take
        ("in.mov", "adpcm_ima_qt", "out.webm", "opus"),
        ("in.mkv", "ac3", "out.mkv", "ac3"),
    ],
)
def test_old_sound_comes_through_to_its_end(
    source: str, sound: str, result: str, coded: str, quick: None, colour: Colour, tmp_path: Path
) -> None:
    codec = "mpeg4" if source.endswith(".avi") else "libx264"
    write_film(tmp_path / source, grey_frames(25), codec=codec, sound=sound, time_base=Fraction(1, 25))
    given = sound_of(tmp_path / source)[1]
    status, err = colour(source, output=result)
    assert status == 0 and "without" not in err and ("coded anew" in err) == (coded != sound), err
    name, seconds = sound_of(tmp_path / result)
    assert name == coded and given - 0.001 < seconds < given + 0.07  # the last packet is full


def test_a_track_that_does_not_fit_costs_no_other(quick: None, colour: Colour, tmp_path: Path) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(10), sound="ac3", subtitles="ass")
    with av.open(tmp_path / "two.mkv", "w") as made, av.open(source) as given, av.open(source) as again:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        second = made.add_stream("wavpack", rate=48000, layout="mono")
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
        for frame in again.decode(audio=0):
            made.mux(second.encode(frame))
        made.mux(second.encode(None))
    status, err = colour("two.mkv", output="out.mp4")
    assert status == 0 and err.count("coded anew") == 1 and "without" not in err, err
    assert read_film(tmp_path / "out.mp4").codecs == ["h264", "ac3", "aac", "mov_text"]
    with av.open(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].average_rate == 25


def sound_times(path: Path) -> list[float]:
    """When each packet of sound begins, in seconds."""
    with av.open(path) as container:
        return [float(packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.pts is not None]


def test_recordings_joined_end_to_end_go_on_together(quick: None, colour: Colour, tmp_path: Path) -> None:
    """Their sound is shorter than their pictures."""
    unit = Fraction(1, 90_000)
    one = write_film(tmp_path / "one.ts", grey_frames(75), sound="mp2", time_base=unit, sound_s=1.5).read_bytes()
    (tmp_path / "twice.ts").write_bytes(one + one)
    assert probing.probe(str(tmp_path / "twice.ts")).seconds == pytest.approx(6.0, abs=0.05)
    for name in ("out.mp4", "out.webm"):  # copied, coded anew
        assert colour("twice.ts", output=name)[0] == 0
        made, heard = read_film(tmp_path / name), sound_times(tmp_path / name)
        assert len(made.times) == 150 and np.diff(made.times) == pytest.approx([0.04] * 149, abs=0.005)
        second = min(time for time in heard if time > 2)
        assert second - heard[0] == pytest.approx(made.times[75] - made.times[0], abs=0.03)
    status, err = colour("twice.ts", output="part.mp4", start=3.2, duration=1)
    assert status == 0 and "without" not in err, err
    assert len(read_film(tmp_path / "part.mp4").times) == 25
    assert len(sound_times(tmp_path / "part.mp4")) == pytest.approx(41, abs=2)


def test_a_pause_is_no_join(quick: None, colour: Colour, tmp_path: Path) -> None:
    times = [40 * index + 5000 * (index > 12) for index in range(30)]
    source = write_film(tmp_path / "in.mp4", grey_frames(30), times=times, options={"bf": "3"})
    assert colour(source, output="out.mp4")[0] == 0
    assert read_film(tmp_path / "out.mp4").times == pytest.approx(read_film(source).times, abs=1e-3)


def test_photos_and_films_in_one_folder(quick: None, colour: Colour, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    write_film(tmp_path / "in" / "b.mp4")
    write_film(tmp_path / "in" / "no suffix.mkv").rename(tmp_path / "in" / "no suffix")
    write_film(tmp_path / "in" / "c.avi", codec="mpeg4", time_base=Fraction(1, 25))
    (tmp_path / "in" / "notes.txt").write_text("not a film")
    save(tmp_path / "photo.png").rename(tmp_path / "in" / "photo.mp4")
    (tmp_path / "in" / "broken.mkv").write_bytes((tmp_path / "in" / "b.mp4").read_bytes()[:700])
    with av.open(tmp_path / "in" / "song.m4a", "w", format="mp4") as container:
        container.add_stream("aac", rate=48000)
    status, err = colour("in", stabilize=False)
    assert status == 1 and "5 coloured, 0 skipped (their results exist), 1 failed" in err, err
    assert files(tmp_path / "out") == ["a.png", "b.mp4", "c.mkv", "failed.txt", "no suffix.mkv", "photo.mp4.png"]
    assert "broken.mkv\tnot a film, or a damaged one" in (tmp_path / "out" / "failed.txt").read_text()
    assert "0 coloured, 5 skipped" in colour("in")[1]


# ------------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("empty.mp4", {}, "the file is empty"),
        ("noise.mp4", {}, "not a film, or a damaged one"),
        ("cut.mp4", {}, "not a film, or a damaged one"),
        ("sound.mkv", {}, "no moving picture in it, only sound"),
        ("gone.mp4", {}, "no such file"),
        ("good.mkv", {"codec": "av1"}, "this FFmpeg has no encoder libsvtav1; it has h264"),
        ("good.mkv", {"codec": "ffv1"}, "codec=ffv1 does not go into .mp4"),
        ("wide.mkv", {"codec": "vp9", "output": "out.mkv"}, "cannot say in .mkv files that pixels are not square"),
        ("good.mkv", {"output": "good.mkv"}, "is the film itself"),
        ("good.mkv", {"output": "x.png"}, "is a film"),
        ("a.png", {}, "is a photo"),
        ("good.mkv", {"every": 2, "stabilize": False}, "every=2 needs stabilize=true"),
        ("good.mkv", {"output": "out.avi"}, "films are written as .mp4 .m4v .mov .mkv .webm"),
    ],
)
def test_what_is_wrong_with_a_film_is_said_and_nothing_is_lost(
    name: str,
    keys: dict[str, Any],
    message: str,
    quick: None,
    colour: Colour,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = write_film(tmp_path / "good.mkv")
    write_film(tmp_path / "wide.mkv", pixel_aspect=Fraction(16, 11))
    save(tmp_path / "a.png")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "cut.mp4").write_bytes(write_film(tmp_path / "whole.mp4").read_bytes()[:1500])
    with av.open(tmp_path / "sound.mkv", "w") as container:
        stream = container.add_stream("flac", rate=48000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts = 48000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    monkeypatch.setattr(encoding.av, "codecs_available", av.codecs_available - {"libsvtav1"})
    before = good.read_bytes()
    had = files(tmp_path)
    status, err = colour(name, **{"output": "out.mp4", **keys})
    assert status in (1, 2) and message in err and len(err.splitlines()) < 5, err
    assert files(tmp_path) == had and good.read_bytes() == before


def test_without_the_extra_one_line_says_so(colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "in.mp4")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    status, err = colour("in.mp4")
    assert status == 1 and "pip install 'colorize[video]'" in err.splitlines()[-1]


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_film_goes_on_exactly_where_it_stopped(
    fault: BaseException, quick: None, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(20), sound="flac", options={"g": "6"})
    monkeypatch.setattr(encoding.Piece, "most_frames", 6)
    words = {"output": "out.mkv", "codec": "ffv1", "every": 2}
    assert colour(source, **words)[0] == 0
    whole = (tmp_path / "out.mkv").read_bytes()
    (tmp_path / "out.mkv").unlink()
    add, finish, put_together = encoding.Piece.add, encoding.Piece.finish, film.put_together

    def stop_adding(self: encoding.Piece, frame: probing.FilmFrame, chroma: Any) -> None:
        if frame.time == 600:  # in the third piece, while others wait for the encoder
            raise fault
        add(self, frame, chroma)

    def stop_finishing(self: encoding.Piece) -> list[int]:
        if self.times[0] == 480:
            raise fault
        return finish(self)

    monkeypatch.setattr(encoding.Piece, "add", stop_adding if isinstance(fault, OSError) else add)
    monkeypatch.setattr(encoding.Piece, "finish", finish if isinstance(fault, OSError) else stop_finishing)
    status, err = colour(source, **words)
    assert status == (130 if isinstance(fault, KeyboardInterrupt) else 1)
    assert "make room, and the same command resumes" in err or status == 130
    left = [name for name in files(tmp_path) if name.startswith(".out.mkv.parts") and name.endswith(".mkv")]
    assert len(left) == 2 and not (tmp_path / "out.mkv").exists()
    monkeypatch.setattr(encoding.Piece, "add", add)
    monkeypatch.setattr(encoding.Piece, "finish", finish)
    monkeypatch.setattr(film, "put_together", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert colour(source, **words)[0] == 1  # all coloured, none put together
    monkeypatch.setattr(film, "put_together", put_together)
    monkeypatch.setattr(film, "_coloured_frames", None)
    status, err = colour(source, **words)
    assert status == 0 and "going on after 20 frames" in err
    one, other = (tmp_path / "whole.mkv"), (tmp_path / "out.mkv")
    one.write_bytes(whole)
    first, second = read_film(one), read_film(other)
    assert all(np.array_equal(*pair) for pair in zip(first.rgb, second.rgb, strict=True))
    assert (first.times, first.sound) == (second.times, second.sound)
    assert files(tmp_path) == ["in.mkv", "out.mkv", "whole.mkv"]


def test_two_passes_side_by_side_give_the_film_that_one_gives(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier of two frames takes longer; each pass has its share of the threads, and the process all again."""
    write_film(tmp_path / "film.mkv", codec="ffv1")
    made, threads_before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            both, shares = Barrier(threads), list[int]()

            def render(self: Colorizer, photos: list[Photo], *_: Any, both: Barrier = both) -> list[Plane]:
                shares.append(torch.get_num_threads())  # noqa: B023
                level = float(photos[0].luma[0, 0]) / 255
                both.wait(30)
                time.sleep(0.01 * level)
                return [np.stack([np.full((8, 8), share, np.float32) for share in (0.5 + 0.3 * level, 0.4, 0.3)])]

            monkeypatch.setattr(Colorizer, "render", render)
            assert colour("film.mkv", output=f"{threads}.mkv", codec="ffv1")[0] == 0
            assert shares == [1] * 12 and torch.get_num_threads() == threads
            made.append(read_film(tmp_path / f"{threads}.mkv").rgb)
    finally:
        torch.set_num_threads(threads_before)
    assert all(np.array_equal(one, two) for one, two in zip(*made, strict=True))


def test_saturation_scales_a_films_chroma_and_its_pieces_are_other_work(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(8))

    def planes(saturation: float) -> list[np.ndarray[Any, Any]]:
        assert colour(source, output="out.mkv", codec="ffv1", saturation=saturation, overwrite=True)[0] == 0
        with av.open(tmp_path / "out.mkv") as container:
            frame = next(container.decode(video=0))
            assert frame.format.name.startswith("yuv4")
            return [np.asarray(plane).reshape(plane.height, -1)[:, : plane.width].astype(int) for plane in frame.planes]

    pale, half, none = planes(0.5), planes(0.25), planes(0.0)  # so pale that all of its colours exist
    assert np.array_equal(pale[0], half[0]) and np.array_equal(pale[0], none[0])
    for one, other, grey in zip(pale[1:], half[1:], none[1:], strict=True):
        assert (grey == 128).all() and np.abs(one - 128).max() > 5
        assert np.abs(other - 128 - (one - 128) / 2).max() <= 1

    monkeypatch.setattr(film, "put_together", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    for saturation, goes_on in ((0.5, False), (0.7, False), (0.5, True)):
        _, err = colour(source, output="new.mkv", saturation=saturation)
        assert ("going on after 8 frames" in err) == goes_on


def test_a_disk_that_fills_while_the_film_is_put_together_is_said_in_a_line(
    quick: None, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(30), sound="pcm_s16le")
    put_together = film.put_together

    def on_a_small_disk(*arguments: Any) -> list[str]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # a write beyond it fails, as on a full disk
        try:
            return put_together(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(film, "put_together", on_a_small_disk)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        status, err = colour(source, output="out.mp4")
    finally:
        signal.signal(signal.SIGXFSZ, ignored)
    assert status == 1 and "File too large" in err and "Traceback" not in err + "".join(capfd.readouterr()), err
    left = files(tmp_path)
    assert "out.mp4" not in left and not [name for name in left if name.endswith(".tmp")]
    monkeypatch.setattr(film, "put_together", put_together)
    assert colour(source, output="out.mp4")[0] == 0 and files(tmp_path) == ["in.mkv", "out.mp4"]


def test_a_damaged_film_is_coloured_as_far_as_it_goes(quick: None, colour: Colour, tmp_path: Path) -> None:
    source = write_film(tmp_path / "in.mkv", grey_frames(40), sound="flac")
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 3])
    status, err = colour(source, output="out.mp4")
    assert status == 0 and "of 1.6 s: the film is damaged, or incomplete" in err, err
    assert 5 < len(read_film(tmp_path / "out.mp4").times) < 40


def test_coded_chroma_is_that_of_the_network(tmp_path: Path) -> None:
    """Decoded by FFmpeg, a frame shows the network's colours at the film's luma, whatever the matrix and range."""
    rgb = torch.tensor([0.2, 0.5, 0.3])[:, None, None].expand(3, 8, 8)
    for matrix, full in ((1, False), (6, False), (6, True)):
        source = write_film(tmp_path / f"{matrix}{full}.mkv", grey_frames(1), codec="ffv1", pixel_format="yuv420p")
        told = probing.probe(str(source))
        told = replace(told, matrix=matrix, full_range=full)
        level = 120
        chroma = chroma_of(rgb.numpy(), told.weights)
        planes = coded_planes(told, np.full((48, 64), level, np.uint8), chroma, "yuv420p")
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, values in zip(frame.planes, planes, strict=True):
            np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] = values
        space = {"src_colorspace": {1: "ITU709", 6: "ITU601"}[matrix], "src_color_range": "JPEG" if full else "MPEG"}
        shown = frame.reformat(format="rgb24", dst_color_range="JPEG", **space).to_ndarray()[20, 20] / 255
        grey_level = grey_image(np.array([[level]], np.uint8), told)[0, 0] / 255
        kr, kb = told.weights
        own = kr * 0.2 + (1 - kr - kb) * 0.5 + kb * 0.3
        assert shown == pytest.approx(np.array([0.2, 0.5, 0.3]) - own + grey_level, abs=0.012)


def test_a_fault_of_one_film_is_its_own_failure(
    quick: None, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        write_film(tmp_path / "in" / f"{name}.mkv", grey_frames(3))
    probe, faults = probing.probe, {"a": KeyError("odd"), "b": cv2.error("(-4:Insufficient memory) Failed to allocate")}
    faults["c"] = RuntimeError("can't start new thread")

    def odd(path: str) -> probing.Film:
        if (fault := faults.get(Path(path).stem)) is not None:
            raise fault
        return probe(path)

    monkeypatch.setattr(probing, "probe", odd)
    status, err = colour("in")
    assert status == 1 and "1 coloured, 0 skipped (their results exist), 3 failed" in err, err
    report = (tmp_path / "out" / "failed.txt").read_text()
    assert "a.mkv\tKeyError: 'odd'" in report and report.count("\tnot enough memory for this film") == 2
    assert files(tmp_path / "out") == ["d.mkv", "failed.txt"]


def test_a_full_disk_ends_the_films_with_one_line(
    quick: None, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_film(tmp_path / "in" / f"{name}.mkv", grey_frames(3))
    with monkeypatch.context() as patch:
        patch.setattr(
            film, "put_together", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system"))
        )
        status, err = colour("in")
    assert status == 1 and "b.mkv" not in err and err.count("Read-only file system") == 1
    assert "once it can be written to, the same command resumes" in err
    status, err = colour("in")
    assert status == 0 and "going on after 3 frames" in err and "2 coloured" in err


def test_other_moving_pictures_are_missed_aloud(quick: None, colour: Colour, tmp_path: Path) -> None:
    one = write_film(tmp_path / "one.mkv", grey_frames(3))
    with av.open(tmp_path / "two.mkv", "w") as made, av.open(one) as first, av.open(one) as second:
        pairs = [(given, made.add_stream_from_template(given.streams.video[0])) for given in (first, second)]
        for given, stream in pairs:
            for packet in given.demux():
                if packet.size:
                    packet.stream = stream
                    made.mux(packet)
    status, err = colour("two.mkv", output="out.mkv")
    assert status == 0 and "without its other moving pictures (h264), track 1" in err


def test_films_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    for name, start in {
        **{"film": b"\x1aE\xdf\xa3", "b.bin": b"RIFF\0\0\0\0AVI LIST", "t": (b"G" + bytes(187)) * 5 + b"G"},
        "q": b"\0\0\0\x08wide",
    }.items():
        (tmp_path / name).write_bytes(start)
        assert sniff.is_film(tmp_path / name)
    for name, start in {
        **{"a.heic": b"\0\0\0\x18ftypheic", "w.wav": b"RIFF\0\0\0\0WAVE", "t.txt": b"Great", "o.ogg": b"OggS"},
        "x.ts": b"export const GG = 1",
    }.items():
        (tmp_path / name).write_bytes(start)
        assert not sniff.is_film(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    assert not sniff.is_film(tmp_path / "pipe")
