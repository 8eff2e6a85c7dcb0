"""Features of VGG-16, for the perceptual loss."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from colorize.networks.layers import init_conv, normalize_imagenet
from colorize.runtime.errors import UserError

_VGG16_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions), a max pool after each
_BEFORE_POOLS_3_4_5 = {"vgg16": (15, 22, 29), "vgg16_bn": (22, 32, 42)}


class VGGFeatures(nn.Module):
    """Features of VGG-16 (Simonyan & Zisserman 2015), for a perceptual loss; random, and never trained.

    `name` is "vgg16_bn" (with batch norm) or "vgg16"; `layers` are ascending indices into torchvision's `features`, by
    default the ReLUs before pools 3, 4 and 5, else it raises a UserError. Tensors have torchvision's names.
    """

    def __init__(self, name: str = "vgg16_bn", layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.layers = tuple(_BEFORE_POOLS_3_4_5[name] if layers is None else layers)
        ascending = all(before < index for before, index in pairwise((-1, *self.layers)))
        layers_needed = max(self.layers, default=-1) + 1
        self.features = nn.Sequential(*islice(self._build(batch_norm=name == "vgg16_bn"), layers_needed))
        if not self.layers or not ascending or len(self.features) < layers_needed:
            raise UserError(f"layers {list(self.layers)} of {name}: give ascending indices of its `features`")
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.ReLU):
                layer.inplace = index - 1 not in self.layers  # what is handed out must not be overwritten
        handed_on = [index for index in range(1, len(self.features)) if index - 1 not in self.layers]
        self.conv_norm_pairs = [(f"features.{index - 1}", f"features.{index}") for index in handed_on]
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def _build(batch_norm: bool) -> Iterator[nn.Module]:
        in_channels = 3
        for channels, convolutions in _VGG16_BLOCKS:
            for _ in range(convolutions):
                conv = nn.Conv2d(in_channels, channels, 3, padding=1)
                init_conv(conv, "relu", mode="fan_out")
                yield conv
                if batch_norm:
                    yield nn.BatchNorm2d(channels)
                yield nn.ReLU()
                in_channels = channels
            yield nn.MaxPool2d(2)

    def round_to(self, dtype: torch.dtype) -> None:
        """Keep the convolutions' weights in half precision, rather than have autocast round them on every pass."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype)

    def train(self, mode: bool = True) -> "VGGFeatures":
        return super().train(False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` RGB in [0, 1] -> the features of `layers`, in this order."""
        x = normalize_imagenet(rgb).to(next(self.parameters()).dtype)
        features = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                features.append(x)
        return features
