"""The checkpoints of a phase: last.ckpt, best.ckpt, images-COUNT.ckpt from inside the epochs, with random states."""

import math
import random
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from colorize.config.sections import SaveConfig
from colorize.data.sources import Photos
from colorize.metrics import rank
from colorize.runs import before, kept_in
from colorize.runtime import distributed, signals
from colorize.runtime.errors import writing
from colorize.runtime.files import hardlink_or_copy, sha256, written_whole
from colorize.runtime.log import log
from colorize.training.phases import SCORE
from colorize.weights.checksum import seal


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint whole or not at all, sealed with a checksum."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save as Lightning does, but beside `path`: from a temporary folder, renaming may be copying."""
        with writing(path), written_whole(Path(path), alone=True) as file:
            torch.save(checkpoint, file)
            seal(file)


class Checkpoints(Checkpoint):
    """Writes last.ckpt after each epoch and now and then inside it, best.ckpt where a metric is lowest, and kept ones.

    The lowest `monitored` makes best.ckpt, of scores the first by `metrics.rank`. Inside epochs `when` says what is
    written; the last.ckpt before stays as last.ckpt.before. Nothing is saved on the last batch of an epoch: resumed
    from there, training would lose the validation. A signal stops training once its step, or the validation, is saved.
    """

    def __init__(self, folder: Path, monitored: str, when: SaveConfig) -> None:
        self.folder, self.monitored, self.when = folder, monitored, when
        self.monitors_score = monitored.startswith(f"{SCORE}/")
        self.saved_at = time.monotonic()
        self.found: tuple[int, bool] = 0, False  # what ranks have agreed on in this step
        self.best: float | None = None  # the metric of best.ckpt
        self.fallen = False  # true if its skill is below the start's, so that whatever counts takes its place
        self.photos: str | None = None  # digest of the validation photos that it was measured on

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "fallen": self.fallen, "photos": self.photos}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.fallen = state_dict["best"], state_dict.get("fallen", False)  # not in those of before skill
        self.photos = state_dict.get("photos")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning's own handler of SIGTERM exchanges in the midst of whatever a rank does, and ends training between
        # two hooks, unsaved; in every step it would broadcast whether it has received one.
        vars(trainer._signal_connector)["register_signal_handlers"] = lambda: None
        vars(trainer.fit_loop.epoch_loop)["_broadcast_sigterm_tensor"] = lambda: None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        photos = None if data is None else validation_digest(data.photos)
        if self.best is not None and self.photos is not None and photos != self.photos:
            log.warning("best.ckpt is of other validation photos: the next one takes its place, whatever its metric")
            self.best, self.fallen = None, False
        self.photos = photos
        if trainer.is_global_zero:
            for half_written in self.folder.glob(".*.part"):
                half_written.unlink()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.saved_at = time.monotonic()
        pl_module.exchanges.append((lambda: any(self.own()), self.agree))
        self.agree()
        if signum := self.found[0]:
            raise self.stopped(signum, pl_module.images_seen)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        (signum, due), self.found = self.found, (0, False)
        if trainer.is_last_batch:
            return
        names = []
        if pl_module.passed(self.when.every(pl_module.phase_images)):
            names.append(f"images-{pl_module.images_seen}")
            if self.monitors_score and self.is_best(trainer, pl_module):
                names.append("best")
        if names or due or signum:
            self.save(trainer, *names)
        if names and trainer.is_global_zero and self.when.keep:
            # What an earlier start left from further on is neither counted nor removed: it will be written anew.
            reached = {n: path for n, path in kept_in(self.folder).items() if n <= pl_module.images_seen}
            for count in sorted(reached)[: -self.when.keep]:
                reached[count].unlink(missing_ok=True)
        if signum:
            raise self.stopped(signum, pl_module.images_seen)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.agree()
        signum, _ = self.found
        self.save(trainer, *(["best"] if self.is_best(trainer, pl_module) else []))
        if signum and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            raise self.stopped(signum, pl_module.images_seen)

    def own(self) -> tuple[int, bool]:
        """Return the signal that this rank has received, 0 for none, and if it is time for a new last.ckpt."""
        minutes = self.when.every_n_minutes
        return signals.noted() or 0, minutes is not None and time.monotonic() - self.saved_at > 60 * minutes

    def agree(self) -> None:
        """Find what holds for one of the ranks to hold for all."""
        received, due = zip(*distributed.gathered(self.own()), strict=True)
        self.found = max(received), any(due)

    def stopped(self, signum: int, images_seen: int) -> signals.Stopped:
        """Return what ends training once all ranks have come here, of which none may end before all `conclude`."""
        signals.conclude()
        distributed.gathered(None)
        saved = f"after {images_seen:,} images; saved {self.folder / 'last.ckpt'}"
        return signals.Stopped(signum, saved if images_seen else "before the first step")

    def is_best(self, trainer: L.Trainer, pl_module: Any) -> bool:
        """Return True if the metric is lower than any before that counts, as the first one always is; note it down."""
        if self.monitors_score:
            found = rank(pl_module.curve[-1], pl_module.curve[0])
        else:
            value = float(trainer.callback_metrics.get(self.monitored, math.inf))
            found = False, math.inf if math.isnan(value) else value
        if self.best is not None and found >= (self.fallen, self.best):
            return False
        self.fallen, self.best = found
        return True

    def save(self, trainer: L.Trainer, *names: str) -> None:
        """Write the present state as NAME.ckpt for each of `names`, then as last.ckpt, which knows of these."""
        for logger in trainer.loggers:
            logger.save()  # no point of before the checkpoint is lost with the process
        first, *others = (self.folder / f"{name}.ckpt" for name in (*names, "last"))
        last = self.folder / "last.ckpt"
        if trainer.is_global_zero and last.exists():
            hardlink_or_copy(last, before(last))
        trainer.save_checkpoint(first, weights_only=False)
        if trainer.is_global_zero:
            for other in others:
                hardlink_or_copy(first, other)
        self.saved_at = time.monotonic()


def validation_digest(photos: Photos) -> str:
    """Return a digest of the validation photos: of their names, and of the sizes of the first files in bytes."""
    sizes = [path.stat().st_size for path in map(photos.path, photos.val[:64]) if photos.on_disk and path.exists()]
    names = "\0".join(map(str, [*photos.val, *sizes]))
    return sha256(names.encode("utf-8", "surrogateescape"))[:16]


def best_metric(checkpoint: Path) -> float:
    """Return the metric of best.ckpt, as `checkpoint` of the same folder knows it."""
    callbacks = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["callbacks"]
    return float(callbacks[Checkpoints.__qualname__]["best"])


class RandomStates(L.Callback):
    """Puts the states of all generators into each checkpoint, and takes them back just before the first step.

    Each rank has its own states; with another number of ranks than before, all resume with those of the first.
    """

    def __init__(self) -> None:
        self.restored: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": distributed.gathered(random_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict["ranks"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not earlier: networks are made, and photos scored, before.
        if self.restored is not None:
            same = len(self.restored) == distributed.world_size()
            restore_random_states(self.restored[trainer.global_rank if same else 0])
            self.restored = None


def random_states() -> dict[str, Any]:
    """Return the states of this process's generators, in primitives and tensors."""
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    found = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore_random_states(saved: dict[str, Any]) -> None:
    """Set this process's generators to `random_states()` of an earlier one; those of a GPU where both have one."""
    random.setstate(saved["python"])
    numpy = saved["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": key}})
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
