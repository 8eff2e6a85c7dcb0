"""Which pictures there are, and which of them are for training and for validation."""

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import ClassVar

from PIL import Image

from colorize.data.caches.listing import Folder, FolderMemory
from colorize.data.images import Thumbnail, load_square, read_thumbnail, resize_square, resize_tilted
from colorize.data.scenes import Scene, draw_scene
from colorize.data.tilt import Box, scaled, sides, tilt
from colorize.runtime.errors import UserError
from colorize.runtime.formats import IMAGE_SUFFIXES, has_image_suffix

_SCENE = "scene-"
_SCENE_UNITS = 1024
"""Width and height in which boxes of a scene are chosen."""

_IMAGENET_TREES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


@dataclass(frozen=True)
class Photos:
    """The pictures of a run.

    An identity is a picture's POSIX path relative to ``root``: it names the picture in the split, in the randomness of
    its augmentation, in manifests and in messages.
    """

    on_disk: ClassVar[bool] = True
    """Whether each picture is a file."""

    root: Path
    train: list[str]
    """Sorted."""
    val: list[str]
    """In the order of their hashes: the first few are a fixed sample that mixes all folders."""

    def path(self, identity: str) -> Path:
        """The file of a picture."""
        return self.root / identity

    def square(
        self, identity: str, size_px: int, choose_box: Callable[[int, int], Box], angle_deg: float = 0.0
    ) -> Image.Image:
        """A part of a picture at ``size_px`` × ``size_px``; see :func:`colorize.data.images.load_square`."""
        return load_square(self.path(identity), size_px, choose_box, angle_deg)

    def look(self, identity: str, size_px: int) -> Thumbnail:
        """A glance at a picture; see :func:`colorize.data.images.read_thumbnail`."""
        return read_thumbnail(self.path(identity), size_px)


@dataclass(frozen=True)
class Scenes(Photos):
    """The built-in pictures: nothing is read, each is drawn from ``seed`` and its number, at any size."""

    on_disk: ClassVar[bool] = False

    seed: int = 0

    def square(
        self, identity: str, size_px: int, choose_box: Callable[[int, int], Box], angle_deg: float = 0.0
    ) -> Image.Image:
        """As of a photo. A scene is drawn just large enough for its part to have ``size_px`` pixels each way."""
        box = left, top, right, bottom = choose_box(_SCENE_UNITS, _SCENE_UNITS)
        corners = tilt(box, angle_deg, _SCENE_UNITS, _SCENE_UNITS) if angle_deg else None
        side_px = math.ceil(size_px * _SCENE_UNITS / min(sides(corners) if corners else (right - left, bottom - top)))
        scale = side_px / _SCENE_UNITS
        scene = Image.fromarray(self.scene(identity, side_px).rgb)
        if corners:
            return resize_tilted(scene, size_px, scaled(corners, scale))
        return resize_square(scene, size_px, (left * scale, top * scale, right * scale, bottom * scale))

    def look(self, identity: str, size_px: int) -> Thumbnail:
        """As of a photo, though a scene has no size of its own: it is drawn at ``size_px``."""
        scene = Image.fromarray(self.scene(identity, size_px).rgb)
        return Thumbnail("scene", size_px, size_px, scene)

    def scene(self, identity: str, size_px: int) -> Scene:
        """The whole picture at ``size_px`` × ``size_px``, and what is where in it."""
        return draw_scene(self.seed, int(identity.removeprefix(_SCENE)), size_px)


