"""A film from end to end: while the network colours some frames, the next are decoded and the last encoded."""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import cv2
import numpy as np
from PIL import Image

from colorize.config import PredictConfig
from colorize.inference import sequence
from colorize.inference.colorizer import Colorizer
from colorize.inference.jobs import Job
from colorize.inference.photo_batches import Outcome, failed
from colorize.inference.sequence import FramePiece
from colorize.photos.reading import Photo
from colorize.runtime.errors import DiskFault, UserError, disk_fault, lack_of_memory_told
from colorize.runtime.files import digest
from colorize.runtime.formats import WRITTEN_SUFFIXES, suffix_of
from colorize.runtime.log import log
from colorize.video import decoding, probing
from colorize.video.chroma import chroma_of, grey_image
from colorize.video.encoding import Codec, Piece, PieceFile, choose_codec, piece_file, put_together
from colorize.video.motion import Link, Motion
from colorize.video.numbered import frame_path, is_pattern
from colorize.video.probing import Film, FilmFrame, Plane
from colorize.video.stabilize import CHANNELS, Stabilizer
from colorize.video.work import Done, Work

T = TypeVar("T")
Stream = Generator[T, None, None]
Tick = Callable[[int, int | None], None]

SEQUENCE_FPS = 24.0  # frames a second of an image sequence, where nothing else is said

FLOW_PX = 240  # least short side at which motion is looked for, as far as the film has it

_DECISIVE = (
    *("render_px", "tta", "saturation", "stabilize", "every", "telecine", "fps", "start", "duration"),
    *("codec", "quality", "chroma", "use_ema"),
)
"""Options that another start must share to go on with the pieces of this one."""

_DECODED_AHEAD = 4
_COLOURED_AHEAD = 3


class _Seen(NamedTuple):
    frame: FilmFrame
    small: Plane | None
    link: Link | None
    asked: bool


class _Coloured(NamedTuple):
    seen: _Seen
    chroma: Plane
    past: Plane | None


