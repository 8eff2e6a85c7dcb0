"""Colours of validation scenes, region by region: the sea taken for grass, the faces that come right last."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from colorize.data.datasets import Batch
from colorize.evaluation.regions import COLOURLESS, COUNTED, TAKEN_FOR, taken_for
from colorize.runtime.files import markdown_table

GREENS, BLUES = ("grass", "foliage"), ("sea", "sky", "mountain")
CONFUSIONS = {"sea_as_grass": ("sea", GREENS), "grass_as_sea": ("grass", BLUES), "skin_as_grass": ("skin", GREENS)}
"""Mistakes that have a curve of their own: the region, and what it is taken for, with what shares its hues."""


class RegionAccuracy(L.Callback):
    """Logs, where photos come with regions, how much of each has the right hue, and what the rest is taken for.

    `val/region/NAME` is the share of its pixels whose hue class is right, `mean` that of the regions that occur, each
    counting alike; `sea_as_grass` and its like are mistakes; `colourless` is the share of all pixels without a hue. The
    table of every confusion goes to TensorBoard as text. See `colorize.evaluation.regions` for what counts.
    """

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tables: dict[str, Tensor] = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.regions is None:
            return
        for group, seen in outputs.items():
            table = taken_for(seen, batch.rgb, batch.regions).sum(dim=0)
            self.tables[group] = self.tables[group] + table if group in self.tables else table

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        for group, table in self.tables.items():
            self.tables[group] = table = trainer.strategy.reduce(table, reduce_op="sum").cpu()
            named = {f"{group}/region/{name}": value for name, value in accuracies(table).items()}
            pl_module.log_dict(named, sync_dist=True, logger=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        for group, table in self.tables.items():
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_text(f"{group}/regions", markdown(table), pl_module.axis)


def accuracies(table: Tensor) -> dict[str, float]:
    """Return the accuracies and `CONFUSIONS` of the regions that occur in a confusion table of `regions.taken_for`."""
    shares = table / table.sum(dim=1, keepdim=True).clamp_min(1)
    number = {name: row for row, name in enumerate(COUNTED) if table[row].any()}
    if not number:
        return {}
    found = {name: float(shares[row, row]) for name, row in number.items()}
    found["mean"] = sum(found.values()) / len(found)
    found["colourless"] = float(table[:, TAKEN_FOR.index(COLOURLESS)].sum() / table.sum())
    for name, (region, others) in CONFUSIONS.items():
        if region in number:
            found[name] = sum(float(shares[number[region], TAKEN_FOR.index(other)]) for other in others)
    return found


def markdown(table: Tensor) -> str:
    """Return a confusion table in per cent: a row for each region that occurs, a column for what it is taken for."""
    rows = [row for row in range(len(COUNTED)) if table[row].any()]
    columns = [column for column in range(len(TAKEN_FOR)) if table[rows, column].any()]
    per_cent = torch.round(100 * table / table.sum(dim=1, keepdim=True).clamp_min(1))
    lines = []
    for row in rows:
        shares = {column: f"{per_cent[row, column]:.0f}" for column in columns}
        lines.append([TAKEN_FOR[row], *(f"**{s}**" if column == row else s for column, s in shares.items())])
    return markdown_table(["per cent taken for", *(TAKEN_FOR[column] for column in columns)], lines)
