"""The generator: a U-Net whose down-sampling half is a ResNet."""

from typing import Any

import torch
from torch import Tensor, nn

from colorize.networks.encoder import BodyNetwork, ResNetBody
from colorize.networks.layers import (
    NORMS,
    ConvLayer,
    PixelShuffleUp,
    SelfAttention,
    denormalize_imagenet,
    normalize_imagenet,
)


class UpBlock(nn.Module):
    """One step up: sub-pixel convolution, concatenation with the batch-normed skip, two 3x3 convolutions."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, norm: str, blur: bool, attention: bool
    ) -> None:
        super().__init__()
        self.up = PixelShuffleUp(in_channels, in_channels // 2, norm, blur)
        self.skip_norm = nn.BatchNorm2d(skip_channels)
        self.conv1 = ConvLayer(in_channels // 2 + skip_channels, out_channels, 3, norm)
        self.conv2 = ConvLayer(out_channels, out_channels, 3, norm)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, in, h, w)` and the skip `(B, skip, H, W)` of about twice the size -> `(B, out, H, W)`."""
        up = self.up(x, skip.shape[-2:])  # not negative, so the ReLU is for the skip alone
        x = torch.cat([up, self.skip_norm(skip).relu_()], dim=1)
        return self.attention(self.conv2(self.conv1(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the block's input, ReLU (He et al. 2016): `(B, C, H, W)` -> `(B, C, H, W)`."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3, norm)
        self.conv2 = ConvLayer(channels, channels, 3, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`."""
        return (self.conv2(self.conv1(x)) + x).relu_()


class UNet(BodyNetwork):
    """U-Net (Ronneberger et al. 2015) on a ResNet, as fastai's DynamicUnet, from grey to colour.

    Layer groups: encoder_low, encoder_high, decoder.

    Args:
        encoder: the ResNet's name, see `ResNetBody`.
        width_factor: of the up blocks' output; 1 gives 512, 384, 256 and 96 channels on ResNet-34, 1.5 is
            DeOldify's Artistic generator, 0.5 serves a CPU.
        norm: of the decoder's convolutions. "weight": weight norm; "batch": convolution without bias, batch norm,
            ReLU, in this order (the last convolution, which gives the colours, then goes without norm).
        blur: smooth the pixel shuffles of the up blocks.
        self_attention: after the second up block, at 1/8 of the size.
        last_cross: join the last features with the network's input, followed by a residual block.
        output_range: of the scaled sigmoid at the end, in ImageNet-normalised space.
    """

    body_name = "encoder"
    own_group = "decoder"

    def __init__(
        self,
        encoder: str = "resnet34",
        width_factor: float = 1.0,
        norm: str = "weight",
        blur: bool = True,
        self_attention: bool = True,
        last_cross: bool = True,
        output_range: tuple[float, float] | list[float] = (-3.0, 3.0),
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: one of {', '.join(NORMS)}")
        low, high = output_range
        self._architecture: dict[str, Any] = {
            "encoder": encoder,
            "width_factor": float(width_factor),
            "norm": norm,
            "blur": bool(blur),
            "self_attention": bool(self_attention),
            "last_cross": bool(last_cross),
            "output_range": [float(low), float(high)],
        }
        self.encoder = ResNetBody(encoder)
        *skips, channels = self.encoder.channels
        self.bottom_norm = nn.BatchNorm2d(channels)
        self.bottom = nn.Sequential(
            ConvLayer(channels, 2 * channels, 3, norm), ConvLayer(2 * channels, channels, 3, norm)
        )
        self.up_blocks = nn.ModuleList()
        for index, skip in enumerate(reversed(skips)):
            joined = channels // 2 + skip
            last = index == len(skips) - 1
            out = int((joined // 2 if last else joined) * width_factor)
            if out < 2:
                raise ValueError(f"width_factor={width_factor} leaves up block {index + 1} without channels")
            self.up_blocks.append(UpBlock(channels, skip, out, norm, blur, self_attention and index == 1))
            channels = out
        self.last_up = PixelShuffleUp(channels, channels, norm, blur=False)
        if last_cross:
            channels += 3
            self.last_block = ResidualBlock(channels, norm)
        self.to_colour = ConvLayer(channels, 3, 1, "weight" if norm == "weight" else "none", relu=False)

    @property
    def architecture(self) -> dict[str, Any]:
        """See `BodyNetwork.architecture`."""
        return {**self._architecture, "output_range": list(self._architecture["output_range"])}

    def forward(self, grey: Tensor) -> Tensor:
        """`(B, 1, H, W)` grey in [0, 1] -> `(B, 3, H, W)` RGB, float32, nominally [0, 1] but not clamped.

        Raises ValueError where the input has not one channel, or H or W is below 32; any size from there up will do.
        """
        if grey.ndim != 4 or grey.shape[1] != 1:
            raise ValueError(f"grey images (B, 1, H, W) are needed, not {tuple(grey.shape)}")
        return denormalize_imagenet(self.forward_normalized(normalize_imagenet(grey)))

    def forward_normalized(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)` -> `(B, 3, H, W)` float32 in `output_range`, both ImageNet-normalised RGB.

        What fastai's network computes. Raises ValueError where H or W is below 32.
        """
        features = self.encode(x)
        decoded = self.decode(features, x)
        return self.to_rgb(decoded)

    def encode(self, x: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` ImageNet-normalised RGB -> the five features of `ResNetBody.forward`."""
        return self.encoder(x)

    def decode(self, features: list[Tensor], x: Tensor) -> Tensor:
        """The encoder's features, and its input -> `(B, C, H, W)` features of full size."""
        *skips, deepest = features
        decoded = self.bottom(self.bottom_norm(deepest).relu_())
        for block, skip in zip(self.up_blocks, reversed(skips), strict=True):
            decoded = block(decoded, skip)
        decoded = self.last_up(decoded, x.shape[-2:])
        if self._architecture["last_cross"]:
            layout = torch.channels_last if decoded.stride(1) == 1 else torch.contiguous_format
            x = x.to(decoded.dtype, memory_format=layout)  # mixed inputs would turn the whole join into the other one
            decoded = self.last_block(torch.cat([decoded, x], dim=1))
        return decoded

    def to_rgb(self, decoded: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, 3, H, W)` ImageNet-normalised RGB in `output_range`, in float32."""
        low, high = self._architecture["output_range"]
        return low + (high - low) * torch.sigmoid(self.to_colour(decoded).float())
