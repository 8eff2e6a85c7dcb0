"""Update schedules of critic and generator."""

import pytest

from colorize.training.alternation import AdaptiveRatio, FixedRatio, UpdateSchedule


def play(schedule: UpdateSchedule, critic_losses: list[float], steps: int) -> str:
    """Which network each of `steps` batches trains ("c" or "g"), given the losses of the critic's steps in turn."""
    losses, order = iter(critic_losses), ""
    for _ in range(steps):
        network = schedule.next()
        schedule.stepped(network, next(losses) if network == "critic" else 0.0)
        order += network[0]
    return order


def test_a_fixed_ratio() -> None:
    assert play(FixedRatio(2, 3), [1.0] * 10, 10) == "ccgggccggg"
    assert play(FixedRatio(0, 1), [], 4) == "gggg"
    assert play(FixedRatio(1, 0), [1.0] * 4, 4) == "cccc"
    with pytest.raises(ValueError, match="train nothing"):
        FixedRatio(0, 0)


def test_an_adaptive_ratio_waits_for_the_critic_but_not_for_ever() -> None:
    assert play(AdaptiveRatio(0.65, 5), [0.7, 0.6, 0.6, 0.7, 0.7, 0.1], 9) == "ccgcgcccg"
    assert play(AdaptiveRatio(0.65, 3), [0.7] * 6, 8) == "cccgcccg"


@pytest.mark.parametrize("make", [lambda: FixedRatio(2, 3), lambda: AdaptiveRatio(0.65, 3)])
def test_a_restored_schedule_resumes_as_if_never_stopped(make) -> None:
    losses = [0.7, 0.6, 0.7, 0.7, 0.7, 0.6, 0.1, 0.7, 0.7, 0.7]
    whole = play(make(), losses, 9)
    for stop in range(9):
        first, second = make(), make()
        begun = play(first, losses, stop)
        second.restore(first.state())
        assert begun + play(second, losses[begun.count("c") :], 9 - stop) == whole
