"""Small copies of large training photos, each made when its photo is first read, and read instead from then on.

A copy is a JPEG whose comment states its photo's width, height, size and time. One that does not fit is made anew; one
that is too small for the part that is wanted gives way to its photo.
"""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from colorize.data.images import load_rgb, load_square, square_of
from colorize.data.sources import Photos
from colorize.data.tilt import BoxChooser, sides, tilt
from colorize.photos.opening import UnreadableImage, opened
from colorize.runtime.errors import UserError
from colorize.runtime.files import digest, written_whole
from colorize.runtime.formats import WRITTEN_SUFFIXES
from colorize.runtime.log import log

QUALITY = 95  # of the copies' JPEG, without subsampling of the colours
LEFT_FREE = 5e9  # bytes of the disk that are left to others: with less, photos without a copy are read themselves
_VERSION = 1


@dataclass(frozen=True)
class CopiedPhotos(Photos):
    """Photos with small copies of those whose short side is longer than `px`: for training. Others read the photos."""

    folder: Path = Path()  # of the copies
    px: int = 256  # their short side

    def square(self, identity: str, size_px: int, choose_box: BoxChooser, angle_deg: float = 0.0) -> Image.Image:
        """Return a part as of any photo, from its copy, made now if need be, if that has as many pixels in it."""
        choose_box = cache(choose_box)  # which may draw anew at each call
        path = self.path(identity)
        for _ in range(2):
            # No copy, one of something else, or a spoilt one; of a photo that is gone, reading it tells.
            with suppress(OSError, UnreadableImage, KeyError, TypeError, ValueError):
                status = os.stat(path)
                with opened(copy_path(self.folder, identity)) as copy:
                    stated, width, height = json.loads(copy.info["comment"])
                    if stated == [status.st_size, status.st_mtime_ns]:
                        box, x, y = choose_box(width, height), copy.width / width, copy.height / height
                        if min(sides(tilt(box, angle_deg, width, height))) * min(x, y) < size_px:
                            break
                        scaled = (box[0] * x, box[1] * y, min(box[2] * x, copy.width), min(box[3] * y, copy.height))
                        return square_of(copy, size_px, lambda *_, part=scaled: part, angle_deg)
            if not self._copied(path, copy_path(self.folder, identity)):
                break
        return load_square(path, size_px, choose_box, angle_deg)

    def _copied(self, path: Path, copy: Path) -> bool:
        """Make the copy of a photo; False where it is small enough, cannot be read, or no copy can be written."""
        with suppress(OSError, UnreadableImage):
            status = os.stat(path)  # before it is read: of a photo that changes meanwhile, the copy is out of date
            with opened(path) as photo:
                small = min(photo.size) <= self.px
            if small or shutil.disk_usage(self.folder).free < LEFT_FREE:
                return False
            rgb = load_rgb(path)
            scale = self.px / min(rgb.size)
            size = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
            if max(size) > WRITTEN_SUFFIXES[".jpg"].longest_side_px:
                return False
            comment = json.dumps([[status.st_size, status.st_mtime_ns], rgb.width, rgb.height]).encode()
            small_rgb = rgb.resize(size, Image.Resampling.BICUBIC)
            with written_whole(copy, sync=False) as file:
                small_rgb.save(file, "JPEG", quality=QUALITY, subsampling=0, comment=comment)
            return True
        return False


def copy_path(folder: Path, identity: str) -> Path:
    """Return the file of a photo's copy: no name grows too long, no folder too full."""
    name = digest(identity, size=15).hex()
    return folder / name[:2] / f"{name[2:]}.jpg"


def with_copies(photos: Photos, folder: Path, px: int) -> Photos:
    """Return the photos with copies in `folder`, those of another source or size beside them; scenes as they are.

    Raises UserError where the folder cannot be made.
    """
    if not photos.on_disk:
        return photos
    where = folder / f"copies-{digest(_VERSION, px, QUALITY, photos.root.resolve()).hex()}"
    try:
        where.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(where).free
    except OSError as error:
        raise UserError(f"data.cache: {where}: {error.strerror}; give another data.cache") from error
    if free < LEFT_FREE:
        log.warning(f"data.cache: less than {LEFT_FREE / 1e9:g} GB are free for {where}: no more copies are made")
    return CopiedPhotos(photos.root, photos.train, photos.val, where, px)
