"""What stands in folders of millions of photos: kept between starts, and packed for the processes that read them."""

import gzip
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from colorize.runtime.files import written_whole
from colorize.runtime.formats import IMAGE_SUFFIXES

log = logging.getLogger("colorize")

WORTH_KEEPING = 20_000
"""Fewer photos are listed anew as fast as they are looked up."""

_VERSION = 1
_GRANULE_NS = 2_000_000_000
"""A file system's clock may stand still so long (FAT); what happens within it leaves no other stamp."""


class Folder(NamedTuple):
    """What is in a folder, hidden names left out."""

    subfolders: list[tuple[str, bool]]
    """Their names, and whether each is a link."""
    pictures: list[str]
    """Names that end as a picture's, of files."""


class FolderMemory:
    """What was in each folder below a root when it was last read.

    A folder is taken from here where its times of change (of its entries, and of itself, which `touch`, `rsync` and
    `tar` cannot set back) are those of that moment, so that one look at each folder replaces one at each file. It is
    not kept where it had changed just before it was read, when another change would leave the same times; nor where a
    link is in it, whose target may change elsewhere.

    The memory is a file in the `.cache` of `runs_dir`; None: nothing is remembered.
    """

    def __init__(self, root: Path, runs_dir: str | os.PathLike[str] | None = None) -> None:
        self._file = None if runs_dir is None else memory_file(runs_dir, root)
        self._known: dict[str, tuple[tuple[int, int], Folder]] = {}
        self._new: dict[str, tuple[tuple[int, int], Folder]] = {}
        if self._file is not None and self._file.exists():
            try:
                stored = json.loads(gzip.decompress(self._file.read_bytes()))  # which has a checksum
                for folder, ((changed, set_), (subfolders, pictures)) in stored.items():
                    found = Folder([(name, is_link) for name, is_link in subfolders], pictures)
                    self._known[folder] = (changed, set_), found
            except Exception:  # a damaged archive fails in many ways
                self._known = {}
                log.info(f"{self._file} is damaged: the photos are listed anew")

    def recall(self, folder: str, status: os.stat_result) -> Folder | None:
        """What is in `folder` (relative to the root), if it has not changed; `status` is its own, of now."""
        times, found = self._known.get(folder, (None, None))
        if found is None or times != _times(status):
            return None
        self._new[folder] = _times(status), found
        return found

    def keep(self, folder: str, status: os.stat_result, found: Folder, has_links: bool) -> None:
        """Remember what was found in `folder` after `status` was taken."""
        if not has_links and max(_times(status)) + _GRANULE_NS < time.time_ns():
            self._new[folder] = _times(status), found

    def save(self) -> None:
        """Write it, whole or not at all, if there is something new that is worth it."""
        if self._file is None or self._new == self._known:
            return
        if sum(len(found.pictures) for _, found in self._new.values()) < WORTH_KEEPING:
            return
        try:
            with written_whole(self._file, sync=False) as file:
                file.write(gzip.compress(json.dumps(self._new).encode(), compresslevel=1))
        except OSError as error:
            log.warning(f"{self._file}: {error.strerror}; the photos will be listed again at the next start")


def memory_file(runs_dir: str | os.PathLike[str], root: Path) -> Path:
    """Where the listing of the folders below `root` is kept."""
    key = f"{_VERSION}\n{' '.join(IMAGE_SUFFIXES)}\n{root.resolve()}".encode("utf-8", "surrogatepass")
    return Path(runs_dir) / ".cache" / f"listing-{blake2b(key, digest_size=8).hexdigest()}.json.gz"


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


class Names(Sequence[str]):
    """A sequence of names in two tensors, which torch's worker processes share instead of copying.

    A list of 1.3 million would be 0.15 GB in each worker, unpickled at the start of each epoch.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._ends = torch.from_numpy(np.cumsum(lengths))
        self._text = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number, ends = range(len(self))[index], self._ends.numpy()
        begin = ends[number - 1] if number else 0
        return self._text.numpy()[begin : ends[number]].tobytes().decode("utf-8", "surrogatepass")
