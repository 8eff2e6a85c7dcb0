"""A film from end to end: while the network colours some frames, the next are decoded and the last encoded."""

import errno
import json
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from PIL import Image

from colorize.inference.colorizer import Colorizer
from colorize.photos.reading import Photo
from colorize.photos.results import written_whole
from colorize.runtime.errors import UserError
from colorize.video import decoding
from colorize.video.chroma import chroma_of, coded_planes, eight_bits, resized
from colorize.video.decoding import Film, FilmFrame, Plane
from colorize.video.encoding import Codec, Piece, PieceFile, choose_codec, put_together
from colorize.video.motion import Link, Motion
from colorize.video.stabilize import Stabilizer
from colorize.video.work import Done, Work

T = TypeVar("T")
Tick = Callable[[int, int | None], None]
log = logging.getLogger("colorize")

PIECE_FRAMES = 250
"""Frames of a piece: what is lost at most where a film is interrupted."""

FLOW_PX = 240
"""Least short side at which motion is looked for, as far as the film has it."""

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DECODED_AHEAD = 4
_ENCODED_BEHIND = 3


@dataclass(frozen=True)
class How:
    """What is asked of every film.

    Attributes:
        render_px: short side of what the network is shown; None: as it was trained.
        tta: average over mirror image and two sizes.
        saturation: factor on the network's chroma.
        batch_size: frames that the network sees at once.
        stabilize: carry colours along the motion.
        every: the network sees only every Nth frame, the others have their neighbours' colours.
        codec: a key of `writing.CODECS`, or auto.
        quality: 1 to 100.
        start: seconds of the film to leave out.
        duration: seconds to colour; None: to the end.
    """

    render_px: int | None = None
    tta: bool = False
    saturation: float = 1.0
    batch_size: int = 1
    stabilize: bool = True
    every: int = 1
    codec: str = "auto"
    quality: int = 95
    start: float = 0.0
    duration: float | None = None


@dataclass(frozen=True)
class _Seen:
    """A decoded frame, and what was found out about it before the network is asked."""

    frame: FilmFrame
    small: Plane | None
    link: Link | None
    asked: bool


@dataclass(frozen=True)
class _Coloured:
    """A frame with its chroma, small, and what has to be known to go on after it."""

    frame: FilmFrame
    chroma: Plane
    past: Plane | None
    small: Plane | None


def colour_film(colorizer: Colorizer, source: str, result: Path, how: How, tick: Tick, weights: str) -> list[str]:
    """Colour a film, or go on where an earlier start with the same arguments stopped.

    Args:
        colorizer: the network.
        source: the film.
        result: its coloured version, which appears whole or not at all.
        how: what is asked.
        tick: told after each frame how many are done, and how many there are about to be (None: nobody knows).
        weights: names the network, so that pieces of another one are not gone on from.

    Returns:
        What there is to say of the result.

    Raises:
        UserError: the film cannot be read, coloured or written, or is at work already.
        BadOption: the result cannot hold the codec.
    """
    film = decoding.probe(source)
    codec = choose_codec(how.codec, result, film)
    if film.seconds is not None and how.start >= film.seconds:
        raise UserError(f"{source}: start={how.start:g} is after its end, at {film.seconds:.1f} s")
    with Work(result, _key(film, how, colorizer, weights, codec)) as work:
        try:
            return _colour(colorizer, film, result, how, codec, tick, work)
        except (av.FFmpegError, OSError) as error:
            if error.errno in _DISK_IS_FULL:
                raise UserError(
                    f"{result.parent}: {error.strerror}; make room, and the same command goes on where it stopped"
                ) from error
            raise UserError(f"{result} cannot be written: {error.strerror or error}") from error
        except ValueError as error:  # what PyAV says of what it cannot pass on
            raise UserError(f"{result} cannot be written: {error}") from error


def _colour(
    colorizer: Colorizer, film: Film, result: Path, how: How, codec: Codec, tick: Tick, work: Work
) -> list[str]:
    origin = film.start + Fraction(how.start).limit_denominator(1_000_000)
    end = None if how.duration is None else origin + Fraction(how.duration).limit_denominator(1_000_000)
    done, total, damage = work.done(), _expected(film, how), list[str]()
    if done.frames:
        log.info(f"{film.path}: going on after {done.frames} frames")
        tick(done.frames, total)
    if not done.ended:
        frames = decoding.frames(film, origin, end, done.last, damage)
        coloured = _coloured_frames(colorizer, film, frames, how, done)
        done = _encode_all(film, codec, how, coloured, work, done, lambda count: tick(count, total))
    if not done.pieces:
        raise UserError(f"{film.path}: there is no frame to colour" + (f" ({damage[0]})" if damage else ""))
    notes = put_together(film, done.pieces, done.length, origin, end, work.joined())
    os.replace(work.joined(), result)
    work.remove()
    if damage:
        notes.append(f"without what is damaged in the film ({len(damage)} times: {damage[0]})")
    ended_s = float(((done.last or 0) + done.length) * film.time_base - film.start)
    if end is None and film.says_length and film.seconds is not None and ended_s < 0.98 * film.seconds - 0.5:
        notes.append(f"ends after {ended_s:.1f} s of {film.seconds:.1f} s: the film is damaged, or incomplete")
    return notes


