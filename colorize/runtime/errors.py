"""The one exception that means "the user can mend this", and exceptions as one line."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """A wrong option, path, image, checkpoint or weight file.

    Its message is one clear line that names the offending thing and says what to do. Commands print it without a
    traceback and exit with status 1.
    """

    on_all_ranks = False
    """True where every process of a command raises this very error, so that one of them is enough to say so."""


_RESUMES = "the same command resumes (training with resume=auto)"
_ADVICE = {
    errno.ENOSPC: f"make room, and {_RESUMES}",
    errno.EDQUOT: f"make room, and {_RESUMES}",
    errno.EROFS: f"once it can be written to, {_RESUMES}",
}


def brief(error: Exception) -> str:
    """Return the message of `error` in one line, cut to 200 characters, to be part of a message of ours."""
    return " ".join(str(error).split())[:200]


def one_line(error: Exception) -> str:
    """Return what `error` says, for stderr: its message, or the system's with the names of the files and what to do."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
        return (f"{error.strerror}: {names}" if names else error.strerror) + advice
    return str(error) or type(error).__name__


def listed(names: Sequence[str], most: int = 20) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system refuses within it into an OSError that names `path`; a failed write's own names none."""
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):
            found = found.__cause__ or found.__context__
        if found is None or found.errno is None:
            raise
        raise OSError(found.errno, found.strerror, os.fspath(path)) from error


_DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*?\)\s*(.*)")


@contextmanager
def dead_workers_told() -> Iterator[None]:
    """Turn the death of a process that reads photos, which torch tells by a RuntimeError anywhere, into a UserError."""
    try:
        yield
    except RuntimeError as error:
        match = _DEAD_WORKER.search(str(error))
        if match is None:
            raise
        raise UserError(
            f"a process that reads photos ended ({match[1].rstrip('. ')}; killed: mostly for want of memory): lower "
            f"data.num_workers, and {_RESUMES}"
        ) from error
