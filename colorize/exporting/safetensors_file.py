"""A generator as safetensors, as `colorize.weights.load` describes it and reads it back."""

import json
from dataclasses import asdict

import safetensors.torch
from torch import Tensor

from colorize.runtime.errors import UserError
from colorize.weights.load import Weights
from colorize.weights.stated import EXPORT_FORMAT


def to_bytes(weights: Weights, half: bool = False) -> bytes:
    """Make the file that `load_weights` reads as the same, but for rounding with `half`."""
    state = weights.network.state_dict()
    tensors = {name: (round_to_half(tensor) if half else tensor).contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"colorize": describe(weights)})


def describe(weights: Weights) -> str:
    """Return the JSON by which an export states its network."""
    content = {
        "format": EXPORT_FORMAT,
        "generator": weights.network.architecture,
        "preprocessing": asdict(weights.preprocessing),
        "provenance": weights.provenance,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def round_to_half(tensor: Tensor) -> Tensor:
    """Round a weight to float16; vectors (norms, biases) stay; raise UserError where a value is too large."""
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    small = tensor.half()
    if not small.isfinite().all():
        raise UserError("half=true: float16 cannot hold these weights (some are above 65,504): leave it out")
    return small
