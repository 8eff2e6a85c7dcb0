"""The device to compute on, and the numbers that are fast on it."""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch.backends import cudnn

from colorize.runtime.errors import UserError

HALF_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # the number format of each mixed precision
Network = TypeVar("Network", bound=torch.nn.Module)


def pick_device(accelerator: str, key: str = "trainer.accelerator") -> torch.device:
    """Return the torch device for auto, cpu, gpu, cuda or mps, set by the option `key`; raise UserError if none is."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = {"auto": ["cuda", "mps", "cpu"], "gpu": ["cuda", "mps"]}.get(accelerator, [accelerator])
    for kind in wanted:
        if available[kind]:
            return torch.device(kind)
    raise UserError(f"{key}={accelerator}: this machine has none; use {key}=cpu")


def pick_precision(precision: str, device: torch.device, key: str = "trainer.precision") -> str:
    """Resolve `auto`: bf16-mixed where the hardware has it, else 32-true; UserError, naming `key`, if it cannot be."""
    if precision == "16-mixed" and device.type == "cpu":
        raise UserError(f"{key}=16-mixed needs a GPU: on a CPU use bf16-mixed or 32-true")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Emulated bf16 (AVX2, plain AVX-512) is slower than float32, and torch has no public question for this one.
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = False
    return "bf16-mixed" if native else "32-true"


def place(network: Network, device: torch.device) -> Network:
    """Move `network` to `device`, its weights in the memory layout that convolutions are fastest with."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def keep_memory() -> None:
    """Have glibc, where it is, keep what a step frees for the next one, rather than the kernel clear fresh pages."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block of memory of its own for a large tensor
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: give nothing back


def compile_in_place(device: torch.device, networks: Iterable[torch.nn.Module]) -> None:
    """Have torch compile `networks` at their first pass of each size; UserError on a CPU without a C++ compiler."""
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++")):
        raise UserError("trainer.compile=true needs a C++ compiler on a CPU: install g++, or set trainer.compile=false")
    # Sizes, training or not, frozen or not, with gradients or not: each is compiled once, more than torch expects.
    torch._dynamo.config.recompile_limit = 64
    for network in networks:
        network.compile(dynamic=False)


def exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Switch off TF32, whose 10 bits are too few for the variances of SSIM, and for precision=32-true."""
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes with `precision`, outside Lightning."""
    return torch.autocast(device.type, HALF_DTYPES.get(precision, torch.bfloat16), enabled=precision in HALF_DTYPES)
