"""Files that appear whole or not at all, locks, digests, what is in folders and lists, and tables as text."""

import csv
import hashlib
import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from filelock import FileLock, Timeout

from colorize.runtime.errors import UserError, writing
from colorize.runtime.processes import is_first_process
from colorize.runtime.signals import is_step

try:
    import fcntl
except ImportError:  # on Windows, where nothing tells an unfinished file that nobody writes from others
    fcntl = None  # type: ignore[assignment]

WAIT_S = 60  # time that a step of a pipeline, started anew, gives the step of a killed one to end


def read_folder(path: str, takes: Callable[[str], bool] | None = None) -> tuple[list[tuple[str, bool]], list[str]]:
    """List a folder's subfolders, and whether each is a link, and its files, sorted, without hidden names.

    Of files it lists the regular ones whose names `takes` allows (None: all there is).
    """
    subfolders, files = list[tuple[str, bool]](), list[str]()
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            is_link = entry.is_symlink()
            # os.path for links: it says no to one that leads nowhere or to itself, where the entry raises.
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                subfolders.append((entry.name, is_link))
            elif takes is None or (takes(entry.name) and (os.path.isfile(entry.path) if is_link else entry.is_file())):
                files.append(entry.name)
    return subfolders, files


def walk_files(
    root: str | Path,
    below: str = "",
    takes: Callable[[str], bool] | None = None,
    enter: Callable[[str], bool] = lambda folder: True,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder at or below `root`, each once, with the names of its files (`takes`: as for `read_folder`).

    Links to folders come last, so that a file has the same path whether or not a link leads to it as well. Of `root`
    only the part `below` ("" or "a/b/") is walked, in it the folders that `enter` allows, named relative to `root`.
    `on_error` is told of folders that cannot be read; None raises.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = [below], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        path = os.path.join(root, folder)
        if not enter(folder):
            continue
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            subfolders, files = read_folder(path, takes)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield folder, files
        folders += [f"{folder}{name}/" for name, is_link in reversed(subfolders) if not is_link]
        new = [f"{folder}{name}/" for name, is_link in subfolders if is_link]
        links = sorted(links + new, reverse=True)


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank; zero bytes, if it has any, end its lines.

    Bytes that are no UTF-8 come as `os.fsdecode` gives them, since they may be a file's name.
    """
    text = os.fsdecode(path.read_bytes()).removeprefix("\ufeff")
    lines = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip()]


@contextmanager
def renamed_when_done(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Yield a name beside `path` for a file to make, which then becomes `path`, or vanishes if anything fails.

    Folders are created. Where no other process writes to `path` (`alone`), what a killed one leaves is called
    `.NAME.part`, and written over by the next; otherwise it is a `.tmp`, see `clear_unfinished`.
    """
    # Hidden, so that no listing takes it for a photo; and short, since `path` may have a name of the greatest length.
    unfinished = path.with_name(f".{path.name}.part" if alone else f".{uuid.uuid4().hex}.tmp")
    held: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not alone and fcntl is not None:
            held = os.open(unfinished, os.O_CREAT | os.O_RDWR, 0o666)
            with suppress(OSError):  # on a file system without locks nothing is cleared either
                fcntl.flock(held, fcntl.LOCK_SH)
        yield unfinished
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):  # after a rename it is there only where both were names of one file already
            unfinished.unlink()
        if held is not None:
            os.close(held)


_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")


def clear_unfinished(folder: Path) -> None:
    """Remove the unfinished files of `written_whole` that killed processes left in a folder, if it is there.

    Whoever writes one holds a lock on it. One that is removed before it is locked is made again when it is opened.
    """
    if fcntl is None or not folder.is_dir():
        return
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


@contextmanager
def written_whole(path: Path, *, sync: bool = True, alone: bool = False) -> Iterator[BufferedRandom]:
    """Open a file to write, which becomes `path` when it is complete, and vanishes otherwise. Folders are created.

    `sync` waits until it is safely on the disk, so that not even a power cut leaves half a file at `path`; `alone` is
    as for `renamed_when_done`. Raises OSError where it cannot be written; what was at `path` before is still there.
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

    Where nothing is in it when the work within raises an exception, it is gone again, with those above that were made.
    Raises UserError where it cannot be made or written, or another process holds it.
    """
    if not is_first_process():  # the first one holds it for all
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        holding = _acquired(folder, WAIT_S if is_step() else 0)
    except Timeout as error:
        raise UserError(f"{folder} is in use by another process: wait for it, or choose another run=NAME") from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{folder} cannot be written ({error}): choose another runs_dir=DIR") from error
    with holding:
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if made and os.listdir(folder) == [".lock"]:
                    (folder / ".lock").unlink()
                for path in made:
                    path.rmdir()
            raise


def _acquired(folder: Path, wait_s: float) -> AbstractContextManager[object]:
    until = time.monotonic() + wait_s
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return FileLock(folder / ".lock").acquire(timeout=0)
        except (Timeout, FileNotFoundError):  # which it raises where the holder removes file and folder meanwhile
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def digest(*parts: object, size: int = 8) -> bytes:
    """Return bytes that stand for a few numbers and texts: the same in any process, on any machine."""
    return hashlib.blake2b("\n".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=size).digest()


def sha256(content: str | Path | bytes) -> str:
    """Return the hex digest of a file, read in pieces, or of bytes."""
    with io.BytesIO(content) if isinstance(content, bytes) else Path(content).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return a line for each row, with commas between its cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, a line for the head and each row."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))
