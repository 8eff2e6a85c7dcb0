"""Trains a generative adversarial network to colour black-and-white photos, and colours photos with it."""

from typing import TYPE_CHECKING, Any

from colorize.runtime.version import __version__

if TYPE_CHECKING:
    from colorize.inference.colorizer import Colorizer

__all__ = ["Colorizer", "__version__"]


def __getattr__(name: str) -> Any:
    """Import torch only when it is wanted, so that `--help` answers at once (PEP 562)."""
    if name == "Colorizer":
        from colorize.inference.colorizer import Colorizer

        return Colorizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
