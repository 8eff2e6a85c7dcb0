"""The same validation photos after every epoch: grey, prediction, truth."""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import pad

from colorize.color import merge_luma
from colorize.evaluation.gallery import sheet

LEAST_TILE_PX = 128
"""Smaller squares are enlarged: TensorBoard would show them, captions and all, as coarse blocks."""

ABREAST = 2
"""Photos in a row: TensorBoard's cards are wider than high."""


class ImageGrid(L.Callback):
    """Sends a sheet of fixed validation photos to TensorBoard against images seen, first before any training.

    The prediction is what `colorize.predict` would make of a photo, with averaged weights where there are any.
    """

    def __init__(self, photos: int) -> None:
        self.photos = photos

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.batch = trainer.datamodule.fixed_val(self.photos)  # type: ignore[attr-defined]
        if pl_module.images_seen == 0:
            self.show(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.show(trainer, pl_module)

    def show(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or not len(self.batch.rgb):
            return
        network = pl_module.ema_model or pl_module.generator
        was_training, greys = network.training, self.batch.grey.to(pl_module.device).split(8)
        network.eval()
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            coloured = torch.cat([merge_luma(network(grey), grey) for grey in greys])
        network.train(was_training)
        columns = abreast([("grey", self.batch.grey), ("as predict", coloured), ("truth", self.batch.rgb)])
        image = sheet(columns, tile_px=max(LEAST_TILE_PX, self.batch.rgb.shape[-1]))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("photos", np.asarray(image), pl_module.axis, dataformats="HWC")


def abreast(columns: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return `columns` of N images each as `ABREAST` times as many, of the first, second, … images; gaps are white."""
    photos = len(columns[0][1])
    rows = -(-photos // ABREAST)
    cut: list[tuple[str, Tensor]] = []
    for first in range(0, photos, rows):
        for caption, images in columns:
            part = images[first : first + rows]
            cut.append((caption, pad(part, (0, 0) * 3 + (0, rows - len(part)), value=1.0)))
    return cut
