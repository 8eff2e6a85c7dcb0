"""Decoding a film: its frames' luma, upright, at full size and depth, with their times."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any, cast

import av
import numpy as np
from av.filter.graph import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from colorize.video import telecine
from colorize.video.probing import (
    JUMP_S,
    REC_709,
    Film,
    FilmFrame,
    Plane,
    decoded,
    is_full_range,
    is_rgb,
    opened,
    side_data,
)

_LUMA_FIRST = re.compile(r"yuv[aj]?4[0-9]{2}p([0-9]+le)?|nv(12|16|20|21|24)(le)?|p[024]1[0-9]le|gray([0-9]+le)?")
_EXTRAS = {Type.A53_CC: "the captions in its frames", Type.STEREO3D: "what says how its frames are to be seen in 3D"}
_LOOKED_AT = 25  # every so many frames, for what is in all, or in none


def with_telecine(film: Film) -> Film:
    """Return the film as it was before it was woven into video, if it was: with 24 frames a second for 30."""
    if film.transposed or film.mirrored[1] or not telecine.RATES[0] < film.rate < telecine.RATES[1]:
        return film
    stored = _frames(film, None, [], set(), keep_fields=True)
    row = telecine.find_second_field(frame.luma for frame in stored)
    return film if row is None else replace(film, second_field=row, rate=film.rate * 4 / 5)


def frames(
    film: Film, first: Fraction, end: Fraction | None, after: int | None, damage: list[str], left_out: set[str]
) -> Iterator[FilmFrame]:
    """Decode a film's frames in the order in which they are shown; memory does not grow with their number.

    Of interlaced frames the first field is kept, and the other made anew from it and the frames around: films are
    written as whole frames, in which a player would show the comb of two moments.

    Frames before `first` and from `end` on, in seconds on the file's clock (None: to the end), are left out, and those
    up to `after`, in the film's time base, which are done already. `damage` gets a line for each part that cannot be
    decoded, `left_out` what comes with frames and is not kept, in words.
    """
    goal = max(int(first / film.time_base), after or 0)
    sought = goal if film.sure_seeks and goal > int(film.start / film.time_base) else None
    if film.second_field is None:
        shown = _frames(film, sought, damage, left_out)
    else:  # doubles are told from the beginning on
        shown = telecine.unweave(_frames(film, None, damage, left_out, keep_fields=True), film.second_field)
    for frame in shown:
        if frame.time * film.time_base < first or (after is not None and frame.time <= after):
            continue
        if end is not None and frame.time * film.time_base >= end:
            return
        yield frame


def _frames(
    film: Film, sought: int | None, damage: list[str], left_out: set[str], keep_fields: bool = False
) -> Iterator[FilmFrame]:
    """Decode from a time, in the film's time base, or a little before; None: from the beginning. Times grow."""
    with opened(film.path) as container:
        stream = container.streams[film.stream]
        assert isinstance(stream, VideoStream)
        coming = decoded(container, stream, damage)
        if sought is not None:
            container.seek(sought, stream=stream, backward=True)
            head = next(coming, None)
            if head is None or head.pts is None or head.pts > sought:
                damage.clear()
                yield from _frames(film, None, damage, left_out, keep_fields)
                return
            coming = chain([head], coming)
        rate = film.rate if film.second_field is None else film.rate * 5 / 4
        length, time = max(1, round(1 / (rate * film.time_base))), None
        raw: int | None = None
        joins, later = [*dict.fromkeys(film.joins)], 0
        for number, frame in enumerate(coming if keep_fields else _deinterlaced(coming, film.time_base)):
            pts = frame.pts
            if pts is not None:
                if joins and raw is not None and (raw - pts) * film.time_base > JUMP_S:
                    later = round(joins.pop(0) / film.time_base)
                raw, pts = pts, pts + later
            # Some containers give no times, or the same twice: then a frame follows the one before.
            if pts is None or (time is not None and pts <= time):
                time = -int(-film.start // film.time_base) if time is None else time + (length if pts is None else 1)
            else:
                time = pts
            if number % _LOOKED_AT == 0:  # a frame that was looked at is not freed at once, by PyAV
                left_out.update(words for kind, words in _EXTRAS.items() if side_data(frame, kind) is not None)
            yield FilmFrame(time, frame.duration or 0, _luma(film, frame))


def _deinterlaced(coming: Iterator[VideoFrame], time_base: Fraction) -> Iterator[VideoFrame]:
    """Make as many frames, each of one moment; those without fields pass as they are, at no cost before the first."""
    before: list[VideoFrame] = []
    for frame in coming:
        if frame.interlaced_frame:
            yield from islice(_filtered(chain(before, [frame], coming), time_base), len(before), None)
            return
        before = [frame]
        yield frame


def _filtered(coming: Iterator[VideoFrame], time_base: Fraction) -> Iterator[VideoFrame]:
    """Apply FFmpeg's bwdif to what is interlaced; only neighbours count, so it is the same from any first frame."""
    taken = (  # "gray16" and its like it does not take, and would make RGB of
        _reformatted(frame, "yuv444p16le", is_full_range(frame)) if frame.format.name.startswith("gray1") else frame
        for frame in coming
    )
    kind = attrgetter("width", "height", "format.name", "color_range", "colorspace")
    for (width, height, name, color_range, colorspace), alike in groupby(taken, kind):
        graph = Graph()
        facts = {"video_size": f"{width}x{height}", "pix_fmt": name, "time_base": str(time_base)}
        source = graph.add("buffer", range=str(int(color_range)), colorspace=str(int(colorspace)), **facts)
        parts = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
        graph.link_nodes(source, *parts).configure()
        for frame in chain(alike, [None]):  # None: the end
            graph.vpush(frame)
            with suppress(av.BlockingIOError, av.EOFError):
                while True:
                    made = graph.vpull()
                    if made.pts is not None and made.time_base:  # the filter counts in units of its own
                        unit = made.time_base / time_base
                        made.pts, made.duration = round(made.pts * unit), round(made.duration * unit)
                    yield made


def _luma(film: Film, frame: VideoFrame) -> Plane:
    stored = (film.height, film.width) if film.transposed else (film.width, film.height)
    name, deep, full = frame.format.name, frame.format.components[0].bits, is_full_range(frame)
    has_luma = _LUMA_FIRST.fullmatch(name) is not None and not is_rgb(frame)
    if not has_luma or (frame.width, frame.height) != stored or full != film.full_range:
        if not has_luma:
            name = "yuv444p" if deep <= 8 else "yuv444p10le" if deep <= 10 or is_rgb(frame) else "yuv444p16le"
        frame = _reformatted(frame, name, film.full_range, stored, film.matrix)
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


def _reformatted(
    frame: VideoFrame, name: str, full_range: bool, size: tuple[int, int] | None = None, matrix: int = 0
) -> VideoFrame:
    """Convert a frame, with the range said on both sides; RGB by a matrix, YUV stays with its own."""
    width, height = size or (frame.width, frame.height)
    rgb = is_rgb(frame)
    return frame.reformat(
        width,
        height,
        name,
        dst_colorspace=("ITU709" if matrix == REC_709 else "ITU601") if rgb else None,
        src_color_range=ColorRange.JPEG if rgb or is_full_range(frame) else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
    )
