"""Files that an evaluation leaves in its folder; docs/EVALUATION.md describes metrics.json and the others."""

import json
import math
import platform
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import distributions
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
from colorize.runtime.errors import listed
from colorize.runtime.files import csv_text, markdown_table, sha256, write_text
from colorize.runtime.version import __version__

LIBRARIES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "Pillow")
Coloured = Iterable[tuple[str, Mapping[str, Image.Image]]]
Content = Mapping[str, Any]  # of metrics.json before rounding, see docs/EVALUATION.md; means that do not exist are NaN
Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by row and metric, as in metrics.json


def to_json(config: EvaluateConfig, table: Table, checkpoint_sha256: dict[str, str], **fields: Any) -> dict[str, Any]:
    """Return the content of metrics.json; `fields` are those that the table does not tell, see docs/EVALUATION.md."""
    libraries = {name: next((each.version for each in distributions(name=name)), None) for name in LIBRARIES}
    measured, rows = table.measured, methods(table.rows)
    # As `sha256sum` prints it, sorted by path.
    files = sorted(zip(measured.names, measured.digests, strict=True))
    photos = "".join(f"{digest}  {name}\n" for name, digest in files)
    # Each row is compared with the first, and with the one before it.
    pairs = [(row, minus) for n, row in enumerate(rows) for minus in dict.fromkeys(rows[:n][:1] + rows[:n][-1:])]
    content: dict[str, Any] = {
        "protocol": config.protocol,
        "n": len(measured.names),
        "files_sha256": sha256(photos.encode("utf-8", "surrogateescape")),
        "checkpoint_sha256": checkpoint_sha256,
        "versions": {"colorize": __version__, "python": platform.python_version(), **libraries},
        "rows": scores.rows_to_json(table),
        "split": config.split,
        "data": config.data.kind,
        "seed": config.seed,
        "true_greys": int(measured.true_grey.sum()),
        "differences": [scores.difference_to_json(table, *pair) for pair in pairs],
        "missing": measured.missing,
        **fields,
    }
    if table.regions:
        content["regions"] = scores.regions_to_json(table)
    return content


