"""Scores of the generator on fixed validation photos, in epochs too: `score/…`, the curve that says where to stop."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from colorize.color import merge_luma, rgb_to_grey
from colorize.config.sections import SaveConfig
from colorize.data.luma_lookup import LumaLookup
from colorize.metrics import OF_GREY, SCORED, MeanMetrics, distance, measure
from colorize.training.callbacks.monitor import OVERVIEW, scored

AT_ONCE = 16  # photos scored at a time
POINTS = 20  # points in TensorBoard's first screen, over a training


class Scoring(L.Callback):
    """Scores before the first step, at the end of each epoch, and inside epochs every so many images.

    A score is that of the averaged weights where there are any, on the first readable validation photos. It goes to
    TensorBoard, `POINTS` times in a training, and, if `in_curve`, into the module's `curve`, that checkpoints hold.
    Lightning's own validation inside an epoch is not used: a training resumed from there would lose the epoch's
    metrics.
    """

    def __init__(self, save: SaveConfig, in_curve: bool) -> None:
        self.save, self.in_curve = save, in_curve

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        batch = trainer.datamodule.fixed_val(self.save.score_photos)  # type: ignore[attr-defined]
        self.lookup = trainer.datamodule.luma_lookup  # type: ignore[attr-defined]
        share = batch.rgb[trainer.global_rank :: trainer.world_size]
        self.rgb = (share * 255).round().to(torch.uint8)
        self.shown_every = max(1, pl_module.phase_images // POINTS)
        self.of_grey = self.measure(trainer, pl_module, lambda grey: grey.expand(-1, 3, -1, -1))
        if pl_module.images_seen == 0:
            self.score(trainer, pl_module, self.in_curve)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        noted = self.in_curve and pl_module.passed(self.save.every(pl_module.phase_images))
        if (noted or pl_module.passed(self.shown_every)) and not trainer.is_last_batch:
            self.score(trainer, pl_module, noted)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.score(trainer, pl_module, self.in_curve)

    def score(self, trainer: L.Trainer, pl_module: Any, noted: bool) -> None:
        network = pl_module.ema_model or pl_module.network("generator")
        score = self.measure(trainer, pl_module, network.eval())
        point = score | {"distance": distance(score, self.of_grey)}
        shown = {f"{OVERVIEW}/{name}": value for name, value in score.items()}
        point |= {f"{OF_GREY}{name}": value for name, value in self.of_grey.items()}
        if noted:
            pl_module.curve.append({"images_seen": pl_module.images_seen, **point})
            shown |= scored(point)
        for logger in trainer.loggers:
            logger.log_metrics(shown, step=pl_module.axis)

    def measure(self, trainer: L.Trainer, pl_module: Any, colour: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the scores of what `colour` makes of the photos of all devices."""

        def coloured(grey: Tensor) -> Tensor:
            with trainer.precision_plugin.forward_context():  # of the network alone: scores are 32-bit
                return colour(grey)

        return score_photos(coloured, self.rgb, pl_module.device, self.lookup)


@torch.no_grad()
def score_photos(
    colour: Callable[[Tensor], Tensor], rgb: Tensor, device: torch.device, lookup: LumaLookup
) -> dict[str, float]:
    """Score photos of all ranks, coloured on their own luma: the mean of each `SCORED`.

    `colour` makes RGB (B, 3, H, W) of grey (B, 1, H, W), in [0, 1], on `device`; `rgb` has this rank's photos, (N, 3,
    H, W) uint8, where N may be 0.
    """
    means = MeanMetrics()
    for photos in rgb.split(AT_ONCE) if len(rgb) else ():
        truth = photos.to(device).float() / 255
        grey = rgb_to_grey(truth)
        terms = measure(SCORED, merge_luma(colour(grey), grey), truth, lookup.predict(grey))
        means.add({name: values.cpu().double() for name, values in terms.items()}, len(truth))
    return means.means()
