"""Probing a film: what its file says of its frames, and where times begin again in it."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from colorize.color import WEIGHTS_601, Plane
from colorize.runtime.errors import UserError
from colorize.video.sniff import STILL_BRANDS

_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}

REC_601, REC_709 = 6, 1  # as H.273 numbers matrix coefficients
_HD_ROWS = 720
JUMP_S = 1  # a track that goes back by more than so many seconds is one that begins again

_WITH_INDEX = ("mov", "matroska")


@dataclass(frozen=True)
class Film:
    """A film, as its file describes it. Sizes are those of the upright film, in pixels.

    A stored frame is turned upright by exchanging rows and columns (`transposed`), then mirroring left and right, top
    and bottom (`mirrored`). `pixel_aspect` is a pixel's width by its height; `time_base` the unit of times, in seconds;
    `start` is on the file's clock, in seconds; `seconds` the length, where the file says so, and `says_length` tells
    that it is that of the frames, not of what is longest in the file. `joins` is by how much later, in seconds, the
    second part of a file whose times begin again is than they say, and those after it (:class:`Joins`).
    `rate` is frames a second, on average; `sure_seeks` tells that its times can be gone to.

    Luma has `bits`, 8 or 10; in `full_range` it goes from 0 to the greatest value, not from 16 to 235 (of 8 bits).
    `matrix`, `primaries` and `transfer` are numbers of ITU-T H.273. `second_field` is of a film to be brought back that
    was woven into video; see :mod:`colorize.video.telecine`. `retimed`: it runs at another speed than its file says, so
    that its sound does not fit. `numbers` are of the frames of an image sequence, whose pattern is `path`; of a file
    there are none. Sequences may have 16 bits.
    """

    path: str
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    bits: int
    full_range: bool
    matrix: int
    stream: int = 0
    transposed: bool = False
    mirrored: tuple[bool, bool] = (False, False)
    pixel_aspect: Fraction = Fraction(1)
    start: Fraction = Fraction(0)
    seconds: float | None = None
    says_length: bool = False
    joins: tuple[Fraction, ...] = ()
    primaries: int = 2
    transfer: int = 2
    sure_seeks: bool = True
    second_field: int | None = None
    retimed: bool = False
    numbers: range = range(0)

    def at_rate(self, fps: float) -> "Film":
        """Return the film with all its times stretched, so that it shows `fps` frames a second."""
        rate = Fraction(fps).limit_denominator(1001)
        pace = self.rate / rate
        return replace(
            self,
            time_base=self.time_base * pace,
            start=self.start * pace,
            seconds=None if self.seconds is None else self.seconds * float(pace),
            joins=tuple(join * pace for join in self.joins),
            rate=rate,
            retimed=True,
        )

    @property
    def weights(self) -> tuple[float, float]:
        return _WEIGHTS.get(self.matrix, WEIGHTS_601)

    @property
    def square_size(self) -> tuple[int, int]:
        """Width and height in square pixels; neither side is made smaller."""
        aspect = float(self.pixel_aspect)
        width = round(self.width * aspect) if aspect > 1 else self.width
        height = round(self.height / aspect) if aspect < 1 else self.height
        return width, height


@dataclass(frozen=True)
class FilmFrame:
    """A frame, time and length (0: unknown) in the film's time base, `luma` (H, W) uint8, or uint16 of its bits."""

    time: int
    length: int
    luma: Plane


