"""Means of validation metrics over all photos, however many of them each rank had."""

from collections.abc import Mapping

import torch
from torch import Tensor

from colorize import metrics
from colorize.runtime import distributed


class MeanMetrics:
    """Running means of metrics over photos, without waiting for the device.

    Lightning takes the mean of the ranks' numbers of photos as a whole number: of 3 and 2 photos it makes 2, and so
    means that are a quarter too large.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.photos: dict[str, int] = {}

    def add(self, group: str, terms: Mapping[str, Tensor], photos: int) -> None:
        """Take in means over a batch of `photos`, to be called GROUP/NAME; those of `metrics.skill_sums` are (3,)."""
        for term, mean in terms.items():
            name, total = f"{group}/{term}", mean.detach().float() * photos
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.photos[name] = self.photos.get(name, 0) + photos

    def means(self) -> dict[str, float]:
        """Over the photos of all ranks, each of which has to call it, though it had none; of skill's, the skill."""
        own = {name: (total.cpu(), self.photos[name]) for name, total in self.sums.items()}
        parts = distributed.gathered(own)
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            pairs = [part[name] for part in parts if name in part]
            mean = torch.stack([total for total, _ in pairs]).double().sum(dim=0) / sum(photos for _, photos in pairs)
            found[name] = float(metrics.skill(mean) if mean.ndim else mean)
        return found
