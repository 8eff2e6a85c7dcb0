"""The progress bar of everything that takes minutes, with the log above it."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from colorize.runtime.processes import is_first_process

Item = TypeVar("Item")
Advance = Callable[..., None]
"""`advance()` moves a bar by one, `advance(done, total)` to `done`."""


@contextmanager
def progress_bar(doing: str, total: int | None) -> Iterator[Advance]:
    """Show a bar on stderr, if that is a terminal and this process the first of a command.

    It is called `doing`, and goes as far as `total` (None: not known yet).
    """
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    hidden = not (sys.stderr.isatty() and is_first_process())
    bar = bars.Progress(
        bars.TextColumn(doing), bars.BarColumn(), *columns, console=Console(stderr=True), disable=hidden
    )
    with ExitStack() as stack, bar:
        task = bar.add_task(doing, total=total)
        for handler in logging.getLogger("colorize").handlers:
            if isinstance(handler, logging.StreamHandler):
                stack.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)  # which is the bar's now

        def advance(done: int | None = None, total: int | None = total) -> None:
            if done is None:
                bar.advance(task)
            else:
                bar.update(task, completed=done, total=None if total is None else max(done, total))

        yield advance


def tracked(
    items: Iterable[Item], doing: str, total: int, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yield the same items under a progress bar; `total` is the sum of their sizes."""
    done = 0
    with progress_bar(doing, total) as advance:
        for item in items:
            yield item
            done += size(item)
            advance(done)
