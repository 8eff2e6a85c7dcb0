"""LightningDataModule of photos: its batches depend on seed, epoch and image alone."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any

import lightning as L

from colorize.data.augment import Augmentation
from colorize.data.datasets import AugmentedDataset, Batch, CenterSquareDataset, RawBatch, collate, to_floats
from colorize.data.generated import Generated
from colorize.data.loading import GlobalBatches, LatePhotoLoader, PhotoLoader, cut, make_loader
from colorize.data.luma_lookup import LumaLookup
from colorize.data.resolution import ResolutionSchedule
from colorize.data.sources import Photos, spread
from colorize.runtime import distributed
from colorize.runtime.errors import UserError, listed
from colorize.runtime.log import log

LOOKUP_PHOTOS, LOOKUP_PX = 500, 64  # training photos that the luma look-up averages, and their side at most


class ColorizationDataModule(L.LightningDataModule):
    """Batches of photos, with their grey made on the device; in the critic's phase with their generated images too.

    Augmentation is a function of (seed, epoch, image), the order of (seed, epoch), and each rank takes its slice of
    every global batch: the Trainer needs ``reload_dataloaders_every_n_epochs=1`` and ``use_distributed_sampler=False``.
    A file that cannot be read is named once and counted; in training the next image takes its place.
    """

    schedule: ResolutionSchedule | None = None  # the resolution-scheduler callback sets it in `setup`

    def __init__(
        self,
        photos: Photos,
        *,
        seed: int,
        val_size_px: int,
        val_batch_size: int,
        augmentation: Augmentation | None = None,
        num_workers: int = 0,
        max_unreadable: int = 100,
        generated: Generated | None = None,
    ) -> None:
        super().__init__()
        self.photos = photos
        self.seed = seed
        self.val_size_px = val_size_px
        self.val_batch_size = val_batch_size
        self.augmentation = augmentation or Augmentation()
        self.num_workers = num_workers
        self.max_unreadable = max_unreadable
        self.generated = generated
        self.unreadable: dict[str, str] = {}  # names of the files met so far that could not be read, and why
        self._news: dict[str, str] = {}
        self._lacking = False
        self._train_loader: PhotoLoader | None = None
        self._val_loader: PhotoLoader | None = None

    def train_dataloader(self) -> PhotoLoader:
        assert self.trainer is not None
        return self.train_loader(self.trainer.current_epoch)

    def train_loader(self, epoch: int) -> PhotoLoader:
        """Return the loader of an epoch, outside training too. Raises UserError where a device would have no image."""
        assert self.schedule is not None, "which the resolution scheduler sets"
        stage, count = self.schedule.at(epoch), len(self.photos.train)
        segment = self.schedule.segments(count)[epoch]
        rank, world_size = self._share_of(count, f"training images in {self.photos.root}")
        self._share_of(stage.batch_size, f"images in a batch of {stage.size_px} px")
        sample = partial(self.augmentation.sample, self.seed, segment.order)
        tries = self.max_unreadable + 1  # when so many in a row are unreadable, the run is stopped anyway
        squares = (self.photos, self.photos.train, stage.size_px, self.generated)
        dataset = AugmentedDataset(*squares, sample=sample, max_tries=tries)
        order = partial(self.photos.order, count, self.seed, segment.order)
        batches = GlobalBatches(count, stage.batch_size, order, rank, world_size)
        batches.start, batches.count = segment.first, segment.batches
        if self._train_loader is not None:
            self._train_loader.stop()
        self._train_loader = self._loader(dataset, kind=LatePhotoLoader, batch_sampler=batches)
        return self._train_loader

    def val_dataloader(self) -> PhotoLoader:
        """Return the loader of the validation photos' centre squares, every photo on exactly one rank."""
        # One loader for all epochs, though Lightning asks in each: its workers persist.
        if self._val_loader is None:
            rank, world_size = self._share_of(len(self.photos.val), f"validation images in {self.photos.root}")
            dataset = self._center_squares(self.photos.val[rank::world_size])
            # Pinned and persistent together can crash: https://github.com/pytorch/pytorch/issues/91252
            persistent = self.num_workers > 0 and not self._pins_memory
            self._val_loader = self._loader(dataset, batch_size=self.val_batch_size, persistent_workers=persistent)
        return self._val_loader

    def teardown(self, stage: str) -> None:
        """End the workers, and forget the loaders: the next run may have other ranks."""
        # A worker does not end at a first SIGTERM, and Lightning holds iterators that were not used up.
        for loader in (self._train_loader, self._val_loader):
            if loader is not None:
                loader.stop()
        self._train_loader = self._val_loader = None

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")

    def on_before_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> RawBatch:
        """Note unreadable files. Raises UserError after more than ``max_unreadable``, or without a training image."""
        self._lacking = self.trainer is not None and self.trainer.training and not batch.names
        return self._noted(batch)

    def has_news(self) -> bool:
        return bool(self._news or self._lacking)

    def share_unreadable(self) -> None:
        """Exchange what all ranks have met: each file counts once. Raises UserError where one can no longer train."""
        news, lacking = distributed.total([len(self._news), self._lacking])
        if news:
            for name, reason in (item for found in distributed.gathered(self._news) for item in found.items()):
                if name not in self.unreadable:
                    self.unreadable[name] = reason
                    log.warning("skipped an unreadable image: %s (%s)", name, reason)
            self._news = {}
        if len(self.unreadable) > self.max_unreadable:
            raise distributed.on_all(self._too_many())
        if lacking:
            named = listed(self._met())
            raise distributed.on_all(UserError(f"no training image in {self.photos.root} can be read: {named}"))

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Make floats; where a rank has no image left, of NaN: its loss then ends the step on all ranks together."""
        if self._lacking:
            blank = batch.rgb.new_zeros(2, *batch.rgb.shape[1:])
            batch = batch._replace(rgb=blank, fake=None if batch.fake is None else blank, grey_change=None)
        found = to_floats(batch, batch.rgb.device)
        return found._replace(rgb=found.rgb * math.nan) if self._lacking else found

    def fixed_val(self, n: int) -> Batch:
        """Return the first ``n`` readable validation photos, on the CPU. Raises UserError where there are none."""
        dataset = self._center_squares(self.photos.val)
        samples = (self._noted(dataset[index]) for index in range(len(dataset)))
        found = list(islice((sample for sample in samples if sample.names), n))
        if not found:
            raise UserError(f"no validation image in {self.photos.root} can be read: {listed(self._met())}")
        return to_floats(collate(found), "cpu")

    @cached_property
    def luma_lookup(self) -> LumaLookup:
        """Mean colour of each grey over a fixed spread of training photos; each rank reads all of them."""
        lookup = LumaLookup()
        photos = spread(self.photos.train, LOOKUP_PHOTOS)
        for batch in self.center_squares(photos, min(LOOKUP_PX, self.val_size_px)):
            lookup.update(batch.rgb)
        return lookup

    def center_squares(
        self, identities: Sequence[str], size_px: int | None = None, parts: Iterable[range] | None = None
    ) -> Iterator[Batch]:
        """Yield centre squares of these photos, by default at ``val_size_px``, on the CPU; unreadable ones left out.

        With ``parts``, those of these places alone, and no batch goes beyond one.
        """
        parts = [range(len(identities))] if parts is None else parts
        batches = (batch for part in parts for batch in cut(part, self.val_batch_size))
        for raw in self._loader(self._center_squares(identities, size_px), batch_sampler=batches):
            self._noted(raw)
            if len(self._met()) > self.max_unreadable:  # this rank alone has met as many
                raise self._too_many()
            yield to_floats(raw, "cpu")

    def _center_squares(self, identities: Sequence[str], size_px: int | None = None) -> CenterSquareDataset:
        return CenterSquareDataset(self.photos, identities, size_px or self.val_size_px, self.generated)

    def _share_of(self, count: int, images: str) -> tuple[int, int]:
        """Return rank and world size. Raises UserError where so many images do not give each rank one."""
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        if count < world_size:
            raise UserError(f"{count} {images} are too few for {world_size} devices")
        return rank, world_size

    @property
    def _pins_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _loader(self, dataset: CenterSquareDataset, **options: Any) -> PhotoLoader:
        options |= {"collate_fn": collate, "pin_memory": self._pins_memory}
        return make_loader(dataset, self.num_workers, self.augmentation.modules, **options)

    def _noted(self, batch: RawBatch) -> RawBatch:
        self._news |= {name: reason for name, reason in batch.unreadable if name not in self.unreadable}
        if distributed.world_size() == 1:
            self.share_unreadable()
        return batch

    def _too_many(self) -> UserError:
        return UserError(
            f"{len(self._met())} images in {self.photos.root} cannot be read, more than "
            f"data.max_unreadable={self.max_unreadable}: {listed(self._met())}"
        )

    def _met(self) -> list[str]:
        return list(self.unreadable | self._news)
