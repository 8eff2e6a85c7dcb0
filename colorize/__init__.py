"""Trains a generative adversarial network to colour black-and-white photos, and colours photos with it.

From a terminal: `colorize photo.jpg`; `colorize --help` shows the rest. From Python:

from colorize import Colorizer

Colorizer.from_checkpoint().colorize("photo.jpg").save("photo_colour.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from colorize.runtime.version import __version__

if TYPE_CHECKING:
    from colorize.inference.colorizer import Colorizer
    from colorize.photos.hints import Hint

__all__ = ["Colorizer", "Hint", "__version__", "run_evaluation", "run_training"]

_LAZY = {"Colorizer": "colorize.inference.colorizer", "Hint": "colorize.photos.hints"}


def run_training(*options: str) -> float | None:
    """Train one phase: `run_training("phase=pretrain_gen", "data=folder", "data.root=photos", "run=mine")`.

    Args:
        options: key=value, as typed after `colorize train`, whose `--help` explains them.

    Returns:
        The metric of the phase's best.ckpt, lower is better.

    Raises:
        colorize.runtime.errors.UserError: an option, a path or a file is wrong; its message is one line.
    """
    from colorize import train
    from colorize.cli.command import call

    return call("train", train.run, options)


def run_evaluation(*options: str) -> float | None:
    """Measure checkpoints against the originals: `run_evaluation("run=mine", "data=folder", "data.root=photos")`.

    Args:
        options: key=value, as typed after `colorize evaluate`, whose `--help` explains them.

    Returns:
        The CIEDE2000 of the last checkpoint, lower is better; tables and gallery are in the output folder.

    Raises:
        colorize.runtime.errors.UserError: as `run_training`.
    """
    from colorize import evaluate
    from colorize.cli.command import call

    return call("evaluate", evaluate.run, options)


def __getattr__(name: str) -> Any:
    """Import torch only when it is wanted, so that `--help` answers at once (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what `help(colorize)` is to show, what is imported late included."""
    return [*globals(), *_LAZY]
