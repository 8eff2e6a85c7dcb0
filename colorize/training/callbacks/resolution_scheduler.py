"""Progressive resizing: small squares first, the size and the batch a pure function of the epoch."""

from typing import Any

import lightning as L

from colorize.data.resolution import ResolutionSchedule


class ResolutionScheduler(L.Callback):
    """Hands the resolution schedule to the DataModule, which asks it every epoch, and checks the sizes that arrive.

    And has the module share what the DataModule could not read.
    """

    def __init__(self, schedule: ResolutionSchedule) -> None:
        self.schedule = schedule

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.schedule = self.schedule
        pl_module.phase_images = sum(self.schedule.epoch_images(len(data.photos.train)))
        pl_module.exchanges.append((data.has_news, data.share_unreadable))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        expected = self.schedule.at(trainer.current_epoch).size_px
        if tuple(batch.rgb.shape[-2:]) != (expected, expected):
            raise RuntimeError(
                f"epoch {trainer.current_epoch + 1} is scheduled at {expected} px, a batch came at "
                f"{batch.rgb.shape[-1]} x {batch.rgb.shape[-2]} px: is reload_dataloaders_every_n_epochs=1 set?"
            )
