"""Progressive resizing as a pure function of the epoch."""

from collections.abc import Callable
from typing import Any

import pytest

from colorize.config.sections import ResolutionConfig
from colorize.data.resolution import ResolutionSchedule, Stage, fit_to_photos, segments_of
from colorize.training import build


def test_stages_follow_the_table_and_the_last_goes_on() -> None:
    schedule = ResolutionSchedule(ResolutionConfig([64, 128, 220], [256, 64, 24], [2, 1, 1]))
    assert schedule.epochs == 4
    sizes = [schedule.at(epoch) for epoch in range(6)]
    assert sizes == [Stage(64, 256), Stage(64, 256), Stage(128, 64), Stage(220, 24), Stage(220, 24), Stage(220, 24)]


def test_stages_without_an_epoch_are_neither_trained_nor_validated_at(configure: Callable[..., Any]) -> None:
    table = ("resolution.size_px=[32,48,64]", "resolution.batch_size=[8,4,2]", "resolution.epochs=[0,2,0]")
    config = configure("train", "phase=pretrain_gen", *table)
    schedule = build.make_schedule(config)
    assert [schedule.at(epoch) for epoch in range(3)] == [Stage(48, 4)] * 3
    assert build.make_datamodule(config).val_size_px == config.resolution.last_size_px == 48
    config.data.val_size_px = 40
    assert build.make_datamodule(config).val_size_px == 40


def test_stages_that_fit_few_photos_have_small_batches_and_as_many_epochs_as_the_steps_need() -> None:
    asked = ResolutionConfig([64, 128], [256, 8], [1, 1], steps=[10, 0], batch_share=0.25)
    fitted = fit_to_photos(asked, 40)
    schedule = ResolutionSchedule(fitted)
    assert (fitted.batch_size, fitted.epochs, schedule.steps(40)) == ([10, 8], [3, 0], 12)
    assert fit_to_photos(fitted, 40) == fitted
    assert fit_to_photos(asked, 6, limit=1).batch_size == [4, 4]
    assert fit_to_photos(ResolutionConfig(), 40) == ResolutionConfig(), "only where it is asked for"
    with pytest.raises(ValueError, match="a number for each stage"):
        fit_to_photos(ResolutionConfig(steps=[1]), 40)


def test_stages_counted_in_images_span_orders_of_the_photos_and_share_them() -> None:
    asked = ResolutionConfig([64, 128, 192], [8, 4, 2], [9, 9, 9], images=[45, 0, 11])
    fitted = fit_to_photos(asked, 20)
    schedule = ResolutionSchedule(fitted)
    assert fit_to_photos(fitted, 20) == fitted
    assert fitted.epochs == [3, 0, 2] and schedule.at(3).size_px == 192
    # 45 images are 6 batches of 8, two of them in each order; 11 are 6 batches (5.5 rounds to even) of 2.
    assert [tuple(part) for part in schedule.segments(20)] == [
        (0, 0, 0, 2), (0, 1, 0, 2), (0, 2, 0, 2), (2, 2, 16, 2), (2, 3, 0, 4)
    ]  # fmt: skip
    assert schedule.epoch_images(20) == [16, 16, 16, 4, 8] and schedule.steps(20) == 12
    limited = segments_of([40], [4], 20, limit=3)
    assert [tuple(part) for part in limited] == [(0, 0, 0, 3), (0, 0, 12, 2), (0, 1, 0, 3), (0, 1, 12, 2)]
    with pytest.raises(ValueError, match="set one of them to null"):
        fit_to_photos(ResolutionConfig([64], [8], [1], steps=[1], images=[8]), 20)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (([64], [8, 4], [1]), "one length"),
        (([], [], []), "one length"),
        (([64], [8], [0]), "epochs=.0."),
    ],
)
def test_tables_that_cannot_be_are_named(table, named) -> None:
    with pytest.raises(ValueError, match=named):
        ResolutionSchedule(ResolutionConfig(*table))
