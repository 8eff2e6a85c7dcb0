"""The backward pass of depthwise convolutions on a CPU, in float32 and, for wide weights, three columns at a time.

oneDNN is slow in bf16, and has no fast gradient of a weight that is wider. The numbers are the same to rounding.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


class DepthwiseConv(torch.autograd.Function):
    """Convolution of `x` (B, C, H, W) with `weight` (C, 1, k, k), a group a channel; backwards in float32."""

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
