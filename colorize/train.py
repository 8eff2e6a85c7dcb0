"""Train one phase of the method.

python -m colorize.train phase=pretrain_gen data=folder data.root=PHOTOS
python -m colorize.train phase=pretrain_gen data=folder data.root=PHOTOS model=small trainer.limit_train_batches=9
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from colorize.cli.command import run_command
from colorize.cli.sweeps import Score
from colorize.config import TrainConfig
from colorize.data.resolution import fit_to_photos
from colorize.data.roots import check_root
from colorize.runs import PhaseFolder, run_name
from colorize.runtime.files import locked, write_text
from colorize.runtime.log import log
from colorize.runtime.schema import value_errors_as_bad_options
from colorize.training.phases import PHASES, VAL, VAL_EMA, monitored
from colorize.training.resuming import is_complete, starting_weights, where_to_resume
from colorize.weights.bundled import find_weights

if TYPE_CHECKING:
    import lightning as L

    from colorize.data.sources import Photos


def run(config: TrainConfig) -> Score:
    """Train `config.phase`, or find it complete; return the metric of `best.ckpt` (lower is better)."""
    check_root(config.data)
    start = config.init_from.generator
    if start is not None:
        config.init_from.generator = str(find_weights(start))
    monitors = monitored(config).replace(f"{VAL_EMA}/", f"{VAL}/")  # one name, so that a sweep compares both weights
    folder = PhaseFolder(config.runs_dir, run_name(config), config.phase)
    if not folder.checkpoints.exists():
        for name in PHASES[config.phase].trains:
            starting_weights(config, name)
    from colorize.metrics import beats_start
    from colorize.training import build
    from colorize.training.callbacks.checkpointing import Checkpoints, best_metric

    with locked(folder.path):
        photos = None
        resolution = config.resolution
        if (resolution.steps, resolution.images, resolution.batch_share) != (None, None, None):
            photos = build.make_photos(config)
            with value_errors_as_bad_options():
                fitted = fit_to_photos(resolution, len(photos.train), config.trainer.limit_train_batches)
            config = replace(config, resolution=fitted)
        found = where_to_resume(config, folder)
        if found is not None and is_complete(config, found[1]):
            log.info(f"phase {config.phase} of run {run_name(config)} is complete: {folder.best}")
            return Score(best_metric(found[0]), monitors)
        trainer = fit(config, folder, found[0] if found else None, photos)
        best = next(c.best for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        value = math.nan if best is None else best
        log.info(f"phase {config.phase} is complete: best {monitored(config)} {value:.4g}; {folder.best}")
        module: Any = trainer.lightning_module
        if start is not None and beats_start(module.curve) is False:
            log.warning(f"no better than the generator it started from, by its scores: use checkpoint={start}")
        return Score(value, monitors)


def fit(config: TrainConfig, folder: PhaseFolder, resume_from: Path | None, photos: Photos | None = None) -> L.Trainer:
    """Build everything, and train; `photos` are the data, if listed."""
    import lightning as L

    from colorize.cli.launch import take_place
    from colorize.runtime import distributed, signals
    from colorize.training import build
    from colorize.training.first_weights import measure_prior

    take_place(config.trainer)
    L.seed_everything(config.seed, workers=True, verbose=False)
    schedule = build.make_schedule(config)
    datamodule = build.make_datamodule(config, photos)
    module = build.make_module(config, resume_from)
    if resume_from is None:
        measure_prior(config, module.generator, datamodule)
    trainer = build.make_trainer(config, folder, schedule, resume_from)
    if trainer.is_global_zero:
        build.warn_of_few(config, schedule, datamodule.photos)
        write_text(folder.config, OmegaConf.to_yaml(OmegaConf.structured(config)))
    log.info(
        f"phase {config.phase}, run {run_name(config)}: {len(datamodule.photos.train)} training and "
        f"{len(datamodule.photos.val)} validation photos, epochs: {schedule.epochs}, {trainer.precision}"
        + (f", resumed from {resume_from}" if resume_from else "")
    )
    with signals.deferred(), distributed.abort_together(trainer.strategy.launcher):
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
    return trainer


if __name__ == "__main__":
    run_command("train", run)
