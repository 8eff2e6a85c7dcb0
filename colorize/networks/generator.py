"""Base of every generator: an encoder, a decoder, and a head that turns features into colour."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from colorize.color import rgb_to_grey
from colorize.networks.encoder import BodyNetwork, Encoder
from colorize.networks.encoder_registry import make_encoder
from colorize.networks.heads import BinsHead, ChromaHead, Prediction, RGBHead
from colorize.networks.layers import ConvLayer
from colorize.networks.options import LightUNetOptions, UNetOptions


class Generator(BodyNetwork):
    """Network from grey to colour, in the layer groups encoder_low, encoder_high and decoder.

    With `keep_luma` it puts its colours onto the luma of its input, for losses, critic and exports; by addition alone,
    so that gradients flow. Raises ValueError where `options` make no network.
    """

    body_name = "encoder"
    own_group = "decoder"
    options_type: ClassVar[type[UNetOptions | LightUNetOptions]]
    head: RGBHead | ChromaHead
    to_colour: ConvLayer

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = self.options_type(**options)
        self.encoder: Encoder = make_encoder(self.options.encoder)

    @property
    def architecture(self) -> dict[str, Any]:
        return asdict(self.options)

    @abstractmethod
    def predict(self, grey: Tensor, luma: Tensor) -> Prediction:
        """Colour `grey`, `(B, 1, H, W)` in [0, 1], on the lightness of `luma`, the same."""

    def forward(self, grey: Tensor, luma: Tensor | None = None, detailed: bool = False) -> Tensor | Prediction:
        """`(B, 1, H, W)` grey in [0, 1] -> `(B, 3, H, W)` RGB, float32, nominally [0, 1] but not clamped.

        `luma` is that of the result where noise or age was added to `grey`. With `detailed` the whole `Prediction` is
        returned. Raises ValueError where the input has not one channel, or H or W is below 32.
        """
        if grey.ndim != 4 or grey.shape[1] != 1:
            raise ValueError(f"grey images (B, 1, H, W) are needed, not {tuple(grey.shape)}")
        luma = grey if luma is None else luma
        found = self.predict(grey, luma)
        if self.options.keep_luma:
            found = found._replace(rgb=luma.float() + (found.rgb - rgb_to_grey(found.rgb)))  # outside [0, 1] too
        return found if detailed else found.rgb


@torch.no_grad()
def set_prior(generator: Generator, prior: Tensor) -> None:
    """Give a generator that predicts a distribution the share of each cell in training photos, `(cells,)`, sum 1."""
    assert isinstance(generator.head, BinsHead)
    generator.head.prior.copy_(prior)
    # First predictions are the prior: nothing has to unlearn that all are as likely (Lin et al. 2017, RetinaNet).
    bias = generator.to_colour.conv.bias
    assert bias is not None  # only a convolution before a batch norm has none
    bias.copy_(prior.clamp_min(1e-6).log())
