"""Folders of saved generator output, and their manifest: of which photos, at what size, by which checkpoint."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_origin, get_type_hints

import numpy as np
from PIL import Image

from colorize.data.images import save_png
from colorize.data.loading import cut
from colorize.data.shards import Reader, open_shards
from colorize.data.sources import Photos, name_key
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError, brief
from colorize.runtime.files import write_text

FORMAT = 1


class Generated(NamedTuple):
    """A folder of saved generator output: for each photo an image, made from its centre square."""

    folder: Path
    size_px: int  # width and height of these
    reader: Reader | None = None  # of the shards that hold them; None: each is ``IDENTITY.png``

    def content(self, identity: str) -> Path | bytes:
        """Return the file of a photo's image, or what is in it. Raises UnreadableImage."""
        return image_path(self.folder, identity) if self.reader is None else self.reader.content(identity)


def image_path(folder: Path, identity: str) -> Path:
    """Return the path of a photo's saved image, which keeps the photo's own extension, so that none collide."""
    return folder / f"{identity}.png"


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: the photos in `images`, each saved as a centre square of `size_px` at its own path + ".png".

    Of images in shards, it names none: their index has the photos, and unreadable.txt those that could not be decoded.
    """

    checkpoint: str
    checkpoint_sha256: str
    size_px: int
    images: list[str]
    unreadable: list[str]  # photos that could not be decoded
    complete: bool  # all images are there
    averaged: bool = False  # they were made by the checkpoint's averaged weights (EMA)
    photos: str = ""  # a digest of which photos they are of, where they are in shards
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        write_text(folder / "manifest.json", json.dumps(asdict(self), indent=1) + "\n")

    def refuse_to_mix(self, folder: Path) -> None:
        """Raise a UserError where `folder` holds images of other weights, another size or, in shards, other photos."""
        if not (folder / "manifest.json").exists():
            return
        earlier = read_manifest(folder)
        keys = (self.checkpoint_sha256, self.size_px, self.averaged, self.photos)
        if keys != (earlier.checkpoint_sha256, earlier.size_px, earlier.averaged, earlier.photos):
            raise UserError(
                f"{folder} holds {earlier._images}, not {self._images}: remove it, or give another output=DIR"
            )

    @property
    def _images(self) -> str:
        weights = f"{self.checkpoint} ({self.checkpoint_sha256[:8]}, use_ema={str(self.averaged).lower()})"
        return f"images of {self.size_px} px by {weights} of photos {self.photos[:8] or 'in files'}"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of `folder`. Raises UserError where there is none, or it is not one of files in its folder."""
    path = folder / "manifest.json"
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        for name, kind in get_type_hints(Manifest).items():
            if type(value := getattr(manifest, name)) is not (get_origin(kind) or kind):
                raise ValueError(f"{name} is {value!r:.50}")
        if manifest.format != FORMAT or manifest.size_px < 1:
            raise ValueError(f"format {manifest.format} with images of {manifest.size_px} px")
        identities = [PurePosixPath(identity) for identity in manifest.images + manifest.unreadable]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no saved images: run `python -m colorize.generate` first or give generated=DIR"
        ) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a manifest of saved images: {brief(error)}") from error
    for identity in identities:
        if identity.is_absolute() or ".." in identity.parts:
            raise UserError(f"{path} names {identity}, which lies outside its folder")
    return manifest


def with_saved_images(photos: Photos, folder: Path) -> tuple[Photos, Generated]:
    """Return the photos with a saved image in `folder`, and these. Raises UserError where one split has none."""
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise UserError(f"{folder} is unfinished: run `python -m colorize.generate` again, it goes on where it stopped")
    reader = open_shards(str(folder), folder) if manifest.photos else None
    keys = [name_key(identity) for identity in manifest.images] if reader is None else reader.index["name"]
    saved = photos.only(np.sort(np.asarray(keys, np.uint64)))
    if not saved.train or not saved.val:
        part = "training" if not saved.train else "validation"
        raise UserError(
            f"{folder} holds no saved image of a {part} photo in {photos.root}: it was made from other photos or "
            "another split; run `python -m colorize.generate` with the same data.* and seed"
        )
    return saved, Generated(folder, manifest.size_px, reader)


class SavedFiles:
    """Images on their way to files of their own, in parts made by one rank each, always in the same batches.

    (Others in its batch can change the last bit of an image.) Here a part is a batch.
    """

    photos = ""  # of the manifest

    def __init__(self, identities: Sequence[str], output: Path, part_size: int) -> None:
        self.identities, self.output = identities, output
        self.parts = cut(range(len(identities)), part_size)

    def has(self, part: range) -> bool:
        """Return True if nothing of a part, of these places among all photos, is to be made."""
        return all(image_path(self.output, self.identities[place]).is_file() for place in part)

    def write(self, part: range, images: Iterable[tuple[str, Image.Image | UnreadableImage]]) -> None:
        """Write those images of a part that are not there."""
        for identity, image in images:
            path = image_path(self.output, identity)
            if not isinstance(image, UnreadableImage) and not path.is_file():
                save_png(image, path)

    def finish(self, begun: Manifest, unreadable: Collection[str]) -> None:
        """Write what names the images, when all parts are there."""
        saved = [identity for identity in self.identities if identity not in unreadable]
        replace(begun, images=saved, unreadable=sorted(unreadable), complete=True).write(self.output)
