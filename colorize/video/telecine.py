"""Telecine: film whose 24 frames a second were woven into 30 of video, and the way back.

A frame of video holds two fields, its even and its odd rows. Each frame of the film fills two fields and three in turn,
so that of five frames of video two have their fields of different frames of the film, and one shows nothing new. As in
FFmpeg's `fieldmatch` and `decimate`, the second field is taken from the frame before where that combs less, and of five
frames the double is left out.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import cv2
import numpy as np

from colorize.video.probing import FilmFrame, Plane

CYCLE = 5  # frames of video that four frames of the film are woven into

RATES = (Fraction(2996, 100), Fraction(3001, 100))
"""Frames a second, at least and at most, of what a film may have been woven into."""

_MOST_FRAMES, _MOST_MOVING, _WINDOW, _LEAST_REPEATS = 1500, 150, 40, 4
_REPEATED_SHARE, _DOUBLE_SHARE = 0.5, 0.25  # of a change that is none
_COMB_LEVELS, _COMBED_SHARE = 9, 0.3  # of 255: a pixel's from those above and below; of the pixels of a block
_CLEARLY_LESS, _LEAST_COMBING = 0.6, 0.001
_MOVED_LEVELS, _BLOCK_PX = 4.0, 16


def find_second_field(lumas: Iterable[Plane]) -> int | None:
    """Find out if a film was woven into video, by its first minute; as soon as one can tell.

    It was if in each five frames the same one repeats the top field of the one before, and another its bottom field.
    Takes the frames' luma, (H, W), as stored; returns the first row of the later field, 1 where the top field comes
    first, or None: it was not woven.
    """
    before: Plane | None = None
    seen: deque[tuple[int, int]] = deque(maxlen=_WINDOW)
    moving = 0
    for number, luma in enumerate(islice(lumas, _MOST_FRAMES)):
        if before is not None and before.shape == luma.shape:
            changes = [_change(luma[row::2], before[row::2]) for row in (0, 1)]
            row = int(np.argmin(changes))
            is_repeated = changes[row] < _REPEATED_SHARE * changes[1 - row]
            seen.append((row, number % CYCLE) if is_repeated else (-1, 0))
            repeats = Counter(entry for entry in seen if entry[0] >= 0)
            if len(repeats) == 2 and min(repeats.values()) >= _LEAST_REPEATS:
                (first, top), (second, bottom) = sorted(repeats)
                if first != second:
                    return 1 if (bottom - top) % CYCLE in (1, 2) else 0
            moving += max(changes) > _MOVED_LEVELS
            if moving > _MOST_MOVING:
                return None
        before = luma
    return None


def unweave(frames: Iterator[FilmFrame], row: int) -> Iterator[FilmFrame]:
    """Give out four whole frames for each five, evenly in time, from the first on; `row` as of `find_second_field`."""
    matched, before, usual = _matched(frames, row), None, 0.0
    while cycle := list(islice(matched, CYCLE)):
        changes = []
        for frame in cycle:  # by the first field, which stays that of its frame
            first = frame.luma[1 - row :: 2]
            changes.append(np.inf if before is None else _change(before, first))
            before = first
        double, span = int(np.argmin(changes)), 0
        if len(cycle) == CYCLE:
            usual = min(changes[:double] + changes[double + 1 :])
            span = (cycle[-1].time - cycle[0].time) * CYCLE // (CYCLE - 1)
        elif changes[double] > _DOUBLE_SHARE * usual:  # the end of the film, which need not hold one
            double = CYCLE
        begin = cycle[0].time
        for number, frame in enumerate(cycle[:double] + cycle[double + 1 :]):
            if span:
                ahead = [begin + round(Fraction(span * k, CYCLE - 1)) for k in (number, number + 1)]
                frame = replace(frame, time=ahead[0], length=ahead[1] - ahead[0])
            yield frame


def _matched(frames: Iterator[FilmFrame], row: int) -> Iterator[FilmFrame]:
    """Make each frame whole: with its own second field, or that of the frame before; else of its first field alone."""
    before: Plane | None = None
    for frame in frames:
        luma = stored = frame.luma
        if before is not None and before.shape == luma.shape:
            other = luma.copy()
            other[row::2] = before[row::2]
            own, others = _combing(luma), _combing(other)
            luma = other if np.count_nonzero(others) < np.count_nonzero(own) else luma
            is_combed = min(_blocks(own).max(), _blocks(others).max()) > 255 * _COMBED_SHARE
            if is_combed and _comb_alike(own, others) and _change(stored, before) > _MOVED_LEVELS:
                near, luma = np.pad(stored, ((1, 1), (0, 0)), "reflect").astype(np.uint16), stored.copy()
                luma[row::2] = ((near[:-2] + near[2:] + 1) >> 1)[row::2]
        before = stored
        yield replace(frame, luma=luma)


def _combing(luma: Plane) -> Plane:
    """Return the pixels that stick out from the rows above and below alike: (H - 2, W), 255 there, else 0."""
    rows = luma if luma.dtype == np.uint8 else (luma >> 2).astype(np.uint8)
    above, here, below = rows[:-2], rows[1:-1], rows[2:]
    bright = cv2.min(cv2.subtract(here, above), cv2.subtract(here, below))
    dark = cv2.min(cv2.subtract(above, here), cv2.subtract(below, here))
    return np.asarray(cv2.compare(cv2.max(bright, dark), _COMB_LEVELS, cv2.CMP_GT))


def _blocks(values: Plane) -> Plane:
    height, width = values.shape
    size = (max(1, width // _BLOCK_PX), max(1, height // _BLOCK_PX))
    return np.asarray(cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA))


def _change(one: Plane, other: Plane) -> float:
    return float(_blocks(cv2.absdiff(one, other)).max()) if one.shape == other.shape else np.inf


def _comb_alike(own: Plane, other: Plane) -> bool:
    """Return whether neither way to put a frame together clearly combs less than the other."""
    mine, others = (np.count_nonzero(cv2.subtract(*pair)) / own.size for pair in ((own, other), (other, own)))
    return bool(max(mine, others) < _LEAST_COMBING or min(mine, others) > _CLEARLY_LESS * max(mine, others))
