"""Datasets of squares cut from photos, and their batches; imported by worker processes, so free of Lightning."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from colorize.color import rgb_to_grey
from colorize.data.augment import SampledAugmentation
from colorize.data.generated import Generated
from colorize.data.images import center_box, cut_square, load_rgb
from colorize.data.sources import Photos, Scenes
from colorize.data.tensors import to_uint8
from colorize.photos.opening import UnreadableImage

Sample = TypeVar("Sample")


class RawBatch(NamedTuple):
    """8-bit images of one size, as workers hand them over. B may be 0, where no file could be read."""

    rgb: Tensor  # (B, 3, S, S) uint8, the photos
    fake: Tensor | None  # (B, 3, S, S) uint8, the generator's images of them; None where generated images play no part
    names: list[str]  # the B identities
    unreadable: list[tuple[str, str]]  # names of the files met that could not be read, and why
    grey_change: Tensor | None = None  # (B, 1, S, S) float16, to be added to the grey of rgb; None for nothing
    regions: Tensor | None = None  # (B, S, S) uint8, indices into REGIONS; None but for the centre squares of scenes
    digests: Sequence[str] = ()  # in an evaluation, SHA-256 of each photo's file, or of the pixels of a scene


class Batch(NamedTuple):
    """Images of a step, or an evaluation."""

    rgb: Tensor  # (B, 3, S, S) float32, RGB in [0, 1]
    grey: Tensor  # (B, 1, S, S) float32 in [0, 1], shown to a network: luma, aged and noisy in training
    luma: Tensor  # (B, 1, S, S) float32 in [0, 1], the Rec. 601 luma of rgb; is grey where nothing was done to it
    fake: Tensor | None  # (B, 3, S, S) float32, RGB in [0, 1], saved generated images; None but in the critic's phase
    names: list[str]  # the B identities
    regions: Tensor | None = None  # (B, S, S) uint8, indices into REGIONS; of validation scenes alone
    unreadable: Sequence[tuple[str, str]] = ()  # as of RawBatch


def to_floats(raw: RawBatch, device: torch.device | str) -> Batch:
    """Move a batch to a device and make the floats and the grey there: a quarter of the bytes travel."""
    rgb = raw.rgb.to(device, non_blocking=True).float() / 255
    fake = None if raw.fake is None else raw.fake.to(device, non_blocking=True).float() / 255
    grey = luma = rgb_to_grey(rgb)
    if raw.grey_change is not None:
        grey = (luma + raw.grey_change.to(device, non_blocking=True)).clamp(0, 1)
    regions = None if raw.regions is None else raw.regions.to(device, non_blocking=True)
    return Batch(rgb, grey, luma, fake, raw.names, regions, raw.unreadable)


def collate(samples: Sequence[RawBatch]) -> RawBatch:
    """Join batches of one or no image, as the datasets give them, into one."""

    def joined(parts: Iterable[Any]) -> Any:
        found = [part for part in parts if part is not None]
        if not found:
            return None
        return torch.cat(found) if isinstance(found[0], Tensor) else list(chain.from_iterable(found))

    return RawBatch(*map(joined, zip(*samples, strict=True)))


class PhotoDataset(Dataset[Sample]):
    """Makes a sample of each of some photos, at a size."""

    generated: Generated | None = None  # images of them

    def __init__(self, photos: Photos, identities: Sequence[str], size_px: int) -> None:
        self.photos = replace(photos, train=[], val=[])  # without the lists, which each worker would get a copy of
        self.identities = photos.portable(identities)
        self.size_px = size_px

    def __len__(self) -> int:
        return len(self.identities)

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        self.photos.read_ahead(self.identities, indices)
        if self.generated is not None and self.generated.reader is not None:
            self.generated.reader.fetch(self.generated.reader.find(self.identities[index] for index in indices))
        return [self[index] for index in indices]


class CenterSquareDataset(PhotoDataset[RawBatch]):
    """Centre squares of photos, and of their generated images where there are any; scenes with their regions."""

    def __init__(
        self, photos: Photos, identities: Sequence[str], size_px: int, generated: Generated | None = None
    ) -> None:
        super().__init__(photos, identities, size_px)
        self.generated = generated

    def __getitem__(self, index: int) -> RawBatch:
        identity = self.identities[index]
        if self.generated is None and isinstance(self.photos, Scenes):  # its centre square is the whole of it
            scene = self.photos.scene(identity, self.size_px)
            rgb = to_uint8(Image.fromarray(scene.rgb)).unsqueeze(0)
            return RawBatch(rgb, None, [identity], [], regions=torch.from_numpy(scene.regions).unsqueeze(0))
        return self._read(identity, SampledAugmentation())

    def _read(self, identity: str, sampled: SampledAugmentation) -> RawBatch:
        name = identity
        try:
            if self.generated is None:
                images = [self.photos.square(identity, self.size_px, sampled.choose_box)]
            else:
                # The photo goes the way that its generated image came, so that only their content tells them apart.
                # (Noise and age are for a grey that is coloured, and here none is.)
                side = self.generated.size_px
                photo = self.photos.square(identity, side, center_box)
                name = f"{self.generated.folder.name}/{identity}.png"
                fake = load_rgb(self.generated.content(identity))
                if fake.size != (side, side):
                    raise UnreadableImage(f"is {fake.width} × {fake.height} px, not {side} × {side}")
                box = sampled.choose_box(side, side)
                images = [cut_square(image, self.size_px, box) for image in (photo, fake)]
        except UnreadableImage as error:
            none = torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
            return RawBatch(none, none if self.generated else None, [], [(name, str(error))])
        tensors = [to_uint8(image).unsqueeze(0) for image in images]
        tensors = [tensor.flip(-1) for tensor in tensors] if sampled.flip else tensors
        if self.generated is None:
            return RawBatch(tensors[0], None, [identity], [], sampled.grey_change(tensors[0]))
        return RawBatch(tensors[0], tensors[1], [identity], [])


class AugmentedDataset(CenterSquareDataset):
    """Augmented squares of one epoch instead, as `sample` draws them; for an unreadable file comes the next."""

    def __init__(self, *squares: Any, sample: Callable[[str], SampledAugmentation], max_tries: int) -> None:
        super().__init__(*squares)
        self.sample, self.max_tries = sample, max_tries

    def __getitem__(self, index: int) -> RawBatch:
        unreadable: list[tuple[str, str]] = []
        for step in range(min(self.max_tries, len(self.identities))):
            identity = self.identities[(index + step) % len(self.identities)]
            sample = self._read(identity, self.sample(identity))
            unreadable += sample.unreadable
            if sample.names:
                break
        return sample._replace(unreadable=unreadable)
