"""Files that appear whole or not at all, locks on folders, digests of files, and tables as text."""

import csv
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from filelock import FileLock, Timeout

from colorize.runtime.errors import UserError, writing
from colorize.runtime.processes import is_first_process


@contextmanager
def renamed_when_done(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Yield a name beside `path` for a file to make, which then becomes `path`, or vanishes if anything fails.

    Folders are created. Where no other process writes to `path` (`alone`), what a killed one leaves is called
    `.NAME.part`, and written over by the next; otherwise it is a `.tmp`.
    """
    # Hidden, so that no listing takes it for a photo; and short, since `path` may have a name of the greatest length.
    unfinished = path.with_name(f".{path.name}.part" if alone else f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):  # after a rename it is there only where both were names of one file already
            unfinished.unlink()


@contextmanager
def written_whole(path: Path, *, sync: bool = True, alone: bool = False) -> Iterator[BufferedRandom]:
    """Open a file to write, which becomes `path` when it is complete, and vanishes otherwise. Folders are created.

    Args:
        path: of the file.
        sync: wait until it is safely on the disk, so that not even a power cut leaves half a file at `path`.
        alone: as for `renamed_when_done`.

    Raises:
        OSError: it cannot be written; what was at `path` before is still there.
    """
    with renamed_when_done(path, alone=alone) as unfinished, unfinished.open("w+b") as file:
        yield file
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with writing(path), written_whole(path, sync=False, alone=True) as file:
        file.write(text.encode())


def hardlink_or_copy(file: Path, name: Path) -> None:
    """Let `name` stand for the same file as `file`, in one step; for a copy of it where the disk has no hard links."""
    with renamed_when_done(name, alone=True) as beside:
        beside.unlink(missing_ok=True)
        try:
            os.link(file, beside)
        except OSError:
            shutil.copyfile(file, beside)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it for this process and the other ranks of its command; a crash frees it.

    Raises:
        UserError: it cannot be made or written, or another process holds it.
    """
    if not is_first_process():  # the first one holds it for all
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holding = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder} is in use by another process: wait for it, or choose another run=NAME") from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{folder} cannot be written ({error}): choose another runs_dir=DIR") from error
    with holding:
        yield


def sha256(path: str | Path) -> str:
    """Return the hex digest of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return a line for each row, with commas between its cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
