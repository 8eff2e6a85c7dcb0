"""Files that appear whole or not at all, what tells their content, and tables as text."""

import csv
import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path


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


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` of cells as a Markdown table, the first row as its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
