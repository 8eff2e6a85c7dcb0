"""Encoding a film's frames, piece by piece, and putting the pieces together with the sound of the source."""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from colorize.color import Plane
from colorize.runtime.errors import UserError
from colorize.runtime.files import written_whole
from colorize.runtime.schema import BadOption
from colorize.video.chroma import coded_planes
from colorize.video.probing import Film, FilmFrame, opened
from colorize.video.tracks import Tracks


@dataclass(frozen=True)
class Codec:
    """A way to code frames.

    `encoder` is FFmpeg's name, `crf` its constant rate factors at quality 0 and at 95 (None: it is lossless),
    `suffixes` those of films that may hold it. `tells_aspect`: the code itself says how wide a pixel is. (PyAV cannot
    have Matroska say it.) It takes `ten_bits` of luma, and is given chroma at full size where a side is `odd_in_full`.
    """

    encoder: str
    crf: tuple[int, int] | None
    options: dict[str, str] = field(default_factory=dict)
    suffixes: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")
    tells_aspect: bool = True
    ten_bits: bool = True
    odd_in_full: bool = False


_WEB = (".mp4", ".m4v", ".mkv", ".webm")
CODECS = {
    "h264": Codec("libx264", (51, 18), odd_in_full=True),
    "h265": Codec("libx265", (51, 20), {"x265-params": "log-level=none"}, odd_in_full=True),
    "vp9": Codec("libvpx-vp9", (63, 24), {"b": "0", "row-mt": "1", "cpu-used": "3"}, _WEB, False, ten_bits=False),
    "av1": Codec("libsvtav1", (63, 24), {"preset": "7"}, _WEB, False),
    "ffv1": Codec("ffv1", None, {"level": "3", "slicecrc": "1"}, (".mkv",), False),
}
"""Choices of `codec=`."""

_TECHNICAL = ("encoder", "duration", "bps", "number_of_", "_statistics", "major_brand", "minor_version", "compatible")
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


def choose_codec(asked: str, path: Path, film: Film) -> Codec:
    """Choose the codec of a film. Raises BadOption where the file cannot hold it, UserError where FFmpeg lacks it."""
    suffix = path.suffix.lower()
    codec = CODECS["vp9" if suffix == ".webm" else "h264"] if asked == "auto" else CODECS[asked]
    if suffix not in codec.suffixes:
        raise BadOption(
            f"codec={asked} does not go into {suffix} files: give output=NAME of {' '.join(codec.suffixes)}"
        )
    if film.pixel_aspect != 1 and not codec.tells_aspect and suffix in (".mkv", ".webm"):
        raise BadOption(
            f"codec={asked} cannot say in {suffix} files that pixels are not square, as they are: take h264"
        )
    if codec.encoder not in av.codecs_available:
        others = ", ".join(name for name, other in CODECS.items() if other.encoder in av.codecs_available)
        raise UserError(f"codec={asked}: this FFmpeg has no encoder {codec.encoder}; it has {others}")
    return codec


class Piece:
    """Some frames of a film, encoded into a file of their own, which can be decoded without the others.

    In it, frames are numbered in the order in which they are decoded, as Matroska's milliseconds would round `times`,
    which are in the film's time base. `format` is FFmpeg's name of how planes are stored. Made by :func:`piece_file`.
    """

    most_frames = 250
    """So many are lost at most where a film is interrupted."""

    def __init__(self, file: str, path: Path, film: Film, codec: Codec, quality: int) -> None:
        self.path, self.times = path, list[int]()
        self._film = film
        in_full = codec.odd_in_full and (film.width % 2 or film.height % 2)
        self.format = f"yuv{444 if in_full else 420}p{'10le' if film.bits > 8 and codec.ten_bits else ''}"
        options = dict(codec.options)
        if codec.crf is not None:
            worst, good = codec.crf
            options["crf"] = str(max(0, round(worst + (good - worst) * quality / 95)))
        self._container = av.open(file, "w", format="matroska")
        self._stream: Any = self._container.add_stream(codec.encoder, rate=film.rate, options=options)
        context: Any = self._stream.codec_context
        context.width, context.height, context.pix_fmt = film.width, film.height, self.format
        context.time_base = film.time_base
        context.sample_aspect_ratio = film.pixel_aspect
        context.color_range = 2 if film.full_range else 1
        context.colorspace, context.color_primaries, context.color_trc = film.matrix, film.primaries, film.transfer
        self._order: list[int] = []

    def add(self, frame: FilmFrame, chroma: Plane) -> None:
        """Encode a frame with its chroma, ``(h, w, 2)`` float32 of any size."""
        made = VideoFrame(self._film.width, self._film.height, self.format)
        rooms: Any = made.planes
        for plane, values in zip(rooms, coded_planes(self._film, frame.luma, chroma, self.format), strict=True):
            room = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
            room[:, : plane.width] = values
        made.pts, made.time_base = frame.time, self._film.time_base
        self.times.append(frame.time)
        self._mux(self._stream.encode(made))

    def close(self) -> None:
        """Let go of an encoder that did not come to its end."""
        with suppress(Exception):  # of what has already failed
            self._container.close()

    def finish(self) -> list[int]:
        """Finish the file, and return the times in the order of decoding."""
        self._mux(self._stream.encode(None))
        self._container.close()
        if sorted(self._order) != self.times:
            raise RuntimeError("the encoder gave back other frames than it got")
        return self._order

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._order.append(round(Fraction(packet.pts) * packet.time_base / self._film.time_base))
            packet.pts = packet.dts = round(len(self._order) * 1000 / self._film.rate)
            packet.time_base, packet.duration, packet.stream = Fraction(1, 1000), 0, self._stream
            self._container.mux(packet)


