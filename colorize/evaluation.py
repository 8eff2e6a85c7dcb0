"""Scores of coloured photos against the originals, with the two rows that any method must be held against.

`grey` is no colour at all; `luma look-up` is the training photos' mean colour for each grey value, which is what can
be had without seeing what a photo shows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from colorize.color import merge_luma
from colorize.data.datamodule import Batch
from colorize.metrics import LumaLookup, mean_ciede2000, psnr

Colourer = Callable[[Tensor], Tensor]
"""Grey (B, 1, H, W) in [0, 1] to RGB (B, 3, H, W)."""


@dataclass(frozen=True)
class Score:
    """Means over `photos` photos: PSNR in dB on RGB (identical pictures left out), CIEDE2000 over pixels."""

    psnr: float
    ciede2000: float
    photos: int


def as_seen(network: nn.Module, autocast: torch.autocast, device: torch.device) -> Colourer:
    """What a user sees of a generator: the photo's own luma, the network's chroma."""

    def colour(grey: Tensor) -> Tensor:
        with torch.inference_mode(), autocast:
            return merge_luma(network(grey.to(device)).cpu(), grey)

    return colour


def grey_only(grey: Tensor) -> Tensor:
    """No colour: the grey plane three times."""
    return grey.expand(-1, 3, -1, -1)


def fit_luma_lookup(batches: Iterable[Batch]) -> Colourer:
    """The mean colour of each grey value over `batches`."""
    lookup = LumaLookup()
    for batch in batches:
        lookup.update(batch.rgb)
    return lookup.predict


def score(colourers: dict[str, Colourer], batches: Iterable[Batch]) -> dict[str, Score]:
    """Mean PSNR and CIEDE2000 of each colourer over all photos, in one pass."""
    values: dict[str, list[Tensor]] = {name: [] for name in colourers}
    for batch in batches:
        for name, colour in colourers.items():
            coloured = colour(batch.grey)
            values[name].append(torch.stack([psnr(coloured, batch.rgb), mean_ciede2000(coloured, batch.rgb)]))
    scores = {}
    for name, parts in values.items():
        decibels, difference = torch.cat(parts, dim=1)
        finite = decibels[decibels.isfinite()]
        scores[name] = Score(float(finite.mean()), float(difference.mean()), len(difference))
    return scores


def table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| | PSNR, dB | CIEDE2000 |", "|---|---|---|"]
    lines += [f"| {name} | {score.psnr:.2f} | {score.ciede2000:.2f} |" for name, score in scores.items()]
    return "\n".join(lines) + "\n"
