"""What an evaluation leaves in its folder; docs/EVALUATION.md describes metrics.json and the others."""

import hashlib
import json
import platform
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from colorize.data.images import save_png
from colorize.evaluation import scores
from colorize.evaluation.gallery import Block, Strip, page
from colorize.evaluation.measuring import GREY, LOOKUP, TRUTH, Measurements
from colorize.evaluation.scores import Table
from colorize.metrics import COLUMNS, JUDGED_BY, METRICS
from colorize.runs import write_text
from colorize.runtime.errors import listed
from colorize.runtime.files import csv_text
from colorize.runtime.version import __version__

LIBRARIES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "Pillow")

Coloured = Iterable[tuple[str, Mapping[str, Image.Image]]]


@dataclass(frozen=True)
class Subject:
    """What was measured, and how."""

    rows: list[str]
    """The checkpoints and folders, but for grey, luma_lookup and truth."""
    judged: str
    """The one of them that the gallery sorts photos by."""
    protocol: str
    split: str
    data: str
    """Which kind of source the photos are from."""
    seed: int
    checkpoint_sha256: dict[str, str] = field(default_factory=dict)
    """By row; folders of coloured images have none."""
    render_px: dict[str, int] = field(default_factory=dict)
    """By row: short side of what the network was shown."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know of this measurement, a sentence each."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Photos of the split that were not measured, and why."""
    sampled_from: int | None = None
    """How many photos the split has, where a fixed sample of its validation photos was measured."""


