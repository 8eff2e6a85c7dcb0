"""Parts that the caches share: a name for each source, one process at a time, stamps of files, work in processes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch.utils.data import Dataset

from colorize.data.loading import make_loader
from colorize.runtime.errors import UserError
from colorize.runtime.files import digest
from colorize.runtime.log import log
from colorize.runtime.progress import tracked

STAMP = ["bytes", "mtime_ns"]  # tell one state of a file from another; `bytes` is -1 where there is no such file
FEW = 200  # so many photos are worked through before worker processes have started
Sample = TypeVar("Sample")


def source_digest(root: Path, *facts: object) -> str:
    """Hexadecimal name for the photos below `root` and what else a cache of them depends on."""
    return digest(*facts, root.resolve()).hex()


@contextmanager
def held(cache: Path, doing: str, key: str) -> Iterator[None]:
    """Hold a cache for this process; others wait, and find everything done. Raises UserError where it cannot be."""
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


def stamps(root: Path, identities: Sequence[str]) -> NDArray[Any]:
    """Return the `STAMP` of each file, asked for in threads: on a network drive each answer takes its time."""

    def stamp(identity: str) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(root, identity))
        except (OSError, ValueError):  # whatever is wrong with it, reading it will tell
            return -1, 0
        return status.st_size, status.st_mtime_ns

    with ThreadPool(16) as pool:
        return np.array(pool.map(stamp, identities, chunksize=1000), [(name, "i8") for name in STAMP])


def worked_through(dataset: Dataset[Sample], doing: str, num_workers: int) -> Iterator[Sample]:
    """Yield each sample in order, with a progress bar; a few are made in this process."""
    count = len(dataset)  # type: ignore[arg-type]
    loader = make_loader(dataset, num_workers if count > FEW else 0, [type(dataset).__module__], batch_size=None)
    yield from tracked(loader, doing, count)
