"""Datasets of squares cut from photos, and the order in which an epoch goes through them.

Worker processes import this module: it stays free of Lightning.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from colorize.color import rgb_to_grey
from colorize.data.augment import Augmentation, Treatment
from colorize.data.caches.listing import Names
from colorize.data.images import center_box, cut_square, load_rgb, to_uint8
from colorize.data.sources import Photos, Scenes
from colorize.photos.opening import UnreadableImage

Sample = TypeVar("Sample")


class RawBatch(NamedTuple):
    """What workers make and hand over: 8-bit pictures. B may be 0, where no file could be read."""

    rgb: Tensor
    """``(B, 3, S, S)`` uint8, the photos."""
    fake: Tensor | None
    """``(B, 3, S, S)`` uint8, what the generator made of them; ``None`` where generated pictures play no part."""
    names: list[str]
    """The B identities."""
    unreadable: list[tuple[str, str]]
    """Names of the files met that could not be read, and why."""
    grey_change: Tensor | None = None
    """``(B, 1, S, S)`` float16, to be added to the grey of ``rgb``; ``None`` for nothing."""
    regions: Tensor | None = None
    """``(B, S, S)`` uint8, indices into ``REGIONS``; ``None`` but for the centre squares of scenes."""


class Batch(NamedTuple):
    """What a training or validation step gets."""

    rgb: Tensor
    """``(B, 3, S, S)`` float32, RGB in [0, 1]."""
    grey: Tensor
    """``(B, 1, S, S)`` float32 in [0, 1], what a network is shown: ``luma``, in training as ``data.old_photo`` and
    ``data.noise`` leave it."""
    luma: Tensor
    """``(B, 1, S, S)`` float32 in [0, 1], the Rec. 601 luma of ``rgb``; is ``grey`` where nothing was done to it."""
    fake: Tensor | None
    """``(B, 3, S, S)`` float32, RGB in [0, 1], the saved generated pictures; ``None`` except in the critic's phase."""
    names: list[str]
    """The B identities."""
    regions: Tensor | None = None
    """``(B, S, S)`` uint8, what each pixel shows, as an index into ``REGIONS``; of validation scenes alone."""


def to_floats(raw: RawBatch, device: torch.device | str) -> Batch:
    """Moves a batch to a device and makes the floats and the grey there: a quarter of the bytes travel."""
    rgb = raw.rgb.to(device, non_blocking=True).float() / 255
    fake = None if raw.fake is None else raw.fake.to(device, non_blocking=True).float() / 255
    grey = luma = rgb_to_grey(rgb)
    if raw.grey_change is not None:
        grey = (luma + raw.grey_change.to(device, non_blocking=True)).clamp(0, 1)
    regions = None if raw.regions is None else raw.regions.to(device, non_blocking=True)
    return Batch(rgb, grey, luma, fake, raw.names, regions)


def collate(samples: Sequence[RawBatch]) -> RawBatch:
    """Joins batches of one or no picture, as the datasets give them, into one."""
    fakes = [sample.fake for sample in samples if sample.fake is not None]
    changes = [sample.grey_change for sample in samples if sample.grey_change is not None]
    regions = [sample.regions for sample in samples if sample.regions is not None]
    return RawBatch(
        rgb=torch.cat([sample.rgb for sample in samples]),
        fake=torch.cat(fakes) if fakes else None,
        names=[name for sample in samples for name in sample.names],
        unreadable=[problem for sample in samples for problem in sample.unreadable],
        grey_change=torch.cat(changes) if changes else None,
        regions=torch.cat(regions) if regions else None,
    )


def worker_context(num_workers: int, modules: Sequence[str] = ()) -> str | None:
    """How a DataLoader starts its workers (its ``multiprocessing_context``); ``None`` without workers.

    Not by a fork of the training process, which has threads (progress bar, logger, CUDA) that a fork can leave with a
    lock held for ever. A server process imports torch once, and ``modules`` where it is started by this call; the
    workers of all epochs are quick copies of it. They import the script that was started once more: it needs
    ``if __name__ == "__main__"``, and is better light.
    """
    if num_workers == 0:
        return None
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *modules])
    resource_tracker.ensure_running()  # which the server would start, and unblock signals
    # A Ctrl-C goes to every process of a terminal. What is blocked here stays so in the server, which would break off
    # its imports, and in the workers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return "forkserver"


