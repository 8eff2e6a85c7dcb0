"""Several devices tell each other of the validation photos that they could not read."""

from typing import Any

import lightning as L


class SharedUnreadable(L.Callback):
    """After each validation, in which devices are not in step; the DataModule itself does it in training."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.datamodule.share_unreadable()  # type: ignore[attr-defined]
