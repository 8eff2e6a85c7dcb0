"""Scores the generator on fixed validation photos, in epochs too: `score/…`, the curve that says where to stop."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from colorize.callbacks.monitor import scored
from colorize.evaluation import stopping


class Scoring(L.Callback):
    """Scores before the first step, at the end of each epoch, and inside epochs every so many images.

    A score is that of the averaged weights where there are any. It goes to TensorBoard, and into the module's `curve`,
    which each checkpoint's card holds. Lightning's own validation inside an epoch (`val_check_interval`) is not used:
    a fit that is resumed from there would lose the epoch's figures.

    Args:
        every_n_images: inside epochs; None: not there.
        photos: how many validation photos, the first readable ones.
    """

    def __init__(self, every_n_images: int | None, photos: int) -> None:
        self.every_n_images, self.photos = every_n_images, photos

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        batch = trainer.datamodule.fixed_val(self.photos)  # type: ignore[attr-defined]
        share = batch.rgb[trainer.global_rank :: trainer.world_size]
        self.rgb = (share * 255).round().to(torch.uint8)
        self.of_grey = self.figures(trainer, pl_module, lambda grey: grey.expand(-1, 3, -1, -1))
        if pl_module.images_seen == 0:
            self.score(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.every_n_images and pl_module.passed(self.every_n_images) and not trainer.is_last_batch:
            self.score(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.score(trainer, pl_module)

    def score(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Add a point to the curve."""
        network = pl_module.average or pl_module.network("generator")
        was_training = network.training
        network.eval()
        ciede2000, delta_cf = self.figures(trainer, pl_module, network)
        network.train(was_training)
        point = {
            "ciede2000": ciede2000,
            "delta_cf": delta_cf,
            "distance": stopping.distance(ciede2000, delta_cf, self.of_grey),
        }
        pl_module.curve.append({"images_seen": pl_module.images_seen, **point})
        for logger in trainer.loggers:
            logger.log_metrics(scored(point), step=pl_module.images_seen)

    def figures(self, trainer: L.Trainer, pl_module: Any, colour: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Means of CIEDE2000 and ΔCF over the photos of all devices."""

        def coloured(grey: Tensor) -> Tensor:
            with trainer.precision_plugin.forward_context():
                return colour(grey)

        sums = stopping.figures(coloured, self.rgb, pl_module.device)
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(pl_module.device), reduce_op="sum")
        ciede2000, delta_cf, photos = sums.tolist()
        return ciede2000 / photos, delta_cf / photos
