"""Whether two runs of a phase came out the same, to the bit, but for times."""

import csv
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from colorize.runs import PhaseFolder


def unequal(one: Any, other: Any, where: str = "") -> list[str]:
    """The places in which two nested states differ, but for times."""
    if where.endswith("images_per_s"):
        return []
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [place for key in one for place in unequal(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for index, pair in pairs for place in unequal(*pair, f"{where}.{index}")]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    return [] if one == other or (one != one and other != other) else [where]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, but for times."""
    read = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
        if not tag.startswith("speed/")
    }


def rows(folder: PhaseFolder) -> list[dict[str, str]]:
    with folder.metrics.open() as file:
        return [{k: v for k, v in row.items() if k != "images_per_s"} for row in csv.DictReader(file)]


def assert_same(whole: PhaseFolder, broken: PhaseFolder) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        states = [torch.load(folder.checkpoints / name, weights_only=True) for folder in (whole, broken)]
        for state in states:
            state["colorize"].pop("sources")  # files that hold times as well
        assert unequal(*states) == [], name
    assert rows(whole) == rows(broken) != []
    assert curves(whole.path) == curves(broken.path)
