"""Motion from one frame to the next, the trust in it, and cuts."""

from dataclasses import dataclass

import cv2
import numpy as np

from colorize.color import Plane

CUT_TRUST = 0.3
"""Two frames whose mean trust is lower belong to different shots: cuts have 0.02 to 0.15, the same shot 0.6 to 1."""

_BLUR_PX = 1.0  # against grain, which has no motion
_ROUND_TRIP_PX, _ROUND_TRIP_SHARE = 1.2, 0.1
_LEAST_FOR_FLOW_PX = 32
_LEAST_CONTRAST = 3.0  # of 255: what is darker than that between two scenes parts them
_NOISE, _NOISE_TOLERANCE = (0.7, 2.0), 4.0  # of calmed luma, from 0 to 255
_LIGHT_GAIN = (0.8, 1.25)


@dataclass(frozen=True)
class Link:
    """Motion between two frames of one shot that follow each other.

    `back`, ``(h, w, 2)`` float32, is for each pixel of the second where (x, y) in the first it came from; `ahead` for
    each of the first where in the second it goes to. Each has its trust, ``(h, w)`` float32 from 0 to 1.
    """

    back: Plane
    back_trust: Plane
    ahead: Plane
    ahead_trust: Plane


class Motion:
    """Follows a film from the frame `last` on, by dense inverse search (Kroeger et al., ECCV 2016) both ways."""

    def __init__(self, last: Plane | None = None) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._last = None if last is None else _calm(last)

    def follow(self, luma: Plane) -> Link | None:
        """Return the motion to this frame, ``(h, w)`` uint8, from the one before; None for the first of a shot."""
        first, second = self._last, _calm(luma)
        self._last = second
        if first is None or min(cv2.meanStdDev(first)[1], cv2.meanStdDev(second)[1]) < _LEAST_CONTRAST:
            return None
        grid = np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in luma.shape[::-1])), axis=-1)
        if min(luma.shape) < _LEAST_FOR_FLOW_PX:
            ahead = back = np.zeros_like(grid)
        else:
            ahead, back = self._flow.calc(first, second, None), self._flow.calc(second, first, None)
        to, origin = grid + ahead, grid + back
        first, second = first.astype(np.float32), second.astype(np.float32)
        ahead_trust, back_trust = _trust(first, second, ahead, back, to), _trust(second, first, back, ahead, origin)
        if min(cv2.mean(ahead_trust)[0], cv2.mean(back_trust)[0]) < CUT_TRUST:
            return None
        return Link(origin, back_trust, to, ahead_trust)


def _calm(luma: Plane) -> Plane:
    return cv2.GaussianBlur(luma, (0, 0), _BLUR_PX)


def _trust(here: Plane, there: Plane, flow: Plane, back: Plane, target: Plane) -> Plane:
    """Return the trust, from 0 to 1, that the flow leads from what is seen in `here` to the same in `there`.

    It is high where the way there and back ends where it began (Sundaram, Brox & Keutzer, ECCV 2010), and the luma is
    the same, but for grain and for a change of all the light.
    """
    height, width = here.shape
    found = cv2.merge([back, there, there])  # in one pass, and of four channels: three take twice as long
    *returned, arrived, _ = cv2.split(cv2.remap(found, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    off, length = (cv2.magnitude(*cv2.split(way)) for way in (cv2.add(flow, cv2.merge(returned)), flow))
    trust = np.clip(2 - off / (_ROUND_TRIP_PX + _ROUND_TRIP_SHARE * length), 0, 1)
    inside = cv2.inRange(target, (0, 0), (width - 1, height - 1))
    sure = cv2.bitwise_and(inside, cv2.compare(trust, 0.5, cv2.CMP_GT))
    if cv2.countNonZero(sure):
        (mean,), (spread,) = cv2.meanStdDev(here, mask=sure)
        (mean_there,), (spread_there,) = cv2.meanStdDev(arrived, mask=sure)
        gain = np.clip(spread / spread_there, *_LIGHT_GAIN) if spread_there > 2 else 1.0
        arrived = np.clip(arrived * np.float32(gain) + np.float32(mean - gain * mean_there), 0, 255)
    # With its sign, for grain evens out over a few pixels, and what fades in or out does not.
    difference = np.abs(cv2.blur(here - arrived, (5, 5)))
    noise = float(np.clip(np.median(difference[::3, ::3]), *_NOISE))
    trust *= np.clip(2 - difference / (_NOISE_TOLERANCE * noise), 0, 1)
    trust[inside == 0] = 0
    return trust
