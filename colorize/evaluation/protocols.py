"""What an evaluation sees of a photo: which part of it, at what size, and the coloured pictures to be held against it.

Worker processes import this module: it stays free of Lightning.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from colorize.data.datasets import make_loader
from colorize.data.images import center_box, load_rgb, to_uint8
from colorize.data.sources import Photos, Scenes
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError
from colorize.runtime.files import sha256
from colorize.runtime.formats import has_image_suffix

log = logging.getLogger("colorize")

LEAST_PX = 11
"""Smaller pictures have no structural similarity: this is the side of its window."""

NAMED_AT_MOST = 20

SAME_SHAPE = 0.02
"""Two pictures whose width over height differs by a smaller share have the same shape: sizes are rounded."""


@dataclass(frozen=True)
class Protocol:
    """What a photo becomes before it is coloured and measured."""

    name: str
    size_px: int | None
    """Side of the squares; ``None``: every photo keeps its own size and shape."""
    stretch: bool = False
    """The whole photo, squeezed into the square; otherwise its centre square."""
    photos: int | None = None
    """How many photos the protocol takes at most, the first by their file names."""

    def apply(self, picture: Image.Image) -> Image.Image:
        """The part and size of an RGB picture that are measured."""
        if self.size_px is None:
            return picture
        size = (self.size_px, self.size_px)
        if self.stretch:
            return picture.resize(size, Image.Resampling.BILINEAR)
        # Cut first: with a box, Pillow's filter would look beyond its edge.
        left, top, right, bottom = map(round, center_box(*picture.size))
        return picture.crop((left, top, right, bottom)).resize(size, Image.Resampling.BICUBIC)

    def apply_to_coloured(self, picture: Image.Image, original: tuple[int, int]) -> Image.Image:
        """The same of what somebody made of a photo of ``original`` = (width, height).

        It may have the photo's shape, at any size, or already be the square that the protocol makes of it.

        Raises:
            UnreadableImage: it is neither; or no square is made, and it has another size.
        """
        if self.size_px is None:
            if picture.size != original:
                raise UnreadableImage(f"is {_by(picture.size)} px, the photo {_by(original)}")
            return picture
        shape, wanted = picture.width / picture.height, original[0] / original[1]
        if abs(shape / wanted - 1) < SAME_SHAPE:
            return self.apply(picture)
        if picture.width == picture.height:
            return picture.resize((self.size_px, self.size_px), Image.Resampling.BICUBIC)
        raise UnreadableImage(f"is {_by(picture.size)} px, neither a square nor of the photo's shape")


PROTOCOLS = {
    "val5k": Protocol("val5k", 256, photos=5000),
    "stretch256": Protocol("stretch256", 256, stretch=True),
    "native": Protocol("native", None),
}


class Pictures(NamedTuple):
    """A batch of photos as a protocol has them, all of one size. B may be 0, where no file could be read."""

    rgb: Tensor
    """``(B, 3, H, W)`` uint8."""
    coloured: list[Tensor]
    """What each folder of coloured pictures holds for them: ``(B, 3, H, W)`` uint8."""
    regions: Tensor | None
    """``(B, H, W)`` uint8, indices into ``REGIONS``; ``None`` for photos."""
    names: list[str]
    """The B identities."""
    digests: list[str]
    """SHA-256 of each photo's file, or of the pixels of a scene."""
    unreadable: list[tuple[str, str]]
    """Names of the files met that could not be used, and why."""


class ProtocolDataset(Dataset[Pictures]):
    """Each sample is a batch of one picture or none: use :func:`collate`."""

    def __init__(
        self,
        photos: Photos,
        identities: Sequence[str],
        protocol: Protocol,
        *,
        coloured: Sequence[Mapping[str, Path]] = (),
        scene_px: int = 256,
    ) -> None:
        """What is to be read: some photos of a source.

        Args:
            coloured: for each folder of coloured pictures, the file of each identity.
            scene_px: side of drawn scenes where the protocol says none.
        """
        self.photos = photos
        self.identities = identities
        self.protocol = protocol
        self.coloured = coloured
        self.scene_px = protocol.size_px or scene_px

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, index: int) -> Pictures:
        identity, where, regions = self.identities[index], "", None
        try:
            if isinstance(self.photos, Scenes):
                scene = self.photos.scene(identity, self.scene_px)
                original, digest = Image.fromarray(scene.rgb), hashlib.sha256(scene.rgb.tobytes()).hexdigest()
                picture, regions = original, torch.from_numpy(scene.regions).unsqueeze(0)
            else:
                path = self.photos.path(identity)
                original, digest = load_rgb(path), sha256(path)
                picture = self.protocol.apply(original)
            if min(picture.size) < LEAST_PX:
                raise UnreadableImage(f"is {_by(picture.size)} px; at least {LEAST_PX} are needed")
            coloured = []
            for files in self.coloured:
                where = f"{files[identity]}: "
                coloured.append(self.protocol.apply_to_coloured(load_rgb(files[identity]), original.size))
        except UnreadableImage as error:
            return Pictures(
                torch.empty(0, 3, 1, 1, dtype=torch.uint8), [], None, [], [], [(identity, f"{where}{error}")]
            )
        rgb = to_uint8(picture).unsqueeze(0)
        return Pictures(rgb, [to_uint8(c).unsqueeze(0) for c in coloured], regions, [identity], [digest], [])


