"""Colour photos and films: a file, a folder with all that is in it, a glob, or a list of files.

python -m colorize.predict input=photo.jpg
python -m colorize.predict input=PHOTOS output=DIR
python -m colorize.predict checkpoint=FILE input=film.mkv output=film.mp4 start=60 duration=10
python -m colorize.predict checkpoint=FILE input=photo.jpg output=coloured.jpg render_px=96 device=cpu

Results go into output=DIR, or beside the photos, as photo_colour.jpg. The photos themselves are never written to.
Results that exist are skipped, so that the same command resumes where it was interrupted. The colours are invented, not
recovered.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from colorize.cli.command import run_command
from colorize.config import PredictConfig
from colorize.inference import jobs
from colorize.inference.jobs import Job, Plan, shown
from colorize.runtime.errors import UserError
from colorize.runtime.files import clear_unfinished, write_text
from colorize.runtime.formats import WRITTEN_SUFFIXES, suffix_of
from colorize.runtime.log import log
from colorize.runtime.processes import processes_started
from colorize.runtime.progress import progress_bar
from colorize.runtime.schema import BadOption
from colorize.weights.bundled import existing_weights

if TYPE_CHECKING:
    from lightning import Fabric

    from colorize.inference.colorizer import Colorizer
    from colorize.inference.photo_batches import Outcome


FAILED_HEADER = "# What colorize.predict could not colour, and why.\n"
CONTACT_SHEET_PHOTOS, CONTACT_SHEET_TILE_PX = 40, 240
CONTACT_SHEET_MARK = "colorize.predict, contact sheet"


def run(config: PredictConfig) -> None:
    """Colour all that has no result. Raises UserError: nothing to colour, wrong weights, or, at the end, failures."""
    since = time.monotonic()
    config = replace(config, checkpoint=str(existing_weights(config.checkpoint)))
    if config.every > 1 and not config.stabilize:
        raise BadOption(f"every={config.every} needs stabilize=true, which carries colours from frame to frame")
    if config.claim and config.overwrite:
        raise BadOption("claim=true takes photos that have no result yet: leave out overwrite=true")
    number, count = shard_of(config)
    check_contact_sheet(config)
    together = config.devices * config.num_nodes > 1 or processes_started() > 1
    fabric = shared_by(config) if together else None
    format = None if config.format == "same" else config.format
    plan = jobs.plan(config.input, config.output, format, config.contact_sheet)
    if config.hints is not None:
        plan = replace(plan, jobs=jobs.with_hints(plan.jobs, config.hints))
        log.info(f"hints for {sum(job.hints is not None for job in plan.jobs)} of {len(plan.jobs)} photos")
    plan = plan.share(number, count)
    check_report(config, plan)
    if fabric is None:
        done = colour(config, plan)
    else:  # one of them has listed the photos: the others may have found its first results among them
        plan = fabric.broadcast(plan)
        share = plan if config.claim else plan.share(fabric.global_rank, fabric.world_size)
        own = replace(share, report=None)
        if fabric.device.type == "cuda":
            config = replace(config, device=str(fabric.device))
        done = added_up(colour(config, own))
        if not fabric.is_global_zero:
            return
    if config.contact_sheet is not None:
        write_contact_sheet(Path(config.contact_sheet), plan)
    if plan.report is not None and done.failures:
        lines = (f"{shown(name)}\t{reason}\n" for name, reason in done.failures)
        write_text(plan.report, FAILED_HEADER + "".join(lines))
    elif plan.report is not None:  # of an earlier start
        plan.report.unlink(missing_ok=True)
    if plan.left:
        left = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(plan.left.items()))
        log.info(f"{plan.left.total()} files were not looked at, as no photos or films by name: {left}")
    counts = [f"{done.coloured} coloured"] + [f"{done.kept} left in their own colours"] * config.keep_color
    counts += [f"{done.skipped} skipped (their results exist)", f"{len(done.failures)} failed"]
    results = plan.jobs[0].result if len(plan.jobs) == 1 else plan.folder
    log.info(f"{', '.join(counts)} in {time.monotonic() - since:.1f} s; results: {shown(results)}")
    if done.failures:
        where = f", see {plan.report}" if plan.report else ""
        raise UserError(f"{len(done.failures)} could not be coloured{where}")


@dataclass
class Done:
    """The end of a start: how many photos and films it coloured, left in their own colours and skipped, what failed."""

    coloured: int = 0
    kept: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def colour(config: PredictConfig, plan: Plan) -> Done:
    """Colour what a plan has no result of."""
    from colorize.video import require_packages

    for folder in {plan.folder, *(job.result.parent for job in plan.jobs)}:
        clear_unfinished(folder)
    done, todo, originals = Done(failures=list(plan.unreadable)), list[Job](), jobs.input_files(plan.jobs)
    for job in plan.jobs:
        if original := jobs.overwritten_input(job, originals):
            done.failures.append((job.source, f"its result would replace the photo {original}: give another output"))
        elif job.done() and not config.overwrite:
            done.skipped += 1
        else:
            todo.append(job)
    for name, reason in done.failures:
        log.warning(f"{shown(name)}: {reason}")
    if todo:
        from colorize.inference.colorizer import Colorizer

        words = (config.checkpoint, config.device, config.precision, config.use_ema, config.backend)
        colorizer = Colorizer.from_checkpoint(*words)
        photos, films = ([job for job in todo if job.film == film] for film in (False, True))
        if films:
            require_packages()
        if photos:
            colour_photos(config, colorizer, photos, done)
        for free, release in passes(config, films, done):
            for job in free:
                colour_film(config, colorizer, job, done)
                release(job)
    if not config.overwrite:  # another process on the same folder may have made what this one could not
        made = {job.source for job in todo if job.done()}
        done.skipped += sum(source in made for source, _ in done.failures)
        done.failures = [(source, reason) for source, reason in done.failures if source not in made]
    return done


def shard_of(config: PredictConfig) -> tuple[int, int]:
    """Return which share of the work is this start's, from 0, and of how many. Raises BadOption where there is none."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", config.shard or "1/1")
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BadOption(f"shard={config.shard}: give K/N, as 3/16 for the third of sixteen starts")
    return int(match[1]) - 1, int(match[2])


