"""The examples of docs/EXTENDING.md run, and a training takes them as they are."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from colorize import metrics, run_training
from colorize.networks import encoder_registry
from colorize.runtime.errors import UserError
from colorize.training import build, first_weights

PAGE = Path(__file__).parents[1] / "docs/EXTENDING.md"
TINY = (
    "phase=pretrain_gen", "recipe=demo", "run=mine", "data.scenes=24", "data.max_val=4", "resolution.size_px=[32]",
    "resolution.batch_size=[4]", "resolution.epochs=[1]", "trainer.limit_train_batches=2",
    "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "data.num_workers=0",
)  # fmt: skip


def example(title: str) -> dict[str, Any]:
    """The names that the Python of a section defines."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (code,) = re.findall(r"```python\n(.*?)```", next(s for s in section if s.startswith(title)), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)
    return names


def test_a_loss_a_metric_and_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_weights, "ContentLoss", example("A loss")["StructuralLoss"])
    try:
        example("A metric")
        run_training(*TINY, "trainer.logger=CSVLogger")
    finally:
        for table in (metrics.LOGGED, metrics.VALIDATED):
            table.pop("close_chroma", None)
    (table,) = Path("runs/mine/pretrain_gen").glob("lightning_logs/version_0/metrics.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for name in ("generator/pixel", "generator/structure", "val/structure", "val/close_chroma"):
        assert [float(row[name]) for row in rows if row[name]], name


@pytest.mark.parametrize("name", ["NoLogger", "no.such.Logger"])
def test_an_unknown_logger_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"^trainer\.logger={name}: .*{name}[^\n]*$"):
        build.further_loggers(name, tmp_path)


def test_an_encoder() -> None:
    pytest.importorskip("timm")
    try:
        generator = example("An encoder")["generator"]
        generator.freeze(["encoder_low"])
        colours = generator(torch.rand(2, 1, 64, 96))
        assert colours.shape == (2, 3, 64, 96)
        colours.sum().backward()
        learned = {
            name: any(p.grad is not None for module in group for p in module.parameters())
            for name, group in generator.layer_groups().items()
        }
        assert learned == {"encoder_low": False, "encoder_high": True, "decoder": True}
    finally:
        encoder_registry.ENCODERS.pop("regnety_002", None)
