"""Progressive resizing: small squares first, the size and the batch a pure function of the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Stage(NamedTuple):
    """Side of the training squares and how many make a batch, over all devices together."""

    size_px: int
    batch_size: int


@dataclass(frozen=True)
class ResolutionSchedule:
    """The `Stage` of each epoch. Beyond the last epoch the last stage that has one continues.

    Raises ValueError where the three columns differ in length, or hold a size under 32 px, an empty batch or no epoch.
    """

    size_px: Sequence[int]
    batch_size: Sequence[int]
    stage_epochs: Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.size_px) == len(self.batch_size) == len(self.stage_epochs) > 0:
            raise ValueError(
                "resolution.size_px, .batch_size and .epochs must be of one length, not "
                f"{len(self.size_px)}, {len(self.batch_size)} and {len(self.stage_epochs)}"
            )
        if min(self.size_px) < 32:
            raise ValueError(f"resolution.size_px={list(self.size_px)}: the networks need at least 32 px")
        if min(self.batch_size) < 1:
            raise ValueError(f"resolution.batch_size={list(self.batch_size)}: a batch holds at least one photo")
        if min(self.stage_epochs) < 0 or self.epochs < 1:
            raise ValueError(f"resolution.epochs={list(self.stage_epochs)}: a fit needs at least one epoch")

    @property
    def epochs(self) -> int:
        """Length of the training."""
        return sum(self.stage_epochs)

    def at(self, epoch: int) -> Stage:
        """Return the stage of `epoch` (from 0)."""
        table = zip(self.size_px, self.batch_size, self.stage_epochs, strict=True)
        stages = [Stage(size_px, batch_size) for size_px, batch_size, epochs in table for _ in range(epochs)]
        return stages[min(epoch, self.epochs - 1)]

    def images(self, photos: int, limit: int | None) -> int:
        """Count the images seen, of so many photos, in whole batches and in at most `limit` of them an epoch."""
        batches = [min(self.at(epoch).batch_size, photos) for epoch in range(self.epochs)]
        return sum(batch * min(photos // batch, limit or photos) for batch in batches)
