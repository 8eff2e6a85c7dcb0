"""Files that an evaluation leaves in its folder; docs/EVALUATION.md describes metrics.json and the others."""

import hashlib
import json
import math
import platform
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from colorize.config import EvaluateConfig
from colorize.data.images import save_png
from colorize.evaluation import scores
from colorize.evaluation.gallery import Block, Strip, page
from colorize.evaluation.measuring import GREY, LOOKUP, TRUTH, Measurements
from colorize.evaluation.scores import Table
from colorize.metrics import COLUMNS, JUDGED_BY, METRICS
from colorize.runs import write_text
from colorize.runtime.errors import listed
from colorize.runtime.files import csv_text, markdown_table
from colorize.runtime.version import __version__

LIBRARIES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "Pillow")

Coloured = Iterable[tuple[str, Mapping[str, Image.Image]]]

Cell = Mapping[str, Any]
"""A score in metrics.json: mean, low, high and others; None where its weights are missing, NaN where there is none."""


@dataclass(frozen=True)
class Subject:
    """What was measured, and how.

    Attributes:
        config: of the evaluation.
        rows: the checkpoints and folders, but for grey, luma_lookup and truth.
        judged: the one of them that the gallery sorts photos by.
        checkpoint_sha256: by row; folders of coloured images have none.
        render_px: by row, the short side of what the network was shown.
        notes: what a reader has to know of this measurement, a sentence each.
        left_out: photos of the split that were not measured, and why.
        sampled_from: how many photos the split has, where a fixed sample of its validation photos was measured.
    """

    config: EvaluateConfig
    rows: list[str]
    judged: str
    checkpoint_sha256: dict[str, str]
    render_px: dict[str, int]
    notes: list[str]
    left_out: dict[str, str]
    sampled_from: int | None


