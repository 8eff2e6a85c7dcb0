"""Building blocks of the networks: ImageNet normalisation, convolution, pixel shuffle, self-attention."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, linear, pad, pixel_shuffle, scaled_dot_product_attention
from torch.nn.utils.parametrizations import _SpectralNorm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _per_channel(values: Iterable[float], like: Tensor) -> Tensor:
    # Filled on the device: a copy from the host would make the GPU wait, a cached tensor would not survive tracing.
    return torch.cat([like.new_full((1, 1, 1, 1), value) for value in values], dim=1)


def imagenet_std(like: Tensor) -> Tensor:
    """Return the standard deviation of ImageNet's RGB in [0, 1], `(1, 3, 1, 1)` with the device and dtype of `like`."""
    return _per_channel(IMAGENET_STD, like)


def normalize_imagenet(image: Tensor) -> Tensor:
    """Scale `(B, 3, H, W)` RGB, or `(B, 1, H, W)` grey, in [0, 1] to ImageNet's statistics, about (-2.1, 2.7)."""
    shift = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    scale = [1 / std for std in IMAGENET_STD]
    return torch.addcmul(_per_channel(shift, image), image, _per_channel(scale, image))


def denormalize_imagenet(normalized: Tensor) -> Tensor:
    """Undo `normalize_imagenet`: `(B, 3, H, W)` ImageNet-normalised RGB to nominally [0, 1], not clamped."""
    return torch.addcmul(_per_channel(IMAGENET_MEAN, normalized), normalized, imagenet_std(normalized))


def init_conv(
    conv: nn.Conv1d | nn.Conv2d, nonlinearity: Literal["relu", "linear"], mode: Literal["fan_in", "fan_out"] = "fan_in"
) -> None:
    """Start a convolution He-normal (He et al. 2015) for the "relu" or "linear" that follows, its bias at zero."""
    nn.init.kaiming_normal_(conv.weight, mode=mode, nonlinearity=nonlinearity)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class SpectralNorm(_SpectralNorm):
    """torch's spectral norm (Miyato et al. 2018), less its rounding under autocast, and its work on a device meta."""

    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        if not weight_mat.is_meta:
            super()._power_method(weight_mat, n_power_iterations)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.is_meta:
            return weight  # autocast knows no such device
        with torch.autocast(weight.device.type, enabled=False):
            return super().forward(weight)


class ConvLayer(nn.Module):
    """Convolution that keeps height and width, normalisation, ReLU: `(B, in, H, W)` -> `(B, out, H, W)`.

    `norm` "weight": weight norm (Salimans & Kingma 2016), with a bias; "batch": without bias, then batch norm (Ioffe &
    Szegedy 2015); "spectral": spectral norm (Miyato et al. 2018), with a bias; "spectral_batch": spectral norm without
    bias, and batch norm, which as in DeOldify comes after the ReLU, but before it where a pixel shuffle follows;
    "none": with a bias. `icnr`, for a pixel shuffle by two: the four channels that become one block of pixels start
    equal, so that there is no checkerboard pattern (ICNR, Aitken et al. 2017).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, norm: str, relu: bool = True, icnr: bool = False
    ) -> None:
        super().__init__()
        batch_norm = norm in ("batch", "spectral_batch")
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=not batch_norm)
        init_conv(conv, "relu" if relu else "linear")
        if icnr:
            with torch.no_grad():
                conv.weight.copy_(conv.weight[::4].repeat_interleave(4, dim=0))
        if norm == "weight":
            weight_norm(conv)
        elif norm in ("spectral", "spectral_batch"):
            register_parametrization(conv, "weight", SpectralNorm(conv.weight))
        self.relu_first = norm == "spectral_batch" and not icnr
        self.conv_norm_pairs = () if self.relu_first else (("conv", "norm"),)
        self.conv = conv
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Make the weights longer or shorter, not their directions; without effect where a norm sets the length."""
        parametrizations = getattr(self.conv, "parametrizations", None)
        if parametrizations is None:
            self.conv.weight.mul_(factor)
        elif hasattr(parametrizations.weight, "original1"):  # of weight norm: length and direction
            parametrizations.weight.original0.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(self.activation(x)) if self.relu_first else self.activation(self.norm(x))


class PixelShuffleUp(nn.Module):
    """Twice the height and width by sub-pixel convolution (Shi et al. 2016), optionally blurred.

    The blur averages each pixel with its left, upper and upper-left neighbours (Sugawara et al. 2018).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, blur: bool) -> None:
        super().__init__()
        self.layer = ConvLayer(in_channels, 4 * out_channels, kernel=1, norm=norm, icnr=True)
        self.blur = blur

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """`(B, in, h, w)` -> `(B, out, H, W)` with values >= 0, where `size` = (H, W) is (2h, 2w), each or one less."""
        x = pixel_shuffle(self.layer(x), 2)
        if self.blur:
            # Leaving the padding out of the mean is what replicating the border gives, without the padded copy (and
            # without autocast's detour over float32). One row and column too many: cut below.
            x = avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
        # Nearest interpolation from n + 1 to n pixels picks the first n. Negative padding, because the backward pass
        # of a slice falls out of channels_last.
        surplus = x.shape[-2] - size[0], x.shape[-1] - size[1]
        # An exported graph serves every size: there the cut stays in, also where the example has nothing to cut.
        cuts = torch.compiler.is_exporting() or any(surplus)
        return pad(x, (0, -surplus[1], 0, -surplus[0])) if cuts else x


class SelfAttention(nn.Module):
    """Self-attention over positions (Zhang et al. 2019, SAGAN), added with a weight `gamma` that starts at zero.

    As in fastai, what is called `key` here asks and what is called `query` answers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, width in (("query", max(1, channels // 8)), ("key", max(1, channels // 8)), ("value", channels)):
            conv = nn.Conv1d(channels, width, 1, bias=False)
            init_conv(conv, "linear")
            register_parametrization(conv, "weight", SpectralNorm(conv.weight))
            self.add_module(name, conv)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        to_query, to_key, to_value = (getattr(self, name).weight.squeeze(-1) for name in ("query", "key", "value"))
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C); a view in channels_last
        query, key, value = linear(tokens, to_query), linear(tokens, to_key), linear(tokens, to_value)
        # Zero channels leave the products as they are; equal widths let the fused kernel run, whose memory grows with
        # the positions, not with their square.
        lacking = value.shape[-1] - key.shape[-1]
        asking, answering = (pad(tokens, (0, lacking)).unsqueeze(1) for tokens in (key, query))
        attended = scaled_dot_product_attention(asking, answering, value.unsqueeze(1), scale=1.0)
        attended = attended.squeeze(1).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return torch.addcmul(x, attended, self.gamma.to(x.dtype))
