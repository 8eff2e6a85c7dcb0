"""A film from end to end: while the network colours some frames, the next are decoded and the last encoded."""

import errno
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from PIL import Image

from colorize.inference.colorizer import Colorizer
from colorize.inference.jobs import Job
from colorize.inference.photo_batches import Outcome, failed
from colorize.photos.reading import Photo
from colorize.photos.results import written_whole
from colorize.runtime.errors import UserError, disk_advice, is_out_of_memory
from colorize.video import decoding, probing
from colorize.video.chroma import chroma_of, coded_planes, eight_bits, resized
from colorize.video.encoding import Codec, Piece, PieceFile, choose_codec, put_together
from colorize.video.motion import Link, Motion
from colorize.video.probing import Film, FilmFrame, Plane
from colorize.video.stabilize import Stabilizer
from colorize.video.work import Done, Work

T = TypeVar("T")
Stream = Generator[T, None, None]
Tick = Callable[[int, int | None], None]
log = logging.getLogger("colorize")

PIECE_FRAMES = 250
"""Frames of a piece: what is lost at most where a film is interrupted."""

FLOW_PX = 240
"""Least short side at which motion is looked for, as far as the film has it."""

_DECODED_AHEAD = 4
_COLOURED_AHEAD = 3


class DiskIsFull(UserError):
    """The disk is full or read-only: the next film would fail like this one."""


@dataclass(frozen=True)
class FilmOptions:
    """Options that hold for every film of a command.

    `render_px` is the short side of what the network is shown (None: as it was trained); `tta` averages over mirror
    image and two sizes; `saturation` is a factor on the network's chroma; `batch_size` counts the frames that it sees
    at once. It sees only `every` Nth frame, the others have their neighbours' colours; `stabilize` carries colours
    along the motion. `codec` is a key of `encoding.CODECS`, or auto; `quality` 1 to 100; `start` seconds are left out,
    then `duration` seconds coloured (None: to the end). `telecine`: auto brings back films that were woven into video,
    off does not.
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
    telecine: str = "auto"


@dataclass(frozen=True)
class _Seen:
    """A decoded frame with its motion, before the network is asked."""

    frame: FilmFrame
    small: Plane | None
    link: Link | None
    asked: bool


@dataclass(frozen=True)
class _Coloured:
    """A frame with its chroma, small, and the stabilizer's running sum after it."""

    seen: _Seen
    chroma: Plane
    past: Plane | None


def colour_film(
    colorizer: Colorizer, source: str, result: Path, options: FilmOptions, tick: Tick, weights: str
) -> list[str]:
    """Colour a film, or resume where an earlier start with the same arguments stopped; return notes on the result.

    `result` appears whole or not at all. `tick` is told after each frame how many are done, and how many there are
    about to be (None: nobody knows). `weights` names the network, so that pieces of another one are not taken.

    Raises UserError where the film cannot be read, coloured or written, or is at work already; DiskIsFull where nothing
    can be written; BadOption where the result cannot hold the codec.
    """
    with _faults_told(result):
        film = probing.probe(source)
        if options.telecine == "auto":
            film = decoding.with_telecine(film)
            if film.second_field is not None:
                log.info(
                    f"{source}: film that was woven into video: {float(film.rate):.3f} frames a second brought back"
                )
        codec = choose_codec(options.codec, result, film)
        if film.seconds is not None and options.start >= film.seconds:
            raise UserError(f"{source}: start={options.start:g} is after its end, at {film.seconds:.1f} s")
        with Work(result, _key(film, options, colorizer, weights, codec)) as work:
            return _colour(colorizer, film, result, options, codec, tick, work)


def film_outcome(colorizer: Colorizer, job: Job, options: FilmOptions, tick: Tick, weights: str = "") -> Outcome:
    """Colour a film as `colour_film` does, and say what became of it; raise only DiskIsFull, and what `tick` may."""
    try:
        return Outcome(job, job.result, notes=colour_film(colorizer, job.source, job.result, options, tick, weights))
    except DiskIsFull:
        raise
    except Exception as error:  # a mistake of ours with an odd film is not to end the work on the others
        log.debug("where it failed", exc_info=error)
        return failed(job, error)


