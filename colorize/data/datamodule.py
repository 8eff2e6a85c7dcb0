"""The LightningDataModule: loaders whose batches depend on seed, epoch and image alone."""

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from colorize.data.augment import Augmentation
from colorize.data.caches.copies import CopiedPhotos
from colorize.data.datasets import (
    AugmentedDataset,
    Batch,
    Generated,
    GlobalBatches,
    RawBatch,
    SquareDataset,
    collate,
    leave_signals_alone,
    to_floats,
    worker_context,
)
from colorize.data.luma_lookup import LumaLookup
from colorize.data.sources import Photos, spread
from colorize.runtime import distributed
from colorize.runtime.errors import UserError, listed

if TYPE_CHECKING:
    from colorize.data.resolution import ResolutionSchedule

_log = logging.getLogger("colorize")

LOOKUP_PHOTOS, LOOKUP_PX = 500, 64
"""Training photos that the luma look-up of a fit averages, and their side at most: it is to cost little."""


class ColorizationDataModule(L.LightningDataModule):
    """Batches of photos, with their grey made on the device; in the critic's phase with their generated pictures too.

    Augmentation is a function of (seed, epoch, image), the order of (seed, epoch), and each rank takes its slice of
    every global batch: the numbers of workers, ranks and restarts change nothing. The Trainer has to be given
    ``reload_dataloaders_every_n_epochs=1`` and ``use_distributed_sampler=False``.

    A file that cannot be read is named once in a warning and counted. In training the next image takes its place, in
    validation it is left out.
    """

    schedule: "ResolutionSchedule | None" = None
    """Image and batch size by epoch; the resolution-scheduler callback sets it in ``setup``."""

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
        generated: Path | None = None,
        generated_size_px: int | None = None,
        copies: Path | None = None,
    ) -> None:
        """The arguments after ``photos`` are options of ``data`` and ``phase``.

        Args:
            photos: the split; with ``generated``, restricted to the photos that have a generated picture.
            seed: of order and augmentation.
            val_size_px: width and height of the validation images.
            val_batch_size: validation images in a batch of one rank.
            augmentation: of the training images; by default crop and flip alone.
            num_workers: processes that read images for each loader; 0 reads in this one.
            max_unreadable: how many distinct files may be unreadable before the run is stopped.
            generated: folder with ``IDENTITY.png`` for each photo; batches then have ``fake``.
            generated_size_px: width and height of these.
            copies: folder of small copies of the photos, for training alone; see :mod:`colorize.data.caches.copies`.
        """
        super().__init__()
        if (generated is None) != (generated_size_px is None):
            raise ValueError("generated and generated_size_px go together")
        self.photos = photos
        self.seed = seed
        self.val_size_px = val_size_px
        self.val_batch_size = val_batch_size
        self.augmentation = augmentation or Augmentation()
        self.num_workers = num_workers
        self.max_unreadable = max_unreadable
        self.generated = None if generated_size_px is None else Generated(Path(generated or ""), generated_size_px)
        self.copies = copies
        self.unreadable: dict[str, str] = {}
        """Names of the files met so far that could not be read, and why."""
        self._news: dict[str, str] = {}
        self._train_loader: _LateDataLoader | None = None
        self._val_loader: _DataLoader | None = None

    def train_dataloader(self) -> DataLoader[RawBatch]:
        """The loader of the trainer's current epoch; see :meth:`train_loader`."""
        if self.trainer is None:
            raise ValueError("training needs a trainer; train_loader(epoch) goes without")
        return self.train_loader(self.trainer.current_epoch)

    def train_loader(self, epoch: int) -> DataLoader[RawBatch]:
        """The loader of an epoch, at that epoch's image and batch size; outside a fit too.

        :meth:`on_after_batch_transfer` makes floats and grey of its batches.

        Raises:
            UserError: fewer images, or a smaller batch, than devices.
        """
        if self.schedule is None:
            raise ValueError("training needs a schedule, which the resolution scheduler sets")
        stage = self.schedule.at(epoch)
        rank, world_size = self._rank_and_world_size()
        count = len(self.photos.train)
        if count < world_size:
            raise UserError(f"{count} training images in {self.photos.root} are too few for {world_size} devices")
        if stage.batch_size < world_size:
            raise UserError(
                f"a batch of {stage.batch_size} images ({stage.size_px} px) is too small for {world_size} devices"
            )
        photos = self.photos if self.copies is None else CopiedPhotos(self.photos.root, [], [], self.copies)
        dataset = AugmentedDataset(
            photos,
            self.photos.train,
            stage.size_px,
            self.generated,
            seed=self.seed,
            epoch=epoch,
            augmentation=self.augmentation,
            # When so many in a row are unreadable, the run is stopped anyway.
            max_tries=self.max_unreadable + 1,
        )
        batches = GlobalBatches(count, stage.batch_size, self.seed, epoch, rank, world_size)
        if self._train_loader is not None:
            self._train_loader.stop()
        self._train_loader = _LateDataLoader(dataset, batch_sampler=batches, **self._loader_options())
        return self._train_loader

    def val_dataloader(self) -> DataLoader[RawBatch]:
        """Centre squares of the validation photos, every photo on exactly one rank."""
        # One loader for all epochs, though Lightning asks in each: its workers persist.
        if self._val_loader is None:
            rank, world_size = self._rank_and_world_size()
            if len(self.photos.val) < world_size:
                raise UserError(
                    f"{len(self.photos.val)} validation images in {self.photos.root}: too few for {world_size} devices"
                )
            dataset = self._val_dataset(self.photos.val[rank::world_size])
            options = self._loader_options()
            # Pinned and persistent together can crash: https://github.com/pytorch/pytorch/issues/91252
            persistent = self.num_workers > 0 and not options["pin_memory"]
            self._val_loader = _DataLoader(
                dataset, batch_size=self.val_batch_size, persistent_workers=persistent, **options
            )
        return self._val_loader

    def teardown(self, stage: str) -> None:
        """Ends the workers, and forgets the loaders: the next run may have other ranks."""
        self._stop()
        self._train_loader = self._val_loader = None

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers: what is left of a failed fit keeps them from being told to, and each is waited for."""
        self._stop()

    def _stop(self) -> None:
        # A worker does not end at a first SIGTERM, and Lightning holds iterators that were not used up.
        for loader in (self._train_loader, self._val_loader):
            if loader is not None:
                loader.stop()

    def on_before_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> RawBatch:
        """Takes note of unreadable files, in the main process.

        Raises:
            UserError: more than ``max_unreadable`` so far, or no training image is readable.
        """
        self._note(batch.unreadable)
        if self.trainer is not None and self.trainer.training:
            lacking = self.share_unreadable(lacking=not batch.names)
            if lacking:
                named = listed(self._met())
                raise distributed.on_all(UserError(f"no training image in {self.photos.root} can be read: {named}"))
        return batch

    def share_unreadable(self, lacking: bool = False) -> bool:
        """Exchanges what the ranks have met, so that each file is named once and the limit counts for all together.

        Every rank has to call it at the same moment: in training that is each batch, in validation there is none.

        Args:
            lacking: whether this rank has no image to train on.

        Returns:
            Whether some rank has none.

        Raises:
            UserError: more than ``max_unreadable`` files so far.
        """
        news, without = distributed.total([len(self._news), lacking])
        if news:
            for name, reason in (item for found in distributed.gathered(self._news) for item in found.items()):
                if name not in self.unreadable:
                    self.unreadable[name] = reason
                    _log.warning("skipped an unreadable image: %s (%s)", name, reason)
            self._news = {}
        if len(self.unreadable) > self.max_unreadable:
            raise distributed.on_all(self._too_many())
        return without > 0

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """8-bit RGB to floats, luma and the grey that is shown, on the device."""
        return to_floats(batch, batch.rgb.device)

    def fixed_val(self, n: int) -> Batch:
        """The first ``n`` readable validation photos at ``val_size_px``, on the CPU: the same in every run and epoch.

        Raises:
            UserError: more than ``max_unreadable`` files are unreadable, or all.
        """
        dataset = self._val_dataset(self.photos.val)
        found: list[RawBatch] = []
        for index in range(len(dataset)):
            if len(found) == n:
                break
            sample = dataset[index]
            self._note(sample.unreadable)
            if sample.names:
                found.append(sample)
        if not found:
            raise UserError(f"no validation image in {self.photos.root} can be read: {listed(self._met())}")
        return to_floats(collate(found), "cpu")

    @cached_property
    def luma_lookup(self) -> LumaLookup:
        """The mean colour of each grey over a fixed spread of training photos; each rank reads all of them."""
        lookup = LumaLookup()
        photos = spread(self.photos.train, LOOKUP_PHOTOS)
        for batch in self.squares(photos, min(LOOKUP_PX, self.val_size_px)):
            lookup.update(batch.rgb)
        return lookup

    def squares(self, identities: Sequence[str], size_px: int | None = None) -> Iterator[Batch]:
        """Centre squares of these photos, by default at ``val_size_px``, on the CPU; unreadable ones left out.

        Raises:
            UserError: more than ``max_unreadable`` files are unreadable.
        """
        dataset = self._val_dataset(identities, size_px)
        for raw in DataLoader(dataset, batch_size=self.val_batch_size, **self._loader_options()):
            self._note(raw.unreadable)
            if len(self._met()) > self.max_unreadable:  # this rank alone has met as many
                raise self._too_many()
            if raw.names:
                yield to_floats(raw, "cpu")

    def _val_dataset(self, identities: Sequence[str], size_px: int | None = None) -> SquareDataset:
        return SquareDataset(self.photos, identities, size_px or self.val_size_px, self.generated)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader_options(self) -> dict[str, Any]:
        pin_memory = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": pin_memory,
            "multiprocessing_context": worker_context(self.num_workers, self.augmentation.modules),
            "worker_init_fn": leave_signals_alone,
            # A loader draws a number for each iterator; not from the global generator, which dropout uses.
            "generator": torch.Generator(),
        }

    def _note(self, unreadable: list[tuple[str, str]]) -> None:
        self._news |= {name: reason for name, reason in unreadable if name not in self.unreadable}
        if distributed.world_size() == 1:
            self.share_unreadable()

    def _too_many(self) -> UserError:
        return UserError(
            f"{len(self._met())} images in {self.photos.root} cannot be read, more than "
            f"data.max_unreadable={self.max_unreadable}: {listed(self._met())}"
        )

    def _met(self) -> list[str]:
        return list(self.unreadable | self._news)


class _DataLoader(DataLoader[RawBatch]):
    """Ends its workers when it is told to."""

    _running: Any = None

    def _get_iterator(self) -> Any:
        self._running = super()._get_iterator()
        return self._running

    def stop(self) -> None:
        if self.num_workers and self._running is not None:
            self._running._shutdown_workers()


class _LateDataLoader(_DataLoader):
    """Starts its workers when the first batch is asked for, and goes on inside an epoch.

    Lightning makes two iterators in every epoch after the first and uses one: the other's workers would be started, and
    read their first batches, for nothing. Into checkpoints from inside an epoch it puts ``state_dict()``, to give it to
    the loader of the resumed epoch before its first batch; those of an epoch's end start a new one.
    """

    given = 0
    """Batches of the epoch that were handed out; Lightning trains on each before it asks for the next."""

    def __iter__(self) -> Iterator[RawBatch]:  # type: ignore[override]
        self.given = self.batch_sampler.first  # type: ignore[union-attr]
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch_sampler.first = state["given"]  # type: ignore[union-attr]
