"""Exponential moving average (EMA) of the generator's weights, which colours more steadily than those of any step."""

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from colorize.networks.generator import Generator
from colorize.runtime.log import log
from colorize.weights.checkpoints import AVERAGE


class GeneratorEMA(L.Callback):
    """Averages the generator's parameters and BatchNorm statistics; the module calls `update` after each of its steps.

    Other buffers, such as the singular vectors of spectral norms, are those of the last step: their mean is none. The
    half-life is in images that the generator learned from, since batches differ in size, or a share of all those of the
    training. So that the random start does not linger, it is at most the share `ramp_up` of those so far (0: no limit),
    as in EDM (Karras et al. 2022, "Elucidating the design space of diffusion-based generative models").
    """

    network: Generator

    def __init__(self, half_life_images: float | None, ramp_up: float, half_life_share: float | None = None) -> None:
        self.half_life_images, self.ramp_up, self.half_life_share = half_life_images or 0, ramp_up, half_life_share
        self.images = 0
        self.restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return AVERAGE

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.network.state_dict(), "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.half_life_share is not None:
            self.half_life_images = self.half_life_share * pl_module.phase_images
        self.network = copy.deepcopy(pl_module.network("generator")).requires_grad_(False).eval()
        if self.restored is not None:
            self.network.load_state_dict(self.restored["generator"])
            self.images = self.restored["images"]
            self.restored = None
        elif pl_module.images_seen:
            log.warning(f"the average of the generator's weights starts only now, at {pl_module.images_seen} images")
        pl_module.ema = self

    @torch.no_grad()
    def update(self, generator: nn.Module, images: int) -> None:
        self.images += images
        longest = self.ramp_up * self.images if self.ramp_up else self.half_life_images
        left = 0.5 ** (images / min(self.half_life_images, longest))  # of the average before this step
        (ours, our_rest), (its, its_rest) = averaged_tensors(self.network), averaged_tensors(generator)
        get_ema_multi_avg_fn(left)(ours, its, 0)
        for own, last in zip(our_rest, its_rest, strict=True):
            own.copy_(last)


def averaged_tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of a network that are averaged, and its other buffers."""
    statistics = {name for name, _ in network.named_buffers() if name.endswith(("running_mean", "running_var"))}
    averaged = [*network.parameters(), *(b for name, b in network.named_buffers() if name in statistics)]
    return averaged, [b for name, b in network.named_buffers() if name not in statistics]
