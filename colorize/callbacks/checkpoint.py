"""Which checkpoints a phase keeps: the last, and the best by its validation figure."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class PhaseCheckpoint(ModelCheckpoint):
    """Writes DIRPATH/NAME.ckpt after each epoch, or after those that improve on `monitor` (lower is better).

    Lightning forgets the best figure when the folder's path has changed, and would then overwrite the best checkpoint
    with a worse one; a run may be moved, or be named by another path, so here the figure goes with the folder.
    """

    def __init__(self, dirpath: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=name,
            monitor=monitor,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As Lightning's, with every path in today's folder."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        moved = {name: here(path) for name, path in state_dict.items() if name.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})
