"""TensorBoard's logger, and its tabs IMAGES, HPARAMS, TEXT (the configuration) and CUSTOM SCALARS (charts).

It keeps the first hyper-parameters that it meets, so they stand in a file of their own, which each start replaces.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from torch.utils.tensorboard import FileWriter, summary

from colorize.color import merge_luma
from colorize.config import TrainConfig
from colorize.evaluation.gallery import sheet
from colorize.evaluation.regions import COUNTED
from colorize.training.hyper_parameters import hyper_parameters
from colorize.training.phases import PHASES, VAL, VAL_EMA, averages

SUFFIX = ".settings"
LEAST_TILE_PX = 128  # smaller squares are enlarged: TensorBoard would show them, captions and all, as coarse blocks


class CurveLogger(TensorBoardLogger):
    """Lightning's logger, in `folder` itself; from `purge_step` on, the points of earlier starts are not shown."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        super().__init__(folder, name="", version="", purge_step=purge_step)
        self.folder = folder

    @property
    def log_dir(self) -> str:
        """The folder as it stands: Lightning would expand variables in its name."""
        return str(self.folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars; regions, of which there are many, into the group that TensorBoard shows last."""
        super().log_metrics({name.replace("/region/", "_region/"): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


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
        network, greys = pl_module.ema_model or pl_module.generator, self.batch.grey.to(pl_module.device).split(8)
        network.eval()
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            coloured = torch.cat([merge_luma(network(grey), grey) for grey in greys])
        shown, photos = [("grey", self.batch.grey), ("as predict", coloured), ("truth", self.batch.rgb)], len(coloured)
        rows = -(-photos // 2)  # two photos abreast: TensorBoard's cards are wider than high
        columns = [(caption, part[top : top + rows]) for top in range(0, photos, rows) for caption, part in shown]
        image = sheet(columns, tile_px=max(LEAST_TILE_PX, self.batch.rgb.shape[-1]))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("photos", np.asarray(image), pl_module.axis, dataformats="HWC")


class Settings(L.Callback):
    """Writes the settings, and the `command`, of a training when it starts, and that it has ended when it has."""

    def __init__(self, config: TrainConfig, folder: Path, command: str | None) -> None:
        self.config, self.folder, self.command = config, folder, command
        self.writer: FileWriter | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        for earlier in self.folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            earlier.unlink()
        self.writer = FileWriter(str(self.folder), filename_suffix=SUFFIX)
        step = pl_module.axis
        # An empty trial: the row is named after the run, and equal settings in two runs stay two rows. No Experiment
        # is written: TensorBoard would take that of one run for all, and could not tell which keys differ.
        self.writer.add_summary(hparams_pb(hyper_parameters(self.config), trial_id=""), step)
        command = f"```\n{self.command}\n```\n\n" if self.command else ""
        text = f"{command}```yaml\n{OmegaConf.to_yaml(OmegaConf.structured(self.config))}```\n"
        self.writer.add_summary(text_pb("config", text), step)
        self.writer.add_summary(summary.custom_scalars(charts(self.config)), step)
        self.writer.flush()

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.writer is not None:
            _, _, success = summary.hparams({}, {})
            self.writer.add_summary(success, pl_module.axis)
            self.writer.close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.writer is not None:
            self.writer.close()


def charts(config: TrainConfig) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Return the curves to read side by side: one section of charts, each of tags (regular expressions)."""
    networks = PHASES[config.phase].trains
    found: dict[str, list[str]] = {}
    if "generator" in networks:
        found["generator: terms of the loss"] = [f"generator/{t}$" for t in ("pixel", "feature_[0-9]+", "adversarial")]
        if config.data.kind == "scenes":
            found["scenes: right hue, by region"] = [f"{VAL}_region/({'|'.join(COUNTED)})$"]
            found["scenes: without a hue"] = [f"{VAL}_region/colourless$"]
    if averages(config):
        found["CIEDE2000 of raw and of averaged weights"] = [f"^({VAL}|{VAL_EMA})/ciede2000$"]
    if "critic" in networks:
        found["critic: accuracy in training"] = ["critic/accuracy_real", "critic/accuracy_fake"]
        found["critic: accuracy in validation"] = ["val/accuracy_real", "val/accuracy_fake"]
    found["learning rate of each layer group"] = ["lr/.*"]
    return {"side by side": {title: ("Multiline", tags) for title, tags in found.items()}}
