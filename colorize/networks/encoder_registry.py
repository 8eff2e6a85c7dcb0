"""Registry of encoders: adding one means a class, a line here, and its name in `colorize.networks.options.ENCODERS`."""

from collections.abc import Callable
from functools import partial

from colorize.networks.efficientnet import EfficientNetLite0
from colorize.networks.encoder import Encoder
from colorize.networks.resnet import RESNETS, ResNetBody

ENCODERS: dict[str, Callable[[], Encoder]] = {
    **{name: partial(ResNetBody, name) for name in RESNETS},
    "efficientnet_lite0": EfficientNetLite0,
}


def make_encoder(name: str) -> Encoder:
    """Build an encoder with random weights. Raises ValueError for an unknown name."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: one of {', '.join(ENCODERS)}")
    return ENCODERS[name]()
