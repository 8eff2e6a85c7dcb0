"""Reading and checking checkpoints, and handing their weights on.

A checkpoint is Lightning's file with one more entry, `colorize`: a dict of primitives that states the phase, the
architecture of each network, and how far the fit is. It holds primitives and tensors only and is read with
`weights_only=True`, which executes nothing.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from colorize.networks import GENERATORS, make_generator
from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.runtime.errors import UserError
from colorize.runtime.files import sha256 as sha256
from colorize.weights import foreign, safe_reading

log = logging.getLogger("colorize")

FORMAT = 1
DECODING = {"temperature"}
"""Options that say how a network's answer is read: weights fit whatever they are."""
AVERAGE = "generator_average"
"""Name of the callback state that holds averaged weights of the generator."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself, in primitives."""

    phase: str
    epochs_done: int
    epochs: int
    images_seen: int
    size_px: int
    generator: dict[str, Any] | None
    critic: dict[str, Any] | None
    turns: int
    averaged: bool = False
    """Whether it has averaged weights of the generator (EMA) beside those of the last step."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """The scores so far: images_seen, ciede2000, delta_cf, distance… at each moment (evaluation/stopping.py)."""
    settings: dict[str, bool | int | float | str] = field(default_factory=dict)
    """The options that made the fit what it is (hyper_parameters.py), those of its last start."""
    sources: dict[str, str] = field(default_factory=dict)
    """Digests of the files that it started from (resuming.py)."""
    format: int = FORMAT

    @property
    def complete(self) -> bool:
        """Whether the fit that wrote it had reached its last epoch."""
        return self.epochs_done >= self.epochs

    @property
    def score(self) -> dict[str, float] | None:
        """What the weights of this checkpoint scored; None where nobody scored them."""
        return self.curve[-1] if self.curve and self.curve[-1]["images_seen"] == self.images_seen else None


def write_card(checkpoint: dict[str, Any], card: Card) -> None:
    """Put `card` into a checkpoint that is about to be saved."""
    checkpoint["colorize"] = asdict(card)


def read(path: str | Path) -> tuple[Card, dict[str, Tensor]]:
    """The card and the weights of a checkpoint, without executing anything in it.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of this program.
    """
    return _parse(safe_reading.read_file(path), path)


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("epochs_done", "epochs", "images_seen", "size_px", "turns", "format"), (int,)),
    **dict.fromkeys(("generator", "critic"), (dict, type(None))),
    **dict.fromkeys(("settings", "sources"), (dict,)),
    **{"phase": (str,), "averaged": (bool,), "curve": (list,)},
}
_POINT = {"images_seen", "ciede2000", "delta_cf", "distance"}
_MOST_PX = 1 << 14


def _parse(content: Any, path: str | Path) -> tuple[Card, dict[str, Tensor]]:
    """The card and the weights in what a file holds, all of the types that they should have: files are from anybody."""
    try:
        stated = dict(content["colorize"])
        if stated.get("format") != FORMAT:
            found = ascii(stated.get("format"))[:20]
            raise UserError(f"{path} has checkpoint format {found}; this program reads format {FORMAT}")
        card, state = Card(**stated), dict(content["state_dict"])
        if not all(isinstance(getattr(card, name), kinds) for name, kinds in _KINDS.items()):
            raise TypeError("a field of the card")
        if not all(isinstance(point, dict) and point.keys() >= _POINT for point in card.curve):
            raise TypeError("a point of the curve")
        if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
            raise TypeError("a tensor")
        if not 0 < card.size_px <= _MOST_PX:
            raise ValueError(f"photos of {card.size_px} px")
        return card, state
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint of this program (it states no architecture)") from error


def has_average(path: str | Path) -> bool:
    """Whether a file of weights holds averaged ones of a generator (EMA) beside those of its last step.

    Raises:
        UserError: it cannot be read.
    """
    content = safe_reading.read_file(path)
    return isinstance(content, Mapping) and "colorize" in content and _parse(content, path)[0].averaged


def load_network(
    path: str | Path,
    name: Literal["generator", "critic"],
    expected: dict[str, Any] | None = None,
    use_ema: bool = True,
) -> nn.Module:
    """The generator or the critic of a checkpoint, on the CPU, in eval mode.

    Args:
        path: a checkpoint of `colorize.train`; for a generator, also an export or a file that `interop.load` reads.
        name: which of its networks.
        expected: the architecture it must have, where a configuration already states one.
        use_ema: of a generator with averaged weights, take these (and say so); otherwise those of the last step.

    Raises:
        UserError: unreadable, without that network, or of another architecture than `expected`.
    """
    from colorize.weights import load as files  # which reads its checkpoints by this module

    if name == "generator" and (export := files.load_export(path)) is not None:
        if expected is not None:
            check_architecture(path, name, export.network.architecture, expected)
        return export.network
    content = safe_reading.read_file(path)
    if name == "generator" and not (isinstance(content, Mapping) and "colorize" in content):
        return _load_foreign(content, path, expected)
    card, state = _parse(content, path)
    architecture = card.generator if name == "generator" else card.critic
    if architecture is None:
        raise UserError(f"{path} holds no {name}: it was written by phase {card.phase}")
    if expected is not None:
        check_architecture(path, name, architecture, expected)
    network = build_stated(path, name, architecture)
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if name == "generator" and card.averaged:
        if use_ema:
            try:
                weights = dict(content["callbacks"][AVERAGE]["generator"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} lacks the averaged weights that it states: give use_ema=false") from error
        log.info(f"{path}: {'the averaged weights (EMA)' if use_ema else 'the weights of the last step'} are taken")
    own = network.state_dict()
    try:
        network.load_state_dict({key: _copy(value, own.get(key)) for key, value in weights.items()}, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its {name} does not fit the architecture it states: {reason}") from error
    return network.eval()


def build_stated(path: str | Path, name: Literal["generator", "critic"], architecture: Any) -> Generator | Critic:
    """A network as a file states it, without memory for its weights: whoever wrote the file may have stated anything.

    Raises:
        UserError: no such network can be made.
    """
    try:
        with torch.device("meta"):
            return make_generator(architecture) if name == "generator" else Critic(**architecture)
    except Exception as error:  # sizes that overflow, options that are none…
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not state its network in a way that this program reads: {reason}") from error


def _copy(value: Any, own: Tensor | None) -> Any:
    """A tensor apart from the file, which may be mapped, in the type and the plain layout of the network's own."""
    if own is None or not isinstance(value, Tensor) or value.shape != own.shape:
        return value  # load_state_dict says what is wrong
    if value.untyped_storage().nbytes() < value.nbytes:  # a few bytes of the file, stretched to any size
        raise RuntimeError(f"a tensor of {tuple(value.shape)} has {value.untyped_storage().nbytes()} bytes")
    return value.to(own.dtype).clone(memory_format=torch.contiguous_format)


