"""Colouring many photos: while the network works on some, the next are read and the last are written."""

import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from colorize.color import Plane
from colorize.config import PredictConfig
from colorize.data.images import load_rgb
from colorize.inference.colorizer import Colorizer
from colorize.inference.jobs import Job
from colorize.photos import reading
from colorize.photos.hints import read_hints
from colorize.photos.metadata import Metadata
from colorize.photos.opening import UnreadableImage, to_rgb
from colorize.photos.reading import Photo
from colorize.photos.rendering import coloured
from colorize.photos.results import BandedImage, save
from colorize.runtime.errors import UserError, disk_fault, is_out_of_memory, one_line
from colorize.runtime.files import written_whole
from colorize.runtime.formats import WRITTEN_SUFFIXES

COMPARE_PX = 1000  # longer side of each of the two images that show before and after

WORKERS = min(4, os.cpu_count() or 1)
Arguments = ParamSpec("Arguments")
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """The end of the work on a photo: its result (None where it failed), or the reason why it failed.

    `kept`: it had colours of its own, and was left as it is. `notes` are what there is to say of a result; `luma` says
    of a JPEG whether its luma was taken over from another, for who wants to know.
    """

    job: Job
    result: Path | None = None
    kept: bool = False
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    luma: str = ""


def colour_all(colorizer: Colorizer, jobs: Iterable[Job], options: PredictConfig) -> Iterator[Outcome]:
    """Colour photos, and say of each what became of it, in their order but for the broken, which come first.

    What can be wrong with one photo fails it alone. At any time there are about three batches of photos in memory, as
    their luma, or two and one photo for each writer. Raises UserError where the disk is full or read-only.
    """
    at_once = options.batch_size or colorizer.backend.at_once
    coming = iter(jobs)
    reading: deque[list[tuple[Job, Future[Photo]]]] = deque()
    writing: deque[Future[Outcome]] = deque()
    with ExitStack() as stack:
        # Reading a photo silences Pillow's warnings for the process, not for its thread: threads would bring them back
        # in the middle of each other's work, or for good, were they not silenced around them all.
        stack.enter_context(warnings.catch_warnings())
        for kind in (UserWarning, Image.DecompressionBombWarning):
            warnings.simplefilter("ignore", kind)
        # NumPy's products of matrices are small, and of several photos at a time: threads of its own would but wait.
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        readers, writers = (stack.enter_context(ThreadPoolExecutor(WORKERS)) for _ in range(2))
        while True:
            while len(reading) < 2 and (batch := list(islice(coming, at_once))):
                reading.append([(job, submit(readers, _read, job, options)) for job in batch])
            if not reading:
                break
            read: list[tuple[Job, Photo]] = []
            for job, future in reading.popleft():
                try:
                    read.append((job, future.result()))
                except Exception as error:
                    yield failed(job, error)
            to_colour = [photo for _, photo in read if photo.own is None]
            made = iter(_render(colorizer, to_colour, options) if to_colour else [])
            for job, photo in read:
                rendered = next(made) if photo.own is None else None
                if isinstance(rendered, Exception):
                    yield failed(job, rendered)
                else:
                    writing.append(submit(writers, write_result, job, photo, rendered, options))
            del read, to_colour, made
            # None of the writers is to wait for the network.
            while len(writing) > max(at_once, WORKERS):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


def submit(
    pool: ThreadPoolExecutor, work: Callable[Arguments, T], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Future[T]:
    """Hand work to the threads of a pool; where there is no memory for another thread, do it here and now.

    The pool keeps what it could not start a thread for: whoever comes first does it, once.
    """
    future, taken = Future[T](), Lock()

    def once() -> None:
        if taken.acquire(blocking=False):
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

    try:
        pool.submit(once)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        once()
    return future


def _read(job: Job, options: PredictConfig) -> Photo:
    keep_color = options.keep_color and job.hints is None
    as_jpeg = WRITTEN_SUFFIXES[job.result.suffix.lower()].name == "JPEG"
    photo = reading.read(job.source, keep_color, as_jpeg)
    return photo if job.hints is None else replace(photo, hints=read_hints(job.hints, *photo.size))


def _render(colorizer: Colorizer, found: list[Photo], options: PredictConfig) -> list[Plane | Exception]:
    try:
        return list(colorizer.render(found, options.render_px, options.tta, options.saturation))
    except Exception as error:
        if len(found) == 1:
            return [error]
    return [made for photo in found for made in _render(colorizer, [photo], options)]


def write_result(job: Job, photo: Photo, rendered: Plane | None, options: PredictConfig) -> Outcome:
    """Write the files of a photo's result; the one that stands for its being done comes last."""
    try:
        path, format = job.result, WRITTEN_SUFFIXES[job.result.suffix.lower()]
        image = coloured(photo, rendered)
        if not format.can_hold(*image.shape):
            if job.as_png is None:
                what = "transparency" if image.channels == 4 else f"{image.width} × {image.height} px"
                what = "16 bits a channel" if image.bits == 16 else what
                return Outcome(job, reason=f"a {format.name} file cannot hold {what}: give output=….png")
            path, format = job.as_png, WRITTEN_SUFFIXES[".png"]
        if "icc" not in format.keeps:
            image = coloured(photo.in_srgb(), rendered)
        if options.compare:
            sides = load_rgb(job.source), to_rgb(coloured(photo.in_srgb(), rendered).to_image())
            for side in sides:
                side.thumbnail((COMPARE_PX, COMPARE_PX))
            pair = BandedImage.of(np.hstack([np.asarray(side) for side in sides]))
            save(job.compare, pair, WRITTEN_SUFFIXES[".jpg"], Metadata(), quality=90)
        notes: list[str] = []
        if rendered is None and format.name == photo.format:
            with written_whole(path) as file, open(job.source, "rb") as source:
                shutil.copyfileobj(source, file)
        else:
            left_out = save(path, image, format, photo.metadata, options.quality, options.chroma)
            notes = [*photo.notes, *(f"without {part}" for part in left_out)]
        luma = "luma as it was stored, bit for bit" if photo.stored else f"encoded anew: {photo.encoded_anew}"
        return Outcome(job, path, rendered is None, notes=notes, luma=luma if format.name == "JPEG" else "")
    except Exception as error:
        return failed(job, error)


def failed(job: Job, error: Exception) -> Outcome:
    """Return the outcome of a photo that could not be read or written, unless the fault is not the photo's.

    Nothing about one photo of 100,000 is to end the work on the others, a mistake of ours with an odd one included.
    """
    if (fault := disk_fault(error, job.result.parent)) is not None:
        raise fault from error
    if isinstance(error, UserError):
        return Outcome(job, reason=str(error).removeprefix(f"{job.source}: "))
    if is_out_of_memory(error):
        return Outcome(job, reason="not enough memory for a photo of its size")
    expected = isinstance(error, (OSError, UnreadableImage))
    return Outcome(job, reason=one_line(error) if expected else f"{type(error).__name__}: {one_line(error)}")
