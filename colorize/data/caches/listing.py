"""Listing of the photos in folders of millions, of which it is kept between starts what each folder holds."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

from colorize.data.caches.records import source_digest
from colorize.data.roots import no_images
from colorize.runtime.errors import UserError
from colorize.runtime.files import Folder, read_folder, walk_files, written_whole
from colorize.runtime.formats import IMAGE_SUFFIXES, has_image_suffix
from colorize.runtime.log import log

WORTH_KEEPING = 20_000  # fewer photos are listed anew as fast as they are looked up
_VERSION = 1
_GRANULE_NS = 2_000_000_000  # file systems' clocks may stand still so long (FAT), so that changes leave no other stamp


class Listing:
    """The photos below a root, by folders.

    What a folder holds is taken from the cache where its times of change (of its entries, and of itself, which `touch`,
    `rsync` and `tar` cannot set back) are those of when it was read. A folder is not kept where it had just changed
    before, when another change would leave the same times; nor where a link is in it.
    """

    def __init__(self, root: Path, runs_dir: str | os.PathLike[str] | None) -> None:
        """Open the cache, a file in the `.cache` of `runs_dir`; None: nothing is kept."""
        self.root = root
        self._file = None if runs_dir is None else listing_file(runs_dir, root)
        self._known: dict[str, Any] = {}  # by folder: its times, and what it holds
        self._current: dict[str, Any] = {}
        if self._file is not None and self._file.exists():
            try:
                self._known = json.loads(gzip.decompress(self._file.read_bytes()))  # which has a checksum
            except Exception:  # a damaged archive fails in many ways
                log.info(f"{self._file} is damaged: the photos are listed anew")

    def photos_in(self, below: str) -> list[str]:
        """Return the sorted paths, relative to the root, of the photos in its folder `below` ("": all).

        Links to folders are followed, hidden ones left out. Raises UserError where a folder cannot be read or has none.
        """
        try:
            walked = walk_files(self.root, f"{below}/" if below else "", self._read)
            found = sorted(folder + name for folder, names in walked for name in names)
        except OSError as error:
            raise UserError(f"cannot read the folder {Path(error.filename)}: {error.strerror}") from error
        if not found:
            raise no_images(self.root / below)
        return found

    def _read(self, path: str) -> Folder:
        """Return the subfolders and photos in a folder. No file is stat'ed: there may be millions."""
        folder, status = path.removeprefix(os.path.join(self.root, "")), os.stat(path)
        times = [status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(folder)
        if known is not None and known[0] == times:
            self._current[folder] = known
            return Folder(*known[1])
        found = read_folder(path, has_image_suffix)
        if not found.has_links and max(times) + _GRANULE_NS < time.time_ns():
            self._current[folder] = times, (found.subfolders, found.files)
        return found

    def save(self) -> None:
        """Write the cache, whole or not at all, if there is something new that is worth it."""
        if self._file is None or self._current == self._known:
            return
        if sum(len(photos) for _, (_, photos) in self._current.values()) < WORTH_KEEPING:
            return
        try:
            with written_whole(self._file, sync=False) as file:
                file.write(gzip.compress(json.dumps(self._current).encode(), compresslevel=1))
        except OSError as error:
            log.warning(f"{self._file}: {error.strerror}; the photos will be listed again at the next start")


def listing_file(runs_dir: str | os.PathLike[str], root: Path) -> Path:
    """Path of the cached listing of the folders below `root`."""
    return Path(runs_dir) / ".cache" / f"listing-{source_digest(root, _VERSION, *IMAGE_SUFFIXES)}.json.gz"
