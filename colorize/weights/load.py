"""The generator in a file of weights, whoever wrote it, and how it was taught to see photos.

A file is recognised by its content: a checkpoint of `colorize.train`, an export, or a file of DeOldify or fastai (see
`colorize.interop`). Nothing in it is executed.

An export is a safetensors file with the generator's `state_dict()` and one entry of metadata, `colorize`, whose value
is JSON:

    {"format": 1,
     "generator": {…},      what `Generator.architecture` states
     "preprocessing": {…},  the fields of `colorize.photos.rendering.Preprocessing`
     "provenance": {…}}     what it was trained on and how, for people to read

Its tensors are float32, or float16 where they have two dimensions or more (`half`).

One export comes with this program, `BUNDLED`; wherever a generator's checkpoint is named, the word `bundled` means it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from colorize.networks.encoder import MIN_SIZE_PX
from colorize.networks.generator import Generator
from colorize.networks.preprocessing import Preprocessing
from colorize.runtime.errors import UserError
from colorize.weights import checkpoints, foreign, safe_reading

EXPORT_FORMAT = 1

BUNDLED = Path(__file__).with_name("pocket.safetensors")
"""The generator that comes with this program; whether the file is there is for `bundled` to say."""

FOREIGN_PREPROCESSING = {
    # DeOldify's render factor 35, times 16.
    "deoldify_artistic": Preprocessing(render_px=560, deoldify=True),
    "deoldify_stable": Preprocessing(render_px=560, deoldify=True),
    "fastai": Preprocessing(render_px=220),
}
"""What is usual for the networks of other projects (`colorize.interop.SOURCES`), whose files do not say it."""


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        network: the generator, on the CPU, float32, in eval mode.
        preprocessing: how it is to be shown photos.
        title: what it is, for people to read.
        provenance: what an export says of its training.
    """

    network: Generator
    preprocessing: Preprocessing
    title: str
    provenance: dict[str, Any] = field(default_factory=dict)


def bundled() -> Path:
    """The file of the generator that comes with this program; raises UserError where an installation is without it."""
    if not BUNDLED.is_file():
        raise UserError("no generator is bundled with this installation: give checkpoint=FILE")
    return BUNDLED


def find(checkpoint: str | os.PathLike[str]) -> Path:
    """The file that a `checkpoint` names, there or not; the word `bundled` stands for `bundled()`, which may raise."""
    return bundled() if str(checkpoint) == "bundled" else Path(checkpoint)


def load(path: str | os.PathLike[str], use_ema: bool = True) -> Weights:
    """Read a generator from a file of any kind named above.

    Args:
        path: the file, or the word `bundled`.
        use_ema: of a checkpoint with averaged weights take these, otherwise those of the last step.

    Raises:
        UserError: there is no such file, it is something else, it is damaged, or it holds no generator.
    """
    path = find(path)
    if (export := load_export(path)) is not None:
        return export
    content = safe_reading.read_file(path)
    if isinstance(content, Mapping) and "colorize" in content:
        card, _ = checkpoints.read(path)
        network = checkpoints.load_network(path, "generator", use_ema=use_ema)
        assert isinstance(network, Generator)
        title = f"checkpoint of phase {card.phase}, {card.images_seen} images seen"
        if card.averaged:
            title += ", averaged weights" if use_ema else ", weights of the last step"
        return Weights(network, Preprocessing(max(card.size_px, MIN_SIZE_PX)), title)
    state = safe_reading.state_of(content, path)
    network, source = foreign.make_unet(state, path), foreign.recognise(state)
    assert source is not None  # or make_unet would have said so
    return Weights(network, FOREIGN_PREPROCESSING[source.name], source.title)


def statement(weights: Weights) -> str:
    """What an export says of its network: the JSON described above."""
    content = {
        "format": EXPORT_FORMAT,
        "generator": weights.network.architecture,
        "preprocessing": asdict(weights.preprocessing),
        "provenance": weights.provenance,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def to_bytes(weights: Weights, half: bool = False) -> bytes:
    """The safetensors file that `load` reads back as the same network, preprocessing and provenance.

    With `half` its weights are rounded to float16; raises UserError where that cannot hold them.
    """
    state = weights.network.state_dict()
    tensors = {name: (rounded(tensor) if half else tensor).contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"colorize": statement(weights)})


def rounded(tensor: Tensor) -> Tensor:
    """A weight as float16; vectors (norms, biases), a hundredth of a network and of any magnitude, stay as they are.

    Raises UserError where a value is too large.
    """
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    small = tensor.half()
    if not small.isfinite().all():
        raise UserError("half=true: float16 cannot hold these weights (some are above 65,504): leave it out")
    return small


def load_export(path: str | Path) -> Weights | None:
    """What an export of this program holds; None where the file is another, or cannot be read: others say what it is.

    Raises:
        UserError: it is an export, but damaged, or contradicts itself.
    """
    stated = _exported(path)
    if stated is None:
        return None
    state = safe_reading.read_state(path)
    try:
        content = json.loads(stated)
        if content["format"] != EXPORT_FORMAT:
            raise UserError(f"{path} has export format {content['format']}; this program reads format {EXPORT_FORMAT}")
        network = checkpoints.build_stated(path, "generator", content["generator"])
        assert isinstance(network, Generator)
        preprocessing = Preprocessing(**content["preprocessing"])
        provenance = dict(content.get("provenance", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not state its network in a way that this program reads: {reason}") from error
    try:
        floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        network.load_state_dict(floats, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its tensors do not fit the network that it states: {reason}") from error
    title = "the bundled generator (pocket)" if Path(path) == BUNDLED else "export of this program"
    return Weights(network.eval(), preprocessing, title, provenance)


def _exported(path: str | Path) -> str | None:
    """The metadata that marks an export."""
    try:
        with Path(path).open("rb") as file:
            if file.read(9)[8:] != b"{":
                return None
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("colorize")
    except (OSError, SafetensorError):
        return None
