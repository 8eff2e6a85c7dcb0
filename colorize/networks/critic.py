"""The critic: tells real photos from generated ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from colorize.networks.encoder import BodyNetwork, Encoder
from colorize.networks.encoder_registry import make_encoder
from colorize.networks.layers import SpectralNorm, init_conv, normalize_imagenet

PATCH = "patch"


class Critic(BodyNetwork):
    """Discriminator of a GAN (Goodfellow et al. 2014): an encoder of this name and a logit; for "patch" `PatchBody`."""

    body_name = "body"
    own_group = "head"

    def __init__(self, backbone: str = "resnet34") -> None:
        super().__init__()
        self.body: Encoder = PatchBody() if backbone == PATCH else make_encoder(backbone)
        channels = self.body.channels[-1]
        self.head = _spectral(channels, 1, stride=1) if backbone == PATCH else nn.Linear(channels, 1)

    @property
    def architecture(self) -> dict[str, Any]:
        return {"backbone": self.body.name}

    def forward(self, rgb: Tensor) -> Tensor:
        """`(B, 3, H, W)` RGB in [0, 1] -> float32 logits, positive for a real photo: `(B,)`, or `(B, patches)`."""
        features = self.body(self.body.normalize(rgb))[-1]
        if self.body.name == PATCH:
            return self.head(features).float().flatten(1)
        pooled = features.mean(dim=(2, 3), dtype=torch.float32)
        with torch.autocast(rgb.device.type, enabled=False):
            return self.head(pooled).squeeze(1)


class PatchBody(Encoder):
    """Body of the patch critic (Isola et al. 2017): four 4x4 convolutions, spectral norm, for logits of 70 x 70 px."""

    low_parts = ("layers.0", "layers.1")
    high_parts = ("layers.2", "layers.3")
    normalize = staticmethod(normalize_imagenet)

    def __init__(self) -> None:
        super().__init__(PATCH, (64, 128, 256, 512))
        pairs = zip((3, *self.channels[:-1]), self.channels, (2, 2, 2, 1), strict=True)
        self.layers = nn.ModuleList(nn.Sequential(_spectral(*pair), nn.LeakyReLU(0.2)) for pair in pairs)

    def features(self, x: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` -> the outputs of the four layers, at 1/2, 1/4, 1/8 and just under 1/8 of the size."""
        found = [x]
        for name in self.low_parts + self.high_parts:
            found.append(self._run(name, found[-1]))
        return found[1:]


def _spectral(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 4, stride, padding=1)
    init_conv(conv, "relu")
    register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return conv
