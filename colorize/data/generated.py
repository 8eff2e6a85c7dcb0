"""Folders of saved generator output, and their manifest: of which photos, at what size, by which checkpoint."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_origin, get_type_hints

from colorize.data.sources import Photos
from colorize.runtime.errors import UserError, brief
from colorize.runtime.files import write_text

FORMAT = 1


class Generated(NamedTuple):
    """A folder of saved generator output: for each photo, ``IDENTITY.png``, made from its centre square."""

    folder: Path
    size_px: int  # width and height of these


def image_path(folder: Path, identity: str) -> Path:
    """Return the path of a photo's saved image, which keeps the photo's own extension, so that none collide."""
    return folder / f"{identity}.png"


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: the photos in `images`, each saved as a centre square of `size_px` at its own path + ".png"."""

    checkpoint: str
    checkpoint_sha256: str
    size_px: int
    images: list[str]
    unreadable: list[str]  # photos that could not be decoded
    complete: bool  # all images are there
    averaged: bool = False  # they were made by the checkpoint's averaged weights (EMA)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        write_text(folder / "manifest.json", json.dumps(asdict(self), indent=1) + "\n")


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
    saved = photos.only(manifest.images)
    if not saved.train or not saved.val:
        part = "training" if not saved.train else "validation"
        raise UserError(
            f"{folder} holds no saved image of a {part} photo in {photos.root}: it was made from other photos or "
            "another split; run `python -m colorize.generate` with the same data.* and seed"
        )
    return saved, Generated(folder, manifest.size_px)