@contextmanager
def opened(path: str) -> Iterator[InputContainer]:
    """Open a film's file; raise UserError where it cannot be, or FFmpeg does not know what it is."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file")
        if status.st_size == 0:
            raise UserError(f"{path}: the file is empty")
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        raise UserError(f"{path}: {reason(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    with container:
        yield container


def probe(path: str) -> Film:
    """Read a film's facts, decoding a frame. Raises UserError where it cannot be read, or has no moving picture."""
    with opened(path) as container:
        stream = _video(container, path)
        frame = next(iter(decoded(container, stream, [])), None)
        if frame is None:
            raise UserError(f"{path}: no frame of it can be decoded")
        transposed, mirrored = _turn(frame)
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        aspect = Fraction(1) if not 0.1 < aspect < 10 else 1 / aspect if transposed else aspect
        matrix = int(frame.colorspace)
        if is_rgb(frame) or matrix not in (REC_601, 5, *_WEIGHTS):
            matrix = REC_601 if min(height, width) < _HD_ROWS else REC_709
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        rate = rate if 0.01 < rate <= 1000 else Fraction(25)
        has_index, joins = container.format.name.startswith(_WITH_INDEX), tuple[Fraction, ...]()
        if has_index:
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            seconds = seconds or _written_length(stream.metadata.get("DURATION", ""))
        else:
            with opened(path) as again:
                joins, seconds = measured(again, _video(again, path), 1 / rate)
        says_length = bool(seconds)
        if not seconds and container.duration:
            seconds = container.duration / av.time_base
        return Film(
            path=path,
            stream=stream.index,
            width=width,
            height=height,
            transposed=transposed,
            mirrored=mirrored,
            pixel_aspect=Fraction(aspect),
            time_base=stream.time_base or Fraction(1, av.time_base),
            start=_start(container, stream, frame),
            seconds=seconds,
            says_length=says_length,
            joins=joins,
            rate=rate,
            bits=8 if frame.format.components[0].bits <= 8 else 10,
            full_range=is_full_range(frame),
            matrix=matrix,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            sure_seeks=has_index,
        )


def decoded(container: InputContainer, stream: VideoStream, damage: list[str]) -> Iterator[VideoFrame]:
    """Decode frames as they come; what is broken is left out, as players do, and noted in `damage`."""
    stream.thread_type = "AUTO"
    try:
        for packet in container.demux(stream):
            try:
                yield from (frame for frame in packet.decode() if isinstance(frame, VideoFrame))
            except av.FFmpegError as error:
                damage.append(reason(error))
    except av.FFmpegError as error:
        damage.append(reason(error))


def is_rgb(frame: VideoFrame) -> bool:
    """Return true if a frame has no luma of its own: RGB, a palette, black and white."""
    name = frame.format.name
    return bool(frame.format.is_rgb or frame.format.has_palette or name.startswith(("mono", "xyz")))


def is_full_range(frame: VideoFrame) -> bool:
    """Return true if a frame's luma goes from 0 to the greatest value, as far as it says; RGB has none, so: false."""
    if is_rgb(frame):
        return False
    grey_without_range = frame.format.name.startswith(("gray", "ya")) and frame.color_range == 0
    return frame.color_range == ColorRange.JPEG or "yuvj" in frame.format.name or grey_without_range


def side_data(frame: VideoFrame, kind: Type) -> bytes | None:
    """Return what a frame brings along of one kind."""
    found = cast("Any", frame.side_data).get(kind)
    return None if found is None else bytes(found)


def _unnamed(cls: type[Type], value: int) -> Type:
    """Make a member for side data that PyAV has no name for (EXIF): else it gives none of such a frame's."""
    member: Any = object.__new__(cls)
    member._name_, member._value_ = f"TYPE_{value}", value
    return cast(Type, member)


Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment, method-assign]


def reason(error: av.FFmpegError) -> str:
    """Return what FFmpeg says is wrong, in a few words."""
    if isinstance(error, av.error.InvalidDataError):
        return "not a film, or a damaged one"
    return (error.strerror or str(error)).lower()


