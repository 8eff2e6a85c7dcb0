"""Train one phase of the method.

python -m colorize.train phase=pretrain_gen data=folder data.root=PHOTOS
python -m colorize.train phase=pretrain_gen data=folder data.root=PHOTOS model=small trainer.limit_train_batches=9
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from colorize.cli.command import run_command
from colorize.cli.sweep_jobs import Score
from colorize.config import TrainConfig
from colorize.runs import PhaseFolder, run_name, write_config
from colorize.runtime.files import locked
from colorize.training.phases import MONITORED, monitored
from colorize.training.resuming import is_complete, where_to_resume

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger("colorize")


def run(config: TrainConfig) -> Score | None:
    """Fit `config.phase`, or find it complete; returns the validation figure that `best.ckpt` has (lower is better).

    With `data.report` it only says what the photos are.
    """
    if config.data.report:
        from colorize.training import dataset_report

        dataset_report.run(config)
        return None
    from colorize.training.callbacks.checkpointing import best_score
    from colorize.weights.load import find_weights

    if config.init_from.generator is not None:
        config.init_from.generator = str(find_weights(config.init_from.generator))
    folder = PhaseFolder(config.runs_dir, run_name(config), config.phase)
    with locked(folder.path):
        found = where_to_resume(config, folder)
        if found is not None and is_complete(config, found[1]):
            log.info(f"phase {config.phase} of run {run_name(config)} is complete: {folder.best}")
            return Score(best_score(found[0]), MONITORED[config.phase])
        trainer = fit(config, folder, found[0] if found else None)
        figures = [getattr(callback, "best", None) for callback in trainer.checkpoint_callbacks]
        figure = next((float(best) for best in figures if best is not None), math.nan)  # of best.ckpt
        log.info(f"phase {config.phase} is complete: best {monitored(config)} {figure:.4g}; {folder.best}")
        return Score(figure, MONITORED[config.phase])  # by one name, so that a sweep compares raw and averaged weights


def fit(config: TrainConfig, folder: PhaseFolder, resume_from: Path | None) -> L.Trainer:
    """Build everything, and train."""
    import lightning as L

    from colorize.cli.launch import check_processes, set_threads
    from colorize.runtime import distributed, signals
    from colorize.training import build

    check_processes(config.trainer)
    set_threads(config.trainer)
    L.seed_everything(config.seed, workers=True, verbose=False)
    schedule = build.make_schedule(config)
    datamodule = build.make_datamodule(config)
    module = build.make_module(config, resume_from)
    if resume_from is None:
        build.measure_prior(config, module, datamodule)
    trainer = build.make_trainer(config, folder, schedule, resume_from)
    if trainer.is_global_zero:
        write_config(folder.config, config)
    log.info(
        f"phase {config.phase}, run {run_name(config)}: {len(datamodule.photos.train)} training and "
        f"{len(datamodule.photos.val)} validation photos, epochs: {schedule.epochs}, {trainer.precision}"
        + (f", going on from {resume_from}" if resume_from else "")
    )
    with signals.deferred(), distributed.one_fate(trainer.strategy.launcher):
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
    return trainer


def main() -> None:
    """Run from the command line."""
    run_command("train", run)


if __name__ == "__main__":
    main()