def spread(identities: Sequence[str], most: int) -> Sequence[str]:
    """At most about so many of many photos, evenly spread over them: the same ones in every run."""
    return identities[:: max(1, -(-len(identities) // most))]


def list_scenes(
    count: int, seed: int, val_fraction: float, train_fraction: float = 1.0, max_val: int | None = None
) -> Scenes:
    """``count`` built-in scenes; they depend on the seed, and are split and thinned out as photos are.

    Raises:
        UserError: fewer than two scenes, or a share out of its range.
    """
    _check_shares(val_fraction, train_fraction, max_val)
    root = Path("scenes")
    train, val = _split([f"{_SCENE}{index:06}" for index in range(count)], val_fraction, seed, root)
    photos = _photos(root, train, val, seed, train_fraction, max_val)
    return Scenes(root, photos.train, photos.val, seed)


def list_folder(
    root: str | Path,
    val_fraction: float,
    seed: int,
    train_fraction: float = 1.0,
    max_val: int | None = None,
    runs_dir: str | Path | None = None,
    val_alone: bool = False,
) -> Photos:
    """All pictures of a folder and the folders in it.

    With ``train/`` and ``val/`` in it, these are the two splits. Otherwise each picture is assigned by a hash of the
    seed and its identity, so that adding or removing pictures moves no other from one split to the other.

    Hidden files and folders (``.name``) are left out. Links to folders are followed, each folder once.

    Args:
        root: the folder.
        val_fraction: share of the pictures for validation, in [0, 1]; at least one goes to each split.
        seed: of the split and the subset.
        train_fraction: share of the training pictures to keep, in (0, 1], at least one. A smaller share is a subset of
            a greater one.
        max_val: the most validation pictures to keep.
        runs_dir: what folders of many pictures hold is kept in its ``.cache``; see ``FolderMemory``. None: nowhere.
        val_alone: whether ``val/`` may be there without ``train/``, as for measuring; there are no training pictures.

    Raises:
        UserError: no such folder, no pictures in it, only one, or a layout that can be read in two ways.
    """
    _check_shares(val_fraction, train_fraction, max_val)
    root = _existing_folder(root)
    has_train, has_val = (root / "train").is_dir(), (root / "val").is_dir()
    if has_val and not has_train and not val_alone:
        raise UserError(
            f"{root} has a folder val but no folder train: add train, or rename val to use it as any folder"
        )
    memory = FolderMemory(root, runs_dir)
    train: list[str] = []
    if has_val and not has_train:
        val = _pictures_in(root, "val", memory)
    elif not has_train:
        train, val = _split(_pictures_in(root, "", memory), val_fraction, seed, root)
    elif has_val:
        train, val = _pictures_in(root, "train", memory), _pictures_in(root, "val", memory)
    else:
        _refuse_pictures_beside_train(root)
        train, val = _split(_pictures_in(root, "train", memory), val_fraction, seed, root / "train")
    memory.save()
    return _photos(root, train, val, seed, train_fraction, max_val)


def list_imagenet(
    root: str | Path,
    val_fraction: float,
    seed: int,
    train_fraction: float = 1.0,
    max_val: int | None = None,
    file_list: str | Path | None = None,
    runs_dir: str | Path | None = None,
    val_alone: bool = False,
) -> Photos:
    """The pictures of an extracted ImageNet tree, or those that a file lists.

    Without ``file_list``, ``root`` (or ``ILSVRC/Data/CLS-LOC`` or ``Data/CLS-LOC`` in it) holds ``train/`` with a
    folder a class, and ``val/``, flat or with a folder a class.

    A file list is UTF-8 text with one path a line, relative to ``root``; an integer after it (ImageNet's label or
    index) is ignored, and so are empty lines and lines that start with ``#``. Paths in ``train/`` and ``val/`` belong
    to these splits, others are assigned as in :func:`list_folder`; so are all of them where no path is in ``val/``. The
    files are not looked up one by one.

    Args are those of :func:`list_folder`, but for:
        root: the tree.
        val_fraction: for pictures of a file list that are not in ``train/`` or ``val/``.
        file_list: the text file.

    Raises:
        UserError: another layout, or a list that cannot be read, leaves ``root`` or names no pictures.
    """
    _check_shares(val_fraction, train_fraction, max_val)
    root = _existing_folder(root)
    if file_list is not None:
        train, val = _split_list(_read_list(Path(file_list), root), val_fraction, seed, Path(file_list))
        return _photos(root, train, val, seed, train_fraction, max_val)
    for tree in _IMAGENET_TREES:
        has_train = (root / tree / "train").is_dir()
        if (has_train or val_alone) and (root / tree / "val").is_dir():
            root = root / tree
            memory = FolderMemory(root, runs_dir)
            train = _pictures_in(root, "train", memory) if has_train else []
            val = _pictures_in(root, "val", memory)
            memory.save()
            return _photos(root, train, val, seed, train_fraction, max_val)
    raise UserError(
        f"{root} is not an ImageNet tree: expected train/<class>/*.JPEG and val/ in it, or in ILSVRC/Data/CLS-LOC in "
        "it (for any other layout use data=folder)"
    )


def _check_shares(val_fraction: float, train_fraction: float, max_val: int | None) -> None:
    if not 0 <= val_fraction <= 1:
        raise UserError(f"data.val_fraction must be from 0 to 1, not {val_fraction}")
    if not 0 < train_fraction <= 1:
        raise UserError(f"data.train_fraction must be above 0 and at most 1, not {train_fraction}")
    if max_val is not None and max_val < 1:
        raise UserError(f"data.max_val must be at least 1, not {max_val}")


def _existing_folder(root: str | Path) -> Path:
    root = Path(root)
    if not root.exists():
        raise UserError(f"no such folder: {root} (data.root)")
    if not root.is_dir():
        raise UserError(f"not a folder: {root} (data.root)")
    return root


def _pictures_in(root: Path, below: str, memory: FolderMemory) -> list[str]:
    """The sorted identities of all pictures in ``root / below``, at least one."""
    found = sorted(_walk(root, below, memory))
    if not found:
        suffixes = " ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise UserError(f"no images in {root / below} (looked for the extensions {suffixes})")
    return found


def _walk(root: Path, below: str, memory: FolderMemory) -> Iterable[str]:
    """Identities of the pictures in ``root / below``, in no order. No file is stat'ed: there may be millions."""
    seen: set[tuple[int, int]] = set()
    folders = [f"{below}/" if below else ""]
    links: list[str] = []
    # Links come last, so that a picture has the same identity whether or not a link leads to it as well.
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            found = memory.recall(folder, status)
            if found is None:
                found, has_links = _read_folder(root / folder)
                memory.keep(folder, status, found, has_links)
        except OSError as error:
            raise UserError(f"cannot read the folder {root / folder}: {error.strerror}") from error
        yield from (folder + name for name in found.pictures)
        folders += [f"{folder}{name}/" for name, is_link in found.subfolders if not is_link]
        new_links = [f"{folder}{name}/" for name, is_link in found.subfolders if is_link]
        links = sorted(links + new_links, reverse=True)


def _read_folder(path: Path) -> tuple[Folder, bool]:
    """What is in a folder, and whether links are among it."""
    found, has_links = Folder([], []), False
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # os.path for links: it says no to one that leads nowhere or to itself, where the entry raises.
            is_link = entry.is_symlink()
            has_links |= is_link
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                found.subfolders.append((entry.name, is_link))
            elif has_image_suffix(entry.name) and (os.path.isfile(entry.path) if is_link else entry.is_file()):
                found.pictures.append(entry.name)
    return found, has_links


def _refuse_pictures_beside_train(root: Path) -> None:
    """Beside ``train/`` alone, other pictures are a test set or a part of an unsplit folder: only the user knows."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.name == "train" or entry.name.startswith("."):
            continue
        if has_image_suffix(entry.name) or entry.is_dir():
            raise UserError(
                f"{root} has a folder train but no folder val, and beside it {entry.name}: add val, or use the "
                f"pictures in train alone with data.root={root / 'train'}, or rename train to use it as any folder"
            )


def _read_list(file_list: Path, root: Path) -> list[str]:
    try:
        lines = file_list.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the file list {file_list}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the file list {file_list} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    identities: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        text = re.sub(r"\s+-?[0-9]+$", "", text)
        where = f"line {number} of {file_list}"
        if Path(text).anchor or ".." in PurePosixPath(text).parts:
            raise UserError(f"{where} leaves {root}: {text} (paths are relative to data.root, without ..)")
        if not has_image_suffix(text):
            raise UserError(f"{where} names no image: {text} (expected a path with an extension such as .JPEG)")
        identities[PurePosixPath(text).as_posix()] = None
    found = list(identities)
    if not found:
        raise UserError(f"no images in the file list {file_list}")
    # A look at a few: a list made for another root would otherwise come to light in the middle of the first epoch.
    if not any((root / identity).is_file() for identity in found[:10]):
        raise UserError(f"{file_list} does not fit data.root: there is no {root / found[0]}")
    return found


def _split_list(identities: list[str], val_fraction: float, seed: int, file_list: Path) -> tuple[list[str], list[str]]:
    train = [identity for identity in identities if identity.startswith("train/")]
    val = [identity for identity in identities if identity.startswith("val/")]
    if not val:
        return _split(identities, val_fraction, seed, file_list)
    rest = [identity for identity in identities if not identity.startswith(("train/", "val/"))]
    for identity in rest:
        (val if _hash(seed, "split", identity) < val_fraction else train).append(identity)
    if not train:
        raise UserError(f"the file list {file_list} names images for validation only: add some for training")
    return train, val


def _split(identities: list[str], val_fraction: float, seed: int, where: Path) -> tuple[list[str], list[str]]:
    """Each picture to training or validation by its own hash; where one stays empty, it gets the nearest picture."""
    if len(identities) < 2:
        raise UserError(f"only one image in {where}: at least 2 are needed, for training and validation")
    hashes = {identity: _hash(seed, "split", identity) for identity in identities}
    val = [identity for identity in identities if hashes[identity] < val_fraction]
    if not val:
        val = [min(identities, key=lambda identity: hashes[identity])]
    elif len(val) == len(identities):
        val.remove(max(identities, key=lambda identity: hashes[identity]))
    chosen = set(val)
    return [identity for identity in identities if identity not in chosen], val


def _photos(
    root: Path, train: list[str], val: list[str], seed: int, train_fraction: float, max_val: int | None
) -> Photos:
    if train_fraction < 1 and train:
        # Not the hash of the split: that one is above val_fraction for every training picture.
        kept = [identity for identity in train if _hash(seed, "subset", identity) < train_fraction]
        train = kept or [min(train, key=lambda identity: _hash(seed, "subset", identity))]
    val = sorted(val, key=lambda identity: (_hash(seed, "split", identity), identity))
    return Photos(root, sorted(train), val[:max_val])


def _hash(seed: int, purpose: str, identity: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    key = f"{seed}\n{purpose}\n{identity}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 11) / 2**53
