"""Decoding a film: its frames' luma, upright, at full size and depth, with their times."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import Any, cast

import av
import numpy as np
from av.filter.graph import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from colorize.video.joins import JUMP_S
from colorize.video.probing import REC_709, Film, decoded, has_luma_plane, opened

Plane = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FilmFrame:
    """A frame.

    Attributes:
        time: when it is shown, in the film's time base.
        length: for how long, as far as the file says (0: it does not).
        luma: (H, W) as it is coded, uint8, or uint16 with the film's bits.
    """

    time: int
    length: int
    luma: Plane


def frames(
    film: Film, first: Fraction, end: Fraction | None, after: int | None, damage: list[str]
) -> Iterator[FilmFrame]:
    """Decode a film's frames in the order in which they are shown; memory does not grow with their number.

    Of interlaced frames the first field is kept, and the other made anew from it and the frames around: films are
    written as whole frames, in which a player would show the comb of two moments.

    Args:
        first: the time, in seconds on the file's clock, before which frames are left out.
        end: the time from which on they are; None: to the end.
        after: the time (in the film's time base) up to which frames are done already.
        damage: gets a line for each part that cannot be decoded.
    """
    with opened(film.path) as container:
        stream = container.streams[film.stream]
        assert isinstance(stream, VideoStream)
        goal = max(int(first / film.time_base), after or 0)
        sought = film.sure_seeks and goal > int(film.start / film.time_base)
        coming = decoded(container, stream, damage)
        if sought:
            container.seek(goal, stream=stream, backward=True)
            head = next(coming, None)
            if head is None or head.pts is None or head.pts > goal:
                damage.clear()
                yield from frames(replace(film, sure_seeks=False), first, end, after, damage)
                return
            coming = chain([head], coming)
        if film.interlaced:
            coming = _deinterlaced(coming, film.time_base)
        time: int | None = None
        length = max(1, round(1 / (film.rate * film.time_base)))
        raw: int | None = None
        joins, later = [*dict.fromkeys(film.joins)], 0
        for frame in coming:
            pts = frame.pts
            if pts is not None:
                if joins and raw is not None and (raw - pts) * film.time_base > JUMP_S:
                    later = round(joins.pop(0) / film.time_base)
                raw, pts = pts, pts + later
            # Some containers give no times, or the same twice: then a frame follows the one before.
            if pts is None or (time is not None and pts <= time):
                time = int(film.start / film.time_base) if time is None else time + (length if pts is None else 1)
            else:
                time = pts
            if time * film.time_base < first or (after is not None and time <= after):
                continue
            if end is not None and time * film.time_base >= end:
                return
            yield FilmFrame(time, frame.duration or 0, _luma(film, frame))


def _deinterlaced(coming: Iterator[VideoFrame], time_base: Fraction) -> Iterator[VideoFrame]:
    """Make as many frames, each of one moment (FFmpeg's bwdif); those without fields pass as they are.

    It looks at a frame's neighbours alone, so that the result is the same from whichever frame on it is made.
    """
    graph, kind = Graph(), None
    for frame in coming:
        if kind != (frame.width, frame.height, frame.format.name):
            if kind is not None:
                yield from _pulled(graph, None, time_base)
            graph, kind = Graph(), (frame.width, frame.height, frame.format.name)
            source = graph.add_buffer(None, frame.width, frame.height, frame.format, None, time_base)
            graph.link_nodes(
                source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
            ).configure()
        yield from _pulled(graph, frame, time_base)
    if kind is not None:
        yield from _pulled(graph, None, time_base)


def _pulled(graph: Graph, frame: VideoFrame | None, time_base: Fraction) -> Iterator[VideoFrame]:
    """Push a frame, or the end (None), and give out what is ready. The filter counts in units of its own."""
    graph.vpush(frame)
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            made = graph.vpull()
            if made.pts is not None and made.time_base:
                unit = made.time_base / time_base
                made.pts, made.duration = round(made.pts * unit), round(made.duration * unit)
            yield made


def _luma(film: Film, frame: VideoFrame) -> Plane:
    """Return the luma of a frame, upright."""
    stored = (film.height, film.width) if film.transposed else (film.width, film.height)
    is_yuv = has_luma_plane(frame)
    if (frame.width, frame.height) != stored or not is_yuv:
        target = frame.format.name if is_yuv else "yuv444p" if film.bits == 8 else "yuv444p10le"
        space: dict[str, Any] = (
            {"dst_colorspace": "ITU709" if film.matrix == REC_709 else "ITU601"} if not is_yuv else {}
        )
        frame = frame.reformat(*stored, format=target, **space)
    bits, plane = frame.format.components[0].bits, cast("Any", frame.planes[0])
    wide = np.frombuffer(plane, np.uint8 if bits <= 8 else "<u2")
    luma = wide.reshape(plane.height, -1)[:, : plane.width]
    if frame.format.name.startswith("p0") or frame.format.name.startswith(("p2", "p4")):
        luma = luma >> (16 - bits)  # which are stored high
    if bits > film.bits:
        luma = luma >> (bits - film.bits)
    elif bits < film.bits:
        luma = luma.astype(np.uint16) << (film.bits - bits)
    luma = luma.T if film.transposed else luma
    luma = luma[:: -1 if film.mirrored[1] else 1, :: -1 if film.mirrored[0] else 1]
    return np.array(luma, np.uint8 if film.bits == 8 else np.uint16, order="C")
