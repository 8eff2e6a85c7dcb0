"""The paper's generator: a U-Net whose down-sampling half is a ResNet, or another encoder."""

from typing import Any

import torch
from torch import Tensor, nn

from colorize.networks.encoder_registry import make_encoder
from colorize.networks.generator import Generator, make_head
from colorize.networks.heads import BinsHead, Prediction, RGBHead, paint
from colorize.networks.layers import ConvLayer, PixelShuffleUp, SelfAttention, denormalize_imagenet

NORMS = {
    "weight": ("weight", "weight", "weight", "weight"),
    "batch": ("batch", "batch", "batch", "none"),
    "spectral": ("spectral_batch", "weight", "spectral", "spectral"),
}
"""A U-Net's `norm` -> that of its blocks, its last pixel shuffle, its last block and its last convolution."""


class UpBlock(nn.Module):
    """One step up: sub-pixel convolution, concatenation with the batch-normed skip, one or two 3x3 convolutions."""

    def __init__(
        self,
        in_channels: int,
        up_channels: int,
        skip_channels: int,
        out_channels: int,
        convs: int,
        norm: str,
        blur: bool,
        attention: bool,
    ) -> None:
        super().__init__()
        self.up = PixelShuffleUp(in_channels, up_channels, norm, blur)
        self.skip_norm = nn.BatchNorm2d(skip_channels)
        self.conv1 = ConvLayer(up_channels + skip_channels, out_channels, 3, norm)
        self.conv2 = ConvLayer(out_channels, out_channels, 3, norm) if convs == 2 else nn.Identity()
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, in, h, w)` and the skip `(B, skip, H, W)` of about twice the size -> `(B, out, H, W)`."""
        up = self.up(x, skip.shape[-2:])  # not negative, so the ReLU is for the skip alone
        x = torch.cat([up, self.skip_norm(skip).relu_()], dim=1)
        return self.attention(self.conv2(self.conv1(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to the block's input: `(B, C, H, W)` -> `(B, C, H, W)`.

    The second ReLU stands after the sum (He et al. 2016, "Deep residual learning") or, with `relu_before_sum`, before
    it (the same authors' "Identity mappings", figure 4c).
    """

    def __init__(self, channels: int, norm: str, relu_before_sum: bool) -> None:
        super().__init__()
        self.relu_before_sum = relu_before_sum
        self.conv1 = ConvLayer(channels, channels, 3, norm)
        self.conv2 = ConvLayer(channels, channels, 3, norm, relu=relu_before_sum)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`."""
        total = self.conv2(self.conv1(x)) + x
        return total if self.relu_before_sum else total.relu_()


class UNet(Generator):
    """U-Net (Ronneberger et al. 2015) on an encoder, as fastai's DynamicUnet, from grey to colour.

    The options reach from fastai's network (the defaults) to the generators of DeOldify (Antic 2018), which were built
    on fastai 1.0.51: see conf/model/deoldify_artistic.yaml and deoldify_stable.yaml.

    Layer groups: encoder_low, encoder_high, decoder.

    Args:
        encoder: its name, see `colorize.networks.encoder_registry`.
        width_factor: of the up blocks' output; 1 gives 512, 384, 256 and 96 channels on ResNet-34, 1.5 is
            DeOldify's Artistic generator, 0.5 serves a CPU.
        norm: of the decoder's convolutions. "weight": weight norm; "batch": convolution without bias, batch norm,
            ReLU, in this order (the last convolution, which gives the colours, then goes without norm); "spectral":
            convolution without bias under spectral norm, ReLU, batch norm (in front of a pixel shuffle the ReLU comes
            last), where the last block and the last convolution go without batch norm, and the last pixel shuffle
            has weight norm instead of both.
        blur: smooth the pixel shuffles of the up blocks.
        self_attention: after the second up block, at 1/8 of the size.
        last_cross: join the last features with the network's input, followed by a residual block.
        output_range: of the scaled sigmoid at the end, in ImageNet-normalised space.
        block_width: channels of the up blocks before `width_factor`, the same for the pixel shuffle and what comes
            after it, half of it in the last block. None: half the block's input for the pixel shuffle, and as many
            as are joined after it (half of that in the last block).
        block_convs: 3x3 convolutions in an up block, 1 or 2.
        last_blur: smooth the last pixel shuffle too, as fastai 1.0.51 did whatever its `blur` said.
        relu_before_sum: in the last residual block, as fastai 1 did; see `ResidualBlock`.
        output: "rgb", "chroma" or "bins", see `colorize.networks.heads`.
        temperature: of bins.
        keep_luma: put the colours onto the input's luma.
    """

    def __init__(
        self,
        encoder: str = "resnet34",
        width_factor: float = 1.0,
        norm: str = "weight",
        blur: bool = True,
        self_attention: bool = True,
        last_cross: bool = True,
        output_range: tuple[float, float] | list[float] = (-3.0, 3.0),
        block_width: int | None = None,
        block_convs: int = 2,
        last_blur: bool = False,
        relu_before_sum: bool = False,
        output: str = "rgb",
        temperature: float = 0.38,
        keep_luma: bool = False,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: one of {', '.join(NORMS)}")
        if block_convs not in (1, 2):
            raise ValueError(f"block_convs={block_convs}: 1 or 2")
        low, high = output_range
        self._architecture: dict[str, Any] = {
            "encoder": encoder,
            "width_factor": float(width_factor),
            "norm": norm,
            "blur": bool(blur),
            "self_attention": bool(self_attention),
            "last_cross": bool(last_cross),
            "output_range": [float(low), float(high)],
            "block_width": block_width,
            "block_convs": block_convs,
            "last_blur": bool(last_blur),
            "relu_before_sum": bool(relu_before_sum),
            "output": output,
            "temperature": float(temperature),
            "keep_luma": bool(keep_luma),
        }
        self.keep_luma = bool(keep_luma)
        block_norm, last_up_norm, last_block_norm, colour_norm = NORMS[norm]
        self.encoder = make_encoder(encoder)
        *skips, channels = self.encoder.channels
        self.bottom_norm = nn.BatchNorm2d(channels)
        self.bottom = nn.Sequential(
            ConvLayer(channels, 2 * channels, 3, block_norm), ConvLayer(2 * channels, channels, 3, block_norm)
        )
        self.up_blocks = nn.ModuleList()
        for index, skip in enumerate(reversed(skips)):
            width = block_width or channels // 2 + skip
            last = index == len(skips) - 1
            out = int((width // 2 if last else width) * width_factor)
            if out < 2:
                raise ValueError(f"width_factor={width_factor} leaves up block {index + 1} without channels")
            up = out if block_width else channels // 2
            attention = self_attention and index == 1
            self.up_blocks.append(UpBlock(channels, up, skip, out, block_convs, block_norm, blur, attention))
            channels = out
        self.last_up = PixelShuffleUp(channels, channels, last_up_norm, last_blur)
        if last_cross:
            channels += 3
            self.last_block = ResidualBlock(channels, last_block_norm, relu_before_sum)
        self.head = make_head(output, (float(low), float(high)), temperature)
        self.to_colour = ConvLayer(channels, self.head.channels, 1, colour_norm, relu=False)
        self.to_colour.scale(0.1)  # first colours near the middle: at the sigmoid's ends, where they fell, it is flat

    @property
    def architecture(self) -> dict[str, Any]:
        """See `BodyNetwork.architecture`."""
        return {**self._architecture, "output_range": list(self._architecture["output_range"])}

    def predict(self, grey: Tensor, luma: Tensor) -> Prediction:
        """See `Generator.predict`."""
        x = self.encoder.normalize(grey)
        raw = self.to_colour(self.decode(self.encode(x), x)).float()
        if isinstance(self.head, RGBHead):
            return Prediction(denormalize_imagenet(self.head(raw)))
        ab = self.head.to_ab(raw)
        return Prediction(paint(ab, luma), ab, raw if isinstance(self.head, BinsHead) else None)

    def forward_normalized(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W)` -> `(B, 3, H, W)` float32 in `output_range`, both ImageNet-normalised RGB.

        What the networks of fastai and DeOldify compute, by a ResNet and a head for RGB. Raises ValueError where H or W
        is below 32.
        """
        return self.head(self.to_colour(self.decode(self.encode(x), x)).float())

    def encode(self, x: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)`, as the encoder normalises it -> the five features of `Encoder.forward`."""
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
