"""The turns and the rates of a phase, from its configuration."""

from colorize.config import TrainConfig
from colorize.config.sections import NetworkOptimConfig, ResolutionConfig
from colorize.training.alternation import AdaptiveTurns, FixedTurns, Turns
from colorize.training.optim import RatePlan, constant, one_cycle


def make_turns(config: TrainConfig) -> Turns:
    """Whose turn it is in each phase."""
    if config.phase != "gan":
        return FixedTurns(*((0, 1) if config.phase == "pretrain_gen" else (1, 0)))
    if config.switch.mode == "fixed":
        return FixedTurns(config.switch.critic_steps, config.switch.generator_steps)
    return AdaptiveTurns(config.switch.threshold, config.switch.max_critic_steps)


def make_plan(optim: NetworkOptimConfig, groups: list[str], resolution: ResolutionConfig) -> RatePlan:
    """The rates of one network, from its configuration.

    Raises:
        ValueError: values that fit no network of these groups.
    """
    if len(optim.lr_multipliers) != len(groups):
        raise ValueError(f"lr_multipliers={optim.lr_multipliers}: one for each of {', '.join(groups)} is needed")
    frozen = [optim.freeze_low, optim.freeze_high]
    for interval in frozen:
        if interval is not None and len(interval) != 2:
            raise ValueError(f"freeze_low and freeze_high are two epochs, [first, end], not {interval}")
    if not covers(*frozen):
        raise ValueError(f"freeze_high={frozen[1]}: the high group can only be frozen with the low ({frozen[0]})")
    if len(optim.betas) != 2:
        raise ValueError(f"betas={optim.betas}: Adam has two")
    stages = zip(resolution.batch_size, resolution.epochs, strict=True)
    batches = [batch_size for batch_size, epochs in stages for _ in range(epochs)]
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[resolution.rate_scale]
    return RatePlan(
        lr=optim.lr * resolution.batch_scale,
        multipliers=dict(zip(groups, optim.lr_multipliers, strict=True)),
        schedule=one_cycle(optim.pct_start) if optim.schedule == "one_cycle" else constant(),
        frozen_epochs={group: interval for group, interval in zip(groups, frozen, strict=False) if interval},
        norms=optim.frozen_norms,
        epoch_factors=[(batch_size / batches[0]) ** power for batch_size in batches],
    )


def covers(low: list[int] | None, high: list[int] | None) -> bool:
    """Whether the interval `high` lies within `low` (end -1: without end)."""
    if high is None:
        return True
    return low is not None and low[0] <= high[0] and (low[1] == -1 or high[0] <= high[1] <= low[1])