def colour_film(colorizer: Colorizer, source: str, result: Path, options: PredictConfig, tick: Tick) -> list[str]:
    """Colour a film, or resume where an earlier start with the same arguments stopped; return notes on the result.

    `source` and `result` are each a film's file, or the pattern of an image sequence. A result's file appears whole or
    not at all. `tick` is told after each frame how many are done, and how many there will be (None: nobody knows).

    Raises UserError where the film cannot be read, coloured or written, or is at work already; DiskFault where nothing
    can be written; BadOption where the result cannot hold the codec.
    """
    try:
        with lack_of_memory_told("this film"):
            to_frames = is_pattern(result)
            film = _described(source, options, deep=to_frames)
            codec = None if to_frames else choose_codec(options.codec, result, film)
            if film.seconds is not None and options.start >= film.seconds:
                raise UserError(f"{source}: start={options.start:g} is after its end, at {film.seconds:.1f} s")
            with Work(result, _key(film, options, colorizer, codec)) as work:
                return _colour(colorizer, film, result, options, codec, tick, work)
    except (av.FFmpegError, OSError, ValueError) as error:
        if (fault := disk_fault(error, result.parent)) is not None:
            raise fault from error
        raise UserError(f"{result} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def film_outcome(colorizer: Colorizer, job: Job, options: PredictConfig, tick: Tick) -> Outcome:
    """Colour a film as `colour_film` does, and say what became of it. Raises DiskFault where nothing can be written."""
    try:
        return Outcome(job, job.result, notes=colour_film(colorizer, job.source, job.result, options, tick))
    except DiskFault:
        raise
    except Exception as error:  # a mistake of ours with an odd film is not to end the work on the others
        log.debug("where it failed", exc_info=error)
        return failed(job, error)


def _described(source: str, options: PredictConfig, deep: bool) -> Film:
    """Describe the source, with the frames a second that it shall have; `deep`: the result can hold 16 bits."""
    if is_pattern(source):
        film = sequence.describe(source, options.fps or SEQUENCE_FPS, 16 if deep else 10)
        taken = f"{float(film.rate):g} a second" + ("" if options.fps else ", since fps is not given")
        log.info(f"{source}: frames {film.numbers[0]} to {film.numbers[-1]}, {taken}")
        return film
    film = probing.probe(source)
    if options.telecine == "auto":
        film = decoding.with_telecine(film)
        if film.second_field is not None:
            log.info(f"{source}: film that was woven into video: {float(film.rate):.3f} frames a second brought back")
    return film if options.fps is None else film.at_rate(options.fps)


def _colour(
    colorizer: Colorizer, film: Film, result: Path, options: PredictConfig, codec: Codec | None, tick: Tick, work: Work
) -> list[str]:
    origin = film.start + Fraction(options.start).limit_denominator(1_000_000)
    end = None if options.duration is None else origin + Fraction(options.duration).limit_denominator(1_000_000)
    done, total, damage, left_out = work.done(), _expected(film, options), list[str](), set[str]()
    if done.frames:
        log.info(f"{film.path}: going on after {done.frames} frames")
        tick(done.frames, total)
    said = Counter[str]()

    def begin(done: Done) -> AbstractContextManager[Piece | FramePiece]:
        if codec is None:
            return closing(FramePiece(result, film, done.frames + 1, options, said))
        return piece_file(work.video(len(done.pieces)), film, codec, options.quality)

    if not done.ended:
        frames: Iterator[FilmFrame]
        if film.numbers:
            as_jpeg = codec is None and WRITTEN_SUFFIXES[suffix_of(result)].name == "JPEG"
            frames = sequence.frames(film, origin, end, done.last, as_jpeg)
        else:
            frames = decoding.frames(film, origin, end, done.last, damage, left_out)
        coloured = _coloured_frames(colorizer, film, frames, options, done)
        with closing(_ahead(coloured, _COLOURED_AHEAD)) as ready:
            done = _write_all(begin, ready, work, done, lambda count: tick(count, total))
    if not done.pieces:
        raise UserError(f"{film.path}: there is no frame to colour" + (f" ({damage[0]})" if damage else ""))
    notes = [f"{words} ({count} frames)" for words, count in said.items()]
    if codec is not None:
        notes = put_together(film, done.pieces, done.length, origin, end, result)
    elif film.pixel_aspect != 1:
        notes.append(f"its pixels are not square ({film.pixel_aspect}), and its frames do not say so")
    work.clear()
    notes += [f"without {words}" for words in sorted(left_out)]
    if damage:
        notes.append(f"without what is damaged in the film ({len(damage)} times: {damage[0]})")
    ended_s = float(((done.last or 0) + done.length) * film.time_base - film.start)
    if end is None and film.says_length and film.seconds is not None and ended_s < 0.98 * film.seconds - 0.5:
        notes.append(f"ends after {ended_s:.1f} s of {film.seconds:.1f} s: the film is damaged, or incomplete")
    return notes


def _expected(film: Film, options: PredictConfig) -> int | None:
    if film.seconds is None:
        return None
    seconds = film.seconds - options.start
    return max(1, round((seconds if options.duration is None else min(seconds, options.duration)) * float(film.rate)))


def _key(film: Film, options: PredictConfig, colorizer: Colorizer, codec: Codec | None) -> str:
    files = [frame_path(film.path, number) for number in film.numbers] or [Path(film.path)]
    words: list[object] = [os.path.realpath(film.path), os.path.realpath(options.checkpoint)]
    words += [(status.st_size, status.st_mtime_ns) for status in map(os.stat, [*files, Path(options.checkpoint)])]
    words += [colorizer.backend.precision, codec and codec.encoder, Piece.most_frames, CHANNELS]
    words += [getattr(options, name) for name in _DECISIVE] + [av.__version__, cv2.__version__]
    return digest(json.dumps(words), size=12).hex()


# --- colouring --------------------------------------------------------------------------------------------------------


def _coloured_frames(
    colorizer: Colorizer, film: Film, frames: Iterator[FilmFrame], options: PredictConfig, done: Done
) -> Stream[_Coloured]:
    stabilizer = Stabilizer(done.past)
    waiting: deque[_Seen] = deque()

    def given(planes: Iterator[Plane]) -> Iterator[_Coloured]:
        for plane in planes:
            yield _Coloured(waiting.popleft(), plane, stabilizer.past)

    looked_at = _looked_at(film, frames, _flow_size(film, colorizer, options), options, done)
    for seen, chroma in _rendered(colorizer, film, looked_at, options):
        waiting.append(seen)
        if seen.small is not None:
            yield from given(stabilizer.add(seen.small.shape, chroma, seen.link))
        elif chroma is not None:
            yield from given(iter([chroma]))
    yield from given(stabilizer.finish())


def _rendered(
    colorizer: Colorizer, film: Film, looked_at: Stream[_Seen], options: PredictConfig
) -> Stream[tuple[_Seen, Plane | None]]:
    """Yield frames with the network's chroma, where it was asked."""
    at_once = options.batch_size or colorizer.backend.at_once

    def render(batch: list[_Seen]) -> list[tuple[_Seen, Plane | None]]:
        photos = [Photo(_shown(film, seen.frame.luma), name=film.path) for seen in batch if seen.asked]
        made = iter(colorizer.render(photos, options.render_px, options.tta, options.saturation) if photos else [])
        return [(seen, chroma_of(next(made), film.weights) if seen.asked else None) for seen in batch]

    with (
        colorizer.backend.side_by_side() as (pool, passes),
        closing(_ahead(looked_at, _DECODED_AHEAD + passes * at_once)) as ready,
    ):
        batches = iter(lambda: list(islice(ready, at_once)), [])
        pending = deque(pool.submit(render, batch) for batch in islice(batches, passes + 1))
        while pending:
            yield from pending.popleft().result()
            pending.extend(pool.submit(render, batch) for batch in islice(batches, 1))


def _looked_at(
    film: Film, frames: Iterator[FilmFrame], size: tuple[int, int], options: PredictConfig, done: Done
) -> Stream[_Seen]:
    motion = Motion(done.small)
    for number, frame in enumerate(frames, start=done.frames):
        small = link = None
        if options.stabilize:
            small = np.asarray(Image.fromarray(grey_image(frame.luma, film)).resize(size, Image.Resampling.BOX))
            link = motion.follow(small)
        yield _Seen(frame, small, link, asked=link is None or number % options.every == 0)


def _flow_size(film: Film, colorizer: Colorizer, options: PredictConfig) -> tuple[int, int]:
    """Return the width and height at which motion is looked for, at least the network's, but at most the film's."""
    width, height = film.square_size
    side_px = max(FLOW_PX, options.render_px or colorizer.preprocessing.render_px)
    scale = min(1.0, side_px / min(width, height), (4 * side_px**2 / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shown(film: Film, luma: Plane) -> Plane:
    grey = grey_image(luma, film)
    if film.pixel_aspect == 1:  # as most have it: nothing is copied
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


def _write_all(
    begin: Callable[[Done], AbstractContextManager[Piece | FramePiece]],
    frames: Iterator[_Coloured],
    work: Work,
    done: Done,
    tick: Callable[[int], None],
) -> Done:
    upcoming = next(frames, None)
    while upcoming is not None:
        with begin(done) as piece:
            while upcoming is not None and len(piece.times) < piece.most_frames:
                last, upcoming = upcoming, next(frames, None)
                piece.add(last.seen.frame, last.chroma)
                tick(done.frames + len(piece.times))
            order = piece.finish()
        times = piece.times
        length = last.seen.frame.length or (times[-1] - times[-2] if len(times) > 1 else 1)
        done = Done([*done.pieces, PieceFile(piece.path, order)], last.past, last.seen.small, upcoming is None, length)
        work.remember(done)
    return done
