"""Sources of photos: a folder, an ImageNet tree, drawn scenes; and their split."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from colorize.data.images import BoxChooser, Thumbnail, cut_square, load_square, read_thumbnail
from colorize.data.loading import shuffled
from colorize.data.roots import existing_folder, no_images
from colorize.data.scenes import Scene, draw_scene
from colorize.runtime.errors import UserError
from colorize.runtime.files import digest, walk_files
from colorize.runtime.formats import has_image_suffix

_SCENE = "scene-"
_SCENE_UNITS = 1024  # width and height in which boxes of a scene are chosen


class Names(Sequence[str]):
    """Names in tensors, which worker processes share: a list of 1.3 million would be 0.15 GB, unpickled in each."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        self._lengths = torch.tensor([len(name) for name in encoded], dtype=torch.int64)
        self._ends = self._lengths.cumsum(0)
        self._text = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        end = self._ends.numpy()[index]  # which also says that there is no such name
        return self._text.numpy()[end - self._lengths.numpy()[index] : end].tobytes().decode("utf-8", "surrogatepass")


def name_key(identity: str) -> int:
    """Return the 64-bit hash that stands for a photo among others."""
    return int.from_bytes(digest(identity), "big")


@dataclass(frozen=True)
class Photos:
    """Photos of a run by their identities: POSIX paths relative to ``root``, by which all randomness goes."""

    on_disk: ClassVar[bool] = True  # true where each photo is a file
    root: Path | str  # a folder, or a URL
    train: Sequence[str]  # sorted
    val: Sequence[str]  # in the order of their hashes: the first few are a fixed sample that mixes all folders

    def path(self, identity: str) -> Path:
        return Path(self.root, identity)

    def content(self, identity: str) -> Path | bytes:
        """Return the file of a photo, or what is in it. Raises UnreadableImage."""
        return self.path(identity)

    def square(self, identity: str, size_px: int, choose_box: BoxChooser) -> Image.Image:
        return load_square(self.content(identity), size_px, choose_box)

    def thumbnail(self, identity: str, size_px: int) -> Thumbnail:
        return read_thumbnail(self.content(identity), size_px)

    def of_split(self, split: str) -> Sequence[str]:
        """Return the identities of train, val or all."""
        return [*self.train, *self.val] if split == "all" else self.train if split == "train" else self.val

    def only(self, keys: NDArray[np.uint64]) -> Self:
        """Return the photos that have one of these keys, which are sorted."""
        kept = set(keys.tolist())
        train, val = ([identity for identity in part if name_key(identity) in kept] for part in (self.train, self.val))
        return replace(self, train=train, val=val)

    def portable(self, identities: Sequence[str]) -> Sequence[str]:
        """Return identities of these photos as worker processes are given them."""
        return Names(identities)

    def read_ahead(self, identities: Sequence[str], indices: Sequence[int]) -> None:
        """Read some photos at once, where that is faster than one by one."""

    def order(self, size: int, seed: int, epoch: int) -> Any:
        """Return the order of an epoch's training photos, `size` numbers of which slices are taken."""
        return shuffled(size, seed, epoch)


@dataclass(frozen=True)
class Scenes(Photos):
    """The built-in scenes: nothing is read, each is drawn from ``seed`` and its number, at any size."""

    on_disk: ClassVar[bool] = False
    seed: int = 0

    def square(self, identity: str, size_px: int, choose_box: BoxChooser) -> Image.Image:
        """Return a part, of a scene drawn just large enough for its part to have ``size_px`` pixels each way."""
        left, top, right, bottom = choose_box(_SCENE_UNITS, _SCENE_UNITS)
        side_px = math.ceil(size_px * _SCENE_UNITS / min(right - left, bottom - top))
        scene, scale = Image.fromarray(self.scene(identity, side_px).rgb), side_px / _SCENE_UNITS
        return cut_square(scene, size_px, (left * scale, top * scale, right * scale, bottom * scale))

    def thumbnail(self, identity: str, size_px: int) -> Thumbnail:
        """Return the scene drawn at ``size_px``: it has no size of its own."""
        return Thumbnail(size_px, size_px, Image.fromarray(self.scene(identity, size_px).rgb))

    def scene(self, identity: str, size_px: int) -> Scene:
        return draw_scene(self.seed, int(identity.removeprefix(_SCENE)), size_px)


