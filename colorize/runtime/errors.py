"""The one exception that means "the user can mend this", and exceptions as one line."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """A wrong option, path, photo or file of weights, in one line that says what to do; commands exit with 1."""

    on_all_ranks = False  # true where every process of a command raises this very error, so that one says so


class OutOfMemory(UserError):
    """Memory did not suffice for what the message names, which may be sound itself."""


class DiskFault(UserError):
    """A disk that is full or read-only: whatever comes next would fail like this."""


_RESUMES = "the same command resumes (training with resume=auto)"
_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, and") | {errno.EROFS: "once it can be written to,"}
# What PyTorch says on CUDA, on a CPU (Linux, Windows), on MPS, and in the words of cuBLAS and cuDNN; oneDNN, whose text
# may mean something else; Python's threads, OpenCV, C++, the loader of shared libraries, and ONNX Runtime.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|insufficient memory|can(?:'|no)t allocate memory|ALLOC_FAILED|bad_alloc"
    r"|could not create a (?:primitive|memory)|can't start new thread|failed to map segment|failed to allocate memory",
    re.IGNORECASE,
)


def brief(error: Exception) -> str:
    """Return the message of `error`, or its type, in one line cut to 200 characters, as part of a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def one_line(error: Exception) -> str:
    """Return what `error` says, for stderr: its message, or the system's with the names of the files and what to do."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        advice = f"; {_ADVICE[error.errno]} {_RESUMES}" if error.errno in _ADVICE else ""
        return (f"{error.strerror}: {names}" if names else error.strerror) + advice
    return str(error) or type(error).__name__


def disk_fault(error: BaseException, folder: os.PathLike[str]) -> DiskFault | None:
    """Return what is to be done before the same command resumes, if a disk is full or read-only; None otherwise."""
    advice = _ADVICE.get(getattr(error, "errno", None) or 0)
    words = getattr(error, "strerror", None)
    return None if advice is None else DiskFault(f"{os.fspath(folder)}: {words}; {advice} the same command resumes")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell if an exception, or one that it was raised from, says by type, `errno` or words that memory ran out."""
    while error is not None:
        by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
        if by_type or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        quotes = isinstance(error, (OSError, UserError))  # a file's name, which may be any words
        if not quotes and _OUT_OF_MEMORY.search(str(error)):
            return True
        error = error.__cause__
    return False


@contextmanager
def lack_of_memory_told(doing: str) -> Iterator[None]:
    """Turn a lack of memory within it into OutOfMemory, which names what could not be done, as `reading FILE`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        advice = "free some, raise its limit, or have less done at once (batch_size, num_workers, sizes)"
        raise OutOfMemory(f"not enough memory for {doing} ({brief(error)}): {advice}") from error


_EXTRAS = dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx") | dict.fromkeys(("av", "cv2"), "video")
_EXTRAS |= {"torch_fidelity": "metrics", "gradio": "app"}
_PACKAGES = {"cv2": "opencv-python-headless", "PIL": "Pillow", "torch_fidelity": "torch-fidelity"}


@contextmanager
def missing_packages_told() -> Iterator[None]:
    """Turn the want of a package that is not installed into a UserError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "colorize").partition(".")[0]
        if name == "colorize":
            raise
        extra, name = _EXTRAS.get(name), _PACKAGES.get(name, name)
        all_of_it = f"pip install 'colorize[{extra}]'" if extra else "pip install colorize; in a checkout, make setup"
        raise UserError(
            f"this needs the package {name}, which is not installed here: pip install {name}, or install all that this "
            f"program needs for it ({all_of_it})"
        ) from error


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
