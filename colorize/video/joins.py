"""Joins: where a file's times begin again, and by how much that is to be made up for."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

JUMP_S = 1
"""A track that goes back by more than so many seconds is one that begins again."""


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
