"""Named layer groups with discriminative learning rates, and schedules as functions of progress.

Discriminative rates and gradual unfreezing are those of Howard & Ruder, "Universal Language Model Fine-tuning" (2018):
the first layers of a pretrained network, which know most already, learn slowest.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

Schedule = Callable[[float], float]
"""Factor on the highest learning rate, given the fraction of the fit that is done (0 to 1)."""


def constant() -> Schedule:
    """The highest rate throughout."""
    return lambda progress: 1.0


def one_cycle(pct_start: float, start: float = 1 / 25, end: float = 1e-5) -> Schedule:
    """Cosine rise from `start` to 1 over `pct_start` of the fit, then fall to `end` (Smith & Topin 2018, as in fastai).

    Raises:
        ValueError: `pct_start` is not between 0 and 1.
    """
    if not 0 < pct_start < 1:
        raise ValueError(f"pct_start must lie between 0 and 1, not at {pct_start}")

    def factor(progress: float) -> float:
        if progress < pct_start:
            low, high, part = start, 1.0, progress / pct_start
        else:
            low, high, part = 1.0, end, min(1.0, (progress - pct_start) / (1 - pct_start))
        return low + (high - low) * (1 - math.cos(math.pi * part)) / 2

    return factor


@dataclass(frozen=True)
class RatePlan:
    """What each layer group of one network learns with, at any moment of the fit.

    `multipliers` maps every group, first layers first, to its factor on `lr`; `frozen_epochs` maps some of them to an
    interval [first, end) of epochs in which their factor is zero (end -1: to the last epoch). With `norms="learn"`
    the batch norms of a frozen group go on learning, as in fastai. `epoch_factors` are on `lr`, an epoch each; the last
    goes on.
    """

    lr: float
    multipliers: Mapping[str, float]
    schedule: Schedule
    frozen_epochs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    norms: str = "statistics"
    epoch_factors: Sequence[float] = (1.0,)

    def frozen_at(self, epoch: int) -> frozenset[str]:
        """Names of the groups that stand still in `epoch`."""
        return frozenset(
            name for name, (first, end) in self.frozen_epochs.items() if first <= epoch and (end == -1 or epoch < end)
        )

    def apply(self, optimizer: Optimizer, epoch: int, progress: float) -> None:
        """Set the rate of every parameter group of `optimizer` for a step at `progress` of the fit."""
        stage = self.epoch_factors[min(epoch, len(self.epoch_factors) - 1)]
        factor, frozen = self.lr * self.schedule(progress) * stage, self.frozen_at(epoch)
        for group in optimizer.param_groups:
            still = group["layer_group"] in frozen and not (group["norms"] and self.norms == "learn")
            group["lr"] = 0.0 if still else factor * self.multipliers[group["layer_group"]]


def make_optimizer(
    layer_groups: Mapping[str, Sequence[nn.Module]],
    lr: float,
    betas: Sequence[float],
    weight_decay: float,
    fused: bool = False,
) -> AdamW:
    """AdamW over all parameters, in two static groups a layer group: weights, and norms and biases (without decay).

    A length of weight norm, (O, 1, 1, 1), is to its direction what a batch norm's factor is to a weight: a norm.

    The groups are the same from the first step to the last, whatever is frozen when, so that resuming and DDP never
    see them change. Each carries `name`, `layer_group` and `norms` beside the usual keys. `fused`: one pass over the
    memory for each parameter, not seven.
    """
    groups: list[dict[str, Any]] = []
    for layer_group, modules in layer_groups.items():
        parameters = [parameter for module in modules for parameter in module.parameters()]
        for norms, name in ((False, layer_group), (True, f"{layer_group}_norms")):
            members = [p for p in parameters if (p.ndim == 1 or p.numel() == p.shape[0]) == norms]
            decay = 0.0 if norms else weight_decay
            if members:
                groups.append(
                    {"params": members, "name": name, "layer_group": layer_group, "norms": norms, "weight_decay": decay}
                )
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=fused)


def clip_gradients(optimizer: Optimizer, clip_norm: float | None) -> float:
    """Scale all gradients so that their joint norm is at most `clip_norm` (None: leave them); returns the norm before.

    As `clip_grad_norm_`, but gradients that are short enough are not multiplied by one. The norm may be NaN or
    infinite.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    on_cpu = all(gradient.device.type == "cpu" for gradient in gradients)  # where torch would loop in Python
    norm = float(torch.nn.utils.get_total_norm(gradients, foreach=on_cpu or None))
    if clip_norm is not None and norm > clip_norm:
        torch._foreach_mul_(gradients, clip_norm / (norm + 1e-6))
    return norm


def drop_frozen_gradients(optimizer: Optimizer) -> None:
    """Forget gradients of groups whose rate is zero, so that their Adam moments stand still with them."""
    for group in optimizer.param_groups:
        if group["lr"] == 0.0:
            for parameter in group["params"]:
                parameter.grad = None
