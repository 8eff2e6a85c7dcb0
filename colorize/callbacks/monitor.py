"""Scalars of a fit: TensorBoard while it runs, metrics.csv with a row an epoch, both against images seen."""

import csv
import io
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from colorize import runs
from colorize.callbacks.resolution import ResolutionSchedule

log = logging.getLogger("colorize")


class Mean:
    """Running means of named scalar tensors, without waiting for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means so far; starts anew."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, defaultdict(int)
        return means


class Monitor(L.Callback):
    """Writes every loss term, the rate of each group, sizes, speed and validation figures.

    The x-axis is images seen, since neither Lightning's step (it counts each optimizer's) nor the batch (its size
    changes) means the same thing throughout a fit. Figures in TensorBoard are means since the last point, on rank 0.
    metrics.csv has one row an epoch; a resumed fit keeps the rows of the epochs that its checkpoint knows.
    """

    def __init__(self, schedule: ResolutionSchedule, table: Path, every_n_steps: int) -> None:
        self.schedule, self.table, self.every_n_steps = schedule, table, every_n_steps
        self.recent, self.epoch = Mean(), Mean()
        self.rows: list[dict[str, Any]] = []
        self.waited_since, self.images_since = 0.0, 0
        self.seconds, self.images = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stage = self.schedule.at(trainer.current_epoch)
        self.write(trainer, pl_module, {"data/size_px": stage.size_px, "data/batch_size": stage.batch_size})
        self.waited_since, self.images_since = time.perf_counter(), 0
        self.seconds, self.images = 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.recent.add(outputs)
        self.epoch.add(outputs)
        self.images_since += len(batch.rgb) * trainer.world_size
        if (batch_idx + 1) % self.every_n_steps == 0 or trainer.is_last_batch:
            scalars = self.recent.take() | pl_module.rates() | {"speed/images_per_s": self.lap()}
            self.write(trainer, pl_module, scalars)
            total = {name.split("/")[0]: v for name, v in scalars.items() if name in ("generator/total", "critic/loss")}
            pl_module.log_dict(total, prog_bar=True, logger=False)

    def lap(self) -> float:
        """Images per second since the last lap, waiting for data included."""
        now = time.perf_counter()
        seconds, images = now - self.waited_since, self.images_since
        self.seconds, self.images = self.seconds + seconds, self.images + images
        self.waited_since, self.images_since = now, 0
        return images / max(seconds, 1e-9)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.write(trainer, pl_module, validation_figures(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        stage = self.schedule.at(trainer.current_epoch)
        terms = {
            name: float(trainer.strategy.reduce(torch.tensor(value, device=pl_module.device), reduce_op="mean"))
            for name, value in self.epoch.take().items()
        }
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "images_seen": pl_module.images_seen,
                "size_px": stage.size_px,
                "batch_size": stage.batch_size,
                **terms,
                **validation_figures(trainer),
                **pl_module.rates(),
                "images_per_s": self.images / max(self.seconds, 1e-9),
            }
        )
        if trainer.is_global_zero:
            self.say(trainer)
            columns = list(dict.fromkeys(name for row in self.rows for name in row))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            runs.write_text(self.table, text.getvalue())

    def say(self, trainer: L.Trainer) -> None:
        """One line an epoch, for logs without a progress bar."""
        row = self.rows[-1]
        figures = ("val/content", "val/ciede2000", "val/critic_loss", "val/accuracy")
        shown = [f"{name} {row[name]:.4g}" for name in figures if name in row]
        log.info(
            f"epoch {row['epoch'] + 1} of {trainer.max_epochs}, {row['size_px']} px: {', '.join(shown)}; "
            f"{row['images_per_s']:.3g} images/s"
        )

    def write(self, trainer: L.Trainer, pl_module: Any, scalars: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **scalars}, step=pl_module.images_seen)


def validation_figures(trainer: L.Trainer) -> dict[str, float]:
    """The latest `val/…` figures, as plain numbers."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
