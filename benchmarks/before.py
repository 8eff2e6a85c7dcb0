"""This build beside an earlier one: what people wait for, by `colorize.predict` with the bundled generator.

make bench-before
python benchmarks/before.py --before build/before --photos 100

Each case is one process of each build, in turn, with the output's folder empty: seconds on the clock, and of the
processor. `share_busy` is the processor's share of all cores on the clock. The first photo is told by both builds' own
way of starting; the folder is of large noisy photos in grey, results are of their kind.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import child_seconds, commit, paired_ratio, parser, save, start, table
from photos import draw

CASES = ("first", "folder", "film")


def coloured(build: Path, folder: Path, source: str, *words: str) -> tuple[float, float]:
    """Colour `source` with a build; seconds on the clock and of the processor."""
    output = folder / "coloured"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "colorize.predict", f"input={folder / source}", f"output={output}", *words]
    environment = {**os.environ, "PYTHONPATH": str(build)}
    return child_seconds(command, cwd=folder, env=environment)


def prepared(case: str, folder: Path, given: argparse.Namespace) -> str:
    """Draw what a case colours; its name."""
    if case == "film":
        from clips import write_clip

        write_clip(folder / "film.mp4", given.frames)
        return "film.mp4"
    photos = folder / case
    photos.mkdir()
    draw(folder, given.megapixels if case == "folder" else 0.2)
    for number in range(given.photos if case == "folder" else 1):
        shutil.copy(folder / f"photo{given.suffix}", photos / f"{number:03}{given.suffix}")
    return case


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each case and build."""
    builds = {"before": given.before.resolve(), "now": Path(__file__).resolve().parents[1]}
    rows = []
    for case in given.cases:
        with tempfile.TemporaryDirectory() as name:
            source = prepared(case, Path(name), given)
            taken: dict[str, list[tuple[float, float]]] = {build: [] for build in builds}
            for _ in range(given.repeats):
                for build, root in builds.items():
                    taken[build].append(coloured(root, Path(name), source, "device=cpu"))
        for build, pairs in taken.items():
            clock, spent = zip(*pairs, strict=True)
            before = list(zip(*taken["before"], strict=True))
            rows.append(
                {
                    "case": case,
                    "build": build,
                    "s": statistics.median(clock),
                    "processor_s": statistics.median(spent),
                    "share_busy": statistics.median(s / c for c, s in pairs) / (os.cpu_count() or 1),
                    "times_as_fast": paired_ratio(before[0], clock),
                    "times_less_work": paired_ratio(before[1], spent),
                }
            )
    return rows


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__, repeats=3)
    root = Path(__file__).resolve().parents[1]
    options.add_argument("--before", type=Path, default=root / "build" / "before", help="a checkout of the other build")
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--photos", type=int, default=20, help="in the folder")
    options.add_argument("--suffix", choices=(".jpg", ".png", ".tif"), default=".jpg", help="of photos and results")
    options.add_argument("--megapixels", type=float, default=12, help="of each")
    options.add_argument("--frames", type=int, default=120, help="of the film, 1280 x 720 px")
    given = options.parse_args()
    if not (given.before / "colorize").is_dir():
        options.exit(1, f"--before={given.before}: no checkout there; make bench-before makes one\n")
    start(given)
    if given.quick:
        given.photos, given.megapixels, given.frames, given.repeats = 2, 0.5, 12, 1
    rows = measure(given)
    print(table(rows, f"{commit()} beside {given.before}"))
    save("before", {"rows": rows}, given)


if __name__ == "__main__":
    main()
