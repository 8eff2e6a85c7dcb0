"""Scalars of a training: TensorBoard while it runs, metrics.csv with a row an epoch, both against images seen."""

import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from colorize.data.resolution import ResolutionSchedule
from colorize.metrics import OF_GREY, VALIDATED, MeanMetrics, rank
from colorize.runtime.files import csv_text, write_text
from colorize.runtime.log import log
from colorize.runtime.progress import TELLING_S, spoken
from colorize.training.phases import SCORE, VAL, VAL_EMA

OVERVIEW, BEST_GROUP = "_overview", "Best"
"""Groups in TensorBoard. It shows what begins with _ first, where its HPARAMS tab has capitals first: there the best
metrics tell runs apart, while curves are to begin with what matters."""

SHOWN = {"generator/content": "content", "critic/loss": "critic_loss"}  # alike in every phase

BEST = ("distance", *VALIDATED, "content", "critic_loss", "accuracy")
"""Metrics that tell the best checkpoints of several runs apart; TensorBoard's HPARAMS tab opens with them."""

SAID = ("content", "ciede2000", "skill", "critic_loss", "accuracy", "region/mean")  # in the line of an epoch


class EpochBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1, as in every message."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1} of {self.trainer.max_epochs}"


class Monitor(L.Callback):
    """Writes every loss term, the learning rate of each layer group, sizes, speed and validation metrics.

    docs/TENSORBOARD.md has the names. The x-axis is images seen, as batches change in size. Points are means since the
    last point; metrics.csv has one row an epoch. Resumed, it keeps the rows and sums that the checkpoint knows.
    """

    def __init__(self, schedule: ResolutionSchedule, table: Path, every_n_steps: int, monitored: str) -> None:
        self.schedule, self.table, self.every_n_steps, self.monitored = schedule, table, every_n_steps, monitored
        self.recent, self.epoch = MeanMetrics(), MeanMetrics()
        self.rows: list[dict[str, Any]] = []
        self.first_step: tuple[float, int] | None = None
        self.said_how_long = False

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "recent": self.recent.state(), "epoch": self.epoch.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [row | {"epoch": n} for n, row in enumerate(state_dict["rows"], 1)]  # earlier versions began at 0
        for name, mean in (("recent", self.recent), ("epoch", self.epoch)):
            if name in state_dict:  # not yet in checkpoints of format 1's first days, all of an epoch's end
                mean.restore(state_dict[name])

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        # Lightning does not announce the start of an epoch that is resumed within.
        self.on_train_epoch_start(trainer, pl_module)
        if trainer.is_global_zero:
            self.write_table()  # without the rows that an earlier start had got to

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.epoch_began = self.last_lap = (time.perf_counter(), pl_module.images_seen)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.recent.add(outputs)
        self.epoch.add(outputs)
        self.say_how_long(trainer, pl_module)
        if (batch_idx + 1) % self.every_n_steps == 0 or trainer.is_last_batch:
            before, self.last_lap = self.last_lap, (time.perf_counter(), pl_module.images_seen)
            scalars = self.recent.take() | pl_module.current_learning_rates()
            scalars["speed/images_per_s"] = images_per_s(before, self.last_lap)
            stage = self.schedule.at(trainer.current_epoch)
            scalars |= {f"data/{name}": value for name, value in stage._asdict().items()}
            scalars["data/epoch"] = trainer.current_epoch + 1
            shown = {name: scalars[term] for term, name in SHOWN.items() if term in scalars}
            self.write(trainer, pl_module, scalars | {f"{OVERVIEW}/{name}": value for name, value in shown.items()})
            pl_module.log_dict(shown, prog_bar=True, logger=False)

    def say_how_long(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Say once, from the first seconds, how long the training will about take: its cost grows with the pixels."""
        now = (time.perf_counter(), pl_module.images_seen)
        if self.first_step is None:
            self.first_step = now  # which warms up, and does not count
        if self.said_how_long or now[0] - self.first_step[0] < TELLING_S:
            return
        self.said_how_long, epoch, data = True, trainer.current_epoch, trainer.datamodule  # type: ignore[attr-defined]
        images = self.schedule.epoch_images(len(data.photos.train))
        areas = [self.schedule.at(number).size_px ** 2 for number in range(self.schedule.epochs)]
        left = [sum(images[: epoch + 1]) - pl_module.images_seen, *images[epoch + 1 :]]
        pixels = sum(n * area for n, area in zip(left, areas[epoch:], strict=True))
        seconds = pixels / areas[epoch] / images_per_s(self.first_step, now)
        if trainer.is_global_zero:
            log.info(f"phase {pl_module.metadata.phase}: about {spoken(seconds)} to go, as its first steps went")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write(trainer, pl_module, validation_metrics(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        stage = self.schedule.at(trainer.current_epoch)
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "images_seen": pl_module.images_seen,
                **stage._asdict(),
                **self.epoch.take(),
                **validation_metrics(trainer),
                **(scored(pl_module.curve[-1]) if pl_module.curve else {}),
                **pl_module.current_learning_rates(),
                "images_per_s": images_per_s(self.epoch_began, self.last_lap),
            }
        )
        self.write(trainer, pl_module, self.best_metrics(pl_module.curve))
        if trainer.is_global_zero:
            row = self.rows[-1]
            names = [*(f"{VAL}/{name}" for name in SAID), f"{SCORE}/distance", f"{SCORE}/skill"]
            log.info(
                f"epoch {row['epoch']} of {trainer.max_epochs}, {row['size_px']} px: "
                f"{', '.join(f'{name} {row[name]:.4g}' for name in names if name in row)}; "
                f"{row['images_per_s']:.3g} images/s"
            )
            self.write_table()

    def write_table(self) -> None:
        if not self.rows:
            self.table.unlink(missing_ok=True)
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_text(self.table, csv_text([columns, *([row.get(name) for name in columns] for row in self.rows)]))

    def best_metrics(self, curve: list[dict[str, float]]) -> dict[str, float]:
        """Return {"Best/…": …} where the monitored metric is lowest: in an epoch or, for a score, after a step."""
        group = self.monitored.partition("/")[0]
        rows = self.rows
        if group == SCORE:
            points = (point for point in curve if point["images_seen"])
            rows = [scored(point) for point in sorted(points, key=lambda point: rank(point, curve[0]))][:1]
        rows = [row for row in rows if math.isfinite(row.get(self.monitored, math.nan))]
        best = min(rows, key=lambda row: row[self.monitored], default={})
        return {f"{BEST_GROUP}/{name}": best[f"{group}/{name}"] for name in BEST if f"{group}/{name}" in best}

    def write(self, trainer: L.Trainer, pl_module: Any, scalars: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=pl_module.axis)


def images_per_s(start: tuple[float, int], end: tuple[float, int]) -> float:
    """Return the speed between two moments, each (seconds, images seen), waiting for data included."""
    return (end[1] - start[1]) / max(end[0] - start[0], 1e-9)


def validation_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Return the latest `val/…` and `val_ema/…` metrics, as plain numbers."""
    groups = (f"{VAL}/", f"{VAL_EMA}/")
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(groups)}


def scored(point: dict[str, float]) -> dict[str, float]:
    """Return a point of the module's curve as `score/…`."""
    names = (name for name in point if name != "images_seen" and not name.startswith(OF_GREY))
    return {f"{SCORE}/{name}": point[name] for name in names}
