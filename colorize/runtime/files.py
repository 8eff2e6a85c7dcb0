"""Files that appear whole or not at all, what tells their content, what is in folders and lists, tables as text."""

import csv
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import NamedTuple


class Folder(NamedTuple):
    """The content of a folder, without hidden names.

    Attributes:
        subfolders: their names, and whether each is a link.
        files: names of everything else.
    """

    subfolders: list[tuple[str, bool]]
    files: list[str]


def read_folder(path: str) -> Folder:
    """List a folder, sorted by name.

    Raises:
        OSError: it cannot be read.
    """
    found = Folder([], [])
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            is_link = entry.is_symlink()
            if entry.name.startswith("."):
                continue
            # os.path for links: it says no to one that leads nowhere or to itself, where the entry raises.
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                found.subfolders.append((entry.name, is_link))
            else:
                found.files.append(entry.name)
    return found


def walk_files(
    root: str | Path,
    below: str = "",
    read: Callable[[str], Folder] = read_folder,
    enter: Callable[[str], bool] = lambda folder: True,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder at or below `root`, each once, with the names of its files.

    Links to folders come after everything else, so that a file has the same path whether or not a link leads to it as
    well, and a loop of links ends.

    Args:
        root: the folder to start in.
        below: the part of it to walk, as "" or "a/b/".
        read: lists a folder.
        enter: says of a folder, relative to `root` as `below` is, whether to walk it.
        on_error: is told of folders that cannot be read; None raises.
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
            found = read(path)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield folder, found.files
        folders += [f"{folder}{name}/" for name, is_link in reversed(found.subfolders) if not is_link]
        new = [f"{folder}{name}/" for name, is_link in found.subfolders if is_link]
        links = sorted(links + new, reverse=True)


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank; zero bytes, if it has any, end its lines.

    Bytes that are no UTF-8 come as `os.fsdecode` gives them, since they may be a file's name.

    Raises:
        OSError: it cannot be read.
    """
    text = os.fsdecode(path.read_bytes()).removeprefix("\ufeff")
    lines = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip()]


@contextmanager
def written_whole(path: Path, *, sync: bool = True, alone: bool = False) -> Iterator[BufferedRandom]:
    """A file to write, which becomes `path` when it is complete, and vanishes otherwise. Folders are created.

    Args:
        path: of the file.
        sync: wait until it is safely on the disk, so that not even a power cut leaves half a file at `path`.
        alone: no other process writes to `path`. What a killed one leaves is then called `.NAME.part`, and written over
            by the next; otherwise it is a `.tmp`.

    Raises:
        OSError: it cannot be written; what was at `path` before is still there.
    """
    # Hidden, so that no listing takes it for a photo; and short, since `path` may have a name of the greatest length.
    unfinished = path.with_name(f".{path.name}.part" if alone else f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w+b") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def sha256(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """A line for each row, with commas between its cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
