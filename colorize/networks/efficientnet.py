"""EfficientNet-Lite as an encoder, under the names of its published PyTorch file."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from colorize.networks.convolution import Conv2d
from colorize.networks.encoder import Encoder

_BLOCKS = (  # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_FEATURES = (0, 2, 4, 10, 15)
"""Blocks after which the features of 1/2, 1/4, 1/8, 1/16 and 1/32 are taken: the last ones of their size."""
_HIGH = 5
"""First block of the second layer group: from 1/16 of the size on."""


class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0 (Tan & Le 2019, "EfficientNet", without squeeze-and-excitation) without its classifier.

    Made for phones: 3.4 M parameters in all, 0.39 G multiply-adds at 224 px. TensorFlow trained it, which shows in the
    padding (`SameConv2d`), in the batch norms' ε and in the input, (255 x - 127) / 128.
    """

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
        """See `Encoder.normalize`: about (-1, 1)."""
        return (image * (255 / 128) - 127 / 128).expand(-1, 3, -1, -1)

    @property
    def low(self) -> list[nn.Module]:
        """The stem and the blocks down to 1/8."""
        return [self.conv_stem, self.bn0, *self.blocks[:_HIGH]]

    @property
    def high(self) -> list[nn.Module]:
        """The blocks of 1/16 and 1/32."""
        return list(self.blocks[_HIGH:])

    def features(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.features`."""
        x = self.activation(self._run(self.bn0, self._run(self.conv_stem, x, self._low_frozen), self._low_frozen))
        found = []
        for number, block in enumerate(self.blocks):
            x = self._run(block, x, self._low_frozen if number < _HIGH else self._high_frozen)
            if number in _FEATURES:
                found.append(x)
        return found


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): 1x1 to `expansion` times the channels, depthwise k x k, 1x1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        if expansion > 1:
            self.expand_conv = Conv2d(in_channels, width, 1, bias=False)
            self.bn0 = _norm(width)
        self.expands = expansion > 1
        self.depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width)
        self.bn1 = _norm(width)
        self.project_conv = Conv2d(width, out_channels, 1, bias=False)
        self.bn2 = _norm(out_channels)
        self.activation = nn.ReLU6(inplace=True)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` -> `(B, out, H/s, W/s)`, rounded up."""
        y = self.activation(self.bn0(self.expand_conv(x))) if self.expands else x
        y = self.activation(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds_input else y


class SameConv2d(nn.Conv2d):
    """Convolution without bias under TensorFlow's SAME padding: at stride 2 even sides get more at their end."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            before = kernel // 2, kernel // 2
        else:  # by remainders: an exporter to ONNX rounds the usual -(-side // 2) down where the side is dynamic
            before = kernel // 2 - 1 + input.shape[-2] % 2, kernel // 2 - 1 + input.shape[-1] % 2
        input = pad(input, (before[1], kernel // 2, before[0], kernel // 2))
        learns = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
        if learns and input.device.type == "cpu" and self.groups > 1 and not torch.compiler.is_compiling():
            return _Depthwise.apply(input, weight, stride)  # type: ignore[no-any-return]
        return conv2d(input, weight, bias, stride, groups=self.groups)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of padded `x` (B, C, H, W) with `weight` (C, 1, k, k), its backward pass in float32.

    In bf16, oneDNN takes 25 to 100 forward passes for the gradient of 5x5 weights, and as long for that of the input at
    stride 2: measured on a CPU with AVX-512 bf16; in float32 a few.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return conv2d(x, weight, None, stride, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = (saved.float() for saved in ctx.saved_tensors)
        needed = ctx.needs_input_grad[:2]
        for_x, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(),
            x,
            weight,
            None,
            [ctx.stride] * 2,
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            len(weight),
            [*needed, False],
        )
        return for_x, for_weight, None


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
