"""Colour photos with less and less address space (`ulimit -v`), and say what came of each limit.

python -m benchmarks.memory_limits input=PHOTOS checkpoint=FILE render_px=560 batch_size=4

What it must never show: a traceback, or the status of success with a photo that is missing. Linux only.
"""

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

MEGABYTES = (1200, 1600, 2000, 2400, 2800, *range(3000, 4600, 100), 5000, 6000)


@dataclass(frozen=True)
class Outcome:
    """The end of one start of `colorize.predict`.

    Attributes:
        megabytes: its limit.
        status: with which it ended.
        results: how many files it wrote.
        said: its last line.
        traceback: True for an error that nobody foresaw.
        smaller: True where a photo was rendered at half the size.
    """

    megabytes: int
    status: int
    results: int
    said: str
    traceback: bool
    smaller: bool


def predict(words: Sequence[str], megabytes: int) -> Outcome:
    """Run `colorize.predict` with these words and so much address space, into a folder of its own."""
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "colorize.predict", *words, f"output={folder}/out"]
        done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, errors="replace")
        results = [path for path in Path(folder, "out").rglob("*") if path.is_file() and path.name != "failed.txt"]
    said = done.stderr.strip().splitlines() or [""]
    traceback = "Traceback" in done.stderr or done.returncode < 0
    smaller = re.search(r"is rendered at \d+ px instead", done.stderr) is not None
    return Outcome(megabytes, done.returncode, len(results), said[-1], traceback, smaller)


def main(words: Sequence[str], limits: Iterable[int] = MEGABYTES) -> None:
    """Print a line for each limit."""
    print("| MB | status | results | half size | traceback | last line |\n|---|---|---|---|---|---|")
    for one in (predict(words, limit) for limit in limits):
        flags = ["yes" if flag else "" for flag in (one.smaller, one.traceback)]
        cells = [one.megabytes, one.status, one.results, *flags, one.said[:120]]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