def write(content: Content, measured: Measurements, gallery: Image.Image, folder: Path) -> None:
    """Write the four files, each whole or not at all; in CSV, an infinite PSNR is `inf`."""
    write_text(folder / "metrics.json", json.dumps(_rounded(content), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "metrics.md", to_markdown(content))
    columns = list(measured.values[TRUTH])
    lines: list[list[object]] = [["photo", "row", "true_grey", *columns]]
    for number, (name, grey) in enumerate(zip(measured.names, measured.true_grey, strict=True)):
        for row, values in measured.values.items():
            lines.append([name, row, int(grey), *(f"{values[column][number]:.6g}" for column in columns)])
    write_text(folder / "per_image.csv", csv_text(lines))
    save_png(gallery, folder / "gallery.png")


def _rounded(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    if isinstance(content, float):
        return round(content, 6) if math.isfinite(content) else None
    return content


def methods(rows: Iterable[str]) -> list[str]:
    """Return the rows of checkpoints and folders, without those that are always there."""
    return [row for row in rows if row not in (GREY, LOOKUP, TRUTH)]


def to_markdown(content: Content) -> str:
    """Return the content of metrics.md."""
    rows, columns, greys = content["rows"], list(content["rows"][TRUTH]), content["true_greys"]
    parts = [
        f"# {', '.join(methods(rows))}\n",
        f"{about(content)}. ± is half a 95 % bootstrap interval.\n",
        markdown(rows, columns, intervals=True),
    ]
    parts += [f"- {note}" for note in (*content["notes"], *remarks(content))]
    if differences := content["differences"]:
        parts += ["\n## Differences\n", "On the same photos; bold where 0 is not in the interval.\n"]
        gaps = {f"{title(found['row'])} − {title(found['minus'])}": found["metrics"] for found in differences}
        parts.append(markdown(gaps, list(differences[0]["metrics"]), intervals=True, signed=True))
    if greys:
        parts += [f"\n## Without the {greys} photos that are grey themselves\n"]
        known = [name for name in columns if name not in content["missing"] and name != "fid"]
        parts.append(markdown(rows, known, value="without_greys"))
    for row in methods(content.get("regions", {})):
        parts += [
            f"\n## Regions: {row}\n",
            "Share of each region's pixels whose hue is one that people expect there.\n",
            markdown_regions(content["regions"][row]),
        ]
    parts += [f"\nPhotos: sha256 {content['files_sha256']}"]
    parts += [f"{row}: sha256 {digest}" for row, digest in content["checkpoint_sha256"].items()]
    parts += [", ".join(f"{name} {version}" for name, version in content["versions"].items() if version)]
    return "\n".join(parts) + "\n"


def title(row: str) -> str:
    """Return the name of a row in a table."""
    return "luma look-up" if row == LOOKUP else row


def markdown(
    rows: Rows,
    columns: Sequence[str],
    *,
    value: Literal["mean", "without_greys"] = "mean",
    intervals: bool = False,
    signed: bool = False,
) -> str:
    """Return scores as a Markdown table, `intervals` with half their width; bold are differences that exceed theirs."""

    def cell(name: str, found: Mapping[str, Any]) -> str:
        decimals, number = COLUMNS[name].decimals, found.get(value)
        if number is None:
            return "no weights"
        if math.isnan(number):
            return "∞" if value == "mean" and found.get("infinite") else "–"
        text = f"{number:{'+' * signed}.{decimals}f}{_half_width(found, decimals) if intervals else ''}"
        return f"**{text}**" if found.get("exceeds") else text

    lines = [[title(row), *(cell(name, cells[name]) for name in columns)] for row, cells in rows.items()]
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


def _half_width(cell: Mapping[str, Any], decimals: int) -> str:
    return "" if math.isnan(cell["low"]) else f" ± {(cell['high'] - cell['low']) / 2:.{decimals}f}"


def about(content: Content) -> str:
    """Name protocol, photos, split and the size that networks saw in a phrase."""
    grey = f", {content['true_greys']} of them grey themselves" if content["true_greys"] else ""
    photos = "scenes" if content["data"] == "scenes" else "photos"
    split = {"train": "the training split", "val": "the validation split", "all": "both splits"}[content["split"]]
    shown = sorted(set(content["render_px"].values()))
    seen = f", shown to the networks at {' and '.join(map(str, shown))} px" if shown else ""
    return f"Protocol {content['protocol']}, {content['n']} {photos} of {split}{grey}{seen}"


def remarks(content: Content) -> list[str]:
    """List what is missing from the means, or says less than it seems to."""
    found = [f"{COLUMNS[name].title}: {reason}" for name, reason in content["missing"].items()]
    if content["sampled_from"] is not None:
        sample = content["n"] + len(content["left_out"])
        found.append(f"A fixed sample of {sample} of {content['sampled_from']} photos.")
    if content["left_out"]:
        why = [f"{name}: {reason}" for name, reason in content["left_out"].items()]
        found.append(f"{len(why)} photos are left out of all rows ({listed(why)}).")
    infinite = {row: cells["psnr"]["infinite"] for row, cells in content["rows"].items() if row != TRUTH}
    if any(infinite.values()):
        counts = ", ".join(f"{count} in {title(row)}" for row, count in infinite.items() if count)
        found.append(f"An infinite PSNR (no difference at all) is in no mean: {counts}.")
    if content["rows"][TRUTH].get("fid", {}).get("mean") is not None:
        found.append(
            f"FID over n = {content['n']} photos, TF-Inception features, antialiased resize; it falls as n grows (and "
            "under 2,048 photos their covariance is not even of full rank), and "
            "published colourization FIDs scale Inception's input otherwise: compare it with neither."
        )
    return found


def draw_gallery(
    content: Content, measured: Measurements, judged: str, count: int, colour: Callable[[list[str]], Coloured]
) -> Image.Image:
    """Draw `count` random, best, median and worst photos each, by `JUDGED_BY` of the row `judged`."""
    metric = METRICS[JUDGED_BY]
    chosen = choose(measured, judged, count, content["seed"])
    images = dict(colour(list(dict.fromkeys(name for picked in chosen.values() for name in picked))))
    rows = [GREY, *methods(content["rows"]), TRUTH]
    place = {name: number for number, name in enumerate(measured.names)}

    def strip(name: str) -> Strip:
        notes = [f"{measured.values[row][JUDGED_BY][place[name]]:.1f}" for row in rows[1:-1]]
        return Strip(PurePosixPath(name).name, [images[name][row] for row in rows], ["", *notes, ""])

    blocks = [
        Block(title + f" of {judged}" * (title != "Random"), [strip(name) for name in picked if name in images])
        for title, picked in chosen.items()
        if picked
    ]
    title = f"{judged}: mean {metric.title} {content['rows'][judged][JUDGED_BY]['mean']:.1f}"
    subtitle = f"{about(content)}. Below each image: its mean {metric.title} ({metric.note})."
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