def shared_by(config: PredictConfig) -> Fabric:
    """Return this one of the processes that share the photos; where they compute on a CPU, they share its cores."""
    from colorize.cli.launch import launch
    from colorize.config.sections import DevicesConfig

    accelerator, _, which = config.device.partition(":")
    if which:
        raise BadOption(f"device={config.device} is one, and devices={config.devices} takes several: give device=cuda")
    threads = max(1, (os.cpu_count() or 1) // config.devices)
    wanted = DevicesConfig(accelerator, devices=config.devices, num_nodes=config.num_nodes, threads=threads)
    return launch(wanted, "", patient=True)


def added_up(own: Done) -> Done:
    """Return what all processes did. Raises UserError where one of them has ended before."""
    from colorize.runtime.distributed import gathered

    try:
        every = gathered(own)
    except RuntimeError as error:
        raise UserError(
            "one of the processes ended before its work was done: the same command makes up for it"
        ) from error
    coloured, kept, skipped = (sum(getattr(one, name) for one in every) for name in ("coloured", "kept", "skipped"))
    return Done(coloured, kept, skipped, [failure for one in every for failure in one.failures])


def check_contact_sheet(config: PredictConfig) -> None:
    """Raise BadOption where the sheet's name says no format, UserError where it is a file of somebody else's."""
    if config.contact_sheet is None:
        return
    sheet = Path(config.contact_sheet)
    suffixes = [suffix for suffix, format in WRITTEN_SUFFIXES.items() if "exif" in format.keeps]  # for our mark
    if suffix_of(sheet) not in suffixes:
        raise BadOption(f"contact_sheet={sheet}: give a name that ends in {' '.join(suffixes)}")
    if sheet.exists() and not (sheet.is_file() and CONTACT_SHEET_MARK.encode() in sheet.read_bytes()):
        raise UserError(f"contact_sheet={sheet} exists and is no page of this program: give another name")


def check_report(config: PredictConfig, plan: Plan) -> None:
    """Raise UserError where what is written beside the results would replace something of somebody else's."""
    path, header = plan.report, FAILED_HEADER.encode()
    if path and path.exists() and not (path.is_file() and path.read_bytes().startswith(header)):
        raise UserError(f"{path} is not of this program, which would write it: move it away")
    if config.contact_sheet is not None:
        taken = {os.path.realpath(path) for job in plan.jobs for path in (job.source, job.result, job.compare)}
        if os.path.realpath(config.contact_sheet) in taken:
            raise UserError(f"contact_sheet={config.contact_sheet} is a photo or its result: give another name")


def colour_photos(config: PredictConfig, colorizer: Colorizer, todo: list[Job], done: Done) -> None:
    """Colour photos under a progress bar, and add to `done` what became of each."""
    from colorize.inference.photo_batches import colour_all

    render_px, backend = config.render_px or colorizer.preprocessing.render_px, colorizer.backend
    log.info(f"{len(todo)} to colour at {render_px} px: {colorizer.title}; {backend.precision} on {backend.device}")
    with progress_bar("colouring", len(todo)) as advance:
        for jobs, release in passes(config, todo, done):
            for outcome in colour_all(colorizer, jobs, config):
                release(outcome.job)
                advance()
                note(config, outcome, done)


def passes(config: PredictConfig, todo: list[Job], done: Done) -> Iterator[tuple[Iterable[Job], Callable[[Job], None]]]:
    """Yield what is to be coloured, and what is to be told of each that is; anew while others are at some of it."""
    if not config.claim:
        yield todo, lambda job: None
        return
    from colorize.inference.claims import Claims

    claims = Claims(todo)
    try:
        while claims.left:
            yield claims.free(), claims.release
            if claims.left:
                time.sleep(1)  # others are at these: they end them, or are lost
    finally:
        claims.release_all()
        done.skipped += claims.done_elsewhere


def colour_film(config: PredictConfig, colorizer: Colorizer, job: Job, done: Done) -> None:
    """Colour a film under a progress bar, and add to `done` what became of it."""
    from colorize.inference.film import film_outcome

    render_px = config.render_px or colorizer.preprocessing.render_px
    log.info(f"{shown(job.source)}: a film, coloured at {render_px} px by {colorizer.title}")
    with progress_bar("colouring", None) as advance:
        note(config, film_outcome(colorizer, job, config, advance), done)


def note(config: PredictConfig, outcome: Outcome, done: Done) -> None:
    """Say what there is to say of a photo or film, and add to `done` what became of it."""
    for line in outcome.notes:
        log.warning(f"{shown(str(outcome.result))}: {line}")
    if config.verbose and outcome.luma:
        log.info(f"{shown(str(outcome.result))}: {outcome.luma}")
    if outcome.result is None:
        done.failures.append((outcome.job.source, outcome.reason))
        log.warning(f"{shown(outcome.job.source)}: {outcome.reason}")
    else:
        done.kept += outcome.kept
        done.coloured += not outcome.kept


def write_contact_sheet(path: Path, plan: Plan) -> None:
    """Write a page with the first photos that have results, of this start or an earlier one: before and after."""
    import numpy as np
    from PIL import Image
    from PIL.ExifTags import Base

    from colorize.data.images import load_rgb
    from colorize.evaluation.gallery import Block, Strip, page
    from colorize.photos.metadata import Metadata
    from colorize.photos.opening import UnreadableImage
    from colorize.photos.results import BandedImage, save

    strips: list[Strip] = []
    for job in plan.jobs:
        result = next((name for name in (job.result, job.as_png) if name is not None and name.is_file()), None)
        if result is not None and len(strips) < CONTACT_SHEET_PHOTOS:
            try:
                tiles = [load_rgb(name) for name in (job.source, result)]
            except UnreadableImage:
                continue  # gone since, or spoilt
            for tile in tiles:
                tile.thumbnail((CONTACT_SHEET_TILE_PX, CONTACT_SHEET_TILE_PX))
            strips.append(Strip(shown(result.name), tiles, ("", "")))
    if not strips:
        return
    half = (len(strips) + 1) // 2
    halves = [(1, strips[:half]), (half + 1, strips[half:])]
    blocks = [Block(f"{first} to {first + len(part) - 1}", part) for first, part in halves if part]
    subtitle = f"{len(strips)} of {len(plan.jobs)} photos. The colours are invented."
    sheet = page("Before and after", subtitle, ("before", "after"), blocks, CONTACT_SHEET_TILE_PX)
    exif = Image.Exif()
    exif[Base.Software] = CONTACT_SHEET_MARK
    sheet_format = WRITTEN_SUFFIXES[suffix_of(path)]
    save(path, BandedImage.of(np.asarray(sheet)), sheet_format, Metadata(exif.tobytes()), quality=90)
    log.info(f"{path}: before and after of {len(strips)} photos")


if __name__ == "__main__":
    run_command("predict", run)