def write(
    table: Table, subject: Subject, folder: Path, gallery_photos: int, colour: Callable[[list[str]], Coloured]
) -> None:
    """Write the four files, each whole or not at all.

    The gallery has so many photos in each of its parts; `colour` gives them again, by their identities, in all rows.
    """
    write_text(folder / "metrics.json", json.dumps(to_json(table, subject), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "metrics.md", to_markdown(table, subject))
    write_text(folder / "per_image.csv", to_csv(table.measured))
    save_png(draw_gallery(table, subject, gallery_photos, colour), folder / "gallery.png")


def to_json(table: Table, subject: Subject) -> dict[str, Any]:
    """The content of metrics.json; docs/EVALUATION.md describes its fields."""
    measured = table.measured
    content: dict[str, Any] = {
        "protocol": subject.protocol,
        "n": table.photos,
        "files_sha256": files_sha256(measured),
        "checkpoint_sha256": subject.checkpoint_sha256,
        "versions": versions(),
        "rows": {row: scores.row_to_json(table, row) for row in table.rows},
        "split": subject.split,
        "data": subject.data,
        "seed": subject.seed,
        "render_px": subject.render_px,
        "true_greys": int(measured.true_grey.sum()),
        "differences": [scores.difference_to_json(table, row, minus) for row, minus in pairs(subject)],
        "missing": measured.missing,
        "left_out": subject.left_out,
        "sampled_from": subject.sampled_from,
        "notes": subject.notes,
    }
    if table.regions:
        content["regions"] = {row: scores.regions_to_json(table, row) for row in table.regions}
    return content


def pairs(subject: Subject) -> list[tuple[str, str]]:
    """Which rows are compared: each with the first, and with the one before it."""
    rows = subject.rows
    return [
        (row, minus)
        for number, row in enumerate(rows)
        for minus in dict.fromkeys(rows[:number][:1] + rows[:number][-1:])
    ]


def files_sha256(measured: Measurements) -> str:
    """The hash of the list of photos and of what they hold.

    Of the text that `sha256sum` prints for them, sorted by path: a line of digest, two spaces and path for each photo.
    """
    lines = sorted(zip(measured.names, measured.digests, strict=True))
    text = "".join(f"{digest}  {name}\n" for name, digest in lines)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def versions() -> dict[str, str | None]:
    """Of this program and of the libraries that compute; None where one is not installed."""
    found: dict[str, str | None] = {"colorize": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = None
    return found


def to_csv(measured: Measurements) -> str:
    """A line for each photo in each row; an infinite PSNR is `inf`."""
    columns = list(measured.values[TRUTH])
    rows: list[list[object]] = [["photo", "row", "true_grey", *columns]]
    for number, (name, grey) in enumerate(zip(measured.names, measured.true_grey, strict=True)):
        for row, values in measured.values.items():
            rows.append([name, row, int(grey), *(f"{values[column][number]:.6g}" for column in columns)])
    return csv_text(rows)


def to_markdown(table: Table, subject: Subject) -> str:
    """The content of metrics.md."""
    measured, greys = table.measured, int(table.measured.true_grey.sum())
    parts = [
        f"# {', '.join(subject.rows)}\n",
        f"{about(table, subject)}. ± is half a 95 % bootstrap interval.\n",
        scores.markdown(table, table.columns, intervals=True),
    ]
    parts += [f"- {note}" for note in (*subject.notes, *remarks(table, subject))]
    if len(subject.rows) > 1:
        parts += ["\n## Differences\n", "On the same photos; bold where 0 is not in the interval.\n"]
        parts.append(scores.markdown_differences(table, pairs(subject), table.columns))
    if greys:
        columns = [name for name in table.columns if name in table.rows[TRUTH] and name != "fid"]
        parts += [f"\n## Without the {greys} photos that are grey themselves\n"]
        parts.append(scores.markdown(table, columns, without_greys=True))
    for row in (row for row in table.regions if row not in (GREY, LOOKUP, TRUTH)):
        parts += [
            f"\n## Regions: {row}\n",
            "Share of each region's pixels whose hue is one that people expect there.\n",
        ]
        parts.append(scores.markdown_regions(table, row))
    found = versions()
    parts += [f"\nPhotos: sha256 {files_sha256(measured)}"]
    parts += [f"{row}: sha256 {digest}" for row, digest in subject.checkpoint_sha256.items()]
    parts += [", ".join(f"{name} {version}" for name, version in found.items() if version)]
    return "\n".join(parts) + "\n"


def about(table: Table, subject: Subject) -> str:
    """Protocol, photos and split in a phrase."""
    greys = int(table.measured.true_grey.sum())
    grey = f", {greys} of them grey themselves" if greys else ""
    pictures = {"scenes": "scenes"}.get(subject.data, "photos")
    split = {"train": "of the training split", "val": "of the validation split", "all": "of both splits"}[subject.split]
    return f"Protocol {subject.protocol}, {table.photos} {pictures} {split}{grey}"


def remarks(table: Table, subject: Subject) -> list[str]:
    """What is missing from the means, or says less than it seems to."""
    found = [f"{COLUMNS[name].title}: {reason}" for name, reason in table.measured.missing.items()]
    if subject.sampled_from is not None:
        found.append(f"A fixed sample of {table.photos + len(subject.left_out)} of {subject.sampled_from} photos.")
    if subject.left_out:
        why = [f"{name}: {reason}" for name, reason in subject.left_out.items()]
        found.append(f"{len(why)} photos are left out of all rows ({listed(why)}).")
    infinite = {
        row: cells["psnr"].left_out for row, cells in table.rows.items() if cells["psnr"].left_out and row != TRUTH
    }
    if infinite:
        counts = ", ".join(f"{count} in {scores.title(row)}" for row, count in infinite.items())
        found.append(f"An infinite PSNR (no difference at all) is in no mean: {counts}.")
    if table.measured.fid:
        found.append(
            f"FID over n = {table.photos} photos, TF-Inception features, antialiased resize; it falls as n grows (and "
            "under 2,048 photos their covariance is not even of full rank), and "
            "published colourization FIDs scale Inception's input otherwise: compare it with neither."
        )
    return found


def draw_gallery(table: Table, subject: Subject, count: int, colour: Callable[[list[str]], Coloured]) -> Image.Image:
    """Random, best, median and worst photos by CIEDE2000 of the row that is judged."""
    judged = subject.judged
    chosen = choose(table.measured, judged, count, subject.seed)
    names = list(dict.fromkeys(name for picked in chosen.values() for name in picked))
    pictures = dict(colour(names))
    rows = [GREY, *subject.rows, TRUTH]
    place = {name: number for number, name in enumerate(table.measured.names)}

    def note(name: str, row: str) -> str:
        return "" if row in (GREY, TRUTH) else f"{table.measured.values[row][JUDGED_BY][place[name]]:.1f}"

    blocks = [
        Block(
            title if title == "Random" else f"{title} of {judged}",
            [
                Strip(
                    PurePosixPath(name).name, [pictures[name][row] for row in rows], [note(name, row) for row in rows]
                )
                for name in picked
                if name in pictures
            ],
        )
        for title, picked in chosen.items()
        if picked
    ]
    metric = METRICS[JUDGED_BY]
    title = f"{judged}: mean {metric.title} {table.rows[judged][JUDGED_BY].mean:.1f}"
    subtitle = f"{about(table, subject)}. Below each image: its mean {metric.title} ({metric.note})."
    return page(title, subtitle, rows, blocks)


def choose(measured: Measurements, row: str, count: int, seed: int) -> dict[str, list[str]]:
    """Which photos to show, by title. Photos that are grey themselves are never the best: any method is right there."""
    candidates = [number for number, grey in enumerate(measured.true_grey) if not grey] or list(
        range(len(measured.names))
    )
    count = min(count, len(candidates))
    ranked = sorted(candidates, key=lambda number: (measured.values[row][JUDGED_BY][number], measured.names[number]))
    middle = max(0, (len(ranked) - count) // 2)
    drawn = random.Random(seed).sample(range(len(measured.names)), min(count, len(measured.names)))
    picks: dict[str, Sequence[int]] = {
        "Random": drawn,
        "Best": ranked[:count],
        "Median": ranked[middle : middle + count],
        "Worst": ranked[::-1][:count],
    }
    return {title: [measured.names[number] for number in numbers] for title, numbers in picks.items()}
