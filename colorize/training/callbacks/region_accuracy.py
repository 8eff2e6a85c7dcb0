"""Colours of validation scenes, region by region: the sea taken for grass, the faces that come right last."""

from typing import Any

import lightning as L
from torch import Tensor

from colorize.data.datasets import Batch
from colorize.evaluation.regions import COLOURLESS, COUNTED, TAKEN_FOR, taken_for

GREENS, BLUES = ("grass", "foliage"), ("sea", "sky", "mountain")
CONFUSIONS = {"sea_as_grass": ("sea", GREENS), "grass_as_sea": ("grass", BLUES), "skin_as_grass": ("skin", GREENS)}
"""Mistakes that have a curve of their own: the region, and what it is taken for, with what shares its hues."""


class RegionAccuracy(L.Callback):
    """Logs, where photos come with regions, how much of each has the right hue, and what the rest is taken for.

    `val/region/NAME` is the share of its pixels whose hue class is right, `mean` that of the regions that occur, each
    counting alike; `sea_as_grass` and its like are mistakes; `colourless` is the share of all pixels without a hue. See
    `colorize.evaluation.regions` for what counts, and `colorize.evaluate` for every confusion.
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
            found = accuracies(trainer.strategy.reduce(table, reduce_op="sum").cpu())
            named = {f"{group}/region/{name}": value for name, value in found.items()}
            pl_module.log_dict(named, sync_dist=True, logger=False)


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
