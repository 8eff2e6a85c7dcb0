"""Reading and checking checkpoints, and handing their weights on.

A checkpoint is Lightning's file with one more entry, `colorize`: a dict of primitives that states the phase, the
architecture of each network, and how far the fit is. It holds primitives and tensors only and is read with
`weights_only=True`, which executes nothing.
"""

import hashlib
import inspect
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from colorize import interop
from colorize.errors import UserError
from colorize.networks.critic import Critic
from colorize.networks.unet import UNet

log = logging.getLogger("colorize")

FORMAT = 1
AVERAGE = "generator_average"
"""Name of the callback state that holds averaged weights of the generator."""

NETWORKS: dict[str, type[UNet] | type[Critic]] = {"generator": UNet, "critic": Critic}


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
    """The scores so far: images_seen, ciede2000, delta_cf, distance at each moment (evaluation/stopping.py)."""
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
    return _parse(interop.read_file(path), path)


def _parse(content: Any, path: str | Path) -> tuple[Card, dict[str, Tensor]]:
    try:
        stated = dict(content["colorize"])
        if stated.get("format") != FORMAT:
            raise UserError(f"{path} has checkpoint format {stated.get('format')}; this program reads format {FORMAT}")
        return Card(**stated), content["state_dict"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint of this program (it states no architecture)") from error


def has_average(path: str | Path) -> bool:
    """Whether a file of weights holds averaged ones of a generator (EMA) beside those of its last step.

    Raises:
        UserError: it cannot be read.
    """
    content = interop.read_file(path)
    return isinstance(content, Mapping) and "colorize" in content and _parse(content, path)[0].averaged


def load_network(
    path: str | Path,
    name: Literal["generator", "critic"],
    expected: dict[str, Any] | None = None,
    use_ema: bool = True,
) -> nn.Module:
    """The generator or the critic of a checkpoint, on the CPU, in eval mode.

    Args:
        path: a checkpoint of `colorize.train`; for a generator, also a file that `interop.load` reads.
        name: which of its networks.
        expected: the architecture it must have, where a configuration already states one.
        use_ema: of a generator with averaged weights, take these (and say so); otherwise those of the last step.

    Raises:
        UserError: unreadable, without that network, or of another architecture than `expected`.
    """
    content = interop.read_file(path)
    if name == "generator" and not (isinstance(content, Mapping) and "colorize" in content):
        return _load_foreign(content, path, expected)
    card, state = _parse(content, path)
    architecture = card.generator if name == "generator" else card.critic
    if architecture is None:
        raise UserError(f"{path} holds no {name}: it was written by phase {card.phase}")
    if expected is not None:
        check_architecture(path, name, architecture, expected)
    network = NETWORKS[name](**architecture)
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if name == "generator" and card.averaged:
        if use_ema:
            weights = content["callbacks"][AVERAGE]["generator"]
        log.info(f"{path}: {'the averaged weights (EMA)' if use_ema else 'the weights of the last step'} are taken")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its {name} does not fit the architecture it states: {error}") from error
    return network.eval()


def _load_foreign(content: Any, path: str | Path, expected: dict[str, Any] | None) -> UNet:
    state = interop.state_of(content, path)
    source = interop.recognise(state)
    if source is not None and expected is not None:
        differing = _differing("generator", dict(source.options), expected)
        if differing:
            raise UserError(
                f"{path} is {source.title}: give model={source.model} "
                f"(the configuration differs in {', '.join(differing)})"
            )
    return interop.make_unet(state, path)


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
    parameters = inspect.signature(NETWORKS[name]).parameters
    stated = {key: parameter.default for key, parameter in parameters.items()} | architecture
    stated = {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}
    return {key: stated.get(key) for key in sorted(expected) if stated.get(key) != expected[key]}


def sha256(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
