"""What the photos of a source are like (size, format, colour), measured once and kept in a cache.

The cache is a file of JSON lines, one a photo, to which lines are added: an interrupted survey goes on where it
stopped, and of two lines for a photo that which fits the file's size and time counts. Once there are more than two for
each photo that it knows, all but the last of each go. What cannot be read is not kept, since a
mended permission or disk leaves no trace in either; such files are tried again.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from colorize.data.datasets import LookDataset, Looks, join_looks, make_loader
from colorize.data.sources import Photos
from colorize.metrics import colourfulness
from colorize.runtime.errors import UserError, writing
from colorize.runtime.files import written_whole
from colorize.runtime.progress import tracked

log = logging.getLogger("colorize")

SIZE_PX = 64
"""Each photo is measured as a whole, squeezed into a square of this side."""

ROW = np.dtype(
    [
        ("bytes", "i8"),  # -1: no such file
        ("mtime_ns", "i8"),
        ("format", "S5"),
        ("width", "i4"),  # 0: unreadable
        ("height", "i4"),
        ("spread", "u1"),  # largest difference between two channels of a pixel, of 255
        ("colourfulness", "f4"),
    ]
)
"""What is known of a photo, in 34 bytes: there may be millions. Sizes are those of the upright picture."""

_VERSION = 1
"""To be raised where the figures change their meaning: older caches are then left aside."""
_BATCH = 64
_STAT_THREADS = 16


@dataclass(frozen=True)
class Survey:
    """What was found, photo by photo."""

    rows: NDArray[Any]
    """One of ``ROW`` for each identity, in the order that was asked for."""
    unreadable: dict[str, str]
    """Identities of the files that cannot be read, and why."""


def survey(photos: Photos, identities: Sequence[str], runs_dir: str | Path, num_workers: int) -> Survey:
    """Looks at those photos that are new or have changed since the last time.

    Built-in scenes, which have no files, are drawn and measured every time.

    Args:
        identities: which of the photos.
        runs_dir: the cache lies in its ``.cache``, one file for each source.
        num_workers: processes that read photos; 0 reads in this one.

    Raises:
        UserError: the cache cannot be written.
    """
    rows = np.zeros(len(identities), ROW)
    if not photos.on_disk:
        return Survey(rows, _measure(photos, identities, rows, num_workers))
    cache = cache_file(runs_dir, photos.root)
    with held(cache, "measuring", "runs_dir"):
        stat_files(photos.root, identities, rows)
        _recall(cache, identities, rows)
        with cache.open("a+b") as file:
            if file.tell() == 0:
                file.write(json.dumps({"photos": str(photos.root.resolve())}).encode() + b"\n")
            else:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # an interrupted writer's last words
                    file.write(b"\n")
            return Survey(rows, _measure(photos, identities, rows, num_workers, file))


def leave_out_dull(photos: Photos, least: float, runs_dir: str | Path, num_workers: int) -> Photos:
    """The same photos without those for training whose colourfulness is below ``least``.

    Unreadable files stay: they are reported and counted where they are met.

    Raises:
        UserError: no readable photo is left for training.
    """
    found = survey(photos, photos.train, runs_dir, num_workers)
    rows = found.rows
    dull = is_dull(rows, least)
    if dull.any() and not (readable(rows) & ~dull).any():
        raise UserError(
            f"data.min_colourfulness={least:g} leaves no training photo in {photos.root}: the most colourful has "
            f"{rows['colourfulness'].max():.1f}; lower it, or use null to keep all"
        )
    log.info(
        f"data.min_colourfulness={least:g} leaves out {dull.sum()} of {len(dull)} training photos"
        + (f" ({len(found.unreadable)} unreadable ones stay in, to be met and counted)" if found.unreadable else "")
    )
    return replace(photos, train=[name for name, out in zip(photos.train, dull, strict=True) if not out])


def readable(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which photos could be read."""
    return np.asarray(rows["width"] > 0)


def is_dull(rows: NDArray[Any], least: float) -> NDArray[np.bool_]:
    """Which photos are readable, and less colourful than ``least``."""
    return readable(rows) & (rows["colourfulness"] < least)


def cache_file(runs_dir: str | Path, root: Path) -> Path:
    """Where the figures of the photos below ``root`` are kept."""
    key = f"{_VERSION}\n{root.resolve()}".encode("utf-8", "surrogateescape")
    return Path(runs_dir) / ".cache" / f"survey-{blake2b(key, digest_size=8).hexdigest()}.jsonl"


