"""Safe reading of files of weights: nothing in them is executed, and another file is told what it is."""

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from colorize.runtime.errors import UserError, brief, lack_of_memory_told
from colorize.weights.checksum import check_seal

AGAIN = "download or copy it again"

# What torch.save of PyTorch before 1.6 begins with: a number, pickled.
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# fastai's Learner.save keeps its optimizer's settings in these, beside the weights.
_OPTIMIZER_SETTINGS = (
    "fastcore.foundation.L",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


class _Unread:
    """Stand-in for an object of somebody else's class in a file: takes what it is given and does nothing."""

    def __new__(cls, *_: object) -> "_Unread":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


@contextmanager
def one_version(path: Path) -> Iterator[None]:
    """Raise UserError where a file is written to within it, whatever else came of that; OutOfMemory for lack of memory.

    Tensors are mapped, so that a file which is overwritten in place (as `cp` does) changes while they are copied; one
    that another is renamed over stays as it was for whoever has opened it.
    """
    before, fault = _status(path), None
    try:
        with lack_of_memory_told(f"reading {path}"):
            yield
    except Exception as error:
        fault = error
    after = _status(path)
    if before and after and before[0] == after[0] and before != after:
        raise UserError(f"{path} changed while it was read: wait until it is written, then start again") from fault
    if fault is not None:
        raise fault


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a file of weights: `read_file`, then `state_of`."""
    return state_of(read_file(path), path)


def state_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Find the state dict in what `read_file` returned, itself or what it has under "model"; UserError if none is."""
    if isinstance(content, Mapping) and "colorize" in content:
        raise UserError(
            f"{path} is a training checkpoint of this program, not another project's weights: read it with "
            "colorize.Colorizer.from_checkpoint or colorize.weights.load.load_network"
        )
    state = content
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        state = content["model"]
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(state).__name__}, not named tensors: save a network's state_dict()")
    odd = next((key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))), None)
    if odd is not None or not state:
        found = "an empty dict" if odd is None else f"a dict in which {odd!r} is a {type(state[odd]).__name__}"
        raise UserError(f"{path} holds {found}, not named tensors: save a network's state_dict()")
    return dict(state)


def tensor_faults(wanted: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> str:
    """Name what a state dict lacks, has too much or in another shape; empty where it fits."""
    missing = [key for key in wanted if key not in state]
    surplus = [ascii(key) for key in state if key not in wanted]
    misshaped = [
        f"{key}, {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in wanted.items()
        if key in state and state[key].shape != shape
    ]
    lists = {"missing": missing, "surplus": surplus, "of another shape": misshaped}
    return ", ".join(f"{len(keys)} {fault} (first: {keys[0]})" for fault, keys in lists.items() if keys)


def read_file(path: str | Path) -> Any:
    """Read a file that `torch.save` (any version from 0.4 on) or safetensors wrote, onto the CPU.

    Nothing in it is executed: it is read with `weights_only=True`, and of the classes it names, those of fastai's
    optimizers become inert. A checkpoint of this program is compared with its checksum. Tensors of a zip-format file
    are mapped, not read: copy what is to outlive the file. Raises UserError for anything else, which it tells apart.
    """
    path = Path(path)
    with one_version(path):
        head = _head(path)
        if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**27:
            try:
                return safetensors.torch.load_file(path)
            except Exception as error:  # its own error class, or what a mapped file comes up with
                raise UserError(
                    f"{path} is a safetensors file cut short or damaged ({brief(error)}): {AGAIN}"
                ) from error
        if head.startswith(b"PK"):
            _check_archive(path)
            check_seal(path)
        elif not head.startswith(_LEGACY):
            if head.startswith(b"\x80"):
                raise UserError(
                    f"{path} is a pickle that torch.save did not write; a pickle can run code, so it was not opened: "
                    "give the state dict that torch.save or safetensors wrote"
                )
            raise UserError(
                f"{path} is no file of weights: it begins with {head[:8]!r}, as neither torch.save nor safetensors does"
            )
        return _read_torch(path, mmap=head.startswith(b"PK"))


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the file of weights itself")
        if not path.exists():
            raise UserError(f"there is no file {path}")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file: give a file of weights")
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is empty (0 bytes): {AGAIN}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise UserError(
            f"{path} is a web page, not weights (a download that needs a confirmation or a login saves one): "
            "open its address in a browser and download the file itself"
        )
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights it points to: run git lfs pull")
    return head


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} begins as a PyTorch file but has no end, it was cut short: {AGAIN}") from error
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UserError(
            f"{path} is a TorchScript program, which holds code; none of it was executed: "
            "give the state dict it was made from"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        first = f" (its first entry is {names[0]!r})" if names else ""
        raise UserError(f"{path} is a zip archive without PyTorch's tensors{first}: unpack it and give the file inside")


def _read_torch(path: Path, mmap: bool) -> Any:
    inert: list[Any] = [(_Unread, name) for name in _OPTIMIZER_SETTINGS]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # unpickling something else or something damaged fails in many ways
        code = re.search(r"GLOBAL ([\w.]*\w) (?:was|whose)", str(error))
        if code is not None:
            raise UserError(
                f"{path} holds more than tensors: it asks for {code[1]}, which is code; none of it was executed. "
                "Give a state dict alone (torch.save(network.state_dict(), …), or fastai's Learner.save)"
            ) from error
        # What torch says of a pickle goes on to advise executing it.
        said = "it cannot be unpickled" if isinstance(error, pickle.UnpicklingError) else brief(error)
        raise UserError(f"{path} is a PyTorch file cut short or damaged ({said}): {AGAIN}") from error
