"""Convolutions that are matrix products where the picture is smaller than its weights, on a CPU.

oneDNN's convolutions pack their weights, and the gradient of these, on every pass, and on the few positions of a deep
layer that is most of the time: a 3x3 convolution of 512 channels on 16 maps of 2x2 took 42 ms forwards and back in
bf16 and 13 times as long as it took to multiply the same numbers as matrices (the columns of Chellapilla et al. 2006).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

FORWARD, BACKWARD = 1, 4
"""Up to so many positions (of the whole batch) for each output channel, the matrix product wins. Measured."""


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, the same to rounding; 3x3 and 1x1 convolutions of small maps are faster on a CPU.

    Elsewhere, and in exported and compiled graphs, it is `nn.Conv2d`'s own pass.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if (
            input.device.type != "cpu"
            or input.ndim != 4
            or torch.compiler.is_compiling()
            or not self._suits()
            or _positions(input, self.stride[0]) > BACKWARD * self.out_channels
        ):
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)
            bias = bias.to(dtype) if bias is not None else None
        return _MatrixConv.apply(input, weight, bias, self.stride[0])  # type: ignore[no-any-return]

    def _suits(self) -> bool:
        side = self.kernel_size[0]
        return (
            self.kernel_size in ((1, 1), (3, 3))
            and self.padding == (side // 2, side // 2)
            and self.stride[0] == self.stride[1]
            and self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
        )


def _positions(x: Tensor, stride: int) -> int:
    batch, _, height, width = x.shape
    return batch * -(-height // stride) * -(-width // stride)


class _MatrixConv(torch.autograd.Function):
    """Convolution of `x` (B, C, H, W) with `weight` (O, C, k, k), padded by k // 2; the backward pass as matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.has_bias = stride, bias is not None
        out_channels, _, side, _ = weight.shape
        if _positions(x, stride) > FORWARD * out_channels:
            return conv2d(x, weight, bias, stride, side // 2)
        columns, matrix = _columns(x, side, stride), _matrix(weight)
        height, width = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
        # Into a tensor of its own: a view that a Function returns may not be changed in place, as by a ReLU.
        size = (x.shape[0], out_channels, height, width)
        y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        rows = y.permute(0, 2, 3, 1).view(-1, out_channels)
        if bias is None:
            torch.mm(columns, matrix.T, out=rows)
        else:
            torch.addmm(bias, columns, matrix.T, out=rows)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        out_channels, in_channels, side, _ = weight.shape
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, out_channels)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = _from_columns(rows @ _matrix(weight), x.shape, side, ctx.stride)
        if ctx.needs_input_grad[1]:
            columns = _columns(x, side, ctx.stride)
            for_weight = (rows.T @ columns).view(out_channels, side, side, in_channels).permute(0, 3, 1, 2)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            for_bias = rows.sum(0)
        return for_x, for_weight, for_bias, None


def _matrix(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, kkC); a view in channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def _columns(x: Tensor, side: int, stride: int) -> Tensor:
    """The neighbourhood of each position in a row: (B, C, H, W) -> (B * positions, kkC)."""
    x = x.permute(0, 2, 3, 1)
    if side == 1:
        return x[:, ::stride, ::stride].reshape(-1, x.shape[-1])
    patches = pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, stride).unfold(2, 3, stride)  # (B, h, w, C, 3, 3)
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[-1])


def _from_columns(columns: Tensor, shape: torch.Size, side: int, stride: int) -> Tensor:
    """The adjoint of `_columns`: sums rows into the places that they were read from, (B, C, H, W) = `shape`."""
    batch, channels, height, width = shape
    rows, steps = -(-height // stride), -(-width // stride)
    patches = columns.view(batch, rows, steps, side, side, channels)
    if side == 1 and stride == 1:
        return patches[:, :, :, 0, 0].permute(0, 3, 1, 2)
    x = columns.new_zeros(batch, height + side - 1, width + side - 1, channels)
    for i in range(side):
        for j in range(side):
            x[:, i : i + stride * rows : stride, j : j + stride * steps : stride][:, :rows, :steps] += patches[
                :, :, :, i, j
            ]
    inside = x[:, side // 2 : side // 2 + height, side // 2 : side // 2 + width]
    return inside.contiguous().permute(0, 3, 1, 2)