def write(
    content: Mapping[str, Any], table: Table, subject: Subject, folder: Path, colour: Callable[[list[str]], Coloured]
) -> None:
    """Write the four files, each whole or not at all; `colour` gives photos by their identities, in all rows."""
    write_text(folder / "metrics.json", json.dumps(_rounded(content), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "metrics.md", to_markdown(content, table, subject))
    write_text(folder / "per_image.csv", to_csv(table.measured))
    save_png(draw_gallery(table, subject, colour), folder / "gallery.png")


def to_json(table: Table, subject: Subject) -> dict[str, Any]:
    """Return the content of metrics.json, not yet rounded; docs/EVALUATION.md describes its fields."""
    measured, config = table.measured, subject.config
    content: dict[str, Any] = {
        "protocol": config.protocol,
        "n": table.photos,
        "files_sha256": files_sha256(measured),
        "checkpoint_sha256": subject.checkpoint_sha256,
        "versions": versions(),
        "rows": scores.rows_to_json(table),
        "split": config.split,
        "data": config.data.kind,
        "seed": config.seed,
        "render_px": subject.render_px,
        "true_greys": int(measured.true_grey.sum()),
        "differences": [scores.difference_to_json(table, row, minus) for row, minus in pairs(subject.rows)],
        "missing": measured.missing,
        "left_out": subject.left_out,
        "sampled_from": subject.sampled_from,
        "notes": subject.notes,
    }
    if table.regions:
        content["regions"] = scores.regions_to_json(table)
    return content


def _rounded(content: Any) -> Any:
    """Round for JSON, which has neither NaN nor infinity."""
    if isinstance(content, Mapping):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    if isinstance(content, float):
        return round(content, 6) if math.isfinite(content) else None
    return content


def pairs(rows: Sequence[str]) -> list[tuple[str, str]]:
    """List the rows that are compared: each with the first, and with the one before it."""
    return [(row, minus) for n, row in enumerate(rows) for minus in dict.fromkeys(rows[:n][:1] + rows[:n][-1:])]


def files_sha256(measured: Measurements) -> str:
    """Hash the list of photos and their content.

    Hashed is the text that `sha256sum` prints for them, sorted by path: a line of digest, two spaces and path for each photo.
    """
    lines = sorted(zip(measured.names, measured.digests, strict=True))
    text = "".join(f"{digest}  {name}\n" for name, digest in lines)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def versions() -> dict[str, str | None]:
    """Return the versions of this program and of the libraries that compute; None where one is not installed."""
    found: dict[str, str | None] = {"colorize": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = None
    return found


def to_csv(measured: Measurements) -> str:
    """Return a line for each photo in each row; an infinite PSNR is `inf`."""
    columns = list(measured.values[TRUTH])
    rows: list[list[object]] = [["photo", "row", "true_grey", *columns]]
    for number, (name, grey) in enumerate(zip(measured.names, measured.true_grey, strict=True)):
        for row, values in measured.values.items():
            rows.append([name, row, int(grey), *(f"{values[column][number]:.6g}" for column in columns)])
    return csv_text(rows)


def to_markdown(content: Mapping[str, Any], table: Table, subject: Subject) -> str:
    """Return the content of metrics.md, from that of metrics.json."""
    rows, columns, greys = content["rows"], table.columns, content["true_greys"]
    parts = [
        f"# {', '.join(subject.rows)}\n",
        f"{about(table, subject)}. ± is half a 95 % bootstrap interval.\n",
        markdown(rows, columns, intervals=True),
    ]
    parts += [f"- {note}" for note in (*subject.notes, *remarks(table, subject))]
    if content["differences"]:
        parts += ["\n## Differences\n", "On the same photos; bold where 0 is not in the interval.\n"]
        parts.append(markdown_differences(content["differences"]))
    if greys:
        parts += [f"\n## Without the {greys} photos that are grey themselves\n"]
        with_greys = [name for name in columns if name not in table.measured.missing and name != "fid"]
        parts.append(markdown(rows, with_greys, value="without_greys"))
    for row in (row for row in subject.rows if row in table.regions):
        parts += [
            f"\n## Regions: {row}\n",
            "Share of each region's pixels whose hue is one that people expect there.\n",
            markdown_regions(content["regions"][row]),
        ]
    parts += [f"\nPhotos: sha256 {content['files_sha256']}"]
    parts += [f"{row}: sha256 {digest}" for row, digest in subject.checkpoint_sha256.items()]
    parts += [", ".join(f"{name} {version}" for name, version in content["versions"].items() if version)]
    return "\n".join(parts) + "\n"


def title(row: str) -> str:
    """Return the name of a row in a table."""
    return "luma look-up" if row == LOOKUP else row


def markdown(
    rows: Mapping[str, Mapping[str, Cell]],
    columns: Sequence[str],
    *,
    value: Literal["mean", "without_greys"] = "mean",
    intervals: bool = False,
    truth: bool = True,
) -> str:
    """Return scores as a Markdown table.

    Args:
        rows: as in metrics.json, not rounded.
        columns: names of `COLUMNS`.
        value: the mean over all photos, or over those that are not grey themselves.
        intervals: with half the width of each interval.
        truth: with the row of the originals.
    """

    def cell(found: Cell, decimals: int) -> str:
        if value not in found or found[value] is None:
            return "no weights"
        if math.isnan(found[value]):
            return "∞" if value == "mean" and found.get("infinite") else "–"
        return f"{found[value]:.{decimals}f}{_half_width(found, decimals) if intervals else ''}"

    lines = [
        [title(row), *(cell(cells[name], COLUMNS[name].decimals) for name in columns)]
        for row, cells in rows.items()
        if row != TRUTH or truth
    ]
    return markdown_table(["", *(COLUMNS[name].title for name in columns)], lines)


def markdown_differences(differences: Sequence[Mapping[str, Any]]) -> str:
    """Return rows minus rows as a Markdown table; bold where the difference exceeds its interval."""

    def cell(found: Cell, decimals: int) -> str:
        mean = found["mean"]
        text = "–" if math.isnan(mean) else f"{mean:+.{decimals}f}{_half_width(found, decimals)}"
        return f"**{text}**" if found["exceeds"] else text

    columns = list(differences[0]["metrics"])
    lines = [
        [
            f"{title(found['row'])} − {title(found['minus'])}",
            *(cell(found["metrics"][name], COLUMNS[name].decimals) for name in columns),
        ]
        for found in differences
    ]
    return markdown_table(["", *(COLUMNS[name].title for name in columns)], lines)


def markdown_regions(regions: Mapping[str, Mapping[str, Any]]) -> str:
    """Return for each region the share that is right, and what the rest is taken for most."""
    lines = []
    for region, found in regions.items():
        wrong = sorted(((share, name) for name, share in found["taken_for"].items() if name != region), reverse=True)
        shares = ", ".join(f"{name} {share:.3f}" for share, name in wrong[:3])
        right = f"{found['right']['mean']:.3f}{_half_width(found['right'], 3)}"
        lines.append([region, right, shares or "–", f"{found['pixels']:,}"])
    return markdown_table(["", "right", "taken for", "pixels"], lines)


def _half_width(cell: Cell, decimals: int) -> str:
    return "" if math.isnan(cell["low"]) else f" ± {(cell['high'] - cell['low']) / 2:.{decimals}f}"


def about(table: Table, subject: Subject) -> str:
    """Name protocol, photos and split in a phrase."""
    greys, config = int(table.measured.true_grey.sum()), subject.config
    grey = f", {greys} of them grey themselves" if greys else ""
    photos = "scenes" if config.data.kind == "scenes" else "photos"
    split = {"train": "the training split", "val": "the validation split", "all": "both splits"}[config.split]
    return f"Protocol {config.protocol}, {table.photos} {photos} of {split}{grey}"


def remarks(table: Table, subject: Subject) -> list[str]:
    """List what is missing from the means, or says less than it seems to."""
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
        counts = ", ".join(f"{count} in {title(row)}" for row, count in infinite.items())
        found.append(f"An infinite PSNR (no difference at all) is in no mean: {counts}.")
    if table.measured.fid:
        found.append(
            f"FID over n = {table.photos} photos, TF-Inception features, antialiased resize; it falls as n grows (and "
            "under 2,048 photos their covariance is not even of full rank), and "
            "published colourization FIDs scale Inception's input otherwise: compare it with neither."
        )
    return found


def draw_gallery(table: Table, subject: Subject, colour: Callable[[list[str]], Coloured]) -> Image.Image:
    """Draw random, best, median and worst photos by `JUDGED_BY` of the row that is judged."""
    judged, measured, metric = subject.judged, table.measured, METRICS[JUDGED_BY]
    chosen = choose(measured, judged, subject.config.gallery_photos, subject.config.seed)
    images = dict(colour(list(dict.fromkeys(name for picked in chosen.values() for name in picked))))
    rows = [GREY, *subject.rows, TRUTH]
    place = {name: number for number, name in enumerate(measured.names)}

    def strip(name: str) -> Strip:
        notes = [f"{measured.values[row][JUDGED_BY][place[name]]:.1f}" for row in subject.rows]
        return Strip(PurePosixPath(name).name, [images[name][row] for row in rows], ["", *notes, ""])

    blocks = [
        Block(
            title if title == "Random" else f"{title} of {judged}", [strip(name) for name in picked if name in images]
        )
        for title, picked in chosen.items()
        if picked
    ]
    title = f"{judged}: mean {metric.title} {table.rows[judged][JUDGED_BY].mean:.1f}"
    subtitle = f"{about(table, subject)}. Below each image: its mean {metric.title} ({metric.note})."
    return page(title, subtitle, rows, blocks)


def choose(measured: Measurements, row: str, count: int, seed: int) -> dict[str, list[str]]:
    """Choose photos to show, by title. True greys are never the best: any method is right there."""
    everything = range(len(measured.names))
    candidates = [number for number in everything if not measured.true_grey[number]] or list(everything)
    ranked = sorted(candidates, key=lambda number: (measured.values[row][JUDGED_BY][number], measured.names[number]))
    count = min(count, len(ranked))
    middle = (len(ranked) - count) // 2
    picks: dict[str, Sequence[int]] = {
        "Random": random.Random(seed).sample(everything, count),
        "Best": ranked[:count],
        "Median": ranked[middle : middle + count],
        "Worst": ranked[::-1][:count],
    }
    return {title: [measured.names[number] for number in numbers] for title, numbers in picks.items()}
