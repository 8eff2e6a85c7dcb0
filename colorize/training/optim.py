"""Layer groups with discriminative learning rates, and schedules as functions of progress.

Howard & Ruder, "Universal Language Model Fine-tuning" (2018): first layers, which know most, learn slowest and last.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from colorize.config.sections import NetworkOptimConfig, ResolutionConfig


def one_cycle(progress: float, pct_start: float) -> float:
    """Cosine rise from 1/25 to 1 in the first `pct_start`, then fall to 1e-5 (Smith & Topin 2018, as in fastai)."""
    if progress < pct_start:
        low, high, part = 1 / 25, 1.0, progress / pct_start
    else:
        low, high, part = 1.0, 1e-5, min(1.0, (progress - pct_start) / (1 - pct_start))
    return low + (high - low) * (1 - math.cos(math.pi * part)) / 2


class LearningRates:
    """Learning rates of the layer groups of one network, first layers first; ValueError where values do not fit."""

    def __init__(self, optim: NetworkOptimConfig, layer_groups: Sequence[str], resolution: ResolutionConfig) -> None:
        multipliers, low, high = optim.lr_multipliers, optim.freeze_low, optim.freeze_high
        if len(multipliers) != len(layer_groups):
            raise ValueError(f"lr_multipliers={multipliers}: one for each of {', '.join(layer_groups)} is needed")
        for interval in (low, high):
            if interval is not None and len(interval) != 2:
                raise ValueError(f"freeze_low and freeze_high are two epochs, [first, end], not {interval}")
        if high and not (low and low[0] <= high[0] and (low[1] == -1 or high[0] <= high[1] <= low[1])):
            raise ValueError(f"freeze_high={high}: the high group can only be frozen with the low ({low})")
        if len(optim.betas) != 2:
            raise ValueError(f"betas={optim.betas}: Adam has two")
        if not 0 < optim.pct_start < 1:
            raise ValueError(f"pct_start must lie between 0 and 1, not at {optim.pct_start}")
        self.optim, self.lr = optim, optim.lr * resolution.batch_scale
        self.multipliers = dict(zip(layer_groups, multipliers, strict=True))
        self.frozen_epochs = {group: frozen for group, frozen in zip(layer_groups, (low, high), strict=False) if frozen}
        self.stages, self.by_stage = resolution.stages, resolution.images is not None
        batches = [resolution.batch_size[stage] for stage in self.stages]
        power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[resolution.rate_scale]
        self.epoch_factors = [(batch_size / batches[0]) ** power for batch_size in batches]

    def frozen_at(self, epoch: int) -> frozenset[str]:
        """Return the frozen groups; where stages are counted in images, freezing counts stages, not epochs."""
        epoch = self.stages[epoch] if self.by_stage else epoch
        return frozenset(
            name for name, (first, end) in self.frozen_epochs.items() if first <= epoch and (end == -1 or epoch < end)
        )

    def apply(self, optimizer: Optimizer, epoch: int, progress: float) -> None:
        cycle = one_cycle(progress, self.optim.pct_start) if self.optim.schedule == "one_cycle" else 1.0
        factor = self.lr * cycle * self.epoch_factors[min(epoch, len(self.epoch_factors) - 1)]
        frozen = self.frozen_at(epoch)
        for group in optimizer.param_groups:
            is_frozen = group["layer_group"] in frozen and not (group["norms"] and self.optim.frozen_norms == "learn")
            group["lr"] = 0.0 if is_frozen else factor * self.multipliers[group["layer_group"]]


def make_optimizer(layer_groups: Mapping[str, Sequence[nn.Module]], lr: float, optim: NetworkOptimConfig) -> AdamW:
    """AdamW over all parameters, each layer group in two: weights, and norms and biases, which do not decay.

    The lengths of weight norm, (O, 1, 1, 1), count as norms. The groups, which carry `name`, `layer_group` and
    `norms` too, stay the same, whatever is frozen when, so that resuming and DDP never see them change.
    """
    groups: list[dict[str, Any]] = []
    for layer_group, modules in layer_groups.items():
        parameters = [parameter for module in modules for parameter in module.parameters()]
        for norms, name in ((False, layer_group), (True, f"{layer_group}_norms")):
            members = [p for p in parameters if (p.ndim == 1 or p.numel() == p.shape[0]) == norms]
            decay = 0.0 if norms else optim.weight_decay
            if members:
                groups.append(
                    {"params": members, "name": name, "layer_group": layer_group, "norms": norms, "weight_decay": decay}
                )
    return AdamW(groups, lr=lr, betas=(optim.betas[0], optim.betas[1]), weight_decay=optim.weight_decay, fused=True)


def keep_settings(saved: dict[str, Any], optimizer: Optimizer) -> None:
    """Keep the settings of `optimizer` when it loads a `saved` state; ValueError where their groups differ in size."""
    for group, kept in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        if len(group["params"]) != len(kept["params"]):
            raise ValueError(f"{len(kept['params'])} parameters in {kept.get('name')}, not {len(group['params'])}")
        kept.update({name: group[name] for name in ("betas", "weight_decay", "fused")})


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the gradients that there are, of all groups in their order."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def clip_gradients(optimizer: Optimizer, clip_norm: float | None) -> float:
    """Scale all gradients so that their joint norm is at most `clip_norm` (None: leave them); return the norm before.

    The norm may be NaN or infinite. Unlike `clip_grad_norm_`, short gradients are not multiplied by one.
    """
    gradients = gradients_of(optimizer)
    on_cpu = all(gradient.device.type == "cpu" for gradient in gradients)  # where torch would loop in Python
    norm = float(torch.nn.utils.get_total_norm(gradients, foreach=on_cpu or None))
    if clip_norm is not None and norm > clip_norm:
        torch._foreach_mul_(gradients, clip_norm / (norm + 1e-6))
    return norm


def drop_frozen_gradients(optimizer: Optimizer) -> None:
    """Drop the gradients of groups whose learning rate is zero, so that their Adam moments are frozen with them."""
    for group in optimizer.param_groups:
        if group["lr"] == 0.0:
            for parameter in group["params"]:
                parameter.grad = None
