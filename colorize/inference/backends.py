"""Backends: what computes a network, PyTorch or ONNX Runtime, and the choice between them. Imports neither."""

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

from colorize.color import Plane
from colorize.runtime.errors import UserError
from colorize.weights import bundled


class Likely(NamedTuple):
    """Colours of one photo, and what a network that predicts a distribution rests them on."""

    rgb: Plane  # (3, H, W) float32, sRGB-encoded
    logits: Plane | None = None  # (cells, h, w) float32; None where the network predicts no distribution
    centres: Plane | None = None  # (cells, 2), a and b of Lab of each cell


class Backend(Protocol):
    """A network made ready to colour, on the device where it computes."""

    device: str
    precision: str
    at_once: int  # photos that go through it together, where nothing else is said

    def run(self, grey: Plane) -> Plane:
        """Colour `(B, 1, H, W)` float32 grey in [0, 1]: `(B, 3, H, W)` float32 RGB, nominally in [0, 1]."""

    def likely(self, grey: Plane) -> Likely:
        """Colour `(1, H, W)` grey, and say how likely which colours are."""

    def free_memory(self) -> None:
        """Give back what a pass that failed for want of memory has left, if anything."""
        return

    @contextmanager
    def side_by_side(self) -> Iterator[tuple[Executor, int]]:
        """Hold threads for as many passes as are worth running side by side: one."""
        with ThreadPoolExecutor(1) as pool:
            yield pool, 1


def chosen_backend(backend: str, checkpoint: Path, device: str, precision: str) -> tuple[str, Path]:
    """Return "torch" or "onnx", and the file that it reads.

    Where `backend` is "auto" that is ONNX Runtime for an export to ONNX, and for the bundled generator on a CPU: it
    starts in a fraction of the time that importing PyTorch takes. Raises UserError where they do not go together.
    """
    is_onnx = checkpoint.suffix.lower() == ".onnx"
    as_onnx = checkpoint.with_suffix(".onnx") if checkpoint == bundled.BUNDLED else checkpoint
    on_cpu = device == "cpu" or (device == "auto" and not gpu_in_sight())
    if backend == "auto":
        can = as_onnx.suffix == ".onnx" and as_onnx.is_file() and on_cpu and precision in ("auto", "32-true")
        without_torch = find_spec("torch") is None
        backend = "onnx" if is_onnx or (can and (without_torch or find_spec("onnxruntime") is not None)) else "torch"
    if backend == "torch" and is_onnx:
        raise UserError(f"PyTorch reads no ONNX: give the file that {checkpoint} was exported from")
    if backend == "torch":
        return backend, checkpoint
    if as_onnx.suffix.lower() != ".onnx":
        raise UserError(
            f"backend=onnx does not read {checkpoint}: export it first (python -m colorize.export format=onnx)"
        )
    if device not in ("auto", "cpu") or precision not in ("auto", "32-true"):
        raise UserError("backend=onnx computes on the CPU, in float32: leave out device=… and precision=…")
    return backend, as_onnx


def gpu_in_sight() -> bool:
    """Return whether this machine seems to have a GPU that PyTorch computes on, without asking PyTorch."""
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    found = any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd"))) or shutil.which("nvidia-smi") is not None
    return found and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
