"""Report on the photos of a run, which `data.report=true` prints instead of training for days."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colorize.config import TrainConfig
from colorize.data.caches.survey import Survey, is_dull, readable, survey
from colorize.data.from_config import list_photos
from colorize.data.loading import GlobalBatches
from colorize.data.resolution import ResolutionSchedule
from colorize.data.sources import Photos
from colorize.metrics import TRUE_GREY_SPREAD
from colorize.runtime.files import markdown_table
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption
from colorize.training import build

NAMED_AT_MOST = 20
"""Unreadable files that are listed."""

DULL = 15
"""Colourfulness under which there is little to learn."""


def run(config: TrainConfig) -> None:
    """Survey the photos and print the report. Raises BadOption in a sweep, whose jobs would count as done."""
    if config.sweep is not None:
        raise BadOption("data.report=true trains nothing, so that a sweep's jobs have nothing to do: leave out -m")
    if not is_first_process():
        return
    schedule = build.make_schedule(config)
    photos = list_photos(config.data, config.seed, config.runs_dir)
    found = survey(photos, photos.train + photos.val, config.runs_dir, config.data.num_workers)
    text = describe(config, schedule, photos, found)
    print(text.encode("utf-8", "backslashreplace").decode())  # names may hold bytes that are no text


def describe(config: TrainConfig, schedule: ResolutionSchedule, photos: Photos, found: Survey) -> str:
    """Return a table of the photos, one of the stages of training, and the files that cannot be read, as Markdown.

    `photos` are all of the source, in their split; `found` is the survey of `photos.train + photos.val`.
    """
    count, least = len(photos.train), config.data.min_colourfulness
    out = is_dull(found.rows[:count], 0 if least is None else least).sum()
    largest_px = max(schedule.at(epoch).size_px for epoch in range(schedule.epochs))
    train, val = (properties(rows, photos.on_disk, largest_px) for rows in (found.rows[:count], found.rows[count:]))
    table = (["", "training", "validation"], [[label, train[label], val[label]] for label in train])
    if least is not None:
        table[1].append([f"left out of training (under {least:g})", _share(out, count), "0"])
    parts = [f"Photos in {photos.root}\n", markdown_table(*table), "a / b / c: least, median and most\n"]
    parts += [f"Stages of phase {config.phase}\n", markdown_table(*stages(config, schedule, count - int(out)))]
    if found.unreadable:
        skipped = f"training skips up to data.max_unreadable={config.data.max_unreadable:,} and then stops"
        lines = [f"  {name}: {reason}" for name, reason in found.unreadable.items()]
        parts += [f"Unreadable ({len(lines):,}; {skipped}):", *lines[:NAMED_AT_MOST]]
        parts += [f"  and {len(lines) - NAMED_AT_MOST:,} more"] * (len(lines) > NAMED_AT_MOST)
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
        "pixels": f"{(width.astype(float) * height).sum() / 1e6:,.1f} million",
        "files": f"{seen['bytes'].sum() / 1e6:,.1f} MB",
    }


def stages(config: TrainConfig, schedule: ResolutionSchedule, photos: int) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of the steps of an epoch at each size."""
    rows = []
    for size_px, batch_size, epochs in zip(schedule.size_px, schedule.batch_size, schedule.stage_epochs, strict=True):
        steps = len(GlobalBatches(photos, batch_size, seed=0, epoch=0)) if photos else 0
        if config.trainer.limit_train_batches is not None:
            steps = min(steps, config.trainer.limit_train_batches)
        rows.append([f"{size_px}", f"{batch_size:,}", f"{epochs}", f"{steps:,}"])
    return ["size in px", "batch", "epochs", "steps an epoch"], rows


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"


def _range(values: NDArray[Any], form: str) -> str:
    if not len(values):
        return "-"
    return " / ".join(format(float(value), form) for value in (values.min(), np.median(values), values.max()))
