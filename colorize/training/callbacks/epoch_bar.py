"""The progress bar of an epoch, in a terminal."""

from lightning.pytorch.callbacks import RichProgressBar


class EpochBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1, as in every message."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1} of {self.trainer.max_epochs}"