def spread(identities: Sequence[str], most: int) -> Sequence[str]:
    """Return at most about so many of many photos, evenly spread over them: the same ones in every run."""
    return identities[:: max(1, -(-len(identities) // most))]


@dataclass(frozen=True)
class Split:
    """Division of a source by a hash of seed and identity (adding photos moves no other), and what is used of it."""

    val_fraction: float  # share of the photos for validation, in [0, 1]; at least one goes to each split
    seed: int
    train_fraction: float = 1.0  # share of the training photos to keep, in (0, 1], at least one
    max_val: int | None = None  # most validation photos to keep

    def divide(self, identities: list[str], where: Path) -> tuple[list[str], list[str]]:
        """Return training and validation photos, at least one each. Raises UserError where `where` has only one."""
        if len(identities) < 2:
            raise UserError(f"only one image in {where}: at least 2 are needed, for training and validation")
        hashes = sorted((self._hash("split", identity), identity) for identity in identities)
        count = min(max(bisect_left(hashes, (self.val_fraction,)), 1), len(identities) - 1)
        by_hash = [identity for _, identity in hashes]
        return by_hash[count:], by_hash[:count]

    def photos(self, root: Path, train: list[str], val: list[str]) -> Photos:
        if self.train_fraction < 1 and train:
            # Not the hash of the split: that one is above val_fraction for every training photo.
            share = partial(self._hash, "subset")
            train = [identity for identity in train if share(identity) < self.train_fraction] or [min(train, key=share)]
        val = sorted(val, key=lambda identity: (self._hash("split", identity), identity))
        return Photos(root, sorted(train), val[: self.max_val])

    def _hash(self, purpose: str, identity: str) -> float:
        return (int.from_bytes(digest(self.seed, purpose, identity), "big") >> 11) / 2**53


def list_scenes(count: int, split: Split) -> Scenes:
    """Return ``count`` built-in scenes, of the seed of the split. Raises UserError where they are fewer than two."""
    root = Path("scenes")
    photos = split.photos(root, *split.divide([f"{_SCENE}{index:06}" for index in range(count)], root))
    return Scenes(root, photos.train, photos.val, split.seed)


def photos_below(root: Path, below: str = "") -> list[str]:
    """Return the sorted paths, relative to `root`, of the photos in its folder `below`, links to folders followed.

    Raises UserError where a folder cannot be read, or there are none.
    """
    try:
        walked = walk_files(root, f"{below}/" if below else "", has_image_suffix)
        found = sorted(folder + name for folder, names in walked for name in names)
    except OSError as error:
        raise UserError(f"cannot read the folder {Path(error.filename)}: {error.strerror}") from error
    if not found:
        raise no_images(root / below)
    return found


def list_folder(root: str | Path, split: Split, val_alone: bool = False) -> Photos:
    """List all photos below a folder. Raises UserError where there are none, or only one.

    With ``train/`` and ``val/`` in it, these are the two splits (with ``val_alone`` ``train/`` may be missing, as for
    measuring); without ``val/``, ``split`` divides them; where that could be meant in two ways, it is a UserError.
    """
    root = existing_folder(root)
    has_train, has_val = (root / "train").is_dir(), (root / "val").is_dir()
    if has_val and not has_train and not val_alone:
        raise UserError(f"{root} has a folder val but no folder train: add train or rename val to use it as any folder")
    if has_train and not has_val:
        for path in sorted(root.iterdir()):  # a test set, or a part of an unsplit folder?
            if path.name != "train" and path.name[0] != "." and (has_image_suffix(path) or path.is_dir()):
                raise UserError(
                    f"{root} has a folder train but no folder val, and beside it {path.name}: add val, or use the "
                    f"photos in train alone with data.root={root / 'train'}, or rename train to use it as any folder"
                )
    if has_val:
        train, val = photos_below(root, "train") if has_train else [], photos_below(root, "val")
    else:
        below = "train" if has_train else ""
        train, val = split.divide(photos_below(root, below), root / below)
    return split.photos(root, train, val)
