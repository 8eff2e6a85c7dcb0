"""Where to stop: how far a generator is from the truth on fixed photos, and which checkpoint of a fit is nearest.

In step 4 the colours gain strength, then drift; the useful part may be the first hundredth of the fit. No single figure
shows it: CIEDE2000 is lowest for cautious greys, and a difference of colourfulness is lowest for any colours of the
right strength. A *distance* is the mean of the two, each as a share of what no colour at all scores on the same photos:
0 is the truth, 1 is as far away as grey. Since a stronger sepia is nearer than a weaker one, only those points count
whose *skill*, which no tint has that follows from luma, has not fallen below that of the start (`rank`).
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from colorize import metrics
from colorize.color import merge_luma, rgb_to_grey
from colorize.runtime.errors import UserError
from colorize.weights.checkpoints import read_checkpoint
from colorize.weights.checksum import fingerprint

log = logging.getLogger("colorize")

FIGURES = {
    "distance": "distance",
    "ciede2000": "CIEDE2000",
    "delta_cf": "difference of colourfulness, mean over photos",
    "skill": "skill, right colour beyond what luma tells: here, higher is better",
    "fid": "FID on these few photos: for comparing these points alone",
}
"""What is known of each moment, and how it is called; old curves lack skill, and FID needs weights."""

OF_GREY = "grey_"
"""What the name of a figure begins with where it is grey's, on the same photos."""

LEAST_OF_GREY = 1.0
"""What grey is taken to score at least, so that photos which are grey themselves divide nothing by zero."""


