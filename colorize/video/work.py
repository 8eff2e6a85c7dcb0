"""Finished pieces of a film, from which it resumes after an interruption, in a hidden folder beside the result."""

import os
import shutil
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from colorize.runtime.errors import UserError
from colorize.runtime.files import written_whole
from colorize.video.encoding import PieceFile

Plane = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Done:
    """Progress of earlier starts.

    The pieces are in their order. `past` is the running sum of chroma after the last frame (:attr:`Stabilizer.past`),
    where colours are carried; `small` its luma, as motion is looked for in it; `length` for how long it is shown, in
    the film's time base; `ended`: no frame follows it.
    """

    pieces: list[PieceFile]
    past: Plane | None = None
    small: Plane | None = None
    ended: bool = False
    length: int = 1

    @property
    def frames(self) -> int:
        """Number of frames that are done."""
        return sum(len(piece.times) for piece in self.pieces)

    @property
    def last(self) -> int | None:
        """Time of the last of them, in the film's time base."""
        return self.pieces[-1].times[-1] if self.pieces else None


class Work:
    """The folder for the film `result`, held by this process. It vanishes if it is left without a finished piece.

    `key` is another word where the pieces would be others. Entering raises UserError where it cannot be written, or
    another process is at work on the same result.
    """

    def __init__(self, result: Path, key: str) -> None:
        name = os.fsencode(result.name)
        word = result.name if len(name) < 200 else blake2b(name, digest_size=20).hexdigest()
        self._all = result.with_name(f".{word}.parts")
        self._folder = self._all / key
        self._result, self._lock = result, FileLock(self._all / ".lock")

    def __enter__(self) -> "Work":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{self._result}: another process is at work on it") from error
        except OSError as error:
            raise UserError(f"output={self._result.parent} cannot be written: {error.strerror}") from error
        for unfinished in self._folder.glob(".*.tmp"):  # of a start that was killed
            unfinished.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._all.is_dir() and not any(self._all.glob("*/*.npz")):
            shutil.rmtree(self._all, ignore_errors=True)

    def video(self, number: int) -> Path:
        """File of a piece's pictures."""
        return self._folder / f"{number:06}.mkv"

    def joined(self) -> Path:
        """File in which the pieces are put together, before it becomes the result."""
        return self._folder / f"joined{self._result.suffix}"

    def remember(self, done: Done) -> None:
        """Write down that the last piece of `done` is finished, and what is needed to resume after it."""
        number, piece, nothing = len(done.pieces) - 1, done.pieces[-1], np.empty(0)
        with written_whole(self._state(number)) as file:
            past, small = (nothing if plane is None else plane for plane in (done.past, done.small))
            np.savez(file, past=past, small=small, ended=np.array(done.ended), length=np.array(done.length))
        with written_whole(self._times(number)) as file:
            np.savez(file, times=np.array(piece.times, np.int64), delay=np.array(piece.delay))
        if number:  # a state takes a megabyte, and only the last is needed
            self._state(number - 1).unlink(missing_ok=True)

    def done(self) -> Done:
        """Read what earlier starts have finished."""
        pieces: list[PieceFile] = []
        while (kept := _read(self._times(len(pieces)))) is not None and (video := self.video(len(pieces))).is_file():
            pieces.append(PieceFile(video, kept["times"].tolist(), int(kept["delay"])))
        state = _read(self._state(len(pieces) - 1)) if pieces else None
        if state is None:
            return Done([])
        past, small = (state[name] if state[name].size else None for name in ("past", "small"))
        return Done(pieces, past, small, bool(state["ended"]), int(state["length"]))

    def publish(self) -> None:
        """Let what was put together become the result, and remove all else."""
        os.replace(self.joined(), self._result)
        shutil.rmtree(self._all, ignore_errors=True)

    def _times(self, number: int) -> Path:
        return self._folder / f"{number:06}.npz"

    def _state(self, number: int) -> Path:
        return self._folder / f"{number:06}.state.npz"


def _read(path: Path) -> dict[str, Plane] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError):
        return None
