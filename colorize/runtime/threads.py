"""Threads as far as the system grants them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import ParamSpec, TypeVar

from colorize.runtime.errors import is_out_of_memory

Arguments = ParamSpec("Arguments")
T = TypeVar("T")


def submit(
    pool: ThreadPoolExecutor, work: Callable[Arguments, T], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Future[T]:
    """Hand work to the threads of a pool; where there is no memory for another thread, do it here and now.

    The pool keeps what it could not start a thread for: whoever comes first does it, once.
    """
    future, taken = Future[T](), Lock()

    def once() -> None:
        if taken.acquire(blocking=False):
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

    try:
        pool.submit(once)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        once()
    return future
