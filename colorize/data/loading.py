"""Processes that read samples, the loaders that end them, and the order of an epoch's images; free of Lightning."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from colorize.runtime.files import digest


def worker_context(num_workers: int, modules: Sequence[str] = ()) -> str | None:
    """Way for a DataLoader to start its workers (its ``multiprocessing_context``); ``None`` without workers.

    Not by a fork of the training process, whose threads (progress bar, logger, CUDA) a fork can leave with a lock held
    for ever. A server process imports torch and ``modules`` once; the workers of all epochs are quick copies of it.
    They import the script that was started once more: it needs ``if __name__ == "__main__"``.
    """
    if num_workers == 0:
        return None
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "colorize.data.datasets", *modules])
    resource_tracker.ensure_running()  # which the server would start, and unblock signals
    # A Ctrl-C goes to every process of a terminal, torchrun's and Slurm's SIGTERM to every process of a rank. What is
    # blocked here stays so in the server, with which its workers would end, and in the workers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return "forkserver"


def _begin_worker(_: int) -> None:
    """Make a worker outlast a Ctrl-C or SIGTERM to all processes (not a second SIGTERM): a step is to be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(training: Any) -> None:
    training.join()  # torch watches the server instead, which waits for its workers: both outlived a killed training
    os._exit(1)


class PhotoLoader(DataLoader[Any]):
    """A DataLoader that ends its workers when it is told to, and before the process ends."""

    _running: Any = None

    def _get_iterator(self) -> Any:
        self._running = super()._get_iterator()
        if self.num_workers:
            _with_workers.add(self._running)
        return self._running

    def stop(self) -> None:
        if self.num_workers and self._running is not None:
            self._running._shutdown_workers()


_with_workers: WeakSet[Any] = WeakSet()


@atexit.register
def _stop_all() -> None:
    # A process sends its workers one SIGTERM when it ends, which they outlast, and waits for them.
    for iterator in list(_with_workers):
        iterator._shutdown_workers()


class LatePhotoLoader(PhotoLoader):
    """Starts workers with the first batch (Lightning makes two iterators an epoch); resumes by ``state_dict()``."""

    given = 0  # batches of the epoch that were handed out; Lightning trains on each before it asks for the next

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.given = self.batch_sampler.first  # type: ignore[union-attr]
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch_sampler.first = state["given"]  # type: ignore[union-attr]


def make_loader(
    dataset: Dataset[Any],
    num_workers: int,
    modules: Sequence[str] = (),
    kind: type[PhotoLoader] = PhotoLoader,
    **options: Any,
) -> PhotoLoader:
    """Return a loader with workers of :func:`worker_context`."""
    return kind(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=worker_context(num_workers, modules),
        worker_init_fn=_begin_worker,
        # A loader draws a number for each iterator; not from the global generator, which dropout uses.
        generator=torch.Generator(),
        **options,
    )


def cut(places: range, size: int) -> list[range]:
    """Return a range in parts of a size, the last of which may be smaller."""
    return [places[start : start + size] for start in range(0, len(places), size)]


def shuffled(size: int, *key: object) -> Tensor:
    """Return the numbers below `size` in an order that is a function of `key`."""
    generator = torch.Generator().manual_seed(int.from_bytes(digest(*key, "order"), "big") >> 1)
    return torch.randperm(size, generator=generator)


class GlobalBatches(Sampler[list[int]]):
    """One rank's share of an epoch's batches.

    They are slices of the epoch's `order`, over all ranks: rank r of w takes every w-th index of each from the r-th on.
    An incomplete last batch is left out, unless it is the only one. A resumed epoch begins with batch ``first``; the
    length stays that of the whole epoch, by which Lightning counts.
    """

    first = 0
    start = 0  # photos of the order before these batches
    count: int | None = None  # of batches; None: as many as there are

    def __init__(
        self, size: int, batch_size: int, order: Callable[[], Any], rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.batch_size, self.order = size, min(batch_size, size), order
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return (self.size - self.start) // self.batch_size if self.count is None else self.count

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        for number in range(self.first, len(self)):
            place = self.start + number * self.batch_size
            batch = order[place : place + self.batch_size]
            yield batch[self.rank :: self.world_size].tolist()
