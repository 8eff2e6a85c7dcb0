"""Options of the generators: what the schema of `conf/` offers, a network is built from and a checkpoint states.

Free of Hydra and torch, so that `--help` is fast and colouring photos needs no Hydra.
"""

from dataclasses import dataclass, fields
from typing import Any

from colorize.runtime.keys import opt

MIN_SIZE_PX = 32  # least side of an image for the networks
ENCODERS = ("resnet10_half", "resnet18", "resnet34", "resnet101", "efficientnet_lite0")  # names in the encoder registry


@dataclass
class GeneratorOptions:
    """Options whose values have the type that they are declared with, so that they compare and are stored as JSON."""

    def __post_init__(self) -> None:
        """Convert each value; raise TypeError or ValueError where it is of no such type: files state anything."""
        for entry in fields(self):
            value: Any = getattr(self, entry.name)
            if entry.type in (bool, int, float):
                setattr(self, entry.name, entry.type(value))
            elif entry.type in (list[int], list[float]):
                setattr(self, entry.name, [entry.type.__args__[0](part) for part in value])


@dataclass
class UNetOptions(GeneratorOptions):
    """Options of `colorize.networks.unet.UNet`, from fastai's network (the defaults) to those of DeOldify."""

    encoder: str = opt("resnet34", "encoder of the generator", choices=ENCODERS)
    width_factor: float = opt(1.0, "decoder width; 1 is fastai's DynamicUnet", least=0.01)
    norm: str = opt("weight", "norm of the decoder; spectral: with batch norm", choices=("weight", "batch", "spectral"))
    blur: bool = opt(True, "average 2x2 after each pixel shuffle but the last, against checkerboards")
    self_attention: bool = opt(True, "self-attention at 1/8 of the resolution")
    last_cross: bool = opt(True, "show the input again to the last layers")
    output_range: list[float] = opt([-3.0, 3.0], "range of the last sigmoid, in ImageNet-normalised units")
    block_width: int | None = opt(None, "channels of an up block, before width_factor (null: what joins it)", least=2)
    block_convs: int = opt(2, "3x3 convolutions in an up block: 1 or 2", least=1)
    last_blur: bool = opt(False, "average 2x2 after the last pixel shuffle too, as in DeOldify")
    relu_before_sum: bool = opt(False, "the last block's second ReLU before its sum, as in DeOldify, not after it")
    output: str = opt(
        "rgb", "predicted: rgb; chroma: Lab's a and b; bins: shares of its cells", choices=("rgb", "chroma", "bins")
    )
    temperature: float = opt(0.38, "bins: of the mean that is shown; 1 is the plain mean, near 0 the likeliest cell")
    keep_luma: bool = opt(False, "put the colours onto the input's luma inside the network, where losses see it too")


@dataclass
class LightUNetOptions(GeneratorOptions):
    """Options of `colorize.networks.light_unet.LightUNet`; those that it shares with the U-Net are explained there."""

    encoder: str = "efficientnet_lite0"
    output: str = "bins"
    temperature: float = 0.38
    keep_luma: bool = True
    widths: list[int] = opt([256, 192, 96, 64], "light: channels at 1/32, 1/16, 1/8 and 1/4 of the size")
    refine_width: int = opt(32, "light: channels of the refinement at 1/2 of the size (0: none)", least=0)
    queries: int = opt(0, "light: learnt colours that look at all of the photo, as DDColor's (0: none)", least=0)
