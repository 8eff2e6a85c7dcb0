"""Registry of generators, by `model.decoder`."""

from collections.abc import Mapping
from typing import Any

from colorize.networks.generator import Generator
from colorize.networks.light_unet import LightUNet
from colorize.networks.unet import UNet

GENERATORS: dict[str, type[Generator]] = {"unet": UNet, "light": LightUNet}


def make_generator(architecture: Mapping[str, Any]) -> Generator:
    """Build what `Generator.architecture` states, by default a `UNet`. Raises ValueError or TypeError for nonsense."""
    options = dict(architecture)
    decoder = options.pop("decoder", "unet")
    if decoder not in GENERATORS:
        raise ValueError(f"decoder={decoder!r}: one of {', '.join(GENERATORS)}")
    return GENERATORS[decoder](**options)