@torch.no_grad()
def figures(
    colour: Callable[[Tensor], Tensor],
    rgb: Tensor,
    device: torch.device,
    lookup: metrics.LumaLookup,
    batch_size: int = 16,
    show: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Sums over photos, coloured on their own luma, of CIEDE2000, difference of colourfulness (ΔCF) and skill's.

    Args:
        colour: grey (B, 1, H, W) to RGB (B, 3, H, W), in [0, 1], on `device`.
        rgb: the photos, (N, 3, H, W) uint8.
        lookup: of the training photos.
        show: is given each batch of coloured photos, (B, 3, H, W) RGB in [0, 1].

    Returns:
        (6,) float64, on the CPU: N, both sums, and those of `metrics.skill_sums`.
    """
    sums = torch.zeros(6, dtype=torch.float64)
    for part in rgb.split(batch_size) if len(rgb) else ():
        truth = part.to(device).float() / 255
        grey = rgb_to_grey(truth)
        seen = merge_luma(colour(grey), grey)
        if show is not None:
            show(seen)
        delta_cf = (metrics.colourfulness(seen) - metrics.colourfulness(truth)).abs()
        each = [torch.ones_like(delta_cf), metrics.mean_ciede2000(seen, truth), delta_cf]
        skill = metrics.skill_sums(seen, truth, lookup.predict(grey))
        sums += torch.cat([torch.stack(each, dim=1), skill], dim=1).cpu().double().sum(dim=0)
    return sums


def of_sums(sums: Tensor) -> dict[str, float]:
    """Means of CIEDE2000 and ΔCF, and the skill, from the sums of `figures`."""
    photos, ciede2000, delta_cf = sums[:3].tolist()
    return {"ciede2000": ciede2000 / photos, "delta_cf": delta_cf / photos, "skill": float(metrics.skill(sums[3:]))}


def distance(score: Mapping[str, float], of_grey: Mapping[str, float]) -> float:
    """The mean of CIEDE2000 and ΔCF, each as a share of that of grey: 0 is the truth, 1 as far away as grey."""
    return sum(score[name] / max(of_grey[name], LEAST_OF_GREY) for name in ("ciede2000", "delta_cf")) / 2


def rank(score: Mapping[str, float], first: Mapping[str, float]) -> tuple[bool, float]:
    """By what the points of a curve are sorted, the one to take first: the rule of `best.ckpt` and of the advice.

    The nearest to the truth of those that count, whose skill has not fallen below that of the curve's `first` point,
    the fit's start; then the nearest of the others. Where skill was not measured, all count.

    Returns:
        Whether the skill has fallen, and the distance.
    """
    return score.get("skill", math.inf) < first.get("skill", -math.inf), score["distance"]


Points = list[tuple[int, dict[str, float]]]
"""Images seen, and the figures of that moment, in order."""


@dataclass(frozen=True)
class Scored:
    """What a fit scored, from the cards of its checkpoints.

    Attributes:
        curve: of each moment `FIGURES`, and those of grey; empty where none was scored. Points of checkpoints that are
            no longer kept are in it: each card has all up to its own.
        files: the checkpoints that are there, by the images that they have seen.
        start: the file that the phase got its generator from, where that is known and there.
    """

    curve: Points
    files: dict[int, Path]
    start: Path | None = None

    @property
    def nearest(self) -> int | None:
        """The moment to take: the first by `rank` of those whose weights are there; None where none is."""
        there = [(rank(score, self.curve[0][1]), images) for images, score in self.curve if self.has(images)]
        return min(there)[1] if there else None

    def has(self, images: int) -> bool:
        """Whether the weights of a moment are there."""
        return images in self.files or (images == 0 and self.start is not None)


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
    """The generator that a phase began with: what its config.yaml names, if that still has the content of then."""
    try:
        found = Path(yaml.safe_load((phase / "config.yaml").read_text(encoding="utf-8"))["init_from"]["generator"])
        return found if fingerprint(found) == digest else None
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def advice(scores: Scored) -> str | None:
    """A sentence that names the checkpoint to take, with the figures it rests on; None where there is no curve."""
    nearest = scores.nearest
    if nearest is None or len(scores.curve) < 2:
        return None
    known = dict(scores.curve)
    score, (first, last) = known[nearest], (scores.curve[0], scores.curve[-1])
    skill, kept = (f", skill {score['skill']:.3f}", " and as skilled") if "skill" in score else ("", "")
    if nearest in scores.files:
        said = f"take {scores.files[nearest]}, of {nearest:,} images"
        if rank(score, first[1])[0]:
            said = f"take the start, if you have it: all that is here has lost skill, the nearest being {said[5:]}"
    else:
        said = (
            f"take {scores.start}, which the phase started from: nothing that came of it is nearer to the truth{kept}"
        )
    figures = f"CIEDE2000 {score['ciede2000']:.2f}, ΔCF {score['delta_cf']:.2f}{skill}"
    said += f": distance {score['distance']:.3f} ({figures})"
    others = [(images, other) for images, other in dict((first, last)).items() if images != nearest]
    if others:
        said += "; it was " + " and ".join(f"{other['distance']:.3f} at {images:,}" for images, other in others)
    if "skill" in first[1]:
        kept = str(sum(not rank(other, first[1])[0] for _, other in scores.curve[1:]) or "none")
        said += f". Points after the first that count, with a skill not below its {first[1]['skill']:.3f}: {kept}"
        said += f" of {len(scores.curve) - 1}"
    for name, title in (("ciede2000", "CIEDE2000"), ("delta_cf", "ΔCF")):
        grey = score.get(OF_GREY + name)
        if grey is not None and score[name] > grey:
            said += f". Its {title} is worse than that of no colour at all, {grey:.2f}"
    return said


INK, PALE, LINE, MARK = (32, 32, 36), (200, 200, 206), (38, 92, 170), (200, 60, 40)


def draw_curve(scores: Scored, title: str, width_px: int = 900, panel_px: int = 190) -> Image.Image | None:
    """A fit's scores as a picture, a panel a figure over images seen; None under two points.

    The checkpoint to take is red, moments whose weights are gone are hollow, and a thin line is what grey scores. A
    panel is `panel_px` high.
    """
    curve = scores.curve
    if len(curve) < 2:
        return None
    font, large = ImageFont.load_default(size=13), ImageFont.load_default(size=17)
    left, right, top, gap = 64, 24, 62, 34
    names = [name for name in FIGURES if all(name in score for _, score in curve)]
    canvas = Image.new("RGB", (width_px, len(names) * (panel_px + gap) + top), "white")
    draw = ImageDraw.Draw(canvas)
    most, nearest = curve[-1][0], scores.nearest
    draw.text((left, 10), title, fill=INK, font=large)
    legend = "red: the checkpoint to take; hollow: its weights are not kept; lower is nearer to the truth"
    draw.text((left, 36), legend, fill=INK, font=font)
    for number, name in enumerate(names):
        values = [score[name] for _, score in curve]
        grey = 1.0 if name == "distance" else curve[-1][1].get(OF_GREY + name)
        low, high = min(values), max(values)
        base, room = top + number * (panel_px + gap) + panel_px, panel_px - 30
        scale = room / (high - low or 1.0)
        places = [
            (left + (width_px - left - right) * images / most, base - (value - low) * scale)
            for (images, _), value in zip(curve, values, strict=True)
        ]
        of_grey = "" if grey is None else f" (grey: {grey:.3g})"
        draw.text((left, base - panel_px + 4), FIGURES[name] + of_grey, fill=INK, font=font)
        digits = next(n for n in range(3, 9) if f"{low:.{n}g}" != f"{high:.{n}g}" or n == 8 or low == high)
        for level, value in ((base, low), (base - room, high)):
            draw.line((left, level, width_px - right, level), fill=PALE)
            draw.text((left - 6, level), f"{value:.{digits}g}", fill=INK, font=font, anchor="rm")
        if grey is not None and low < grey < high:
            height = base - (grey - low) * scale
            draw.line((left, height, width_px - right, height), fill=INK)
        draw.line(places, fill=LINE, width=2)
        for (images, _), (x, y) in zip(curve, places, strict=True):
            colour, radius = (MARK, 5) if images == nearest else (LINE, 3)
            fill = colour if scores.has(images) else "white"
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=colour)
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + (width_px - left - right) * part
        text = f"{most:,} images seen" if part == 1 else f"{round(most * part):,}"
        draw.text((x, canvas.height - 24), text, fill=INK, font=font, anchor="rm" if part == 1 else "mm")
    return canvas
