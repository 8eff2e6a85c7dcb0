"""Reading photos, and the coloured images to compare, for an evaluation; free of Lightning, for worker processes."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from PIL import Image

from colorize.config.sections import DataConfig
from colorize.data.datasets import PhotoDataset, RawBatch, collate
from colorize.data.images import center_box, load_rgb
from colorize.data.loading import make_loader
from colorize.data.sources import Photos, Scenes, photos_below
from colorize.data.tensors import to_uint8
from colorize.photos.opening import UnreadableImage
from colorize.runtime import distributed
from colorize.runtime.errors import UserError, listed
from colorize.runtime.files import sha256
from colorize.runtime.formats import has_image_suffix
from colorize.runtime.log import log

LEAST_PX = 11  # smaller images have no structural similarity: this is the side of its window
SAME_SHAPE = 0.02  # images whose width over height differs by less have the same shape: sizes are rounded


class Protocol(NamedTuple):
    """Preparation of a photo before it is coloured and measured."""

    size_px: int | None  # side of the squares; None: every photo keeps its own size and shape
    stretch: bool = False  # the whole photo, squeezed into the square; otherwise its centre square
    photos: int | None = None  # greatest number of photos that the protocol takes, the first by their file names

    def apply(self, image: Image.Image) -> Image.Image:
        """Take the part of an RGB image that is measured, at its size."""
        if self.size_px is None:
            return image
        size = (self.size_px, self.size_px)
        if self.stretch:
            return image.resize(size, Image.Resampling.BILINEAR)
        # Cut first: with a box, Pillow's filter would look beyond its edge.
        left, top, right, bottom = map(round, center_box(*image.size))
        return image.crop((left, top, right, bottom)).resize(size, Image.Resampling.BICUBIC)

    def apply_to_coloured(self, image: Image.Image, original: tuple[int, int]) -> Image.Image:
        """Do the same to what somebody made of a photo of ``original`` = (width, height). Raises UnreadableImage.

        It may have the photo's shape, at any size, or already be the protocol's square; where there is none, its size.
        """
        if self.size_px is None:
            if image.size != original:
                raise UnreadableImage(f"is {_by(image.size)} px, the photo {_by(original)}")
            return image
        shape, wanted = image.width / image.height, original[0] / original[1]
        if abs(shape / wanted - 1) < SAME_SHAPE:
            return self.apply(image)
        if image.width == image.height:
            return image.resize((self.size_px, self.size_px), Image.Resampling.BICUBIC)
        raise UnreadableImage(f"is {_by(image.size)} px, neither a square nor of the photo's shape")


PROTOCOLS = {"val5k": Protocol(256, photos=5000), "stretch256": Protocol(256, stretch=True), "native": Protocol(None)}
Files = Sequence[Mapping[str, Path]]  # for each folder of coloured images, the file of each identity


class ProtocolDataset(PhotoDataset[RawBatch]):
    """Photos, each a batch of one or none, ``fake`` ``(B, folders, 3, H, W)``; scenes at ``scene_px`` by default."""

    def __init__(
        self, photos: Photos, identities: Sequence[str], protocol: Protocol, coloured: Files = (), scene_px: int = 256
    ) -> None:
        super().__init__(photos, identities, protocol.size_px or scene_px)
        self.protocol, self.coloured = protocol, coloured

    def __getitem__(self, index: int) -> RawBatch:
        identity, where, regions = self.identities[index], "", None
        try:
            if isinstance(self.photos, Scenes):
                scene = self.photos.scene(identity, self.size_px)
                original, digest = Image.fromarray(scene.rgb), sha256(scene.rgb.tobytes())
                image, regions = original, torch.from_numpy(scene.regions).unsqueeze(0)
            else:
                content = self.photos.content(identity)
                original, digest = load_rgb(content), sha256(content)
                image = self.protocol.apply(original)
            if min(image.size) < LEAST_PX:
                raise UnreadableImage(f"is {_by(image.size)} px; at least {LEAST_PX} are needed")
            coloured = []
            for files in self.coloured:
                where = f"{files[identity]}: "
                coloured.append(to_uint8(self.protocol.apply_to_coloured(load_rgb(files[identity]), original.size)))
        except UnreadableImage as error:
            nothing = torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
            return RawBatch(nothing, None, [], [(identity, f"{where}{error}")])
        folders = torch.stack(coloured).unsqueeze(0) if coloured else None
        return RawBatch(to_uint8(image).unsqueeze(0), folders, [identity], [], None, regions, [digest])


def batches(
    dataset: ProtocolDataset, batch_size: int, data: DataConfig, unusable: dict[str, str] | None = None
) -> Iterator[RawBatch]:
    """Read the photos in order, batch by batch; one by one where their sizes differ. Unusable ones are left out.

    ``unusable`` is filled with their names, and why; UserError is raised after more than ``data.max_unreadable``.
    """
    unusable = {} if unusable is None else unusable
    if dataset.protocol.size_px is None and not isinstance(dataset.photos, Scenes):
        batch_size = 1
    workers = data.workers(distributed.world_size())
    for batch in make_loader(dataset, workers, (__name__,), batch_size=batch_size, collate_fn=collate):
        leave_out(dict(batch.unreadable), unusable, data.max_unreadable)
        if batch.names:
            yield batch


def leave_out(more: Mapping[str, str], unusable: dict[str, str], most: int) -> None:
    """Add names of files and why they cannot be used, with a warning each. Raises UserError for more than ``most``."""
    for name, reason in more.items():
        unusable[name] = reason
        log.warning("left out %s (%s)", name, reason)
    if len(unusable) > most:
        raise UserError(
            f"{len(unusable)} images cannot be used, more than data.max_unreadable={most}: {listed(list(unusable))}"
        )


def match(identities: Iterable[str], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the coloured image of each photo, and the images in ``folder`` that belong to none.

    For the photo ``a/b.jpg`` that is ``a/b.jpg``, else ``a/b.jpg.png`` (as colorize.generate names them), else ``a/b``
    with any extension, else ``b`` or ``b.jpg`` with any extension anywhere in the folder; the last two where no other
    photo is called so. Raises UserError where no folder or image is there, or two of them may be meant.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    files = photos_below(folder)
    identities = list(identities)
    exact, by_stem, by_name = set(files), defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for file in files:
        by_stem[_stem(file)].append(file)
        by_name[_name(file)].append(file)
    stems, names = Counter(map(_stem, identities)), Counter(map(_name, identities))
    found: dict[str, Path] = {}
    for identity in identities:
        candidates = [identity] if identity in exact else by_stem.get(identity, [])
        if not candidates and stems[_stem(identity)] == 1:
            candidates = by_stem.get(_stem(identity), [])
        if not candidates and names[_name(identity)] == 1:
            candidates = by_name.get(_name(identity)) or by_name.get(PurePosixPath(identity).name, [])
        if len(candidates) > 1:
            raise UserError(f"{folder} holds several images for {identity}: {', '.join(candidates[:3])}; keep one")
        if candidates:
            found[identity] = folder / candidates[0]
    used = set(found.values())
    return found, [file for file in files if folder / file not in used]


def _stem(path: str) -> str:
    return os.path.splitext(path)[0] if has_image_suffix(path) else path


def _name(path: str) -> str:
    return PurePosixPath(_stem(path)).name


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