def make_loader(
    dataset: Dataset[Any], num_workers: int, modules: Sequence[str] = (), **options: Any
) -> DataLoader[Any]:
    """A DataLoader with workers of :func:`worker_context`. It draws a number, but not from the global generator."""
    options |= {"multiprocessing_context": worker_context(num_workers, modules), "generator": torch.Generator()}
    return DataLoader(dataset, num_workers=num_workers, **options)


def leave_signals_alone(_: int) -> None:
    """Makes a worker outlast a Ctrl-C or a SIGTERM that goes to all processes: the fit has a step to finish with it.

    A worker ends when its loader says so, or is gone, and at a second SIGTERM. When the main process ends it sends one,
    and waits: a loader that was not used up has to say so before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def image_path(folder: Path, identity: str) -> Path:
    """Where the saved image of a photo lies. The photo's own extension stays in the name, so that none collide."""
    return folder / f"{identity}.png"


@dataclass(frozen=True)
class Generated:
    """A folder of saved generator output: for each photo, ``IDENTITY.png``, made from its centre square."""

    folder: Path
    size_px: int


class PhotoDataset(Dataset[Sample]):
    """Makes a sample of each of some photos, at a size."""

    def __init__(self, photos: Photos, identities: Sequence[str], size_px: int) -> None:
        self.photos = replace(photos, train=[], val=[])  # without the lists, which each worker would get a copy of
        self.identities = Names(identities)
        self.size_px = size_px

    def __len__(self) -> int:
        return len(self.identities)


class _Squares(PhotoDataset[RawBatch]):
    """Reads one square of a photo, and the same square of its generated picture where there is one."""

    def __init__(
        self, photos: Photos, identities: Sequence[str], size_px: int, generated: Generated | None = None
    ) -> None:
        super().__init__(photos, identities, size_px)
        self.generated = generated

    def _read(self, identity: str, treatment: Treatment) -> RawBatch:
        name, choose_box, angle_deg = identity, treatment.choose_box, treatment.angle_deg
        try:
            if self.generated is None:
                pictures = [self.photos.square(identity, self.size_px, choose_box, angle_deg)]
            else:
                # The photo goes the way that its generated picture came: the same centre square at the same size. From
                # there on both are 8-bit squares treated alike, so that only their content tells them apart. (Noise and
                # age are for a grey that is coloured, and here none is.)
                side = self.generated.size_px
                photo = self.photos.square(identity, side, center_box)
                saved = image_path(self.generated.folder, identity)
                name = saved.relative_to(self.generated.folder.parent).as_posix()
                fake = load_rgb(saved)
                if fake.size != (side, side):
                    raise UnreadableImage(f"is {fake.width} × {fake.height} px, not {side} × {side}")
                box = choose_box(side, side)
                pictures = [cut_square(picture, self.size_px, box, angle_deg) for picture in (photo, fake)]
        except UnreadableImage as error:
            return self._none(name, str(error))
        tensors = [self._tensor(picture, treatment) for picture in pictures]
        if self.generated is not None:
            return RawBatch(tensors[0], tensors[1], [identity], [])
        return RawBatch(tensors[0], None, [identity], [], treatment.grey_change(tensors[0]))

    def _none(self, name: str, reason: str) -> RawBatch:
        none = torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
        return RawBatch(none, none if self.generated else None, [], [(name, reason)])

    @staticmethod
    def _tensor(picture: Image.Image, treatment: Treatment) -> Tensor:
        tensor = to_uint8(picture)
        if treatment.jitter is not None:
            tensor = treatment.jitter(tensor)
        return (tensor.flip(-1) if treatment.flip else tensor).unsqueeze(0)


