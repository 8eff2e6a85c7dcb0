"""Alternating updates of a GAN: which network the next batch trains."""

from colorize.config.sections import SwitchConfig
from colorize.training.phases import PHASES, Network


class FixedRatio:
    """`critic_steps` batches for the critic, then `generator_steps` for the generator, and again (Goodfellow 2014)."""

    def __init__(self, critic_steps: int, generator_steps: int) -> None:
        if critic_steps < 0 or generator_steps < 0 or critic_steps + generator_steps == 0:
            raise ValueError(f"{critic_steps} critic and {generator_steps} generator steps in turn train nothing")
        self.critic_steps, self.round = critic_steps, critic_steps + generator_steps
        self.position = 0

    def next(self) -> Network:
        return "critic" if self.position < self.critic_steps else "generator"

    def stepped(self, network: Network, loss: float) -> None:
        self.position = (self.position + 1) % self.round

    def state(self) -> int:
        return self.position

    def restore(self, state: int) -> None:
        self.position = state % self.round


class AdaptiveRatio:
    """The critic until its batch loss is below `threshold`, or for `most` steps, then one generator step (fastai)."""

    def __init__(self, threshold: float, most: int) -> None:
        self.threshold, self.most = threshold, most
        self.in_a_row, self.won = 0, False

    def next(self) -> Network:
        return "generator" if self.won or self.in_a_row >= self.most else "critic"

    def stepped(self, network: Network, loss: float) -> None:
        self.in_a_row = self.in_a_row + 1 if network == "critic" else 0
        self.won = network == "critic" and loss < self.threshold

    def state(self) -> int:
        return -1 if self.won else self.in_a_row

    def restore(self, state: int) -> None:
        self.in_a_row, self.won = max(0, state), state == -1


UpdateSchedule = FixedRatio | AdaptiveRatio
"""Decides which network the `next` batch trains, learns of each step's loss (the mean over all ranks; a critic's at
chance is ln 2 = 0.693), and gives and takes back its state."""


def make_update_schedule(phase: str, switch: SwitchConfig) -> UpdateSchedule:
    """Return the update schedule of a phase; pretraining is a fixed ratio with one of the networks at zero."""
    if len(trained := PHASES[phase].trains) == 1:
        return FixedRatio(int("critic" in trained), int("generator" in trained))
    if switch.mode == "fixed":
        return FixedRatio(switch.critic_steps, switch.generator_steps)
    return AdaptiveRatio(switch.threshold, switch.max_critic_steps)
