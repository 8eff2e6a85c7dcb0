"""Training checkpoints: their metadata, written and read, and the networks in them.

A checkpoint is Lightning's file, of primitives and tensors only, with one more entry, `colorize`: a dict that states
the phase, the architecture of each network, and how far training is.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.generator_registry import make_generator
from colorize.runtime.errors import UserError, brief
from colorize.runtime.log import log
from colorize.weights.safe_reading import read_file

FORMAT = 1
AVERAGE = "generator_average"  # name of the callback state that holds averaged weights of the generator
_DECODING = {"temperature"}  # options that say how a network's answer is read: weights fit whatever they are
_POINT = {"images_seen", "ciede2000", "delta_cf", "distance"}
_MOST_PX = 1 << 14


@dataclass(frozen=True)
class CheckpointMetadata:
    """Description of a checkpoint, in primitives."""

    phase: str
    epochs_done: int
    epochs: int
    images_seen: int
    size_px: int  # short side at which photos are shown if nobody asks otherwise: that of the validation
    generator: dict[str, Any] | None
    critic: dict[str, Any] | None
    turns: int
    averaged: bool = False  # true: it has averaged weights of the generator (EMA) beside those of the last step
    curve: list[dict[str, float]] = field(default_factory=list)
    """The scores so far: images_seen, ciede2000, delta_cf, distance… at each moment (metrics.py)."""
    settings: dict[str, bool | int | float | str] = field(default_factory=dict)
    """The options that made the training what it is (hyper_parameters.py), those of its last start."""
    sources: dict[str, str] = field(default_factory=dict)  # digests of the files that it started from (resuming.py)
    images_before: int = 0  # by the weights that it started from: step 4's curves begin where step 1's end
    format: int = FORMAT

    @property
    def score(self) -> dict[str, float] | None:
        """Scores of the weights of this checkpoint; None where nobody scored them."""
        return self.curve[-1] if self.curve and self.curve[-1]["images_seen"] == self.images_seen else None


def write_metadata(checkpoint: dict[str, Any], metadata: CheckpointMetadata) -> None:
    """Put `metadata` into a checkpoint that is about to be saved."""
    checkpoint["colorize"] = asdict(metadata)


def read_checkpoint(path: str | Path) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    """Read the metadata and the weights of a checkpoint; raise UserError where it cannot be read or is none of ours."""
    return parse_checkpoint(read_file(path), path)


def is_checkpoint(content: Any) -> bool:
    """Tell a checkpoint of this program from other content of a file of weights."""
    return isinstance(content, Mapping) and "colorize" in content


def has_average(path: str | Path) -> bool:
    """Tell whether a file of weights holds averaged ones (EMA) too; raise UserError where it cannot be read."""
    content = read_file(path)
    return is_checkpoint(content) and parse_checkpoint(content, path)[0].averaged


def parse_checkpoint(content: Any, path: str | Path) -> tuple[CheckpointMetadata, dict[str, Tensor]]:
    """Take metadata and weights from a file's content, all of the types that they should have; UserError otherwise."""
    try:
        stated = dict(content["colorize"])
        if stated.get("format") != FORMAT:
            found = ascii(stated.get("format"))[:20]
            raise UserError(f"{path} has checkpoint format {found}; this program reads format {FORMAT}")
        metadata, state = CheckpointMetadata(**stated), dict(content["state_dict"])
        for entry in fields(metadata):
            kinds = get_args(entry.type) if isinstance(entry.type, UnionType) else (entry.type,)
            if not isinstance(getattr(metadata, entry.name), tuple(get_origin(kind) or kind for kind in kinds)):
                raise TypeError(entry.name)
        if not all(isinstance(point, dict) and point.keys() >= _POINT for point in metadata.curve):
            raise TypeError("a point of the curve")
        if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
            raise TypeError("a tensor")
        if not 0 < metadata.size_px <= _MOST_PX:
            raise ValueError(f"photos of {metadata.size_px} px")
        return metadata, state
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint of this program (it states no architecture)") from error


def network_in(
    content: Any, path: str | Path, name: Literal["generator", "critic"], use_ema: bool = True
) -> tuple[Generator | Critic, CheckpointMetadata]:
    """Build the network `name` of a checkpoint, on the CPU, in eval mode, from the `content` of the file at `path`.

    Of a generator with averaged weights, `use_ema` takes these (and says so); otherwise those of the last step. Raises
    UserError where it is no checkpoint, without that network, or its weights do not fit.
    """
    metadata, state = parse_checkpoint(content, path)
    architecture = metadata.generator if name == "generator" else metadata.critic
    if architecture is None:
        raise UserError(f"{path} holds no {name}: it was written by phase {metadata.phase}")
    network = build_stated(path, name, architecture)
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if name == "generator" and metadata.averaged:
        if use_ema:
            try:
                weights = dict(content["callbacks"][AVERAGE]["generator"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} lacks the averaged weights that it states: give use_ema=false") from error
        log.info(f"{path}: {'the averaged weights (EMA)' if use_ema else 'the weights of the last step'} are taken")
    return filled(network, weights, path, name), metadata


def filled(
    network: Generator | Critic, state: Mapping[str, Any], path: str | Path, name: str = "generator"
) -> Generator | Critic:
    """Give a network on device meta copies of a file's tensors, in its own types and eval mode; UserError if unfit."""
    own = network.state_dict()
    try:
        network.load_state_dict({key: _copy(value, own.get(key)) for key, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise UserError(f"{path}: its {name} does not fit the architecture it states: {brief(error)}") from error
    return network.eval()


def build_stated(path: str | Path, name: str, architecture: Any) -> Generator | Critic:
    """Build a network as a file states it, on device meta, for that may be any size; raise UserError if none is."""
    try:
        with torch.device("meta"):
            return make_generator(architecture) if name == "generator" else Critic(**architecture)
    except Exception as error:  # sizes that overflow, options that are none…
        raise UserError(f"{path} does not state its network in a way this program reads: {brief(error)}") from error


def _copy(value: Any, own: Tensor | None) -> Any:
    """Copy a tensor out of the file, which may be mapped, in the type and the plain layout of the network's own."""
    if own is None or not isinstance(value, Tensor) or value.shape != own.shape:
        return value  # load_state_dict says what is wrong
    if value.untyped_storage().nbytes() < value.nbytes:  # a few bytes of the file, stretched to any size
        raise RuntimeError(f"a tensor of {tuple(value.shape)} has {value.untyped_storage().nbytes()} bytes")
    return value.to(own.dtype).clone(memory_format=torch.contiguous_format)


def check_architecture(path: str | Path, name: str, own: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    """Raise UserError where the architecture that a checkpoint states is not the configuration's; it names both."""
    # From before an option existed, a file does not state it: its network is the one that the default gives.
    stated = build_stated(path, name, own or {}).architecture
    if differing := differing_options(stated, expected):
        said = ", ".join(f"{key}={value} instead of {wanted}" for key, (value, wanted) in differing.items())
        raise UserError(f"{path} holds a {name} of another architecture: {said}; set model.* to match")


def differing_options(stated: dict[str, Any], expected: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the options, each with its two values, that make weights of one architecture unfit for another."""
    stated, expected = ({"decoder": "unet"} | architecture for architecture in (stated, expected))
    pairs = {key: (stated.get(key), expected[key]) for key in sorted(expected.keys() - _DECODING)}
    return {key: (value, wanted) for key, (value, wanted) in pairs.items() if value != wanted}