def _expected(film: Film, how: How) -> int | None:
    if film.seconds is None:
        return None
    seconds = film.seconds - how.start
    return max(1, round((seconds if how.duration is None else min(seconds, how.duration)) * float(film.rate)))


def _key(film: Film, how: How, colorizer: Colorizer, weights: str, codec: Codec) -> str:
    """What the pieces of a film depend on, as one word."""
    status = os.stat(film.path)
    words = [os.path.realpath(film.path), status.st_size, status.st_mtime_ns, weights, colorizer.precision]
    words += [asdict(replace(how, batch_size=1)), codec.encoder, PIECE_FRAMES, av.__version__, cv2.__version__]
    return blake2b(json.dumps(words).encode(), digest_size=12).hexdigest()


# --- colouring --------------------------------------------------------------------------------------------------------


def _coloured_frames(
    colorizer: Colorizer, film: Film, frames: Iterator[FilmFrame], how: How, done: Done
) -> Iterator[_Coloured]:
    stabilizer = Stabilizer(past=done.past) if how.stabilize else None
    waiting: deque[_Seen] = deque()

    def given(planes: Iterator[Plane]) -> Iterator[_Coloured]:
        for plane in planes:
            seen = waiting.popleft()
            yield _Coloured(seen.frame, plane, None if stabilizer is None else stabilizer.past, seen.small)

    looked_at = _looked_at(film, frames, _flow_size(film, colorizer, how), how, done)
    with _ahead(looked_at, _DECODED_AHEAD + how.batch_size) as ready:
        for batch in _batches(ready, how.batch_size):
            photos = [Photo(_shown(film, seen.frame.luma), name=film.path) for seen in batch if seen.asked]
            rendered = iter(colorizer.render(photos, how.render_px, how.tta, how.saturation) if photos else [])
            for seen in batch:
                waiting.append(seen)
                chroma = chroma_of(next(rendered).rgb.numpy(), film.weights) if seen.asked else None
                if stabilizer is not None and seen.small is not None:
                    chroma = None if chroma is None else resized(chroma, seen.small.shape)
                    yield from given(stabilizer.add(seen.small.shape, chroma, seen.link))
                elif chroma is not None:
                    yield from given(iter([chroma]))
        if stabilizer is not None:
            yield from given(stabilizer.finish())


def _looked_at(film: Film, frames: Iterator[FilmFrame], size: tuple[int, int], how: How, done: Done) -> Iterator[_Seen]:
    """Frames with their motion: all that is found out before the network is asked."""
    motion = Motion(done.small)
    for number, frame in enumerate(frames, start=done.frames):
        if how.stabilize:
            small = np.asarray(Image.fromarray(eight_bits(frame.luma, film)).resize(size, Image.Resampling.BOX))
            link = motion.follow(small)
            yield _Seen(frame, small, link, asked=link is None or number % how.every == 0)
        else:
            yield _Seen(frame, None, None, asked=True)


def _flow_size(film: Film, colorizer: Colorizer, how: How) -> tuple[int, int]:
    """Width and height at which motion is looked for: not below what the network gives colours for, nor the film's."""
    width, height = film.square_size
    side_px = max(FLOW_PX, how.render_px or colorizer.preprocessing.render_px)
    scale = min(1.0, side_px / min(width, height), (4 * side_px**2 / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shown(film: Film, luma: Plane) -> Plane:
    """What the network is to look at: 8 bits, square pixels."""
    grey = eight_bits(luma, film)
    if film.pixel_aspect == 1:
        return grey
    return np.asarray(Image.fromarray(grey).resize(film.square_size, Image.Resampling.BICUBIC))


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _ahead(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """The items of an iterator, worked out by a thread, at most `depth` of them ahead."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    def taken() -> Iterator[T]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()


# --- encoding ---------------------------------------------------------------------------------------------------------


def _encode_all(
    film: Film,
    codec: Codec,
    how: How,
    frames: Iterator[_Coloured],
    work: Work,
    done: Done,
    tick: Callable[[int], None],
) -> Done:
    """Encode frames piece by piece, and write down what is finished."""
    count, upcoming = done.frames, next(frames, None)
    with ThreadPoolExecutor(1) as encoder:
        while upcoming is not None:
            number, behind = len(done.pieces), deque[Future[None]]()
            with written_whole(work.video(number)) as file, Piece(file, film, codec, how.quality) as piece:
                taken = 0
                try:
                    while upcoming is not None and taken < PIECE_FRAMES:
                        taken += 1
                        last, upcoming = upcoming, next(frames, None)
                        behind.append(encoder.submit(_encode, piece, film, last))
                        is_last = upcoming is None or taken == PIECE_FRAMES
                        while len(behind) > (0 if is_last else _ENCODED_BEHIND):
                            behind.popleft().result()
                        count += 1
                        tick(count)
                except BaseException:  # what failed is closed next: nobody may be at work on it
                    for pending in behind:
                        pending.cancel()
                    wait(behind)
                    raise
                finished = PieceFile(work.video(number), piece.times, piece.finish())
            length = last.frame.length or (piece.times[-1] - piece.times[-2] if len(piece.times) > 1 else 1)
            done = Done([*done.pieces, finished], last.past, last.small, upcoming is None, length)
            work.remember(number, done)
    return done


def _encode(piece: Piece, film: Film, made: _Coloured) -> None:
    piece.add(coded_planes(film, made.frame.luma, made.chroma, piece.format), made.frame.time)