def _load_foreign(content: Any, path: str | Path, expected: dict[str, Any] | None) -> Generator:
    state = safe_reading.state_of(content, path)
    source = foreign.recognise(state)
    if source is not None and expected is not None:
        differing = _differing("generator", dict(source.options), expected)
        if differing:
            raise UserError(
                f"{path} is {source.title}: give model={source.model} "
                f"(the configuration differs in {', '.join(differing)})"
            )
    return foreign.make_unet(state, path)


def check_architecture(
    path: str | Path,
    name: Literal["generator", "critic"],
    architecture: dict[str, Any] | None,
    expected: dict[str, Any],
) -> None:
    """Compare what a checkpoint states with what a configuration asks for.

    Raises:
        UserError: they differ; it names the differing options.
    """
    differing = _differing(name, architecture or {}, expected)
    if differing:
        said = ", ".join(f"{key}={stated} instead of {expected[key]}" for key, stated in differing.items())
        raise UserError(f"{path} holds a {name} of another architecture: {said}; set model.* to match")


def _differing(
    name: Literal["generator", "critic"], architecture: dict[str, Any], expected: dict[str, Any]
) -> dict[str, Any]:
    """The options in which an architecture is not as expected, with its values.

    A checkpoint from before an option existed does not state it: its network is the one that the default gives.
    """
    maker: Callable[..., Generator | Critic] = (
        Critic if name == "critic" else GENERATORS.get(expected.get("decoder", "unet"), GENERATORS["unet"])
    )
    parameters = inspect.signature(maker).parameters
    stated = {key: parameter.default for key, parameter in parameters.items()} | architecture
    stated = {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}
    decisive = sorted(expected.keys() - DECODING)
    return {key: stated.get(key) for key in decisive if stated.get(key) != expected[key]}
