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


class Segment(NamedTuple):
    """Epoch of the Trainer: batches on end in one order of the photos, which ends with the order or with the stage."""

    stage: int
    order: int
    first: int  # photos of the order that come before
    batches: int


@dataclass(frozen=True)
class ResolutionSchedule:
    """The `Stage` of each epoch; the last goes on. Raises ValueError for columns of unlike lengths, or no epoch.

    With `images` a stage lasts that many, in whole batches, and the next begins inside the order of photos that it
    ended in. An epoch is then a `Segment`, and `epochs` counts them, as `fit_to_photos` does. `limit` is the most
    batches of an epoch.
    """

    resolution: ResolutionConfig
    limit: int | None = None

    def __post_init__(self) -> None:
        sizes, batches, epochs = self.resolution.size_px, self.resolution.batch_size, self.resolution.epochs
        if not len(sizes) == len(batches) == len(epochs) > 0:
            raise ValueError(
                "resolution.size_px, .batch_size and .epochs must be of one length, not "
                f"{len(sizes)}, {len(batches)} and {len(epochs)}"
            )
        if self.epochs < 1:
            raise ValueError(f"resolution.epochs={epochs}: a fit needs at least one epoch")

    @property
    def epochs(self) -> int:
        return sum(self.resolution.epochs)

    def at(self, epoch: int) -> Stage:
        stage = self.resolution.stages[min(epoch, self.epochs - 1)]
        return Stage(self.resolution.size_px[stage], self.resolution.scaled_batches[stage])

    def segments(self, photos: int) -> list[Segment]:
        """Return the epochs of a training on so many photos."""
        batches = self.resolution.scaled_batches
        if self.resolution.images is not None:
            return segments_of(self.resolution.images, batches, photos, self.limit)
        steps = [steps_an_epoch(batch_size, photos, self.limit) for batch_size in batches]
        return [Segment(stage, order, 0, steps[stage]) for order, stage in enumerate(self.resolution.stages)]

    def steps(self, photos: int) -> int:
        """Count the steps of the training."""
        return sum(segment.batches for segment in self.segments(photos))

    def epoch_images(self, photos: int) -> list[int]:
        """Count each epoch's images."""
        batches = self.resolution.scaled_batches
        return [min(batches[epoch.stage], photos) * epoch.batches for epoch in self.segments(photos)]


def segments_of(images: Sequence[int], batch_size: Sequence[int], photos: int, limit: int | None) -> list[Segment]:
    """Cut stages of `images` where an order of the photos has no whole batch left, and after `limit` batches."""
    found, order, first, photos = [], 0, 0, max(1, photos)
    for stage, (wanted, batch) in enumerate(zip(images, batch_size, strict=True)):
        batch = max(1, min(batch, photos))
        left = max(1, round(wanted / batch)) if wanted else 0
        while left:
            if photos - first < batch:
                order, first = order + 1, 0
            batches = min(left, (photos - first) // batch, limit or left)
            found.append(Segment(stage, order, first, batches))
            first, left = first + batches * batch, left - batches
    return found


def steps_an_epoch(batch_size: int, photos: int, limit: int | None) -> int:
    """Return how many batches an epoch has, the only one of which may be incomplete."""
    return min(photos // max(1, min(batch_size, photos)), limit or photos)


def fit_to_photos(resolution: ResolutionConfig, photos: int, limit: int | None = None) -> ResolutionConfig:
    """Return `resolution` with batches and epochs that suit so many training photos; doing it twice changes nothing.

    Batches are cut to `batch_share` of the photos; where `steps` or `images` are asked for, each stage gets as many
    epochs, of at most `limit` steps, as they take. Raises ValueError where these differ in length from `batch_size`.
    """
    batches, epochs = list(resolution.batch_size), list(resolution.epochs)
    if resolution.batch_share is not None:
        most = max(LEAST_BATCH, int(photos * resolution.batch_share))
        batches = [min(batch, most) for batch in batches]
    for name, asked in (("steps", resolution.steps), ("images", resolution.images)):
        if asked is not None and len(asked) != len(batches):
            raise ValueError(f"resolution.{name}={asked}: a number for each stage is needed")
    if resolution.steps is not None and resolution.images is not None:
        raise ValueError(
            "resolution.steps and resolution.images are two lengths of one training: set one of them to null"
        )
    if resolution.steps is not None and photos:
        table = zip(resolution.steps, batches, strict=True)
        epochs = [-(-steps // steps_an_epoch(batch, photos, limit)) for steps, batch in table]
    if resolution.images is not None and photos:
        scaled = replace(resolution, batch_size=batches).scaled_batches
        stages = [segment.stage for segment in segments_of(resolution.images, scaled, photos, limit)]
        epochs = [stages.count(stage) for stage in range(len(batches))]
    return replace(resolution, batch_size=batches, epochs=epochs)
