"""Faster passes on a CPU, swapped into a network by `use_cpu_kernels`: the same names, the same numbers to rounding.

- Convolutions as matrix products (the columns of Chellapilla et al. 2006) where an image is smaller than its weights,
  which oneDNN would pack, and their gradient, on every pass.
- The backward pass of depthwise convolutions in float32 and, for wide weights, three columns at a time: oneDNN is slow
  in bf16, and has no fast gradient of a weight that is wider.
- Weight norm that keeps the weight's memory layout and gives autocast's precision, without torch's copies.

Measured on a CPU with AVX-512 bf16. On other devices, and in exported and compiled graphs, torch's own passes run.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils.parametrizations import _WeightNorm

Network = TypeVar("Network", bound=nn.Module)
FORWARD, BACKWARD = 1, 4  # positions of the whole batch for each output channel up to which the product wins


def use_cpu_kernels(network: Network) -> Network:
    """Swap the faster passes in, in place, where a module has one; copies of the network keep them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and (forward := _kernel(module)) is not None:
            module._conv_forward = MethodType(forward, module)  # type: ignore[method-assign]
        elif isinstance(module, _WeightNorm):
            module.forward = MethodType(_weight_norm, module)  # type: ignore[method-assign]
    return network


def _kernel(conv: nn.Conv2d) -> Callable[..., Tensor] | None:
    side = conv.kernel_size[0]
    if conv.kernel_size != (side, side) or len({*conv.stride}) > 1 or conv.dilation != (1, 1):
        return None
    if conv.groups == 1 and side in (1, 3) and conv.padding == (side // 2, side // 2) and conv.padding_mode == "zeros":
        return _matrix_conv
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.bias is None
    if depthwise and conv.padding in ((0, 0), (side // 2, side // 2)) and conv.padding_mode == "zeros":
        return _depthwise_conv
    return None


def _matrix_conv(conv: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _applies(input) or _positions(input, conv.stride[0]) > BACKWARD * conv.out_channels:
        return nn.Conv2d._conv_forward(conv, input, weight, bias)
    cast = (x if x is None else _as_autocast(x) for x in (input, weight, bias))
    return _MatrixConv.apply(*cast, conv.stride[0])  # type: ignore[no-any-return]


def _depthwise_conv(conv: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    learns = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    if not (learns and _applies(input)):
        return nn.Conv2d._conv_forward(conv, input, weight, bias)
    return _DepthwiseConv.apply(input, weight, conv.stride[0], conv.padding[0])  # type: ignore[no-any-return]


def _weight_norm(norm: _WeightNorm, length: Tensor, direction: Tensor) -> Tensor:
    """Length (O, 1, 1, 1) and direction (O, C, k, k) -> (O, C, k, k), in autocast's precision."""
    if not _applies(direction):
        return torch._weight_norm(direction, length, norm.dim)
    return _WeightNormPass.apply(length, direction)  # type: ignore[no-any-return]


def _applies(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.ndim == 4 and not torch.compiler.is_compiling()


def _as_autocast(x: Tensor) -> Tensor:
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


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
    """Lay the neighbourhood of each position in a row: (B, C, H, W) -> (B * positions, kkC)."""
    x = x.permute(0, 2, 3, 1)
    if side == 1:
        return x[:, ::stride, ::stride].reshape(-1, x.shape[-1])
    patches = pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, stride).unfold(2, 3, stride)  # (B, h, w, C, 3, 3)
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[-1])


def _from_columns(columns: Tensor, shape: torch.Size, side: int, stride: int) -> Tensor:
    """Sum rows into the places that `_columns` reads them from, its adjoint; (B, C, H, W) is `shape`."""
    batch, channels, height, width = shape
    rows, steps = -(-height // stride), -(-width // stride)
    patches = columns.view(batch, rows, steps, side, side, channels)
    if side == 1 and stride == 1:
        return patches[:, :, :, 0, 0].permute(0, 3, 1, 2)
    x = columns.new_zeros(batch, height + side - 1, width + side - 1, channels)
    for i in range(side):
        for j in range(side):
            places = x[:, i : i + stride * rows : stride, j : j + stride * steps : stride][:, :rows, :steps]
            places += patches[:, :, :, i, j]
    inside = x[:, side // 2 : side // 2 + height, side // 2 : side // 2 + width]
    return inside.contiguous().permute(0, 3, 1, 2)


class _DepthwiseConv(torch.autograd.Function):
    """Convolution of `x` (B, C, H, W) with `weight` (C, 1, k, k), a group a channel; backwards in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        x, weight = _as_autocast(x), _as_autocast(weight)  # here, so that gradients are not rounded to it
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


class _WeightNormPass(torch.autograd.Function):
    """`g * v / |v|` for each output channel (Salimans & Kingma 2016), by rows that are views in channels_last."""

    @staticmethod
    def forward(ctx: Any, length: Tensor, direction: Tensor) -> Tensor:
        rows = direction.permute(0, 2, 3, 1).flatten(1)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        ctx.save_for_backward(length, direction, norm)
        return _as_autocast(_unflatten(rows * (length.flatten(1) / norm), direction))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        length, direction, norm = ctx.saved_tensors
        rows = direction.permute(0, 2, 3, 1).flatten(1)
        towards = gradient.permute(0, 2, 3, 1).flatten(1).to(rows.dtype, copy=True)
        along = torch.linalg.vecdot(towards, rows).unsqueeze(1) / norm  # the gradient at the length
        scale = length.flatten(1) / norm
        for_direction = towards.mul_(scale).addcmul_(rows, -scale * along / norm)
        return along.view_as(length), _unflatten(for_direction, direction)


def _unflatten(rows: Tensor, like: Tensor) -> Tensor:
    out_channels, in_channels, height, width = like.shape
    return rows.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)
