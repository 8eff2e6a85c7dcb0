"""Colours of the regions of scenes: the sea as sea, or taken for grass."""

import torch
from torch import Tensor

from colorize.color import rgb_to_lab
from colorize.data.scenes import HUE_CLASSES, MIN_CHROMA, REGIONS

COUNTED: dict[str, tuple[float, float]] = {name: hues for name, hues in HUE_CLASSES.items() if hues is not None}
"""The regions that have a hue to get right, with its range in degrees of CIELAB hue."""

OTHER, COLOURLESS = "other", "colourless"

TAKEN_FOR = (*COUNTED, OTHER, COLOURLESS)
"""Everything that a pixel can be taken for: a region, a hue that no region has, or nothing with a hue."""


def taken_for(prediction: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Count the pixels of each region by what they are coloured as, in a confusion table for each image.

    ``(B, 3, H, W)`` RGB in [0, 1] and regions ``(B, H, W)``, indices into ``REGIONS``, give int64 ``(B, COUNTED,
    TAKEN_FOR)``. A pixel counts where its eight neighbours are of the same region (edges are mixed with the neighbour's
    colour), the region has a hue to get right, and the truth shows one there (CIELAB chroma of at least ``MIN_CHROMA``;
    black hair does not). It is taken for ``COLOURLESS`` where the prediction's chroma is under ``MIN_CHROMA``; for its
    own region where the prediction's hue is in that region's range; else for the region whose range holds the hue, the
    one with the nearest middle where several do; else for ``OTHER``.
    """
    return torch.stack([_taken_for(*scene) for scene in zip(prediction, truth, regions, strict=True)])


def _taken_for(prediction: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    number = torch.tensor([list(COUNTED).index(n) if n in COUNTED else -1 for n in REGIONS], device=regions.device)
    _, true_chroma = _hue_and_chroma(truth)
    region = number[regions.long()]
    counts = _interior(regions) & (region >= 0) & (true_chroma >= MIN_CHROMA)
    own = region[counts]
    hue, chroma = (plane[counts] for plane in _hue_and_chroma(prediction))

    low, high = torch.tensor(list(COUNTED.values()), device=hue.device).unbind(dim=1)
    holds = (hue[:, None] - low) % 360 <= high - low
    away = ((hue[:, None] - (low + high) / 2 + 180) % 360 - 180).abs()
    nearest = torch.where(holds, away, torch.inf).argmin(dim=1)
    taken = torch.where(holds.any(dim=1), nearest, TAKEN_FOR.index(OTHER))
    taken = torch.where(holds.gather(1, own[:, None])[:, 0], own, taken)
    taken = torch.where(chroma >= MIN_CHROMA, taken, TAKEN_FOR.index(COLOURLESS))

    cells = torch.bincount(own * len(TAKEN_FOR) + taken, minlength=len(COUNTED) * len(TAKEN_FOR))
    return cells.view(len(COUNTED), len(TAKEN_FOR))


def _hue_and_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """CIELAB hue in degrees and chroma, each ``(H, W)``."""
    _, a, b = rgb_to_lab(rgb).unbind(dim=-3)
    return torch.rad2deg(torch.atan2(b, a)), torch.hypot(a, b)


def _interior(regions: Tensor) -> Tensor:
    """Mark the pixels whose neighbours are all of the same region, ``(H, W)`` bool."""
    ids = regions.float()[None, None]
    highest = torch.nn.functional.max_pool2d(ids, 3, stride=1, padding=1)
    lowest = -torch.nn.functional.max_pool2d(-ids, 3, stride=1, padding=1)
    return (highest == lowest)[0, 0]
