"""What the photos of a run are, as `data.report=true` prints it instead of training for days."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from colorize.config import TrainConfig
from colorize.data.build import list_photos
from colorize.data.caches.survey import Survey, is_dull, readable, survey
from colorize.data.loading import GlobalBatches
from colorize.data.resolution import ResolutionSchedule
from colorize.data.sources import Photos
from colorize.metrics import TRUE_GREY_SPREAD
from colorize.runtime.processes import is_first_process
from colorize.runtime.schema import BadOption
from colorize.training import build

NAMED_AT_MOST = 20
"""Unreadable files that are listed."""

DULL = 15
"""Colourfulness under which there is little to learn."""


def run(config: TrainConfig) -> None:
    """Survey the photos and print what they are.

    Raises:
        BadOption: in a sweep, whose jobs would count as done.
    """
    if config.sweep is not None:
        raise BadOption("data.report=true trains nothing, so that a sweep's jobs have nothing to do: leave out -m")
    if not is_first_process():
        return
    schedule = build.make_schedule(config)
    photos = list_photos(config.data, config.seed, config.runs_dir)
    found = survey(photos, photos.train + photos.val, config.runs_dir, config.data.num_workers)
    Console(highlight=False).print(describe(config, schedule, photos, found), crop=False)


def describe(config: TrainConfig, schedule: ResolutionSchedule, photos: Photos, found: Survey) -> Group:
    """A table of the photos, one of the stages of training, and the files that cannot be read.

    `photos` are all of the source, in their split; `found` is the survey of `photos.train + photos.val`.
    """
    count, least = len(photos.train), config.data.min_colourfulness
    out = is_dull(found.rows[:count], 0 if least is None else least).sum()
    table = Table(box=SIMPLE_HEAD, caption="a / b / c: least, median and most\n", caption_justify="left")
    table.add_column()
    table.add_column("training", justify="right")
    table.add_column("validation", justify="right")
    largest_px = max(schedule.at(epoch).size_px for epoch in range(schedule.epochs))
    train, val = (properties(rows, photos.on_disk, largest_px) for rows in (found.rows[:count], found.rows[count:]))
    for label in train:
        table.add_row(label, train[label], val[label])
    if least is not None:
        table.add_row(f"left out of training (under {least:g})", _share(out, count), "0")
    parts: list[Table | Text] = [_plain(f"Photos in {photos.root}"), table]
    parts += [_plain(f"Stages of phase {config.phase}"), stages(config, schedule, count - int(out))]
    if found.unreadable:
        parts.append(_listed(found.unreadable, config.data.max_unreadable))
    return Group(*parts)


def properties(rows: NDArray[Any], on_disk: bool, largest_px: int) -> dict[str, str]:
    """What there is to say of the photos of one split, by the words for it."""
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
        "formats": "\n".join(f"{name.decode()} {number:,}" for name, number in formats),
        "pixels": f"{(width.astype(float) * height).sum() / 1e6:,.1f} million",
        "files": f"{seen['bytes'].sum() / 1e6:,.1f} MB",
    }


def stages(config: TrainConfig, schedule: ResolutionSchedule, photos: int) -> Table:
    """Steps an epoch at each size."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("size in px", "batch", "epochs", "steps an epoch"):
        table.add_column(name, justify="right")
    for size_px, batch_size, epochs in zip(schedule.size_px, schedule.batch_size, schedule.stage_epochs, strict=True):
        steps = len(GlobalBatches(photos, batch_size, seed=0, epoch=0)) if photos else 0
        if config.trainer.limit_train_batches is not None:
            steps = min(steps, config.trainer.limit_train_batches)
        table.add_row(f"{size_px}", f"{batch_size:,}", f"{epochs}", f"{steps:,}")
    return table


def _listed(unreadable: dict[str, str], bearable: int) -> Text:
    lines = [f"Unreadable ({len(unreadable):,}; a fit skips up to data.max_unreadable={bearable:,} and then stops):"]
    lines += [f"  {name}: {reason}" for name, reason in list(unreadable.items())[:NAMED_AT_MOST]]
    if len(unreadable) > NAMED_AT_MOST:
        lines.append(f"  and {len(unreadable) - NAMED_AT_MOST:,} more")
    return _plain("\n".join(lines))


def _plain(text: str) -> Text:
    """Lines of any length, with the bytes of names that are no text spelt out."""
    return Text(text.encode("utf-8", "backslashreplace").decode(), no_wrap=True, overflow="ignore")


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"


def _range(values: NDArray[Any], form: str) -> str:
    if not len(values):
        return "-"
    return " / ".join(format(float(value), form) for value in (values.min(), np.median(values), values.max()))
