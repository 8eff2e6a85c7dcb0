"""Datasets of squares cut from photos, and the order in which an epoch goes through them.

Worker processes import this module: it stays free of Lightning.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from colorize.color import rgb_to_grey
from colorize.data.images import (
    Box,
    UnreadableImage,
    center_box,
    image_rng,
    load_rgb,
    random_box,
    resize_square,
    to_uint8,
)
from colorize.data.sources import Photos


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


class Batch(NamedTuple):
    """What a training or validation step gets."""

    rgb: Tensor
    """``(B, 3, S, S)`` float32, RGB in [0, 1]."""
    grey: Tensor
    """``(B, 1, S, S)`` float32 in [0, 1], the Rec. 601 luma of ``rgb``."""
    fake: Tensor | None
    """``(B, 3, S, S)`` float32, RGB in [0, 1], the saved generated pictures; ``None`` except in the critic's phase."""
    names: list[str]
    """The B identities."""


def to_floats(raw: RawBatch, device: torch.device | str) -> Batch:
    """Moves a batch to a device and makes the floats and the grey there: a quarter of the bytes travel."""
    rgb = raw.rgb.to(device, non_blocking=True).float() / 255
    fake = None if raw.fake is None else raw.fake.to(device, non_blocking=True).float() / 255
    return Batch(rgb, rgb_to_grey(rgb), fake, raw.names)


def collate(samples: Sequence[RawBatch]) -> RawBatch:
    """Joins batches of one or no picture, as the datasets give them, into one."""
    fakes = [sample.fake for sample in samples if sample.fake is not None]
    return RawBatch(
        rgb=torch.cat([sample.rgb for sample in samples]),
        fake=torch.cat(fakes) if fakes else None,
        names=[name for sample in samples for name in sample.names],
        unreadable=[problem for sample in samples for problem in sample.unreadable],
    )


def worker_context(num_workers: int) -> str | None:
    """How a DataLoader starts its workers (its ``multiprocessing_context``); ``None`` without workers.

    Not by a fork of the training process, which has threads (progress bar, logger, CUDA) that a fork can leave with a
    lock held for ever. A server process imports torch once, and the workers of all epochs are quick copies of it. They
    import the script that was started once more: it needs ``if __name__ == "__main__"``, and is better light.
    """
    if num_workers == 0:
        return None
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    return "forkserver"


def image_path(folder: Path, identity: str) -> Path:
    """Where the saved image of a photo lies. The photo's own extension stays in the name, so that none collide."""
    return folder / f"{identity}.png"


@dataclass(frozen=True)
class Generated:
    """A folder of saved generator output: for each photo, ``IDENTITY.png``, made from its centre square."""

    folder: Path
    size_px: int


class _Squares(Dataset[RawBatch]):
    """Reads one square of a photo, and the same square of its generated picture where there is one."""

    def __init__(self, photos: Photos, identities: Sequence[str], size_px: int, generated: Generated | None) -> None:
        self.photos = photos
        self.identities = identities
        self.size_px = size_px
        self.generated = generated

    def __len__(self) -> int:
        return len(self.identities)

    def _read(self, identity: str, choose_box: Callable[[int, int], Box], flip: bool) -> RawBatch:
        name = identity
        try:
            if self.generated is None:
                pictures = [self.photos.square(identity, self.size_px, choose_box)]
            else:
                # The photo goes the way that its generated picture came: the same centre square at the same size. From
                # there on both are 8-bit squares treated alike, so that only their content tells them apart.
                side = self.generated.size_px
                photo = self.photos.square(identity, side, center_box)
                saved = image_path(self.generated.folder, identity)
                name = saved.relative_to(self.generated.folder.parent).as_posix()
                fake = load_rgb(saved)
                if fake.size != (side, side):
                    raise UnreadableImage(f"is {fake.width} × {fake.height} px, not {side} × {side}")
                box = choose_box(side, side)
                pictures = [resize_square(picture, self.size_px, box) for picture in (photo, fake)]
        except UnreadableImage as error:
            return self._none(name, str(error))
        tensors = [self._tensor(picture, flip) for picture in pictures]
        return RawBatch(tensors[0], tensors[1] if self.generated else None, [identity], [])

    def _none(self, name: str, reason: str) -> RawBatch:
        none = torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
        return RawBatch(none, none if self.generated else None, [], [(name, reason)])

    @staticmethod
    def _tensor(picture: Image.Image, flip: bool) -> Tensor:
        tensor = to_uint8(picture).unsqueeze(0)
        return tensor.flip(-1) if flip else tensor


class SquareDataset(_Squares):
    """Centre squares, for validation and for generating; an unreadable file gives a sample of no pictures.

    Each sample is a :class:`RawBatch` of one picture or none: use :func:`collate`.
    """

    def __init__(
        self, photos: Photos, identities: Sequence[str], size_px: int, generated: Generated | None = None
    ) -> None:
        super().__init__(photos, identities, size_px, generated)

    def __getitem__(self, index: int) -> RawBatch:
        return self._read(self.identities[index], center_box, flip=False)


class AugmentedDataset(_Squares):
    """Randomly cropped and flipped squares of one epoch, each a function of (seed, epoch, identity).

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
        crop_scale: tuple[float, float],
        crop_ratio: tuple[float, float],
        flip: bool,
        max_tries: int,
    ) -> None:
        super().__init__(photos, identities, size_px, generated)
        self.seed = seed
        self.epoch = epoch
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.flip = flip
        self.max_tries = max_tries

    def __getitem__(self, index: int) -> RawBatch:
        unreadable: list[tuple[str, str]] = []
        for step in range(min(self.max_tries, len(self.identities))):
            sample = self._augmented(self.identities[(index + step) % len(self.identities)])
            unreadable += sample.unreadable
            if sample.names:
                break
        return sample._replace(unreadable=unreadable)

    def _augmented(self, identity: str) -> RawBatch:
        rng = image_rng(self.seed, self.epoch, identity)
        flip = self.flip and rng.random() < 0.5
        return self._read(identity, random_box(rng, self.crop_scale, self.crop_ratio), flip)


class GlobalBatches(Sampler[list[int]]):
    """One rank's share of an epoch's batches.

    The order is a function of (seed, epoch); it is cut into batches over all ranks, and rank r of w takes every w-th
    index of each from the r-th on. So the same images meet in a batch whatever the number of devices. An incomplete
    last batch is left out, unless it is the only one.
    """

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
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield batch[self.rank :: self.world_size].tolist()
