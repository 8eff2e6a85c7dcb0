"""The paper's generator: a U-Net whose down-sampling half is a ResNet, or another encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from colorize.networks.generator import Generator
from colorize.networks.heads import Prediction, make_head
from colorize.networks.layers import ConvLayer, PixelShuffleUp, SelfAttention
from colorize.networks.options import UNetOptions

NORMS = {
    "weight": ("weight", "weight", "weight", "weight"),
    "batch": ("batch", "batch", "batch", "none"),
    "spectral": ("spectral_batch", "weight", "spectral", "spectral"),
}
"""A U-Net's `norm` -> the `ConvLayer` norm of its blocks, last pixel shuffle, last block and last convolution."""


class UpBlock(nn.Module):
    """One step up: sub-pixel convolution, concatenation with the batch-normed skip, one or two 3x3 convolutions."""

    def __init__(self, channels: Sequence[int], norm: str, convs: int, blur: bool, attention: bool) -> None:
        super().__init__()
        before, up, skip, out = channels  # of its input, the pixel shuffle, the skip, and the result
        self.up = PixelShuffleUp(before, up, norm, blur)
        self.skip_norm = nn.BatchNorm2d(skip)
        self.conv1 = ConvLayer(up + skip, out, 3, norm)
        self.conv2 = ConvLayer(out, out, 3, norm) if convs == 2 else nn.Identity()
        self.attention = SelfAttention(out) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, in, h, w)` and the skip `(B, skip, H, W)` of about twice the size -> `(B, out, H, W)`."""
        up = self.up(x, skip.shape[-2:])  # not negative, so the ReLU is for the skip alone
        x = torch.cat([up, self.skip_norm(skip).relu_()], dim=1)
        return self.attention(self.conv2(self.conv1(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to their input, the second ReLU after the sum or before it (He et al. 2016)."""

    def __init__(self, channels: int, norm: str, relu_before_sum: bool) -> None:
        super().__init__()
        self.relu_before_sum = relu_before_sum
        self.conv1 = ConvLayer(channels, channels, 3, norm)
        self.conv2 = ConvLayer(channels, channels, 3, norm, relu=relu_before_sum)

    def forward(self, x: Tensor) -> Tensor:
        total = self.conv2(self.conv1(x)) + x
        return total if self.relu_before_sum else total.relu_()


class UNet(Generator):
    """U-Net (Ronneberger et al. 2015) on an encoder: fastai's DynamicUnet, by its options DeOldify's (Antic 2018)."""

    options_type = UNetOptions
    options: UNetOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        o = self.options
        if o.norm not in NORMS:
            raise ValueError(f"norm={o.norm!r}: one of {', '.join(NORMS)}")
        if o.block_convs not in (1, 2):
            raise ValueError(f"block_convs={o.block_convs}: 1 or 2")
        block_norm, last_up_norm, last_block_norm, colour_norm = NORMS[o.norm]
        *skips, channels = self.encoder.channels
        self.bottom_norm = nn.BatchNorm2d(channels)
        self.bottom = nn.Sequential(
            ConvLayer(channels, 2 * channels, 3, block_norm), ConvLayer(2 * channels, channels, 3, block_norm)
        )
        self.up_blocks = nn.ModuleList()
        for index, skip in enumerate(reversed(skips)):
            width = o.block_width or channels // 2 + skip
            last = index == len(skips) - 1
            out = int((width // 2 if last else width) * o.width_factor)
            if out < 2:
                raise ValueError(f"width_factor={o.width_factor} leaves up block {index + 1} without channels")
            up = out if o.block_width else channels // 2
            attention = o.self_attention and index == 1
            self.up_blocks.append(UpBlock((channels, up, skip, out), block_norm, o.block_convs, o.blur, attention))
            channels = out
        self.last_up = PixelShuffleUp(channels, channels, last_up_norm, o.last_blur)
        if o.last_cross:
            channels += 3
            self.last_block = ResidualBlock(channels, last_block_norm, o.relu_before_sum)
        self.head = make_head(o.output, o.output_range, o.temperature)
        self.to_colour = ConvLayer(channels, self.head.channels, 1, colour_norm, relu=False)
        self.to_colour.scale(0.1)  # first colours near the middle: at the sigmoid's ends, where they fell, it is flat

    def predict(self, grey: Tensor, luma: Tensor) -> Prediction:
        found: Prediction = self.head(self.raw(self.encoder.normalize(grey)), luma)
        return found

    def raw(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)`, as the encoder normalises it -> `(B, C, H, W)` float32, which the head reads."""
        *skips, deepest = self.encoder(x)
        decoded = self.bottom(self.bottom_norm(deepest).relu_())
        for block, skip in zip(self.up_blocks, reversed(skips), strict=True):
            decoded = block(decoded, skip)
        decoded = self.last_up(decoded, x.shape[-2:])
        if self.options.last_cross:
            layout = torch.channels_last if decoded.stride(1) == 1 else torch.contiguous_format
            x = x.to(decoded.dtype, memory_format=layout)  # mixed inputs would turn the whole join into the other one
            decoded = self.last_block(torch.cat([decoded, x], dim=1))
        return self.to_colour(decoded).float()
