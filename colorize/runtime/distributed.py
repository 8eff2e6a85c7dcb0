"""Exchanges between the processes of one command, one a device (ranks): sums, a failure of one, a common end.

All ranks have to call each function at the same moment. With one process alone, they return what they were given.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import TimeoutExpired
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from colorize.runtime.errors import UserError
from colorize.runtime.processes import is_first_process

Own = TypeVar("Own")

_LOST = re.compile(r"gloo|NCCL|connection (closed|reset|refused)|broken pipe|socket|TCPStore", re.IGNORECASE)
_GRACE_S = 10.0  # time for other processes to end by themselves once the first one has failed


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(values: Sequence[float]) -> list[float]:
    """Return the sums over all ranks of a few numbers."""
    if world_size() == 1:
        return list(values)
    exchanged_on = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(values, dtype=torch.float64, device=exchanged_on)
    distributed.all_reduce(sums)
    return [float(value) for value in sums.tolist()]


def add_up(tensors: list[Tensor], weights: list[float]) -> None:
    """Replace tensors by their sums over all ranks, each times its weight here, in one exchange in float32."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_mul_(parts, weights)
    distributed.all_reduce(flat)
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def gathered(own: Own) -> list[Own]:
    """Return what each rank gave, by rank: anything that can be pickled."""
    if world_size() == 1:
        return [own]
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, own)
    return found


def dealt(parts: Sequence[Own]) -> Sequence[Own]:
    """Return this rank's of what `gathered` returned, perhaps of another number of ranks: each part goes to one."""
    size = world_size()
    return parts[distributed.get_rank() if size > 1 else 0 :: size]


def agree(fault: UserError | None) -> None:
    """Raise on every rank the fault that one of them has: a rank that ends alone leaves the others waiting for it."""
    if total([fault is not None])[0]:
        raise on_all(next(found for found in gathered(fault) if found is not None))


def on_all(error: UserError) -> UserError:
    """Mark an error as one that every rank raises, so that one of them is enough to say so, and return it."""
    error.on_all_ranks = True
    return error


def own_statistics(network: nn.Module) -> list[Tensor]:
    """Return the statistics of BatchNorm layers in train mode that each rank has of its own share of a batch.

    Of layers that are not synchronised. Averaged over the ranks, by share, the means come out as those of the whole
    batch, the variances without that between the shares.
    """
    return [
        statistic
        for module in network.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and module.training
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]


@contextmanager
def abort_together(launcher: Any = None) -> Iterator[None]:
    """Abort all ranks, of Lightning's `launcher`, when one ends; UserError where another ended in an exchange."""
    try:
        yield
    except BaseException as error:
        if is_first_process():
            _end(getattr(launcher, "procs", []))
        lost = isinstance(error, RuntimeError) and world_size() > 1 and _LOST.search(str(error))
        if lost or isinstance(error, distributed.DistNetworkError):
            told = UserError("another process of this command ended, see its message: this one ends too")
            raise on_all(told) from error
        raise


def _end(processes: Sequence[Any]) -> None:
    """Wait for processes that are about to end; those that hang in an exchange with a lost rank are killed."""
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        with suppress(TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
