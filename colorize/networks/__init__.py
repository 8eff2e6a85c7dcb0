"""Generators (U-Nets), the critic and their encoders."""

from collections.abc import Mapping
from typing import Any

from colorize.networks.critic import Critic
from colorize.networks.generator import Generator
from colorize.networks.light_unet import LightUNet
from colorize.networks.unet import UNet

__all__ = ["GENERATORS", "Critic", "Generator", "LightUNet", "UNet", "make_generator"]

GENERATORS: dict[str, type[Generator]] = {"unet": UNet, "light": LightUNet}
"""By `model.decoder`."""


def make_generator(architecture: Mapping[str, Any]) -> Generator:
    """Build the network that `Generator.architecture` states; files from before there was a choice mean `UNet`.

    Raises:
        ValueError, TypeError: no such network can be made.
    """
    options = dict(architecture)
    decoder = options.pop("decoder", "unet")
    if decoder not in GENERATORS:
        raise ValueError(f"decoder={decoder!r}: one of {', '.join(GENERATORS)}")
    return GENERATORS[decoder](**options)
