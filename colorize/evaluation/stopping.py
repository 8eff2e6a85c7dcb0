"""Scores of a generator on fixed photos while it trains, and which checkpoint of a phase to take by them.

CIEDE2000 alone is lowest for cautious greys, a difference of colourfulness for any colours of the right strength. A
*distance* is the mean of the two, each as a share of what no colour at all scores: 0 is the truth, 1 as far as grey.
Since a stronger sepia is nearer than a weaker one, only those points count whose *skill* has not fallen (`rank`).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from colorize.color import merge_luma, rgb_to_grey
from colorize.data.luma_lookup import LumaLookup
from colorize.metrics import SCORED, MeanMetrics, measure

OF_GREY = "grey_"  # prefix of the scores of grey, on the same photos
LEAST_OF_GREY = 1.0  # least that grey is taken to score, so that true greys divide nothing by zero
_AT_ONCE = 16


@torch.no_grad()
def score(
    colour: Callable[[Tensor], Tensor], rgb: Tensor, device: torch.device, lookup: LumaLookup
) -> dict[str, float]:
    """Score photos of all ranks, coloured on their own luma: the mean of each `SCORED`.

    `colour` makes RGB (B, 3, H, W) of grey (B, 1, H, W), in [0, 1], on `device`; `rgb` has this rank's photos, (N, 3,
    H, W) uint8, where N may be 0.
    """
    means = MeanMetrics()
    for photos in rgb.split(_AT_ONCE) if len(rgb) else ():
        truth = photos.to(device).float() / 255
        grey = rgb_to_grey(truth)
        terms = measure(SCORED, merge_luma(colour(grey), grey), truth, lookup.predict(grey))
        means.add({name: values.cpu().double() for name, values in terms.items()}, len(truth))
    return means.means()


def distance(score: Mapping[str, float], of_grey: Mapping[str, float]) -> float:
    """Return the mean of CIEDE2000 and ΔCF, each as a share of that of grey: 0 is the truth, 1 as far away as grey."""
    return sum(score[name] / max(of_grey[name], LEAST_OF_GREY) for name in ("ciede2000", "delta_cf")) / 2


def rank(score: Mapping[str, float], first: Mapping[str, float]) -> tuple[bool, float]:
    """Return the sort key of a curve's points, the one to take first: True where skill has fallen, and the distance.

    That is from the `first` point, the start; where it was not measured, all count. `best.ckpt` goes by this rule.
    """
    return score.get("skill", math.inf) < first.get("skill", -math.inf), score["distance"]


def beats_start(curve: Sequence[Mapping[str, float]]) -> bool | None:
    """Return True if some point of a curve is to be taken before its first, the start; None where there is no other."""
    return min(rank(point, curve[0]) for point in curve[1:]) < rank(curve[0], curve[0]) if len(curve) > 1 else None
