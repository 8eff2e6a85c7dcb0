"""Report on the photos of a run, which `data.report=true` prints instead of training for days."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from colorize.color import rgb_to_grey
from colorize.config import TrainConfig
from colorize.data.caches.survey import Survey, is_dull, readable, survey
from colorize.data.from_config import list_photos
from colorize.data.resolution import ResolutionSchedule, steps_an_epoch
from colorize.data.sources import Photos
from colorize.metrics import TRUE_GREY_SPREAD
from colorize.runtime.devices import autocast, pick_device, pick_precision, place
from colorize.runtime.errors import UserError
from colorize.runtime.files import markdown_table
from colorize.runtime.processes import is_first_process
from colorize.runtime.progress import spoken
from colorize.runtime.schema import BadOption
from colorize.training import build
from colorize.training.objective import total

ENOUGH_FROM_PHOTOS = {
    "recipe=finetune: the bundled one learns their kind": 30,
    "recipe=pocket: a small network, from its encoder on": 20_000,
    "recipe=paper: the four steps, with a critic": 100_000,
}
"""Training photos from which a recipe is worth its time: what was measured (docs/RESULTS.md, docs/POCKET.md)."""

TIMED_IMAGES = 8
NAMED_AT_MOST = 20  # unreadable files that are listed
DULL = 15  # colourfulness under which there is little to learn


def run(config: TrainConfig) -> None:
    """Survey the photos and print the report. Raises BadOption in a sweep, whose jobs would count as done."""
    if config.sweep is not None:
        raise BadOption("data.report=true trains nothing, so that a sweep's jobs have nothing to do: leave out -m")
    if not is_first_process():
        return
    build.make_schedule(config)
    photos = list_photos(config.data, config.seed)
    found = survey(photos, photos.train + photos.val, config.runs_dir, config.data.num_workers)
    least = config.data.min_colourfulness or 0
    left = len(photos.train) - int(is_dull(found.rows[: len(photos.train)], least).sum())
    config = build.fit_to_photos(config, left)
    schedule = build.make_schedule(config)
    text = f"{describe(config, schedule, photos, found, left)}\n{verdict(config, schedule, left, len(photos.val))}"
    print(text.encode("utf-8", "backslashreplace").decode())  # names may hold bytes that are no text


def describe(config: TrainConfig, schedule: ResolutionSchedule, photos: Photos, found: Survey, left: int) -> str:
    """Return tables of the photos and of the stages of training, for which `left` of them remain; the unreadable."""
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
    return "\n".join(parts)


def verdict(config: TrainConfig, schedule: ResolutionSchedule, photos: int, val_photos: int) -> str:
    """Return what so many training photos are enough for, and how long the phase would take here, as Markdown."""
    rows = [[use, f"{least:,}", "yes" if photos >= least else "no"] for use, least in ENOUGH_FROM_PHOTOS.items()]
    limit = config.trainer.limit_train_batches
    said = f"Phase {config.phase} with recipe={config.recipe}: {schedule.steps(photos, limit):,} steps"
    seconds = seconds_an_image(config, schedule) if photos and config.phase == "pretrain_gen" else None
    if seconds is not None:
        stage = schedule.at(schedule.epochs)
        val_px = config.data.val_size_px or stage.size_px
        # At validation a photo is seen three times without a backward pass: about what learning from one costs.
        seen = schedule.epochs * val_photos * (val_px / stage.size_px) ** 2
        said += f", about {spoken(seconds * (sum(schedule.images(photos, limit)) + seen))} here"
    table = markdown_table([f"{photos:,} training photos are enough for", "from", ""], rows)
    return f"{table}\n{said}."


def seconds_an_image(config: TrainConfig, schedule: ResolutionSchedule) -> float | None:
    """Time the learning from an image of the last size, the second of two; None where the VGG's weights are missing."""
    device, stage = pick_device(config.trainer.accelerator), schedule.at(schedule.epochs)
    try:
        module = build.make_module(config, resume_from=Path("none"))  # as if resumed: the first weights are not needed
    except UserError:
        return None
    generator, rates = place(module.network("generator"), device).train(), module.learning_rates["generator"]
    generator.freeze(rates.frozen_at(schedule.epochs - 1), rates.optim.frozen_norms)
    module.objective.to(device, None)
    rgb = torch.rand(min(TIMED_IMAGES, stage.batch_size), 3, stage.size_px, stage.size_px, device=device)
    began = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with autocast(pick_precision(config.trainer.precision, device), device):
            prediction = generator(rgb_to_grey(rgb), detailed=True)
            image_terms = module.objective.content(prediction.rgb, rgb)
            terms = image_terms | module.objective.chroma_terms(generator, prediction, rgb)
        total(terms, prediction.rgb).backward()
        float(prediction.rgb.detach().sum())  # waits for the device
    return (time.perf_counter() - began) / len(rgb)


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
