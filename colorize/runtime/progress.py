"""A bar for what takes minutes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from colorize.runtime.processes import is_first_process

Item = TypeVar("Item")


def tracked(
    items: Iterable[Item], doing: str, total: int, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The same items, with a bar on stderr, if this process is the first; `total` is the sum of their sizes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_first_process()) as progress:
        task = progress.add_task(doing, total=total)
        for item in items:
            yield item
            progress.advance(task, size(item))