def collate(samples: Sequence[Pictures]) -> Pictures:
    """Joins samples of one picture or none, all of one size, into a batch."""
    unreadable = [problem for sample in samples for problem in sample.unreadable]
    found = [sample for sample in samples if sample.names]
    if not found:
        return samples[0]._replace(unreadable=unreadable)
    regions = [sample.regions for sample in found if sample.regions is not None]
    return Pictures(
        rgb=torch.cat([sample.rgb for sample in found]),
        coloured=[torch.cat(parts) for parts in zip(*(sample.coloured for sample in found), strict=True)],
        regions=torch.cat(regions) if regions else None,
        names=[name for sample in found for name in sample.names],
        digests=[digest for sample in found for digest in sample.digests],
        unreadable=unreadable,
    )


def batches(
    dataset: ProtocolDataset,
    batch_size: int,
    num_workers: int = 0,
    max_unreadable: int = 100,
    unusable: dict[str, str] | None = None,
) -> Iterator[Pictures]:
    """The pictures in order, batch by batch; one by one where their sizes differ. Unusable ones are named and left out.

    Args:
        num_workers: processes that read them; 0 reads in this one.
        unusable: is filled with the names of the unusable ones, and why.

    Raises:
        UserError: more than ``max_unreadable`` files are unusable.
    """
    unusable = {} if unusable is None else unusable
    if dataset.protocol.size_px is None and not isinstance(dataset.photos, Scenes):
        batch_size = 1
    for batch in make_loader(dataset, num_workers, (__name__,), batch_size=batch_size, collate_fn=collate):
        for name, reason in batch.unreadable:
            unusable[name] = reason
            log.warning("left out %s (%s)", name, reason)
        if len(unusable) > max_unreadable:
            raise too_many(unusable, max_unreadable)
        if batch.names:
            yield batch


def too_many(unusable: Mapping[str, str], most: int) -> UserError:
    """Why an evaluation ends: more files than ``most`` are unusable."""
    named = ", ".join(list(unusable)[:NAMED_AT_MOST])
    return UserError(f"{len(unusable)} pictures cannot be used, more than data.max_unreadable={most}: {named}, …")


def match(identities: Iterable[str], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The coloured picture of each photo, and the pictures in ``folder`` that belong to none.

    For the photo ``a/b.jpg`` that is ``a/b.jpg``, else ``a/b.jpg.png`` (as colorize.generate names them), else ``a/b``
    with any extension, else ``b`` or ``b.jpg`` with any extension anywhere in the folder; the last two where no other
    photo is called so.

    Raises:
        UserError: there is no such folder, it holds no pictures, or two of them may be meant.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if _is_picture(file))
    if not files:
        raise UserError(f"no pictures in {folder}")
    identities = list(identities)
    exact, by_stem, by_name = set(files), _grouped(files, _stem), _grouped(files, _name)
    stems, names = Counter(map(_stem, identities)), Counter(map(_name, identities))
    found: dict[str, Path] = {}
    for identity in identities:
        candidates = [identity] if identity in exact else by_stem.get(identity, [])
        if not candidates and stems[_stem(identity)] == 1:
            candidates = by_stem.get(_stem(identity), [])
        if not candidates and names[_name(identity)] == 1:
            candidates = by_name.get(_name(identity)) or by_name.get(PurePosixPath(identity).name, [])
        if len(candidates) > 1:
            raise UserError(f"{folder} holds several pictures for {identity}: {', '.join(candidates[:3])}; keep one")
        if candidates:
            found[identity] = folder / candidates[0]
    used = set(found.values())
    return found, [file for file in files if folder / file not in used]


def _grouped(files: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return groups


def _stem(path: str) -> str:
    """The path without an image's extension (scenes have none)."""
    return os.path.splitext(path)[0] if has_image_suffix(path) else path


def _name(path: str) -> str:
    return PurePosixPath(_stem(path)).name


def _is_picture(file: Path) -> bool:
    return has_image_suffix(file.name) and not file.name.startswith(".") and file.is_file()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
