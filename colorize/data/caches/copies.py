"""Small copies of large training photos, made once and read instead of them (`data.cache`).

A copy is a JPEG that says itself, in its comment, what it is a copy of: size and time of the photo's file, and the
photo's width and height. Whoever reads one compares; a copy that does not fit, or is too small for the part that is
wanted, gives way to its photo. An index beside the copies tells what is there without opening them.
"""

import io
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from colorize.data.caches.survey import held, stat_files
from colorize.data.datasets import PhotoDataset, leave_signals_alone, make_loader
from colorize.data.images import load_rgb, load_square, square_of
from colorize.data.sources import Photos
from colorize.data.tilt import Box, sides, tilt
from colorize.photos.opening import UnreadableImage, opened
from colorize.runtime.errors import UserError
from colorize.runtime.files import written_whole
from colorize.runtime.progress import tracked

log = logging.getLogger("colorize")

QUALITY = 95
"""Of the copies' JPEG, without subsampling of the colours."""

_VERSION = 1
_LONGEST_PX = 65_500
_SAMPLE = 40
"""Photos that are copied on trial, to say how much room all will take."""

_ROW = np.dtype([("key", "S16"), ("bytes", "i8"), ("mtime_ns", "i8"), ("copy_bytes", "i8")])
"""A line of the index: `copy_bytes` is 0 where the photo itself is small enough."""


@dataclass(frozen=True)
class CopiedPhotos(Photos):
    """Photos of which small copies may be there: for training. What is evaluated is the photos themselves."""

    folder: Path = Path()
    """Of the copies."""

    def square(
        self, identity: str, size_px: int, choose_box: Callable[[int, int], Box], angle_deg: float = 0.0
    ) -> Image.Image:
        """As of any photo: the same part, from the copy if that has as many pixels in it."""
        boxes: list[Box] = []

        def once(width: int, height: int) -> Box:  # what chooses may draw anew at each call
            if not boxes:
                boxes.append(choose_box(width, height))
            return boxes[0]

        path = self.path(identity)
        with suppress(OSError, UnreadableImage):  # no copy, or a spoilt one; of a photo that is gone, reading it tells
            status = os.stat(path)
            wanted = (status.st_size, status.st_mtime_ns)
            with opened(copy_path(self.folder, key_of(identity))) as copy:
                found = _square_of_copy(copy, wanted, size_px, once, angle_deg)
            if found is not None:
                return found
        return load_square(path, size_px, once, angle_deg)


def _square_of_copy(
    copy: Image.Image, of: tuple[int, int], size_px: int, choose_box: Callable[[int, int], Box], angle_deg: float
) -> Image.Image | None:
    """The part of a photo from its copy; None where the copy is of another state of its file, or too small."""
    try:
        stated, width, height = json.loads(copy.info["comment"])
    except (KeyError, ValueError, TypeError):
        return None
    if tuple(stated) != of:
        return None
    box, x, y = choose_box(width, height), copy.width / width, copy.height / height
    least = min(sides(tilt(box, angle_deg, width, height)) if angle_deg else (box[2] - box[0], box[3] - box[1]))
    if least * min(x, y) < size_px:
        return None
    scaled = (box[0] * x, box[1] * y, min(box[2] * x, copy.width), min(box[3] * y, copy.height))
    return square_of(copy, size_px, lambda *_: scaled, angle_deg)


def key_of(identity: str) -> bytes:
    """16 bytes that stand for an identity."""
    # No zero at the end, which numpy would cut off.
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=15).digest() + b"\1"


def copy_path(folder: Path, key: bytes) -> Path:
    """Where a photo's copy lies: no name grows too long, no folder too full."""
    name = key[:-1].hex()
    return folder / name[:2] / f"{name[2:]}.jpg"


