"""Where to stop: how far a generator is from the truth on fixed photos, and which checkpoint of a fit is nearest.

In step 4 the colours gain strength, then drift; the useful part may be the first hundredth of the fit. No single figure
shows it: CIEDE2000 is lowest for cautious greys, and a difference of colourfulness is lowest for any colours of the
right strength. A *distance* is the mean of the two, each as a share of what no colour at all scores on the same photos:
0 is the truth, 1 is as far away as grey.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from colorize import metrics
from colorize.checkpoints import read
from colorize.color import merge_luma, rgb_to_grey
from colorize.errors import UserError

log = logging.getLogger("colorize")

FIGURES = {
    "distance": "distance (0: truth, 1: grey)",
    "ciede2000": "CIEDE2000",
    "delta_cf": "difference of colourfulness",
}
"""What is known of each moment, and how it is called."""

LEAST_OF_GREY = 1.0
"""What grey is taken to score at least, so that photos which are grey themselves divide nothing by zero."""


@torch.no_grad()
def figures(colour: Callable[[Tensor], Tensor], rgb: Tensor, device: torch.device, batch_size: int = 16) -> Tensor:
    """Sums over photos of CIEDE2000 and of the difference of colourfulness (ΔCF), coloured on their own luma.

    Args:
        colour: grey (B, 1, H, W) to RGB (B, 3, H, W), in [0, 1], on `device`.
        rgb: the photos, (N, 3, H, W) uint8.
        device: where to compute.
        batch_size: photos at a time.

    Returns:
        (3,) float64, on the CPU: both sums, and N.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for part in rgb.split(batch_size) if len(rgb) else ():
        truth = part.to(device).float() / 255
        grey = rgb_to_grey(truth)
        seen = merge_luma(colour(grey), grey)
        delta_cf = (metrics.colourfulness(seen) - metrics.colourfulness(truth)).abs()
        both = torch.stack([metrics.mean_ciede2000(seen, truth), delta_cf]).sum(dim=1)
        sums += torch.cat([both.cpu().double(), torch.tensor([float(len(part))])])
    return sums


def distance(ciede2000: float, delta_cf: float, of_grey: tuple[float, float]) -> float:
    """The mean of both figures, each as a share of that of grey: 0 is the truth, 1 as far away as grey."""
    shares = (value / max(grey, LEAST_OF_GREY) for value, grey in zip((ciede2000, delta_cf), of_grey, strict=True))
    return sum(shares) / 2


@dataclass(frozen=True)
class Scored:
    """What a fit scored, from the cards of its checkpoints.

    Attributes:
        curve: images seen, and `FIGURES`, in order; empty where none was scored. Points of checkpoints that are no
            longer kept are in it: each card has all up to its own.
        nearest: the checkpoint to take of those that are there: its path, images seen, and `FIGURES`.
    """

    curve: list[tuple[int, dict[str, float]]]
    nearest: tuple[Path, int, dict[str, float]] | None


def read_scores(phase: Path) -> Scored:
    """Read each checkpoint of a phase, once.

    Args:
        phase: folder of a phase in a run, such as runs/NAME/gan.
    """
    cards = []
    for path in sorted((phase / "checkpoints").glob("*.ckpt")):
        try:
            cards.append((read(path)[0], path))
        except UserError as error:
            log.warning(f"left out of the curve: {error}")
    points: dict[int, dict[str, float]] = {}
    for card, _ in sorted(cards, key=lambda found: found[0].images_seen):
        points |= {int(p["images_seen"]): {name: p[name] for name in FIGURES} for p in card.curve}
    nearest = None
    if scored := [(card.score, path) for card, path in cards if card.score is not None]:
        # Of the same weights under two names, best.ckpt is the one that stays.
        score, path = min(scored, key=lambda found: (found[0]["distance"], found[1].name))
        nearest = path, int(score["images_seen"]), {name: score[name] for name in FIGURES}
    return Scored(sorted(points.items()), nearest)


def advice(scores: Scored) -> str | None:
    """A sentence that names the checkpoint to take, with the figures it rests on; None where there is no curve."""
    curve, nearest = scores.curve, scores.nearest
    if nearest is None or len(curve) < 2:
        return None
    path, images, score = nearest
    (_, first), (end, last) = curve[0], curve[-1]
    said = f"take {path}, of {images:,} images: distance {score['distance']:.3f}"
    said += f" (CIEDE2000 {score['ciede2000']:.2f}, ΔCF {score['delta_cf']:.2f})"
    said += f"; it was {first['distance']:.3f} at {curve[0][0]:,} and {last['distance']:.3f} at {end:,}"
    if curve[0][0] == 0 and first["distance"] < score["distance"]:
        said += ". What the phase started from is nearer to the truth than all that came of it"
    return said


INK, PALE, LINE, MARK = (32, 32, 36), (200, 200, 206), (38, 92, 170), (200, 60, 40)


def draw_curve(
    curve: list[tuple[int, dict[str, float]]], width_px: int = 900, panel_px: int = 190
) -> Image.Image | None:
    """A curve as a picture, a panel a figure over images seen, the lowest point marked; None under two points.

    Args:
        curve: of `Scored`.
        width_px: of the picture.
        panel_px: height of a panel.
    """
    if len(curve) < 2:
        return None
    font = ImageFont.load_default(size=13)
    left, right, top, gap = 64, 24, 30, 34
    canvas = Image.new("RGB", (width_px, len(FIGURES) * (panel_px + gap) + top), "white")
    draw = ImageDraw.Draw(canvas)
    most = curve[-1][0]
    best = min(curve, key=lambda point: point[1]["distance"])[0]
    for number, (name, title) in enumerate(FIGURES.items()):
        values = [score[name] for _, score in curve]
        low, high = min(values), max(values)
        base, room = top + number * (panel_px + gap) + panel_px, panel_px - 30
        scale = room / (high - low or 1.0)
        places = [
            (left + (width_px - left - right) * images / most, base - (value - low) * scale)
            for (images, _), value in zip(curve, values, strict=True)
        ]
        draw.text((left, base - panel_px + 4), title, fill=INK, font=font)
        for level, value in ((base, low), (base - room, high)):
            draw.line((left, level, width_px - right, level), fill=PALE)
            draw.text((left - 6, level), f"{value:.3g}", fill=INK, font=font, anchor="rm")
        draw.line(places, fill=LINE, width=2)
        for (images, _), (x, y) in zip(curve, places, strict=True):
            colour, radius = (MARK, 5) if images == best else (LINE, 3)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    draw.text((left, canvas.height - 24), "0", fill=INK, font=font, anchor="mm")
    draw.text((width_px - right, canvas.height - 24), f"{most:,} images seen", fill=INK, font=font, anchor="rm")
    return canvas
