"""A checksum in a checkpoint, if any, as its zip archive's comment: `torch.load` does not notice a flipped byte."""

import hashlib
import os
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from colorize.runtime.errors import UserError
from colorize.runtime.files import sha256

_END = b"PK\x05\x06"
_END_SIZE = 22
_MARK = b"sha256:"
_SEAL_SIZE = len(_MARK) + 64

_found_whole: set[tuple[int, int, int, int]] = set()


def seal(file: BufferedRandom) -> None:
    """Append to a zip archive of `torch.save`, open to read and write, the SHA-256 of all before; else ValueError."""
    file.seek(-_END_SIZE, os.SEEK_END)
    end = file.read()
    if not end.startswith(_END) or end[-2:] != b"\0\0":
        raise ValueError("no zip archive without a comment")
    file.seek(-2, os.SEEK_END)
    file.write(_SEAL_SIZE.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(_MARK + digest.encode())


def check_seal(path: Path) -> None:
    """Compare a file with its seal, once in this process as long as nobody writes to it; raise UserError if unequal."""
    with path.open("rb") as file:
        sealed = _sealed(file)
        status = os.fstat(file.fileno())
        known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if sealed is None or known in _found_whole:
            return
        file.seek(0)
        digest, left = hashlib.sha256(), status.st_size - _SEAL_SIZE
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
    if sealed != _MARK + digest.hexdigest().encode():
        raise UserError(f"{path} is damaged: its checksum is not that of what was written; copy or make it again")
    _found_whole.add(known)


def fingerprint(path: Path) -> str:
    """Return a digest of a file's content: the checksum of its seal, or its SHA-256 where it has none."""
    with path.open("rb") as file:
        sealed = _sealed(file)
    return sha256(path) if sealed is None else sealed.removeprefix(_MARK).decode("ascii", "replace")


def _sealed(file: BinaryIO) -> bytes | None:
    """Bytes at the place of the seal, or where it was before the file lost its end; None for a file without."""
    size = file.seek(0, os.SEEK_END)
    file.seek(-min(size, _END_SIZE + _SEAL_SIZE), os.SEEK_END)
    _, end, rest = file.read().rpartition(_END)
    length, comment = rest[_END_SIZE - len(_END) - 2 : _END_SIZE - len(_END)], rest[_END_SIZE - len(_END) :]
    marked = int.from_bytes(length, "little") == _SEAL_SIZE or comment.startswith(_MARK)
    return comment if end and marked else None
