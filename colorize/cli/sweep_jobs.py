"""The result of a job of a sweep, as it lies in the job's folder, and the table of all jobs."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from colorize.runtime.errors import UserError
from colorize.runtime.files import csv_text, locked, write_text


class Score(float):
    """A number by which the outcome of a command is judged, with its name; lower is better."""

    name: str

    def __new__(cls, value: float, name: str = "score") -> "Score":
        """Return the number `value`, called `name`."""
        made = super().__new__(cls, value)
        made.name = name
        return made


@dataclass
class Result:
    """The content of a job's result.json.

    Its status is running, complete, failed or interrupted; "lost" is one that says running though nothing runs. `swept`
    are the values in which it differs from the others; `figure` is its score (None where the command has none, or it is
    not finite); `seconds` are of all its starts, but those that were killed; `start` tells of which start of the sweep
    it is.
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
        """Replace result.json in one step."""
        write_text(folder / "result.json", json.dumps(asdict(self), indent=1) + "\n")


def read_result(folder: Path) -> Result | None:
    """Return what the job in `folder` left, or None where there is nothing yet."""
    path = folder / "result.json"
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no result of a job: remove it, or choose another sweep=LABEL") from error


def results_in(folder: Path) -> list[Result]:
    """Return what the jobs of the sweep in `folder` left, by their numbers."""
    results = []
    for job in (path.parent for path in folder.glob("*/result.json")):
        if (result := read_result(job)) is not None:
            if result.status == "running":
                with suppress(UserError), locked(job):  # by nobody
                    result = replace(result, status="lost", error="its process ended without a word")
            results.append(result)
    return sorted(results, key=lambda result: result.job)


def swept_keys(results: Sequence[Result]) -> list[str]:
    """Return the keys in which the jobs differ."""
    return list(dict.fromkeys(key for result in results for key in result.swept))


def as_csv(results: Sequence[Result]) -> str:
    """Return a row for each job: number, swept values, score and its name, minutes, status, error."""
    keys = swept_keys(results)
    rows: list[list[object]] = [["job", *keys, "figure", "figure_name", "minutes", "status", "error"]]
    for result in results:
        values = [_plain(result.swept.get(key, "")) for key in keys]
        about = [result.figure, result.figure_name, round(result.seconds / 60, 3), result.status]
        rows.append([result.job, *values, *about, _plain(result.error or "")])
    return csv_text(rows)


def print_table(results: Sequence[Result], folder: Path) -> None:
    """Print the jobs, in 80 columns or the terminal's; then the best one, and why others have no score.

    The best is the complete job with the lowest score; there is none where the scores do not compare.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    keys, console = swept_keys(results), Console(file=sys.stdout)
    scored = [result for result in results if result.figure is not None]
    names = {result.figure_name for result in results if result.figure_name}
    best = min(scored, key=lambda result: result.figure or 0.0) if scored and len(names) == 1 else None
    title = Text(f"sweep {_plain(folder.name)}")
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("job", justify="right", no_wrap=True)
    share = max(4, (console.width - 45) // max(1, len(keys)) - 2)  # of what the other columns leave
    for key, short in zip(keys, _shortened(keys), strict=True):
        widest = max(len(_rounded(result.swept.get(key, ""))) for result in results)
        table.add_column(Text(short), overflow="fold", min_width=min(widest, share))
    table.add_column(Text(str(*names) if len(names) == 1 else "score"), justify="right", no_wrap=True)
    table.add_column("minutes", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for result in results:
        values = [_rounded(_plain(result.swept.get(key, ""))) for key in keys]
        score = "–" if result.figure is None else f"{result.figure:.5g}"
        cells = [str(result.job), *values, score, f"{result.seconds / 60:.1f}", result.status]
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
    """Return the end of each key, as long as it takes to tell it from the others."""

    def end(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    return [next(e for n in range(1, 9) if [end(k, n) for k in keys].count(e := end(key, n)) == 1) for key in keys]


def _rounded(text: str) -> str:
    """Shorten a sweeper's number of many digits."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


def _plain(text: str) -> str:
    """Return `text` on one line, in characters that any stream can write."""
    return text.replace("\n", "⏎").replace("\t", " ").encode("utf-8", "backslashreplace").decode()
