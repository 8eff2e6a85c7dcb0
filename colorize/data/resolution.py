"""Progressive resizing: small squares first, the size and the batch a pure function of the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from colorize.config.sections import ResolutionConfig

LEAST_BATCH = 4  # photos from which BatchNorm still learns something of use


class Stage(NamedTuple):
    """Side of the training squares and how many make a batch, over all devices together."""

    size_px: int
    batch_size: int


@dataclass(frozen=True)
class ResolutionSchedule:
    """The `Stage` of each epoch; the last goes on. Raises ValueError for columns of unlike lengths, or no epoch."""

    size_px: Sequence[int]
    batch_size: Sequence[int]
    stage_epochs: Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.size_px) == len(self.batch_size) == len(self.stage_epochs) > 0:
            raise ValueError(
                "resolution.size_px, .batch_size and .epochs must be of one length, not "
                f"{len(self.size_px)}, {len(self.batch_size)} and {len(self.stage_epochs)}"
            )
        if self.epochs < 1:
            raise ValueError(f"resolution.epochs={list(self.stage_epochs)}: a fit needs at least one epoch")

    @property
    def epochs(self) -> int:
        return sum(self.stage_epochs)

    def at(self, epoch: int) -> Stage:
        table = zip(self.size_px, self.batch_size, self.stage_epochs, strict=True)
        stages = [Stage(size_px, batch_size) for size_px, batch_size, epochs in table for _ in range(epochs)]
        return stages[min(epoch, self.epochs - 1)]

    def steps(self, photos: int, limit: int | None) -> int:
        """Count the steps of the training, with so many photos and at most `limit` steps an epoch."""
        return sum(steps_an_epoch(self.at(epoch).batch_size, photos, limit) for epoch in range(self.epochs))

    def images(self, photos: int, limit: int | None) -> list[int]:
        """Count each epoch's images, of so many photos, in whole batches and in at most `limit` of them."""
        batches = [min(self.at(epoch).batch_size, photos) for epoch in range(self.epochs)]
        return [batch * steps_an_epoch(batch, photos, limit) for batch in batches]


def steps_an_epoch(batch_size: int, photos: int, limit: int | None) -> int:
    """Return how many batches an epoch has, the only one of which may be incomplete."""
    return min(photos // max(1, min(batch_size, photos)), limit or photos)


def fit_to_photos(resolution: ResolutionConfig, photos: int, limit: int | None = None) -> ResolutionConfig:
    """Return `resolution` with batches and epochs that suit so many training photos; doing it twice changes nothing.

    Batches are cut to `batch_share` of the photos; where `steps` are asked for, each stage gets as many epochs, of at
    most `limit` steps, as they take. Raises ValueError where `steps` differs in length from `batch_size`.
    """
    batches, epochs = list(resolution.batch_size), list(resolution.epochs)
    if resolution.batch_share is not None:
        most = max(LEAST_BATCH, int(photos * resolution.batch_share))
        batches = [min(batch, most) for batch in batches]
    if resolution.steps is not None and photos:
        if len(resolution.steps) != len(batches):
            raise ValueError(f"resolution.steps={resolution.steps}: a number for each stage is needed")
        table = zip(resolution.steps, batches, strict=True)
        epochs = [-(-steps // steps_an_epoch(batch, photos, limit)) for steps, batch in table]
    return replace(resolution, batch_size=batches, epochs=epochs)
