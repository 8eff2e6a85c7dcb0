"""Weight norm as a parametrization; on a CPU it keeps the weight's memory layout, and gives autocast's precision."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization


class WeightNorm(nn.Module):
    """Length and direction of each output channel's weight (Salimans & Kingma 2016), `g * v / |v|`: a parametrization.

    Names and numbers are those of `torch.nn.utils.parametrizations.weight_norm`, whose own pass on a CPU takes only
    contiguous weights: the copies between the two layouts took longer than the norm.
    """

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        """Length (O, 1, 1, 1) and direction (O, C, k, k) -> (O, C, k, k), on a CPU in autocast's precision."""
        if direction.device.type != "cpu" or direction.ndim != 4 or torch.compiler.is_compiling():
            return torch._weight_norm(direction, length, 0)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else direction.dtype
        return _Scaled.apply(length, direction, dtype)  # type: ignore[no-any-return]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What a weight is made of."""
        return torch.norm_except_dim(weight, 2, 0), weight


def weight_norm(conv: nn.Conv2d) -> None:
    """Put `conv` under weight norm, in place."""
    register_parametrization(conv, "weight", WeightNorm())


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, length: Tensor, direction: Tensor, dtype: torch.dtype) -> Tensor:
        rows = direction.permute(0, 2, 3, 1).flatten(1)  # views in channels_last
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        ctx.save_for_backward(length, direction, norm)
        return _unflatten((rows * (length.flatten(1) / norm)).to(dtype), direction)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        length, direction, norm = ctx.saved_tensors
        rows = direction.permute(0, 2, 3, 1).flatten(1)
        towards = gradient.permute(0, 2, 3, 1).flatten(1).to(rows.dtype, copy=True)
        along = torch.linalg.vecdot(towards, rows).unsqueeze(1) / norm  # the gradient at the length
        scale = length.flatten(1) / norm
        for_direction = towards.mul_(scale).addcmul_(rows, -scale * along / norm)
        return along.view_as(length), _unflatten(for_direction, direction), None


def _unflatten(rows: Tensor, like: Tensor) -> Tensor:
    out_channels, in_channels, height, width = like.shape
    return rows.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)
