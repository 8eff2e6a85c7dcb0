"""What each phase trains, and the figure that it is judged by."""

from colorize.config import TrainConfig
from colorize.training.alternation import Network

TRAINED: dict[str, tuple[Network, ...]] = {
    "pretrain_gen": ("generator",),
    "pretrain_critic": ("critic",),
    "gan": ("generator", "critic"),
}
"""The networks that each phase trains."""

VAL, VAL_EMA, SCORE = "val", "val_ema", "score"
"""What figures' names begin with: those of the last weights, of the averaged ones, and those on the fixed photos."""

MONITORED = {"pretrain_gen": f"{VAL}/content", "pretrain_critic": f"{VAL}/critic_loss", "gan": f"{SCORE}/distance"}
"""The figure that makes `best.ckpt`, lower being better."""


def averages(config: TrainConfig) -> bool:
    """Whether the fit averages its generator's weights."""
    averaged = (config.ema.half_life_images, config.ema.half_life_share) != (None, None)
    return averaged and "generator" in TRAINED[config.phase]


def scores(config: TrainConfig) -> bool:
    """Whether the fit scores its generator on the fixed photos after each epoch, and wherever it keeps a checkpoint."""
    return config.phase == "gan" or (config.save.every_n_images is not None and "generator" in TRAINED[config.phase])


def monitored(config: TrainConfig) -> str:
    """The figure that makes `best.ckpt`; where weights are averaged it is theirs, since others will take them."""
    figure = MONITORED[config.phase]
    return figure.replace(f"{VAL}/", f"{VAL_EMA}/") if averages(config) else figure