def make_copies(photos: Photos, folder: Path, px: int, limit_gb: float, num_workers: int) -> Path | None:
    """Copy those training photos that lack a copy; where the copies are then, None for scenes, which have no files.

    A photo gets one where its short side is longer than `px`. What has one that is up to date is left alone, so that an
    interrupted start goes on; a photo that has changed gets a new one. Where the limit does not allow for all, as many
    as it does are made, always of the same photos.

    Args:
        folder: of the copies of any number of sources.
        px: short side of a copy.
        limit_gb: the most that the copies of this source, at this size, may take in 10⁹ bytes.
        num_workers: processes that make copies; 0 makes them in this one.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    if not photos.on_disk:
        return None
    where = copies_folder(folder, photos.root, px)
    with held(where / "index", "copying", "data.cache"):
        try:
            _make(photos, where, px, int(limit_gb * 1e9), num_workers)
        except OSError as error:
            raise UserError(
                f"data.cache: {where}: {error.strerror}; make room (what is copied stays), or give another data.cache"
            ) from error
    return where


def copies_folder(folder: Path, root: Path, px: int) -> Path:
    """Where the copies of the photos below `root` lie: others, of another size or quality, lie beside it."""
    key = f"{_VERSION}\n{px}\n{QUALITY}\n{root.resolve()}".encode("utf-8", "surrogatepass")
    return folder / f"copies-{blake2b(key, digest_size=8).hexdigest()}"


def _make(photos: Photos, where: Path, px: int, limit: int, num_workers: int) -> None:
    rows = np.zeros(len(photos.train), _ROW)
    rows["key"] = [key_of(identity) for identity in photos.train]
    stat_files(photos.root, photos.train, rows)
    index = where / "index"
    fresh, taken, stale = _recall(index, rows)
    missing = np.flatnonzero(~fresh & (rows["bytes"] >= 0))
    missing = missing[np.argsort(rows["key"][missing])]  # the same ones first, whatever their folders
    if not len(missing):
        return
    dataset = _CopyDataset(photos, [photos.train[place] for place in missing], px)
    copied = (dataset.copy(number) for number in range(min(_SAMPLE, len(dataset))))
    trial = [found for found in copied if found is not None]
    about = len(missing) * sum(len(data) for data in trial) / max(1, len(trial))
    log.info(
        f"data.cache: {len(missing)} of {len(rows)} training photos lack a copy of {px} px: about {about / 1e9:.2g} GB "
        f"more, beside {taken / 1e9:.2g} GB; data.cache_gb={limit / 1e9:g} ({where})"
    )
    workers = num_workers if len(missing) > 4 * _SAMPLE else 0
    loader = make_loader(dataset, workers, [__name__], batch_size=None, worker_init_fn=leave_signals_alone)
    left = len(missing)
    with index.open("r+b" if index.exists() else "w+b", buffering=0) as lines:
        lines.seek(lines.seek(0, os.SEEK_END) // _ROW.itemsize * _ROW.itemsize)
        for number, data in tracked(loader, "copying photos", left):
            row = rows[missing[number]]
            if data is not None:  # else it is unreadable: it will be met, named and counted where it is read
                grown = len(data) - stale.get(row["key"].item(), 0)
                if taken + grown > limit:
                    break
                if data:
                    with written_whole(copy_path(where, row["key"].item()), sync=False) as file:
                        file.write(data)
                taken += grown
                row["copy_bytes"] = len(data)
                lines.write(row.tobytes())
            left -= 1
    if left:
        log.warning(
            f"data.cache_gb={limit / 1e9:g} is reached: {left} training photos stay without a copy, and are read "
            "themselves"
        )


class _CopyDataset(PhotoDataset[tuple[int, bytes | None]]):
    """Makes copies of `size_px`: a sample is its number and what `copy` says."""

    def copy(self, number: int) -> bytes | None:
        """A copy's file; empty where the photo does without one, None where it cannot be read."""
        path = self.photos.path(self.identities[number])
        try:
            status = os.stat(path)  # before it is read: of a photo that changes meanwhile, the copy is out of date
            rgb = load_rgb(path)
        except (OSError, UnreadableImage):
            return None
        scale = self.size_px / min(rgb.size)
        size = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
        if scale >= 1 or max(size) > _LONGEST_PX:
            return b""
        comment = json.dumps([[status.st_size, status.st_mtime_ns], rgb.width, rgb.height]).encode()
        file = io.BytesIO()
        small = rgb.resize(size, Image.Resampling.BICUBIC)
        small.save(file, "JPEG", quality=QUALITY, subsampling=0, comment=comment)
        return file.getvalue()

    def __getitem__(self, number: int) -> tuple[int, bytes | None]:
        return number, self.copy(number)


def _recall(index: Path, rows: NDArray[Any]) -> tuple[NDArray[np.bool_], int, dict[bytes, int]]:
    """Which of these photos have a copy as they are now; bytes of all copies; bytes of those out of date, by key."""
    none: NDArray[np.bool_] = np.zeros(len(rows), bool)
    if not index.exists():
        return none, 0, {}
    whole = index.stat().st_size // _ROW.itemsize  # an interrupted writer's last words are not
    known = np.fromfile(index, _ROW, whole)[::-1]
    _, newest = np.unique(known["key"], return_index=True)  # of several lines for a photo, the last
    known = known[newest]  # sorted by key
    if not len(known):
        return none, 0, {}
    places = np.searchsorted(known["key"], rows["key"]).clip(max=len(known) - 1)
    there = known[places]
    same = there["key"] == rows["key"]
    fresh = same & (there["bytes"] == rows["bytes"]) & (there["mtime_ns"] == rows["mtime_ns"])
    out_of_date = there[same & ~fresh]
    stale = dict(zip(out_of_date["key"].tolist(), out_of_date["copy_bytes"].tolist(), strict=True))
    return fresh, int(known["copy_bytes"].sum()), stale
