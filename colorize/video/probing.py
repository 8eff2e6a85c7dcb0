"""Probing a film: what its file says of its frames."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from colorize.runtime.errors import UserError
from colorize.video.joins import measured

_LUMA_FIRST = re.compile(r"yuv[aj]?4[0-9]{2}p([0-9]+le)?|nv(12|16|20|21|24)(le)?|p[024]1[0-9]le|gray([0-9]+le)?")
_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
REC_601, REC_709 = 6, 1  # as H.273 numbers matrix coefficients
_HD_ROWS = 720
_UNKNOWN = 2
_FULL_RANGE = 2
_WITH_INDEX = ("mov", "matroska")
_STILLS = re.compile(r"image2|.*_pipe|tty|lrc|srt|ass|webvtt")


@dataclass(frozen=True)
class Film:
    """A film, as its file describes it. Sizes are those of the upright film.

    Attributes:
        path: the file.
        stream: number of its video stream.
        width: in pixels.
        height: in pixels.
        transposed: rows and columns are exchanged to turn a stored frame upright.
        mirrored: it is mirrored then: left and right, top and bottom.
        pixel_aspect: width of a pixel by its height.
        time_base: unit of its times, in seconds.
        start: when the film begins, on the clock of the file, in seconds.
        seconds: its length, where the file says so.
        says_length: it is the length of the frames, not of what is longest in the file.
        joins: by how much later, in seconds, the second part of a file whose times begin again is than they say, and
            those after it; see :mod:`colorize.video.joins`.
        rate: frames a second, on average.
        bits: of its luma, 8 or 10.
        full_range: luma goes from 0 to the greatest value, not from 16 to 235 (of 8 bits).
        matrix: number of the matrix coefficients that make luma and chroma of RGB (ITU-T H.273).
        primaries: number of the colour primaries.
        transfer: number of the transfer characteristics.
        interlaced: its frames hold two fields, of two moments.
        sure_seeks: its times can be gone to.
    """

    path: str
    stream: int
    width: int
    height: int
    transposed: bool
    mirrored: tuple[bool, bool]
    pixel_aspect: Fraction
    time_base: Fraction
    start: Fraction
    seconds: float | None
    says_length: bool
    joins: tuple[Fraction, ...]
    rate: Fraction
    bits: int
    full_range: bool
    matrix: int
    primaries: int
    transfer: int
    interlaced: bool
    sure_seeks: bool

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of red and blue in the luma."""
        return _WEIGHTS.get(self.matrix, (0.299, 0.114))

    @property
    def square_size(self) -> tuple[int, int]:
        """Width and height in square pixels; neither side is made smaller."""
        aspect = float(self.pixel_aspect)
        width = round(self.width * aspect) if aspect > 1 else self.width
        height = round(self.height / aspect) if aspect < 1 else self.height
        return width, height


@contextmanager
def opened(path: str) -> Iterator[InputContainer]:
    """Open a film's file.

    Raises:
        UserError: it cannot be opened, or FFmpeg does not know what it is.
    """
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


def has_pictures(path: str) -> bool:
    """Return true if FFmpeg finds moving pictures in a file."""
    try:
        with opened(path) as container:
            return _STILLS.fullmatch(container.format.name) is None and bool(_video_streams(container))
    except UserError:
        return False


def probe(path: str) -> Film:
    """Read what is to be known of a film before it is coloured. Its first frame is decoded.

    Raises:
        UserError: it cannot be read, or there is no moving picture in it.
    """
    with opened(path) as container:
        stream = _video(container, path)
        frame = next(iter(decoded(container, stream, [])), None)
        if frame is None:
            raise UserError(f"{path}: no frame of it can be decoded")
        transposed, mirrored = _turn(frame)
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        aspect = Fraction(1) if not 0.1 < aspect < 10 else 1 / aspect if transposed else aspect
        is_yuv = has_luma_plane(frame)
        matrix = int(frame.colorspace) if is_yuv else _UNKNOWN
        if matrix == _UNKNOWN:
            matrix = REC_601 if min(height, width) < _HD_ROWS else REC_709
        grey_without_range = frame.format.name.startswith("gray") and frame.color_range == 0
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
            start=Fraction(container.start_time or 0, av.time_base),
            seconds=seconds,
            says_length=says_length,
            joins=joins,
            rate=rate,
            bits=8 if frame.format.components[0].bits <= 8 else 10,
            full_range=is_yuv
            and (frame.color_range == _FULL_RANGE or "yuvj" in frame.format.name or grey_without_range),
            matrix=matrix,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            interlaced=bool(frame.interlaced_frame),
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


def has_luma_plane(frame: VideoFrame) -> bool:
    """Return true if the first plane of a frame is its luma."""
    return _LUMA_FIRST.fullmatch(frame.format.name) is not None and frame.colorspace != 0


def reason(error: av.FFmpegError) -> str:
    """Return what FFmpeg says is wrong, in a few words."""
    if isinstance(error, av.error.InvalidDataError):
        return "not a film, or a damaged one"
    return (error.strerror or str(error)).lower()


def _written_length(text: str) -> float | None:
    """Return the seconds of the tag by which Matroska's files say how long a track is: 00:01:02.300000000."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(\.\d+)?)", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _video_streams(container: InputContainer) -> list[VideoStream]:
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _video(container: InputContainer, path: str) -> VideoStream:
    streams = _video_streams(container)
    if not streams:
        instead = "only sound" if container.streams.audio else "not a film, or a damaged one"
        raise UserError(f"{path}: no moving picture in it, {instead}")
    stream = next((stream for stream in streams if stream.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        raise UserError(f"{path}: its pictures are coded in a way that FFmpeg cannot decode")
    return stream


def _turn(frame: VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """Return (transposed, mirrored) that turn a frame upright by its display matrix, to the nearest right angle."""
    side_data: Any = frame.side_data
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, (False, False)
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, (a < 0, d < 0)
    return True, (c < 0, b < 0)
