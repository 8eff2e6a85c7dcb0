"""The phases of the method: what each trains, from what, and the metric that judges it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from colorize.config import TrainConfig

Network = Literal["generator", "critic"]
VAL, VAL_EMA, SCORE = "val", "val_ema", "score"  # prefixes of metrics: last weights, averages, fixed photos


@dataclass(frozen=True)
class Phase:
    """One phase of training: its `title` in the pipeline's table, its `description` in the model card.

    The lowest value of the metric `monitors` makes `best.ckpt`; `predecessors` train networks before.
    """

    title: str
    description: str
    trains: tuple[Network, ...]
    monitors: str
    predecessors: Mapping[Network, str] = field(default_factory=dict)


PHASES = {
    "pretrain_gen": Phase(
        title="step 1 (pretrained)",
        description="pretraining of the generator on the content loss, without a critic",
        trains=("generator",),
        monitors=f"{VAL}/content",
    ),
    "pretrain_critic": Phase(
        title="step 3 (critic)",
        description="pretraining of the critic on photos against saved images",
        trains=("critic",),
        monitors=f"{VAL}/critic_loss",
    ),
    "gan": Phase(
        title="step 4 (GAN)",
        description="training of generator and critic against each other",
        trains=("generator", "critic"),
        monitors=f"{SCORE}/distance",
        predecessors={"generator": "pretrain_gen", "critic": "pretrain_critic"},
    ),
}
"""Every phase by its name, in the order in which they follow each other."""


def averages(config: TrainConfig) -> bool:
    """Return True if training keeps a moving average of the generator's weights."""
    averaged = (config.ema.half_life_images, config.ema.half_life_share) != (None, None)
    return averaged and "generator" in PHASES[config.phase].trains


def scores(config: TrainConfig) -> bool:
    """Return True if training scores its generator on the fixed photos: every epoch and at each kept checkpoint."""
    kept = config.save.every(1) is not None and "generator" in PHASES[config.phase].trains
    return config.phase == "gan" or kept


def monitored(config: TrainConfig) -> str:
    """Return the metric that makes `best.ckpt`: of the averaged weights where there are any, since these are used."""
    metric = PHASES[config.phase].monitors
    if scores(config) and config.init_from.generator is not None:
        metric = f"{SCORE}/distance"  # comparable with the start's
    return metric.replace(f"{VAL}/", f"{VAL_EMA}/") if averages(config) else metric