@contextmanager
def held(cache: Path, doing: str, key: str) -> Iterator[None]:
    """Holds a cache for this process. Others (ranks of a fit, jobs of a sweep) wait, and find everything done.

    Raises:
        UserError: its folder cannot be written.
    """
    lock = FileLock(cache.with_suffix(".lock"))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            holding = lock.acquire(timeout=0)
        except Timeout:
            log.info(f"waiting for another process, which is {doing} the same photos ({cache})")
            holding = lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{cache.parent} cannot be written ({error}): choose another {key}=DIR") from error
    with holding:
        yield


def stat_files(root: Path, identities: Sequence[str], rows: NDArray[Any]) -> None:
    """Notes `bytes` (-1: no such file) and `mtime_ns` of each file.

    In threads: on a network drive each answer takes its time.
    """

    def chunk(start: int) -> None:
        for place in range(start, min(start + 1000, len(identities))):
            try:
                status = os.stat(os.path.join(root, identities[place]))
                rows["bytes"][place], rows["mtime_ns"][place] = status.st_size, status.st_mtime_ns
            except (OSError, ValueError):  # whatever is wrong with it, reading it will tell
                rows["bytes"][place] = -1

    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        list(pool.map(chunk, range(0, len(identities), 1000)))


def _recall(cache: Path, identities: Sequence[str], rows: NDArray[Any]) -> None:
    """Fills in what the cache has of these photos as they are now; drops lines once most are broken or outdated."""
    if not cache.exists():
        return
    places = {identity: place for place, identity in enumerate(identities)}
    last: dict[str, int] = {}  # where the last line of each photo begins
    lines = begin = 0
    with cache.open("rb") as file:
        for line in file:
            with suppress(ValueError, TypeError, OverflowError):
                identity, *figures = json.loads(line)
                if len(figures) == len(ROW.names or ()):
                    last[identity], place = begin, places.get(identity)
                    if place is not None and [rows["bytes"][place], rows["mtime_ns"][place]] == figures[:2]:
                        rows[place] = tuple(figures)
            lines, begin = lines + 1, begin + len(line)
    if lines - 1 <= 2 * max(1, len(last)):  # the first one names the folder
        return
    with writing(cache), written_whole(cache, sync=False, alone=True) as made, cache.open("rb") as file:
        made.write(file.readline())
        for begin in last.values():
            file.seek(begin)
            made.write(file.readline().rstrip() + b"\n")


def _measure(
    photos: Photos,
    identities: Sequence[str],
    rows: NDArray[Any],
    num_workers: int,
    cache: BinaryIO | None = None,
) -> dict[str, str]:
    """Fills in the rows that are empty still, and adds their lines to the cache; returns what cannot be read."""
    missing = np.flatnonzero(~readable(rows)).tolist()
    unreadable: dict[str, str] = {}
    if not missing:
        return unreadable
    workers = num_workers if len(missing) > 4 * _BATCH else 0  # for a few, none is worth its start
    dataset = LookDataset(photos, [identities[place] for place in missing], SIZE_PX)
    loader = make_loader(dataset, workers, batch_size=_BATCH, collate_fn=join_looks)
    for looks in tracked(loader, "measuring photos", len(missing), lambda it: len(it.indices) + len(it.unreadable)):
        unreadable |= {identities[missing[index]]: reason for index, reason in looks.unreadable}
        lines = []
        for index, figures in zip(looks.indices, _figures(looks), strict=True):
            place = missing[index]
            stamp = rows[["bytes", "mtime_ns"]][place].tolist()
            rows[place] = (*stamp, *figures)
            if stamp[0] >= 0:
                lines.append(json.dumps([identities[place], *stamp, *figures]) + "\n")
        if cache is not None:
            cache.write("".join(lines).encode())
            cache.flush()
    return unreadable


def _figures(looks: Looks) -> list[tuple[str, int, int, int, float]]:
    """What ``ROW`` has after size and time of the file."""
    if not looks.facts:
        return []
    spread = (looks.rgb.amax(dim=1) - looks.rgb.amin(dim=1)).flatten(1).amax(dim=1)
    colour = colourfulness(looks.rgb.float() / 255)
    numbers = zip(looks.facts, spread.tolist(), colour.tolist(), strict=True)
    return [(*facts, most, round(value, 2)) for facts, most, value in numbers]
