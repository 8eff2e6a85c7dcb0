"""Steady colours: each frame's chroma averaged with that of its neighbours, carried along the motion."""

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from colorize.color import Plane
from colorize.video.chroma import resized
from colorize.video.motion import Link

LOOK_AHEAD = 10  # frames to come that a frame's colours are averaged with, and so wait for

MEMORY = 0.97  # remaining share of the weight of other frames' colours after each frame between

CHANNELS = 4  # of what is carried: weighted Cb and Cr, the weight, and 0: OpenCV takes twice as long for three

_FILL_WEIGHT, _FILL_PX = 1e-3, 7.0


class Stabilizer:
    """Averages chroma along time, `LOOK_AHEAD` frames behind what it is given.

    The colours of a frame are the weighted mean of the network's for all frames of its shot, each carried here by the
    motion: those before in a running sum (`past`, to resume from) that weighs a frame's colours in the next by
    `MEMORY`, those of the next `LOOK_AHEAD` frames one by one. A weight falls with the distance in time, and to nothing
    where the motion cannot be trusted, so that no colour crosses an edge that moves. A frame may come without colours
    of its own, and then has its neighbours'.
    """

    def __init__(self, past: Plane | None = None) -> None:
        self.past = past
        """``(h, w, CHANNELS)`` float32, up to the frame that was given out last."""
        self._window: deque[tuple[Plane, Link | None]] = deque()

    def add(self, size: tuple[int, ...], chroma: Plane | None, link: Link | None) -> Iterator[Plane]:
        """Take the next frame, and give out the chroma, ``(h, w, 2)`` float32, of at most one earlier frame.

        `size` is height and width, `chroma` the network's, of any size (None where it was not asked), `link` how the
        frame follows the one before (None for the first of a shot).
        """
        own = np.zeros((*size, CHANNELS), np.float32)
        if chroma is not None:
            own[..., :2], own[..., 2] = resized(chroma, size), 1
        if link is not None:  # with the memory in it, as deep
            back, ahead = (cv2.merge([MEMORY * trust] * CHANNELS) for trust in (link.back_trust, link.ahead_trust))
            link = Link(link.back, back, link.ahead, ahead)
        self._window.append((own, link))
        if len(self._window) > LOOK_AHEAD:
            yield self._next()

    def finish(self) -> Iterator[Plane]:
        while self._window:
            yield self._next()

    def _next(self) -> Plane:
        coming: Plane | None = None  # of the frames after, carried to the one looked at
        for own, link in list(self._window)[:0:-1]:
            if link is None:
                coming = None
            else:
                coming = _carried(own if coming is None else coming + own, link.ahead, link.ahead_trust)
        own, link = self._window.popleft()
        if link is not None and self.past is not None:
            own = own + _carried(self.past, link.back, link.back_trust)
        self.past = own
        total = own if coming is None else own + coming
        if total[..., 2].min() < 0.1:  # where no frame knows the colour, that of what is around
            total = total + _FILL_WEIGHT * cv2.GaussianBlur(total, (0, 0), _FILL_PX)
        return total[..., :2] / np.maximum(total[..., 2:3], 1e-9)


def _carried(weighted: Plane, source: Plane, trust: Plane) -> Plane:
    moved = cv2.remap(weighted, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.multiply(moved, trust, dst=moved)
