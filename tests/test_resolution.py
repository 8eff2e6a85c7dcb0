"""Progressive resizing as a pure function of the epoch."""

import pytest

from colorize.callbacks.resolution import ResolutionSchedule, Stage


def test_stages_follow_the_table_and_the_last_goes_on() -> None:
    schedule = ResolutionSchedule([64, 128, 220], [256, 64, 24], [2, 1, 1])
    assert schedule.epochs == 4
    sizes = [schedule.at(epoch) for epoch in range(6)]
    assert sizes == [Stage(64, 256), Stage(64, 256), Stage(128, 64), Stage(220, 24), Stage(220, 24), Stage(220, 24)]


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (([64], [8, 4], [1]), "one length"),
        (([], [], []), "one length"),
        (([16], [8], [1]), "size_px=.16."),
        (([64], [0], [1]), "batch_size=.0."),
        (([64], [8], [0]), "epochs=.0."),
    ],
)
def test_tables_that_cannot_be_are_named(table, named) -> None:
    with pytest.raises(ValueError, match=named):
        ResolutionSchedule(*table)
