"""Scores of a generator on fixed photos while it trains, and which checkpoint of a phase to take by them.

CIEDE2000 alone is lowest for cautious greys, a difference of colourfulness for any colours of the right strength. A
*distance* is the mean of the two, each as a share of what no colour at all scores: 0 is the truth, 1 as far as grey.
Since a stronger sepia is nearer than a weaker one, only those points count whose *skill* has not fallen (`rank`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from colorize.color import merge_luma, rgb_to_grey
from colorize.data.luma_lookup import LumaLookup
from colorize.evaluation.candidates import trained_with
from colorize.metrics import SCORED, MeanMetrics, measure
from colorize.runtime.errors import UserError
from colorize.runtime.log import log
from colorize.weights.checkpoints import read_checkpoint
from colorize.weights.checksum import fingerprint

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


Points = list[tuple[int, dict[str, float]]]  # images seen, and the scores of that moment, in order


@dataclass(frozen=True)
class Scored:
    """Scores of a phase, from the metadata of its checkpoints."""

    curve: Points  # also of checkpoints that are no longer kept; empty where none was scored
    files: dict[int, Path]  # the checkpoints that are there, by the images that they have seen
    start: Path | None = None  # the one that the phase got its generator from, where that is known and there

    @property
    def nearest(self) -> int | None:
        """Moment to take: the first by `rank` of those whose weights are there; None where none is."""
        kept = {*self.files, *([] if self.start is None else [0])}
        there = [(rank(score, self.curve[0][1]), images) for images, score in self.curve if images in kept]
        return min(there)[1] if there else None


def read_scores(phase: Path) -> Scored:
    """Read each checkpoint in the folder of a phase, such as runs/NAME/gan, once."""
    cards = []
    for path in sorted((phase / "checkpoints").glob("*.ckpt")):
        try:
            cards.append((read_checkpoint(path)[0], path))
        except UserError as error:
            log.warning(f"left out of the curve: {error}")
    points: dict[int, dict[str, float]] = {}
    for card, _ in sorted(cards, key=lambda found: found[0].images_seen):
        points |= {int(p["images_seen"]): {n: v for n, v in p.items() if n != "images_seen"} for p in card.curve}
    # Of the same weights under two names, best.ckpt is the one that stays.
    files = {card.images_seen: path for card, path in reversed(cards) if card.score is not None}
    digests = [card.sources.get("init_from.generator") for card, _ in cards]
    return Scored(sorted(points.items()), files, _start(phase, digests[0]) if digests else None)


def _start(phase: Path, digest: str | None) -> Path | None:
    """Return the generator that a phase began with, as its config.yaml names it, if that has the same content still."""
    try:
        found = Path((trained_with(phase) or {})["init_from"]["generator"])
        return found if fingerprint(found) == digest else None
    except (OSError, KeyError, TypeError):
        return None


def advice(scores: Scored) -> str | None:
    """Return a sentence that names the checkpoint to take and its scores; None where there is no curve."""
    nearest = scores.nearest
    if nearest is None or len(scores.curve) < 2:
        return None
    point, (first, last) = dict(scores.curve)[nearest], (scores.curve[0], scores.curve[-1])
    if nearest in scores.files:
        said = f"take {scores.files[nearest]}, of {nearest:,} images"
        if rank(point, first[1])[0]:
            said = f"take the start, if you have it: all that is here has lost skill, the nearest being {said[5:]}"
    else:
        kept = " and as skilled" if "skill" in point else ""
        said = f"take {scores.start}, which the phase started from: nothing that came of it is nearer the truth{kept}"
    shown = [f"{row.title} {point[name]:.{row.decimals}f}" for name, row in SCORED.items() if name in point]
    said += f": distance {point['distance']:.3f} ({', '.join(shown)})"
    others = [f"{p['distance']:.3f} at {images:,}" for images, p in dict((first, last)).items() if images != nearest]
    if others:
        said += f"; it was {' and '.join(others)}"
    if "skill" in first[1]:
        count = sum(not rank(other, first[1])[0] for _, other in scores.curve[1:]) or "none"
        said += f". Points after the first that count, with a skill not below its {first[1]['skill']:.3f}: {count}"
        said += f" of {len(scores.curve) - 1}"
    for name, row in SCORED.items():
        grey = point.get(OF_GREY + name)
        if row.better == "lower" and grey is not None and point[name] > grey:
            said += f". Its {row.title} is worse than that of no colour at all, {grey:.2f}"
    return said
