"""Finished pieces of a film, from which it resumes after an interruption, in a hidden folder beside the result."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from colorize.color import Plane
from colorize.runtime.errors import UserError
from colorize.runtime.files import clear_unfinished, written_whole
from colorize.video.encoding import PieceFile
from colorize.video.numbered import parts_folder


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
        return sum(len(piece.order) for piece in self.pieces)

    @property
    def last(self) -> int | None:
        """Time of the last of them, in the film's time base."""
        return max(self.pieces[-1].order) if self.pieces else None


class Work:
    """The folder for the film `result`, held by this process. It vanishes if it is left without a finished piece.

    `key` is another word where the pieces would be others. Entering raises UserError where it cannot be written, or
    another process is at work on the same result.
    """

    def __init__(self, result: Path, key: str) -> None:
        self._all = parts_folder(result)
        self._folder = self._all / key
        self._state = self._folder / "done.npz"
        self._result, self._lock = result, FileLock(self._all / ".lock")

    def __enter__(self) -> "Work":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{self._result}: another process is at work on it") from error
        except OSError as error:
            raise UserError(f"output={self._result.parent} cannot be written: {error.strerror}") from error
        clear_unfinished(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._all.is_dir() and not any(self._all.glob("*/*.npz")):
            shutil.rmtree(self._all, ignore_errors=True)

    def video(self, number: int) -> Path:
        return self._folder / f"{number:06}.mkv"

    def remember(self, done: Done) -> None:
        pieces = [(os.path.relpath(piece.path, self._folder), piece.order) for piece in done.pieces]
        planes: dict[str, Any] = {"past": done.past, "small": done.small}
        planes = {name: plane for name, plane in planes.items() if plane is not None}
        with written_whole(self._state) as file:
            np.savez(file, said=np.array(json.dumps([pieces, done.ended, done.length]).encode()), **planes)

    def done(self) -> Done:
        try:
            with np.load(self._state, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
                pieces, ended, length = json.loads(kept["said"].item())
        except (OSError, ValueError, EOFError, KeyError):
            return Done([])
        files = [PieceFile(self._folder / name, order) for name, order in pieces]
        if not all(piece.path.is_file() for piece in files):
            return Done([])
        return Done(files, kept.get("past"), kept.get("small"), ended, length)

    def clear(self) -> None:
        shutil.rmtree(self._all, ignore_errors=True)