class SquareDataset(_Squares):
    """Centre squares, for validation and for generating; an unreadable file gives a sample of no pictures.

    Those of scenes come with their regions.

    Each sample is a :class:`RawBatch` of one picture or none: use :func:`collate`.
    """

    def __getitem__(self, index: int) -> RawBatch:
        identity = self.identities[index]
        if self.generated is None and isinstance(self.photos, Scenes):  # its centre square is the whole of it
            scene = self.photos.scene(identity, self.size_px)
            rgb = to_uint8(Image.fromarray(scene.rgb)).unsqueeze(0)
            return RawBatch(rgb, None, [identity], [], regions=torch.from_numpy(scene.regions).unsqueeze(0))
        return self._read(identity, Treatment())


class AugmentedDataset(_Squares):
    """Augmented squares of one epoch, each a function of (seed, epoch, identity).

    In the place of a file that cannot be read comes the next one that can. Each sample is a :class:`RawBatch` of one
    picture; of none where ``max_tries`` files in a row, or all, are unreadable.
    """

    def __init__(
        self,
        photos: Photos,
        identities: Sequence[str],
        size_px: int,
        generated: Generated | None = None,
        *,
        seed: int,
        epoch: int,
        augmentation: Augmentation,
        max_tries: int,
    ) -> None:
        super().__init__(photos, identities, size_px, generated)
        self.seed = seed
        self.epoch = epoch
        self.augmentation = augmentation
        self.max_tries = max_tries

    def __getitem__(self, index: int) -> RawBatch:
        unreadable: list[tuple[str, str]] = []
        for step in range(min(self.max_tries, len(self.identities))):
            identity = self.identities[(index + step) % len(self.identities)]
            sample = self._read(identity, self.augmentation.treatment(self.seed, self.epoch, identity))
            unreadable += sample.unreadable
            if sample.names:
                break
        return sample._replace(unreadable=unreadable)


class Looks(NamedTuple):
    """Glances at some photos."""

    rgb: Tensor
    """``(R, 3, S, S)`` uint8, the readable ones, each squeezed into a square."""
    indices: list[int]
    """Which they are."""
    facts: list[tuple[str, int, int]]
    """Their formats, widths and heights."""
    unreadable: list[tuple[int, str]]
    """The other indices, and why."""


def join_looks(samples: Sequence[Looks]) -> Looks:
    """Joins the samples of a :class:`LookDataset`."""
    return Looks(
        rgb=torch.cat([sample.rgb for sample in samples]),
        indices=[index for sample in samples for index in sample.indices],
        facts=[facts for sample in samples for facts in sample.facts],
        unreadable=[problem for sample in samples for problem in sample.unreadable],
    )


class LookDataset(PhotoDataset[Looks]):
    """Glances at whole photos, for a survey; each sample is of one photo."""

    def __getitem__(self, index: int) -> Looks:
        try:
            look = self.photos.look(self.identities[index], self.size_px)
        except UnreadableImage as error:
            none = torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
            return Looks(none, [], [], [(index, str(error))])
        return Looks(to_uint8(look.square).unsqueeze(0), [index], [(look.format, look.width, look.height)], [])


class GlobalBatches(Sampler[list[int]]):
    """One rank's share of an epoch's batches.

    The order is a function of (seed, epoch); it is cut into batches over all ranks, and rank r of w takes every w-th
    index of each from the r-th on. So the same images meet in a batch whatever the number of devices. An incomplete
    last batch is left out, unless it is the only one.

    A resumed epoch begins with batch ``first``. The length stays that of the whole epoch, by which Lightning counts.
    """

    first = 0

    def __init__(self, size: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> None:
        """Args are the number of images, the batch size over all ranks, and who asks."""
        if not 0 <= rank < world_size <= min(size, batch_size):
            raise ValueError(f"no share for rank {rank} of {world_size} in batches of {batch_size} from {size} images")
        self.size = size
        self.batch_size = min(batch_size, size)
        self.seed = seed
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        key = blake2b(f"{self.seed}\n{self.epoch}\norder".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)
        order = torch.randperm(self.size, generator=generator)
        for number in range(self.first, len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield batch[self.rank :: self.world_size].tolist()
