"""A moving average of the generator's weights (EMA), which colours more steadily than those of any one step."""

import copy
import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from colorize.weights.checkpoints import AVERAGE

log = logging.getLogger("colorize")


class GeneratorAverage(L.Callback):
    """Averages the generator's parameters and the statistics of its batch norms, once for each step of its optimizer.

    Other buffers, such as the singular vectors of spectral norms, are those of the last step: no mean of them is one.
    The step itself is what moves the average, so neither the critic's steps do nor those that fp16's loss scaling
    skips. The window is a half-life in images that the generator learned from, as in EDM (Karras et al. 2022,
    "Elucidating the design space of diffusion-based generative models"): a decay per step would mean more photos where
    batches are large, and batches grow as pictures shrink. Its ramp-up is EDM's too: it keeps the random start of a
    network from lingering.

    Checkpoints have the average beside the raw weights. It is validated (`val_ema/…`) and scored by the module.

    Args:
        half_life_images: after so many images, weights count half.
        ramp_up: the half-life is at most this share of the images learned from so far; 0 for no such limit.
        half_life_share: the half-life as a share of all images of the fit, where `half_life_images` is None.
    """

    network: nn.Module

    def __init__(self, half_life_images: float | None, ramp_up: float, half_life_share: float | None = None) -> None:
        self.half_life_images, self.ramp_up, self.half_life_share = half_life_images or 0, ramp_up, half_life_share
        self.images = 0
        self.restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """The name of `state_dict` in a checkpoint."""
        return AVERAGE

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and how many images they have learned from."""
        return {"generator": self.network.state_dict(), "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict` once the fit starts."""
        self.restored = state_dict

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.half_life_share is not None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            limit = pl_module.config.trainer.limit_train_batches
            self.half_life_images = self.half_life_share * data.schedule.images(len(data.photos.train), limit)
        generator = pl_module.network("generator")
        self.network = copy.deepcopy(generator).requires_grad_(False).eval()
        if self.restored is not None:
            self.network.load_state_dict(self.restored["generator"])
            self.images = self.restored["images"]
            self.restored = None
        elif pl_module.images_seen:
            log.warning(f"the average of the generator's weights starts only now, at {pl_module.images_seen} images")
        pl_module.lend_average(self.network)
        optimizer = pl_module.optimizer("generator").optimizer
        self.hook = optimizer.register_step_post_hook(lambda *_: self.update(generator, pl_module.step_images))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if hasattr(self, "hook"):
            self.hook.remove()

    def decay(self, images: int) -> float:
        """What is left of the average after a step on the last `images` of `self.images`."""
        longest = self.ramp_up * self.images if self.ramp_up else self.half_life_images
        return float(0.5 ** (images / min(self.half_life_images, longest)))

    @torch.no_grad()
    def update(self, generator: nn.Module, images: int) -> None:
        """Take in the generator as it is after a step on `images`."""
        self.images += images
        (ours, our_rest), (its, its_rest) = averaged_tensors(self.network), averaged_tensors(generator)
        get_ema_multi_avg_fn(self.decay(images))(ours, its, 0)
        for own, last in zip(our_rest, its_rest, strict=True):
            own.copy_(last)


def averaged_tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What of a network is averaged, and its other buffers."""
    statistics = {name for name, _ in network.named_buffers() if name.endswith(("running_mean", "running_var"))}
    averaged = [*network.parameters(), *(b for name, b in network.named_buffers() if name in statistics)]
    return averaged, [b for name, b in network.named_buffers() if name not in statistics]
