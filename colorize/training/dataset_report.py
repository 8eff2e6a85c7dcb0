"""Report on the photos of a run, which `data.report=true` prints instead of training for days."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colorize.config import TrainConfig
from colorize.data.from_config import list_photos
from colorize.data.resolution import ResolutionSchedule, steps_an_epoch
from colorize.data.sources import Photos
from colorize.data.survey import Survey, is_dull, readable, survey
from colorize.metrics import TRUE_GREY_SPREAD
from colorize.runtime.files import markdown_table
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption
from colorize.training import build

ENOUGH_FROM_PHOTOS = {
    "recipe=finetune: the bundled one learns their kind": 30,
    "recipe=pocket: a small network, from its encoder on": 20_000,
    "recipe=paper: the four steps, with a critic": 100_000,
}
"""Training photos from which a recipe is worth its time: what was measured (docs/RESULTS.md, docs/POCKET.md)."""

NAMED_AT_MOST = 20  # unreadable files that are listed
DULL = 15  # colourfulness under which there is little to learn


def run(config: TrainConfig) -> None:
    """Survey the photos and print the report. Raises BadOption in a sweep, whose jobs would count as done."""
    if config.sweep is not None:
        raise BadOption("data.report=true trains nothing, so that a sweep's jobs have nothing to do: leave out -m")
    if config.data.kind == "shards":
        raise BadOption("data.report=true is for photos that are files: ask for it before colorize.pack")
    if not is_first_process():
        return
    if config.resolution.images is None:
        build.make_schedule(config)
    photos = list_photos(config.data, config.seed, config.runs_dir)
    found = survey(photos, photos.of_split("all"), config.runs_dir, config.data.workers(1))
    least = config.data.min_colourfulness or 0
    left = len(photos.train) - int(is_dull(found.rows[: len(photos.train)], least).sum())
    config = build.fit_to_photos(config, left)
    schedule = build.make_schedule(config)
    text = describe(config, schedule, photos, found, left)
    print(text.encode("utf-8", "backslashreplace").decode())  # names may hold bytes that are no text


def describe(config: TrainConfig, schedule: ResolutionSchedule, photos: Photos, found: Survey, left: int) -> str:
    """Return tables of the photos, the stages of training, for which `left` remain, and what these are enough for."""
    count, least = len(photos.train), config.data.min_colourfulness
    largest_px = max(schedule.at(epoch).size_px for epoch in range(schedule.epochs))
    train, val = (properties(rows, photos.on_disk, largest_px) for rows in (found.rows[:count], found.rows[count:]))
    rows = [[label, train[label], val[label]] for label in train]
    if least is not None:
        rows.append([f"left out of training (under {least:g})", _share(count - left, count), "0"])
    parts = [f"Photos in {photos.root}\n", markdown_table(["", "training", "validation"], rows)]
    stages, limit = [], config.trainer.limit_train_batches
    for size_px, batch, epochs in zip(schedule.size_px, schedule.batch_size, schedule.stage_epochs, strict=True):
        stages.append([f"{size_px}", f"{batch:,}", f"{epochs}", f"{steps_an_epoch(batch, left, limit):,}"])
    parts += ["a / b / c: least, median and most\n", f"Stages of phase {config.phase}\n"]
    parts.append(markdown_table(["size in px", "batch", "epochs", "steps an epoch"], stages))
    if found.unreadable:
        skipped = f"training skips up to data.max_unreadable={config.data.max_unreadable:,} and then stops"
        lines = [f"  {name}: {reason}" for name, reason in found.unreadable.items()]
        parts += [f"Unreadable ({len(lines):,}; {skipped}):", *lines[:NAMED_AT_MOST]]
        parts += [f"  and {len(lines) - NAMED_AT_MOST:,} more"] * (len(lines) > NAMED_AT_MOST)
    uses = [[use, f"{enough:,}", "yes" if left >= enough else "no"] for use, enough in ENOUGH_FROM_PHOTOS.items()]
    parts.append(markdown_table([f"{left:,} training photos are enough for", "from", ""], uses))
    parts.append(f"Phase {config.phase} with recipe={config.recipe}: {schedule.steps(left):,} steps.")
    return "\n".join(parts)


def properties(rows: NDArray[Any], on_disk: bool, largest_px: int) -> dict[str, str]:
    """Return the properties of the photos of one split, by their labels."""
    seen = rows[readable(rows)]
    colour, count = seen["colourfulness"], len(seen)
    texts = {
        "photos": f"{len(rows):,}",
        "unreadable": _share(len(rows) - count, len(rows)),
        "true greys": _share((seen["spread"] <= TRUE_GREY_SPREAD).sum(), count),
        f"colourfulness under {DULL}": _share((colour < DULL).sum(), count),
        "colourfulness": _range(colour, ".0f"),
    }
    if not on_disk:
        return texts | {"size": "any"}
    width, height = seen["width"], seen["height"]
    shorter = np.minimum(width, height)
    formats = Counter(seen["format"].tolist()).most_common()
    return texts | {
        "shorter side, px": _range(shorter, ".0f"),
        f"shorter side under {largest_px} px": _share((shorter < largest_px).sum(), count),
        "width / height": _range(width / np.maximum(height, 1), ".2f"),
        "formats": ", ".join(f"{name.decode()} {number:,}" for name, number in formats),
    }


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"


def _range(values: NDArray[Any], form: str) -> str:
    if not len(values):
        return "-"
    return " / ".join(format(float(value), form) for value in (values.min(), np.median(values), values.max()))
