"""The result of a job of a sweep, as it lies in the job's folder, and the table of all jobs."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from colorize.runtime.errors import UserError
from colorize.runtime.files import csv_text, locked, markdown_table, write_text
from colorize.runtime.progress import print_table


class Score(float):
    """A number by which the outcome of a command is judged, with its name; lower is better."""

    name: str

    def __new__(cls, value: float, name: str = "score") -> "Score":
        made = super().__new__(cls, value)
        made.name = name
        return made


@dataclass
class Result:
    """The content of a job's result.json.

    Its status is running, complete, failed or interrupted; "lost" is one that says running though nothing runs. `swept`
    are the values in which it differs from the others, `figure` is its score, if that is finite, `seconds` are of all
    its starts, but those that were killed, and `start` tells of which start of the sweep it is.
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


def print_jobs(results: Sequence[Result], folder: Path) -> None:
    """Print the table of jobs, the best (the lowest score, where scores compare), and why others have none."""
    keys = swept_keys(results)
    scored = [result for result in results if result.figure is not None]
    names = {result.figure_name for result in results if result.figure_name}
    best = min(scored, key=lambda result: result.figure or 0.0) if scored and len(names) == 1 else None
    rows = []
    for result in results:
        score = "–" if result.figure is None else f"{result.figure:.5g}"
        cells = [str(result.job), *(result.swept.get(key, "") for key in keys), score, f"{result.seconds / 60:.1f}"]
        rows.append([_plain(cell).replace("|", "¦") for cell in (*cells, result.status)])
    print(_plain(f"sweep {folder.name}"))
    print_table(markdown_table(["job", *keys, str(*names) if len(names) == 1 else "score", "minutes", "status"], rows))
    if best is not None:
        said = f"job {best.job}, {best.figure_name} {best.figure:.5g} (lower is better)"
        print(_plain(f"Best: {said}, in {folder / str(best.job)}"))
    for result in results:
        if result.error is not None:
            print(_plain(f"Job {result.job} {result.status}: {result.error}"))
    print(_plain(f"Table: {folder / 'jobs.csv'}"))


def _plain(text: str) -> str:
    """Return `text` on one line, in characters that any stream can write."""
    return text.replace("\n", "⏎").replace("\t", " ").encode("utf-8", "backslashreplace").decode()
