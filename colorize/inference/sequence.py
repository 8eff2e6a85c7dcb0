"""Image sequences: numbered frames as the source of a film, and as its result. Each is read and written as a photo."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np

from colorize.config import PredictConfig
from colorize.inference.jobs import Job
from colorize.inference.photo_batches import WORKERS, Outcome, submit, write_result
from colorize.photos import reading
from colorize.photos.opening import UnreadableImage
from colorize.photos.reading import Photo
from colorize.runtime.errors import UserError
from colorize.video.chroma import grey_image, offsets_of
from colorize.video.numbered import frame_numbers, frame_path
from colorize.video.probing import REC_601, Film, FilmFrame, Plane


@dataclass(frozen=True)
class NumberedFrame(FilmFrame):
    """A frame with all else that its file holds."""

    photo: Photo


def describe(pattern: str, fps: float, most_bits: int) -> Film:
    """Describe a sequence as a film, by its first frame; luma has 8 bits, or `most_bits` of 16.

    Times are counted in frames, from the first one. Raises UserError where a frame is missing or the first is unread.
    """
    numbers, rate = frame_numbers(pattern), Fraction(fps).limit_denominator(1001)
    first = _read(frame_path(pattern, numbers[0]))
    bits = 8 if first.luma.dtype == np.uint8 else most_bits
    film = Film(pattern, *first.size, 1 / rate, rate, bits, full_range=True, matrix=REC_601, numbers=numbers)
    return replace(film, seconds=float(len(numbers) / rate), says_length=True)


def frames(
    film: Film, first: Fraction, end: Fraction | None, after: int | None, as_jpeg: bool
) -> Iterator[NumberedFrame]:
    """Read the frames from `first` to `end`, in seconds, but for those up to the time `after`.

    `as_jpeg` is as of :func:`colorize.photos.reading.read`. Raises UserError where one cannot be read, or is of another
    size or depth than the first of all.
    """
    begin = max(ceil(first * film.rate), -1 if after is None else after + 1)
    until = len(film.numbers) if end is None else min(len(film.numbers), ceil(end * film.rate))
    for time in range(begin, until):
        path = frame_path(film.path, film.numbers[time])
        photo = _read(path, as_jpeg)
        if photo.size != (film.width, film.height) or (photo.luma.dtype == np.uint8) != (film.bits == 8):
            size = f"{photo.size[0]} × {photo.size[1]} px of {8 * photo.luma.itemsize} bits"
            raise UserError(f"{path}: {size}, where the first frame has others: the frames of a film are alike")
        yield NumberedFrame(time, 1, photo.luma if film.bits in (8, 16) else photo.luma >> (16 - film.bits), photo)


def _read(path: Path, as_jpeg: bool = False) -> Photo:
    try:
        return reading.read(path, as_jpeg=as_jpeg)
    except UnreadableImage as error:
        raise UserError(f"{path}: {error}") from error


class FramePiece:
    """Some frames of a film, each written into a file of its own, by threads; used as `video.encoding.Piece` is.

    `pattern` names the files, by the numbers of the source, or from `number` on. Those that exist stay, but for
    `options.overwrite`, where the source has numbers, which say that they are of the same frame. `path` is the last
    file; `notes` counts what there was to say of results.
    """

    most_frames = 25
    """Frames after which the state is written down from which the next start goes on."""

    def __init__(self, pattern: Path, film: Film, number: int, options: PredictConfig, notes: Counter[str]) -> None:
        self.path, self.times = pattern, list[int]()
        self._pattern, self._film, self._number, self._notes = pattern, film, number, notes
        self._options, self._replaces = replace(options, compare=False), options.overwrite or not film.numbers
        self._threads, self._written = ThreadPoolExecutor(WORKERS), list[Future[Outcome]]()

    def add(self, frame: FilmFrame, chroma: Plane) -> None:
        film, number = self._film, self._number + len(self.times)
        if isinstance(frame, NumberedFrame):
            photo, number = frame.photo, film.numbers[frame.time]
        else:
            photo = Photo(grey_image(frame.luma, film, 8 if film.bits == 8 else 16), name=film.path)
        self.path = frame_path(self._pattern, number)
        self.times.append(frame.time)
        if self._replaces or not self.path.is_file():
            rgb = np.stack(offsets_of(chroma, film.weights)).astype(np.float32) + 0.5
            job = Job(photo.name, self.path, None, self.path)
            self._written.append(submit(self._threads, write_result, job, photo, rgb, self._options))

    def finish(self) -> list[int]:
        for outcome in (future.result() for future in self._written):
            if outcome.result is None:
                raise UserError(f"{outcome.job.result}: {outcome.reason}")
            self._notes.update(outcome.notes)
        return self.times

    def close(self) -> None:
        self._threads.shutdown()