@contextmanager
def _faults_told(result: Path) -> Iterator[None]:
    """Tell what the system refuses, and what PyAV says of what it cannot pass on, as UserErrors."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError("not enough memory for this film: free some, or give a smaller batch_size") from error
        if isinstance(error, (av.FFmpegError, OSError)):
            words = f"{error.strerror or error}"
            if disk_advice(error) is not None:
                first = "once it can be written" if error.errno == errno.EROFS else "make room"
                advice = f"{first}, and the same command goes on where it stopped"
                raise DiskIsFull(f"{result.parent}: {words}; {advice}") from error
            raise UserError(f"{result} cannot be written: {words}") from error
        if isinstance(error, ValueError):
            raise UserError(f"{result} cannot be written: {error}") from error
        raise


def _colour(
    colorizer: Colorizer, film: Film, result: Path, options: FilmOptions, codec: Codec, tick: Tick, work: Work
) -> list[str]:
    origin = film.start + Fraction(options.start).limit_denominator(1_000_000)
    end = None if options.duration is None else origin + Fraction(options.duration).limit_denominator(1_000_000)
    done, total, damage, left_out = work.done(), _expected(film, options), list[str](), set[str]()
    if done.frames:
        log.info(f"{film.path}: going on after {done.frames} frames")
        tick(done.frames, total)
    if not done.ended:
        frames = decoding.frames(film, origin, end, done.last, damage, left_out)
        coloured = _coloured_frames(colorizer, film, frames, options, done)
        with closing(_ahead(coloured, _COLOURED_AHEAD)) as ready:
            done = _encode_all(film, codec, options, ready, work, done, lambda count: tick(count, total))
    if not done.pieces:
        raise UserError(f"{film.path}: there is no frame to colour" + (f" ({damage[0]})" if damage else ""))
    notes = put_together(film, done.pieces, done.length, origin, end, work.joined())
    work.publish()
    notes += [f"without {words}" for words in sorted(left_out)]
    if damage:
        notes.append(f"without what is damaged in the film ({len(damage)} times: {damage[0]})")
    ended_s = float(((done.last or 0) + done.length) * film.time_base - film.start)
    if end is None and film.says_length and film.seconds is not None and ended_s < 0.98 * film.seconds - 0.5:
        notes.append(f"ends after {ended_s:.1f} s of {film.seconds:.1f} s: the film is damaged, or incomplete")
    return notes


def _expected(film: Film, options: FilmOptions) -> int | None:
    if film.seconds is None:
        return None
    seconds = film.seconds - options.start
    return max(1, round((seconds if options.duration is None else min(seconds, options.duration)) * float(film.rate)))


def _key(film: Film, options: FilmOptions, colorizer: Colorizer, weights: str, codec: Codec) -> str:
    """Digest of all that the pieces of a film depend on."""
    status = os.stat(film.path)
    words = [os.path.realpath(film.path), status.st_size, status.st_mtime_ns, weights, colorizer.precision]
    words += [asdict(replace(options, batch_size=1)), codec.encoder, PIECE_FRAMES, av.__version__, cv2.__version__]
    return blake2b(json.dumps(words).encode(), digest_size=12).hexdigest()


# --- colouring --------------------------------------------------------------------------------------------------------


def _coloured_frames(
    colorizer: Colorizer, film: Film, frames: Iterator[FilmFrame], options: FilmOptions, done: Done
) -> Stream[_Coloured]:
    """Let the network colour the frames, and carry their colours along the motion."""
    stabilizer = Stabilizer(past=done.past) if options.stabilize else None
    waiting: deque[_Seen] = deque()

    def given(planes: Iterator[Plane]) -> Iterator[_Coloured]:
        for plane in planes:
            yield _Coloured(waiting.popleft(), plane, None if stabilizer is None else stabilizer.past)

    looked_at = _looked_at(film, frames, _flow_size(film, colorizer, options), options, done)
    with closing(_ahead(looked_at, _DECODED_AHEAD + options.batch_size)) as ready:
        while batch := list(islice(ready, options.batch_size)):
            photos = [Photo(_shown(film, seen.frame.luma), name=film.path) for seen in batch if seen.asked]
            rendered = iter(
                colorizer.render(photos, options.render_px, options.tta, options.saturation) if photos else []
            )
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


def _looked_at(
    film: Film, frames: Iterator[FilmFrame], size: tuple[int, int], options: FilmOptions, done: Done
) -> Stream[_Seen]:
    """Find the motion of frames, which decides whether the network is asked."""
    motion = Motion(done.small)
    for number, frame in enumerate(frames, start=done.frames):
        if options.stabilize:
            small = np.asarray(Image.fromarray(eight_bits(frame.luma, film)).resize(size, Image.Resampling.BOX))
            link = motion.follow(small)
            yield _Seen(frame, small, link, asked=link is None or number % options.every == 0)
        else:
            yield _Seen(frame, None, None, asked=True)


def _flow_size(film: Film, colorizer: Colorizer, options: FilmOptions) -> tuple[int, int]:
    """Return the width and height at which motion is looked for, at least the network's, but at most the film's."""
    width, height = film.square_size
    side_px = max(FLOW_PX, options.render_px or colorizer.preprocessing.render_px)
    scale = min(1.0, side_px / min(width, height), (4 * side_px**2 / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shown(film: Film, luma: Plane) -> Plane:
    """Return what the network is shown: 8 bits, square pixels."""
    grey = eight_bits(luma, film)
    if film.pixel_aspect == 1:
        return grey
    return np.asarray(Image.fromarray(grey).resize(film.square_size, Image.Resampling.BICUBIC))


def _ahead(items: Stream[T], depth: int) -> Stream[T]:
    """Yield the items of a generator, worked out by a thread of its own, at most `depth` of them ahead."""
    with closing(items), ThreadPoolExecutor(1) as thread:
        pending = deque(thread.submit(next, items, None) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not None:
                pending.append(thread.submit(next, items, None))
                yield item
        finally:
            for future in pending:
                future.cancel()


def _encode_all(
    film: Film,
    codec: Codec,
    options: FilmOptions,
    frames: Iterator[_Coloured],
    work: Work,
    done: Done,
    tick: Callable[[int], None],
) -> Done:
    """Encode frames piece by piece, and write down what is finished."""
    upcoming = next(frames, None)
    while upcoming is not None:
        path = work.video(len(done.pieces))
        with written_whole(path) as file, Piece(file, film, codec, options.quality) as piece:
            while upcoming is not None and len(piece.times) < PIECE_FRAMES:
                last, upcoming = upcoming, next(frames, None)
                frame = last.seen.frame
                piece.add(coded_planes(film, frame.luma, last.chroma, piece.format), frame.time)
                tick(done.frames + len(piece.times))
            finished = PieceFile(path, piece.times, piece.finish())
        length = frame.length or (piece.times[-1] - piece.times[-2] if len(piece.times) > 1 else 1)
        done = Done([*done.pieces, finished], last.past, last.seen.small, upcoming is None, length)
        work.remember(done)
    return done
