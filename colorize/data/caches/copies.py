"""Small copies of large training photos, made once and read instead of them (`data.cache`).

A copy is a JPEG whose comment states its photo's width, height, size and time. One that does not fit, or is too small
for the part that is wanted, gives way to its photo. An index tells what is there.
"""

import io
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from colorize.data.caches.records import STAMP, held, source_digest, stamps, worked_through
from colorize.data.datasets import PhotoDataset
from colorize.data.images import load_rgb, load_square, square_of
from colorize.data.sources import Photos
from colorize.data.tilt import BoxChooser, sides, tilt
from colorize.photos.opening import UnreadableImage, opened
from colorize.runtime.errors import UserError
from colorize.runtime.files import digest, written_whole
from colorize.runtime.formats import WRITTEN_SUFFIXES
from colorize.runtime.log import log

QUALITY = 95  # of the copies' JPEG, without subsampling of the colours
_VERSION = 1
_ROW = np.dtype([("key", "S16"), ("bytes", "i8"), ("mtime_ns", "i8"), ("copy_bytes", "i8")])
"""A line of the index: `copy_bytes` is 0 where the photo is small enough. Of several for a key, the last counts."""


@dataclass(frozen=True)
class CopiedPhotos(Photos):
    """Photos of which small copies may be there: for training. Evaluation reads the photos themselves."""

    folder: Path = Path()  # of the copies

    def square(self, identity: str, size_px: int, choose_box: BoxChooser, angle_deg: float = 0.0) -> Image.Image:
        """Return a part as of any photo, from the copy if that has as many pixels in it."""
        choose_box = cache(choose_box)  # which may draw anew at each call
        path = self.path(identity)
        # No copy, one of something else, or a spoilt one; of a photo that is gone, reading it tells.
        with suppress(OSError, UnreadableImage, KeyError, TypeError, ValueError):
            status = os.stat(path)
            with opened(copy_path(self.folder, key_of(identity))) as copy:
                stated, width, height = json.loads(copy.info["comment"])
                if stated == [status.st_size, status.st_mtime_ns]:
                    box, x, y = choose_box(width, height), copy.width / width, copy.height / height
                    if min(sides(tilt(box, angle_deg, width, height))) * min(x, y) >= size_px:
                        scaled = (box[0] * x, box[1] * y, min(box[2] * x, copy.width), min(box[3] * y, copy.height))
                        return square_of(copy, size_px, lambda *_: scaled, angle_deg)
        return load_square(path, size_px, choose_box, angle_deg)


def key_of(identity: str) -> bytes:
    """Return 16 bytes that stand for an identity, without a zero at the end, which numpy would cut off."""
    return digest(identity, size=15) + b"\1"


def copy_path(folder: Path, key: bytes) -> Path:
    """Return the file of a photo's copy: no name grows too long, no folder too full."""
    name = key[:-1].hex()
    return folder / name[:2] / f"{name[2:]}.jpg"


def make_copies(photos: Photos, folder: Path, px: int, limit_gb: float, num_workers: int) -> Photos:
    """Copy those training photos that lack a copy, and return all with their copies; scenes come back as they are.

    A photo gets one where its short side is longer than `px`, which is that of its copy. As many are made, always of
    the same photos, as `limit_gb` of this source at this size, in 10⁹ bytes, allows for, by `num_workers` processes (0:
    this one). Raises UserError where the folder cannot be written, or the disk is full.
    """
    if not photos.on_disk:
        return photos
    where = copies_folder(folder, photos.root, px)
    with held(where / "index", "copying", "data.cache"):
        try:
            _make(photos, where, px, int(limit_gb * 1e9), num_workers)
        except OSError as error:
            raise UserError(
                f"data.cache: {where}: {error.strerror}; make room (what is copied stays), or give another data.cache"
            ) from error
    return CopiedPhotos(photos.root, photos.train, photos.val, where)


def copies_folder(folder: Path, root: Path, px: int) -> Path:
    """Return the folder of the copies of the photos below `root`; those of another size or quality lie beside it."""
    return folder / f"copies-{source_digest(root, _VERSION, px, QUALITY)}"


def _make(photos: Photos, where: Path, px: int, limit: int, num_workers: int) -> None:
    rows = np.zeros(len(photos.train), _ROW)
    rows["key"] = [key_of(identity) for identity in photos.train]
    rows[STAMP] = stamps(photos.root, photos.train)
    index = where / "index"
    index.touch()
    lines = np.fromfile(index, _ROW)
    os.truncate(index, lines.nbytes)  # without the part of a line that an interrupted writer leaves
    last = {key: number for number, key in enumerate(lines["key"].tolist())}
    taken = int(lines["copy_bytes"][list(last.values())].sum())
    # Each photo's own line, or zeros.
    known = np.append(lines, np.zeros(1, _ROW))[[last.get(key, -1) for key in rows["key"].tolist()]]
    rows["copy_bytes"] = known["copy_bytes"]
    fields = ["key", *STAMP]
    missing = np.flatnonzero((rows["bytes"] >= 0) & (known[fields] != rows[fields]))
    missing = missing[np.argsort(rows["key"][missing])]  # the same ones first, whatever their folders
    if not len(missing):
        return
    dataset = _CopyDataset(photos, [photos.train[place] for place in missing], px)
    # A few on trial, to say how much room all will take.
    trial = [data for number in range(min(40, len(dataset))) if (data := dataset[number]) is not None]
    about = len(missing) * sum(map(len, trial)) / max(1, len(trial))
    log.info(
        f"data.cache: {len(missing)} of {len(rows)} training photos lack a copy of {px} px: about {about / 1e9:.2g} GB "
        f"more, beside {taken / 1e9:.2g} GB; data.cache_gb={limit / 1e9:g} ({where})"
    )
    with index.open("ab", buffering=0) as file:
        made = worked_through(dataset, "copying photos", num_workers)
        for done, (row, data) in enumerate(zip(rows[missing], made, strict=True)):
            if data is None:  # unreadable: it will be met, named and counted where it is read
                continue
            grown = len(data) - int(row["copy_bytes"])  # of the copy that it replaces
            if taken + grown > limit:
                log.warning(
                    f"data.cache_gb={limit / 1e9:g} is reached: {len(missing) - done} training photos stay without a "
                    "copy, and are read themselves"
                )
                break
            if data:
                with written_whole(copy_path(where, row["key"].item()), sync=False) as copy:
                    copy.write(data)
            taken += grown
            row["copy_bytes"] = len(data)
            file.write(row.tobytes())


class _CopyDataset(PhotoDataset[bytes | None]):
    """Files of copies of `size_px`; empty where a photo does without one, None where it cannot be read."""

    def __getitem__(self, number: int) -> bytes | None:
        path = self.photos.path(self.identities[number])
        try:
            status = os.stat(path)  # before it is read: of a photo that changes meanwhile, the copy is out of date
            rgb = load_rgb(path)
        except (OSError, UnreadableImage):
            return None
        scale = self.size_px / min(rgb.size)
        size = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
        if scale >= 1 or max(size) > WRITTEN_SUFFIXES[".jpg"].longest_side_px:
            return b""
        comment = json.dumps([[status.st_size, status.st_mtime_ns], rgb.width, rgb.height]).encode()
        file = io.BytesIO()
        rgb.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY, subsampling=0, comment=comment)
        return file.getvalue()
