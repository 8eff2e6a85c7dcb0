"""Reading and checking checkpoints, and handing their weights on.

A checkpoint is Lightning's file with one more entry, `colorize`: a dict of primitives that states the phase, the
architecture of each network, and how far the fit is. It holds primitives and tensors only and is read with
`weights_only=True`, which executes nothing.
"""

import hashlib
import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from colorize.errors import UserError
from colorize.networks.critic import Critic
from colorize.networks.unet import UNet

FORMAT = 1


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
    format: int = FORMAT

    @property
    def complete(self) -> bool:
        """Whether the fit that wrote it had reached its last epoch."""
        return self.epochs_done >= self.epochs


def write_card(checkpoint: dict[str, Any], card: Card) -> None:
    """Put `card` into a checkpoint that is about to be saved."""
    checkpoint["colorize"] = asdict(card)


def read(path: str | Path) -> tuple[Card, dict[str, Tensor]]:
    """The card and the weights of a checkpoint, without executing anything in it.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of this program.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stated = dict(content["colorize"])
        if stated.get("format") != FORMAT:
            raise UserError(f"{path} has checkpoint format {stated.get('format')}; this program reads format {FORMAT}")
        return Card(**stated), content["state_dict"]
    except UserError:
        raise
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint of this program (it states no architecture)") from error


def load_network(
    path: str | Path, name: Literal["generator", "critic"], expected: dict[str, Any] | None = None
) -> nn.Module:
    """The generator or the critic of a checkpoint, on the CPU, in eval mode.

    Args:
        path: a checkpoint of `colorize.train`.
        name: which of its networks.
        expected: the architecture it must have, where a configuration already states one.

    Raises:
        UserError: unreadable, without that network, or of another architecture than `expected`.
    """
    card, state = read(path)
    architecture = card.generator if name == "generator" else card.critic
    if architecture is None:
        raise UserError(f"{path} holds no {name}: it was written by phase {card.phase}")
    if expected is not None:
        check_architecture(path, name, architecture, expected)
    network: nn.Module = UNet(**architecture) if name == "generator" else Critic(**architecture)
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its {name} does not fit the architecture it states: {error}") from error
    return network.eval()


def check_architecture(
    path: str | Path, name: str, architecture: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    """Compare what a checkpoint states with what a configuration asks for.

    Raises:
        UserError: they differ; it names the differing options.
    """
    stated = architecture or {}
    differing = sorted(key for key in expected if stated.get(key) != expected[key])
    if differing:
        said = ", ".join(f"{key}={stated.get(key)} instead of {expected[key]}" for key in differing)
        raise UserError(f"{path} holds a {name} of another architecture: {said}; set model.* to match")


def sha256(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
