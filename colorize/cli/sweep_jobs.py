"""What a job of a sweep leaves in its folder, and the table of all jobs."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from colorize.runtime.errors import UserError
from colorize.runtime.files import csv_text, write_text


class Figure(float):
    """What a command's outcome is judged by, with its name; lower is better. For a sweeper it is a number."""

    name: str

    def __new__(cls, value: float, name: str = "figure") -> "Figure":
        """The number `value`, called `name`."""
        made = super().__new__(cls, value)
        made.name = name
        return made


@dataclass
class Result:
    """What a job leaves in its result.json.

    Attributes:
        status: running, complete, failed, interrupted; "lost" is one that says running though nothing runs.
        swept: the values in which the job differs from the others.
        figure: None where the command has none, or where it is not finite.
        seconds: of all its starts, but those that were killed.
        start: of which start of the sweep this is.
    """

    job: int
    command: str
    phase: str | None
    swept: dict[str, str]
    overrides: list[str]
    start: str
    status: str = "running"
    figure_name: str | None = None
    figure: float | None = None
    seconds: float = 0.0
    error: str | None = None

    def write(self, folder: Path) -> None:
        """Replace result.json in one go."""
        write_text(folder / "result.json", json.dumps(asdict(self), indent=1) + "\n")


def read_result(folder: Path) -> Result | None:
    """What the job in `folder` left, or None where there is nothing yet."""
    path = folder / "result.json"
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no result of a job: remove it, or choose another sweep=LABEL") from error


def results_in(folder: Path) -> list[Result]:
    """What the jobs of the sweep in `folder` left, by their numbers."""
    folders = [path.parent for path in folder.glob("*/result.json")]
    found = [_or_lost(result, job) for job in folders if (result := read_result(job)) is not None]
    return sorted(found, key=lambda result: result.job)


def _or_lost(result: Result, folder: Path) -> Result:
    if result.status == "running":
        with suppress(Timeout, OSError, NotImplementedError), FileLock(folder / ".lock").acquire(timeout=0):
            return replace(result, status="lost", error="its process ended without a word")
    return result


def best_of(results: Sequence[Result]) -> Result | None:
    """The complete job with the lowest figure; None where there is none, or where the figures do not compare."""
    found = [result for result in results if result.status == "complete" and result.figure is not None]
    comparable = len({result.figure_name for result in found}) == 1
    return min(found, key=lambda result: result.figure or 0.0) if comparable else None


def as_csv(results: Sequence[Result]) -> str:
    """A row a job: number, swept values, figure and its name, minutes, status, error."""
    keys = list(dict.fromkeys(key for result in results for key in result.swept))
    rows: list[list[object]] = [["job", *keys, "figure", "figure_name", "minutes", "status", "error"]]
    for result in results:
        values = [_plain(result.swept.get(key, "")) for key in keys]
        about = [result.figure, result.figure_name, round(result.seconds / 60, 3), result.status]
        rows.append([result.job, *values, *about, _plain(result.error or "")])
    return csv_text(rows)


def print_table(results: Sequence[Result], folder: Path) -> None:
    """The same on stdout, of one or more jobs, in 80 columns or the terminal's; then the best, and what others lack."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    keys = list(dict.fromkeys(key for result in results for key in result.swept))
    names = {result.figure_name for result in results if result.figure_name}
    best = best_of(results)
    console = Console(file=sys.stdout)
    share = max(4, (console.width - 45) // max(1, len(keys)) - 2)  # of what the other columns leave
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title=Text(f"sweep {_plain(folder.name)}"),
        title_justify="left",
    )
    table.add_column("job", justify="right", no_wrap=True)
    for key, short in zip(keys, _shortened(keys), strict=True):
        widest = max(len(_rounded(result.swept.get(key, ""))) for result in results)
        table.add_column(Text(short), overflow="fold", min_width=min(widest, share))
    table.add_column(Text(names.pop() if len(names) == 1 else "figure"), justify="right", no_wrap=True)
    table.add_column("minutes", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for result in results:
        values = [_rounded(_plain(result.swept.get(key, ""))) for key in keys]
        figure = "–" if result.figure is None else f"{result.figure:.5g}"
        cells = [str(result.job), *values, figure, f"{result.seconds / 60:.1f}", result.status]
        table.add_row(*map(Text, cells), style="bold" if result is best else "")
    console.print(table)
    print()
    if best is not None:
        said = f"job {best.job}, {best.figure_name} {best.figure:.5g} (lower is better)"
        print(_plain(f"Best: {said}, in {folder / str(best.job)}"))
    for result in results:
        if result.error is not None:
            print(_plain(f"Job {result.job} {result.status}: {result.error}"))
    print(_plain(f"Table: {folder / 'jobs.csv'}"))


def _shortened(keys: Sequence[str]) -> list[str]:
    """The end of each key, as long as it takes to tell it from the others."""

    def end(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    return [next(e for n in range(1, 9) if [end(k, n) for k in keys].count(e := end(key, n)) == 1) for key in keys]


def _rounded(text: str) -> str:
    """A sweeper's number of many digits, shorter."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


def _plain(text: str) -> str:
    """`text` on one line, in characters that any stream can write."""
    return text.replace("\n", "⏎").replace("\t", " ").encode("utf-8", "backslashreplace").decode()
