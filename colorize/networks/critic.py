"""The critic: tells real photos from generated ones."""

from typing import Any

import torch
from torch import Tensor, nn

from colorize.networks.encoder import BodyNetwork, ResNetBody
from colorize.networks.layers import normalize_imagenet


class Critic(BodyNetwork):
    """ResNet with a single logit, the discriminator of a GAN (Goodfellow et al. 2014).

    Layer groups: body_low, body_high, head.

    Args:
        backbone: the ResNet's name, see `ResNetBody`.
    """

    body_name = "body"
    own_group = "head"

    def __init__(self, backbone: str = "resnet34") -> None:
        super().__init__()
        self.body = ResNetBody(backbone)
        self.head = nn.Linear(self.body.channels[-1], 1)

    @property
    def architecture(self) -> dict[str, Any]:
        """See `BodyNetwork.architecture`."""
        return {"backbone": self.body.name}

    def forward(self, rgb: Tensor) -> Tensor:
        """`(B, 3, H, W)` RGB in [0, 1] -> float32 logits `(B,)`, positive for a real photo.

        Raises ValueError where H or W is below 32.
        """
        features = self.body(normalize_imagenet(rgb))[-1]
        pooled = features.mean(dim=(2, 3), dtype=torch.float32)
        with torch.autocast(rgb.device.type, enabled=False):
            return self.head(pooled).squeeze(1)
