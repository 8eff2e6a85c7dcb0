"""Size and colourfulness of the photos of a source, measured once and kept in a cache of JSON lines.

Of several lines for a photo, the one that fits its size and time counts. What cannot be read is always tried again.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from colorize.data.datasets import PhotoDataset
from colorize.data.images import Thumbnail
from colorize.data.loading import make_loader
from colorize.data.shards import PackedPhotos
from colorize.data.sources import Photos
from colorize.data.tensors import to_uint8
from colorize.metrics import colourfulness
from colorize.photos.opening import UnreadableImage
from colorize.runtime.errors import UserError
from colorize.runtime.files import digest
from colorize.runtime.log import log
from colorize.runtime.progress import tracked

STAMP = ["bytes", "mtime_ns"]  # tell one state of a file from another; `bytes` is -1 where there is no such file
FEW = 200  # so many photos are measured before worker processes have started
SIZE_PX = 64  # each photo is measured as a whole, squeezed into a square of this side
ROW = np.dtype(
    [
        ("bytes", "i8"),  # -1: no such file
        ("mtime_ns", "i8"),
        ("width", "i4"),  # 0: unreadable
        ("height", "i4"),
        ("colourfulness", "f4"),
    ]
)
"""One photo's record, of 28 bytes: there may be millions. Sizes are those of the upright photo, in pixels."""

_VERSION = 2  # to be raised where the numbers change their meaning: older caches are then left aside
Measured = tuple[int, int, float]  # the fields of ROW after the file's size and time


class Survey(NamedTuple):
    """Measurements, photo by photo."""

    rows: NDArray[Any]  # a ROW for each identity, in the order that was asked for
    unreadable: dict[str, str]  # identities of the files that cannot be read, and why


def survey(photos: Photos, identities: Sequence[str], runs_dir: str | Path, num_workers: int) -> Survey:
    """Measure the photos that are new or have changed since the last time, in ``num_workers`` processes (0: this one).

    Built-in scenes are measured every time. Raises UserError where the cache, in ``runs_dir``, cannot be written.
    """
    rows = np.zeros(len(identities), ROW)
    if not photos.on_disk:
        return Survey(rows, _measure(photos, identities, rows, num_workers, io.BytesIO()))
    root = Path(photos.root)
    cache = cache_file(runs_dir, root)
    with _held(cache):
        rows[STAMP] = _stamps(root, identities)
        with cache.open("ab", buffering=0) as lines, cache.open("rb") as kept:
            _recall(kept, identities, rows)
            lines.write(b"\n")  # after the part of a line that an interrupted start may have left
            return Survey(rows, _measure(photos, identities, rows, num_workers, lines))


def leave_out_dull(photos: Photos, least: float, runs_dir: str | Path, num_workers: int) -> Photos:
    """Return the photos less those for training duller than ``least``. Raises UserError where none is left."""
    kept: Sequence[str]
    rows, unreadable = np.zeros(0, ROW), dict[str, str]()
    if isinstance(photos, PackedPhotos):  # measured when they were packed
        kept = photos.where(lambda rows: rows["colourfulness"] >= least).train
    else:
        rows, unreadable = survey(photos, photos.train, runs_dir, num_workers)
        dull = (rows["width"] > 0) & (rows["colourfulness"] < least)
        kept = [name for name, out in zip(photos.train, dull, strict=True) if not out]
    told, count = f"data.min_colourfulness={least:g} leaves", len(photos.train)
    if len(unreadable) == len(kept) < count:
        most = f" (the most colourful has {rows['colourfulness'].max():.1f})" if len(rows) else ""
        raise UserError(f"{told} no training photo in {photos.root}{most}: lower it, or use null to keep all")
    stay = f" ({len(unreadable)} unreadable ones stay in, to be met and counted)" if unreadable else ""
    log.info(f"{told} out {count - len(kept)} of {count} training photos{stay}")
    return replace(photos, train=kept)


def cache_file(runs_dir: str | Path, root: Path) -> Path:
    """Path of the cache of the photos below ``root``."""
    return Path(runs_dir) / ".cache" / f"survey-{digest(_VERSION, root.resolve()).hex()}.jsonl"


@contextmanager
def _held(cache: Path) -> Iterator[None]:
    """Hold a cache for this process; others wait, and find everything done. Raises UserError where it cannot be."""
    lock = FileLock(cache.with_suffix(".lock"))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            holding = lock.acquire(timeout=0)
        except Timeout:
            log.info(f"waiting for another process, which is measuring the same photos ({cache})")
            holding = lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{cache.parent} cannot be written ({error}): choose another runs_dir=DIR") from error
    with holding:
        yield


def _stamps(root: Path, identities: Sequence[str]) -> NDArray[Any]:
    """Return the `STAMP` of each file, asked for in threads: on a network drive each answer takes its time."""

    def stamp(identity: str) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(root, identity))
        except (OSError, ValueError):  # whatever is wrong with it, reading it will tell
            return -1, 0
        return status.st_size, status.st_mtime_ns

    with ThreadPool(16) as pool:
        return np.array(pool.map(stamp, identities, chunksize=1000), [(name, "i8") for name in STAMP])


def _recall(cache: BinaryIO, identities: Sequence[str], rows: NDArray[Any]) -> None:
    """Fill in what the lines of a cache have of these photos as they are now; broken lines are passed over."""
    places, current = {identity: place for place, identity in enumerate(identities)}, rows[STAMP]
    for line in cache:
        with suppress(ValueError, TypeError, OverflowError):
            identity, *values = json.loads(line)
            place = places.get(identity)
            if place is not None and current[place].tolist() == tuple(values[:2]):
                rows[place] = tuple(values)


def _measure(
    photos: Photos, identities: Sequence[str], rows: NDArray[Any], num_workers: int, cache: BinaryIO | io.RawIOBase
) -> dict[str, str]:
    missing = np.flatnonzero(rows["width"] <= 0).tolist()
    unreadable: dict[str, str] = {}
    if not missing:
        return unreadable
    dataset = _Measurements(photos, [identities[place] for place in missing], SIZE_PX)
    loader = make_loader(dataset, num_workers if len(missing) > FEW else 0, (__name__,), batch_size=None)
    for place, measured in zip(missing, tracked(loader, "measuring photos", len(missing)), strict=True):
        if isinstance(measured, str):
            unreadable[identities[place]] = measured
            continue
        stamp = rows[STAMP][place].tolist()
        rows[place] = (*stamp, *measured)
        if stamp[0] >= 0:
            cache.write(json.dumps([identities[place], *stamp, *measured]).encode() + b"\n")
    return unreadable


class _Measurements(PhotoDataset[Measured | str]):
    def __getitem__(self, index: int) -> Measured | str:
        try:
            found = self.photos.thumbnail(self.identities[index], self.size_px)
        except UnreadableImage as error:
            return str(error)
        return measure(found)


def measure(found: Thumbnail) -> Measured:
    """Measure a photo."""
    colour = float(colourfulness(to_uint8(found.square).unsqueeze(0).float() / 255))
    return found.width, found.height, round(colour, 2)
