"""Progress of everything that takes minutes, with the log above it, and tables in a terminal."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from colorize.runtime.log import log
from colorize.runtime.processes import is_first_process

TELLING_S = 10.0  # seconds after which longer work says about how long it will take
Item = TypeVar("Item")
Advance = Callable[..., None]  # `advance()` moves a bar by one, `advance(done, total)` to `done`


@contextmanager
def progress_bar(doing: str, total: int | None) -> Iterator[Advance]:
    """Show a bar on stderr, as far as `total` (None: not known yet); in a file, a line says how long it will take."""
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    quiet, began = not (sys.stderr.isatty() and is_first_process()), time.monotonic()
    unsaid = quiet and is_first_process()
    bar = bars.Progress(bars.TextColumn(doing), bars.BarColumn(), *columns, console=Console(stderr=True), disable=quiet)
    with ExitStack() as stack, bar:
        task = bar.add_task(doing, total=total)
        for handler in logging.getLogger("colorize").handlers:
            if isinstance(handler, logging.StreamHandler):
                stack.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)  # which is the bar's now

        def advance(done: int | None = None, total: int | None = total) -> None:
            nonlocal unsaid
            if done is None:
                bar.advance(task)
            else:
                bar.update(task, completed=done, total=None if total is None else max(done, total))
            seconds, shown = time.monotonic() - began, bar.tasks[task]
            if unsaid and seconds > TELLING_S and shown.completed and shown.total:
                unsaid = False
                log.info(f"{doing}: about {spoken(seconds / shown.completed * (shown.total - shown.completed))} to go")

        yield advance


def tracked(items: Iterable[Item], doing: str, total: int, size: Callable[[Item], int] = lambda _: 1) -> Iterator[Item]:
    """Yield the same items under a progress bar; `total` is the sum of their sizes."""
    done = 0
    with progress_bar(doing, total) as advance:
        for item in items:
            yield item
            done += size(item)
            advance(done)


def spoken(seconds: float) -> str:
    """Return a duration in its largest unit, such as 40 s, 12 min, 3.5 h or 2.1 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


def print_table(markdown: str) -> None:
    """Print a Markdown table, drawn by rich where stdout is a terminal, columns but the first to the right."""
    if not sys.stdout.isatty():
        print(markdown)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(markdown.replace("--- |", "---: |").replace("---: |", "--- |", 1)))