@contextmanager
def piece_file(path: Path, film: Film, codec: Codec, quality: int) -> Iterator[Piece]:
    """Begin a piece in a file that appears whole or not at all."""
    with written_whole(path) as file, closing(Piece(file.name, path, film, codec, quality)) as piece:
        yield piece


@dataclass(frozen=True)
class PieceFile:
    """A finished piece: its file, and its frames' times in the order of decoding, in the film's time base."""

    path: Path
    order: list[int]


def put_together(
    film: Film, pieces: Sequence[PieceFile], last_length: int, origin: Fraction, end: Fraction | None, path: Path
) -> list[str]:
    """Write the film, whole or not at all; return what of the source could not be kept as it was, in words.

    Frames are the pieces'; sound, subtitles, chapters and what the file says are the source's, from `origin` to `end`
    in its seconds (None: all). `last_length`, of the last frame, is in the film's time base. Raises OSError where
    `path` cannot be written.
    """
    kind = MUXERS[path.suffix.lower()]
    options = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
    with (
        written_whole(path) as file,
        opened(str(pieces[0].path) if film.numbers else film.path) as source,  # a sequence has nothing but its frames
        av.open(file.name, "w", format=kind, container_options=options) as result,
    ):
        with av.open(pieces[0].path) as first:
            video = result.add_stream_from_template(first.streams.video[0], opaque=True)  # whoever decodes it
        video.time_base = film.time_base
        video.codec_context.sample_aspect_ratio = film.pixel_aspect
        video.codec_context.framerate = film.rate
        video.metadata.update(_told(source.streams[film.stream].metadata))
        video.disposition = source.streams[film.stream].disposition
        tracks = Tracks(film, source, result, origin, end)
        result.metadata.update(_told(source.metadata))
        result.start_encoding()
        frames = _video_packets(film, pieces, last_length, origin, kind in ("mp4", "mov"))
        for track, packet, _ in heapq.merge(tracks.packets(), frames, key=itemgetter(2)):
            if track == film.stream:
                packet.stream = video
            try:
                result.mux(packet)
            except av.FFmpegError as error:
                if track == film.stream or isinstance(error, OSError):  # of the disk
                    raise
                tracks.given(track, taken=False)
            else:
                tracks.given(track, taken=True)
        notes = [*tracks.notes, *tracks.losses()]
    return notes


def _told(metadata: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in metadata.items() if not key.lower().startswith(_TECHNICAL) and key != "rotate"}


def _video_packets(
    film: Film, pieces: Sequence[PieceFile], last_length: int, origin: Fraction, by_decoding: bool
) -> Iterator[tuple[int, Any, Fraction]]:
    """Yield all pieces' packets as `Tracks.packets` does, at the result's times, in order of decoding.

    A film in MP4 is as long as it takes to decode it (`by_decoding`), so that the last packet makes it up.
    """
    shift = round(origin / film.time_base)
    order = [time - shift for piece in pieces for time in piece.order]
    times = sorted(order)
    rank, end = {time: at for at, time in enumerate(times)}, times[-1] + last_length
    delay = max(at - rank[time] for at, time in enumerate(order))
    step = min((later - earlier for earlier, later in pairwise(times)), default=1)
    decode_times = [times[0] - number * step for number in range(delay, 0, -1)] + times
    for at, (time, packet) in enumerate(zip(order, _packets(pieces), strict=True)):
        packet.pts, packet.dts, packet.time_base = time, decode_times[at], film.time_base
        packet.duration = (times[rank[time] + 1] if time < times[-1] else end) - time
        if by_decoding and at == len(order) - 1:
            packet.duration = max(1, end - times[0] + decode_times[0] - packet.dts)
        yield film.stream, packet, packet.dts * film.time_base


def _packets(pieces: Sequence[PieceFile]) -> Iterator[Any]:
    for piece in pieces:
        with av.open(piece.path) as container:
            yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)