def _written_length(text: str) -> float | None:
    """Return the seconds of the tag by which Matroska's files say how long a track is: 00:01:02.300000000."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(\.\d+)?)", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _start(container: InputContainer, stream: VideoStream, frame: VideoFrame) -> Fraction:
    """Return when the film begins, in seconds: with its first frame, if FFmpeg says so but for its microseconds."""
    start = Fraction(container.start_time or 0, av.time_base)
    if frame.pts is None or stream.time_base is None:
        return start
    shown = frame.pts * stream.time_base
    return shown if start - JUMP_S < shown < start + Fraction(1, av.time_base) else start


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the streams of moving pictures: no cover pictures, no photos such as HEIC that are told by their brand."""
    if container.metadata.get("major_brand", "").encode() in STILL_BRANDS:
        return []
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _video(container: InputContainer, path: str) -> VideoStream:
    streams = video_streams(container)
    if not streams:
        instead = "not a film, or a damaged one"
        if container.streams.video or container.streams.audio:
            instead = "only sound" if container.streams.audio else "only a photo"
        raise UserError(f"{path}: no moving picture in it, {instead}")
    stream = next((stream for stream in streams if stream.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        raise UserError(f"{path}: its pictures are coded in a way that FFmpeg cannot decode")
    return stream


def _turn(frame: VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """Return (transposed, mirrored) that turn a frame upright by its display matrix, to the nearest right angle."""
    data = side_data(frame, Type.DISPLAYMATRIX)
    if data is None:
        return False, (False, False)
    a, b, _, c, d, *_ = np.frombuffer(data, np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, (a < 0, d < 0)
    return True, (c < 0, b < 0)


class Joins:
    """Joins of recordings end to end, or of cells of a DVD, where times begin again. The frames say by how much.

    A part of the file begins where any track goes back by more than `JUMP_S`; each track is in the part in which it
    last did so. All tracks of a part are later by the same, so that they stay together. `video` is the frames' stream.
    """

    def __init__(self, video: int) -> None:
        self._video, self._part = video, 0
        self._last_s: dict[int, Fraction] = {}
        self._parts: dict[int, int] = {}

    def part(self, packet: Packet) -> int:
        track, time = packet.stream.index, packet.pts if packet.dts is None else packet.dts
        begin_s, last_s = (time or 0) * packet.time_base, self._last_s.get(track)
        if last_s is None:
            self._parts[track] = self._part
        elif last_s - begin_s > JUMP_S:
            self._part += self._parts[track] == self._part
            self._parts[track] = self._part
        self._last_s[track] = begin_s
        return self._parts[track]

    def later_s(self, packet: Packet, joins: tuple[Fraction, ...]) -> Fraction:
        """Return what is to be added to the times of a packet, by the joins of the film, in seconds."""
        part = self.part(packet)
        return joins[min(part, len(joins)) - 1] if joins and part else Fraction(0)


def demuxed(container: InputContainer, streams: list[int]) -> Iterator[Packet]:
    """Read the packets of some streams, as far as the file can be read."""
    with suppress(av.FFmpegError):
        yield from container.demux([container.streams[index] for index in streams])


def measured(container: InputContainer, video: VideoStream, step_s: Fraction) -> tuple[tuple[Fraction, ...], float]:
    """Measure by how much each part of a file but the first is later than its times say, and the length, in seconds.

    Every packet is looked at, none decoded. It is for files without an index, which can be joined by writing one behind
    the other, and whose length FFmpeg can only guess.
    """
    tracks = [video.index, *(stream.index for stream in (*container.streams.audio, *container.streams.subtitles))]
    joins, later, first_s, last_s, in_part = Joins(video.index), [Fraction(0)], None, Fraction(0), 0
    for packet in demuxed(container, tracks):
        if packet.pts is None or packet.time_base is None:
            continue
        part = joins.part(packet)
        if packet.stream.index != video.index:
            continue
        begin_s = (packet.pts if packet.dts is None else packet.dts) * packet.time_base
        while len(later) <= part:
            later.append(later[-1])
        if part != in_part:
            later[part], in_part = last_s + step_s - begin_s, part
        last_s = begin_s + later[part]
        first_s = begin_s if first_s is None else first_s
    return tuple(later[1:]), float(last_s + step_s - (first_s or 0))
