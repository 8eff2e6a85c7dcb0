"""Files that version 0.1.0 wrote, whose modules had other names: its runs, checkpoints and exports go on working."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colorize import train
from colorize.inference.colorizer import Colorizer
from colorize.training.hyper_parameters import differences, settings

WRITTEN = Path(__file__).parent / "data" / "written_by_0.1.0.tar.xz"
"""A run stopped after the first of its two epochs, and an export of it; their weights are a pattern, to be small."""


def test_a_run_and_an_export_of_before_are_read_and_resumed(
    tmp_path: Path, photos: Path, configure: Callable[..., Any]
) -> None:
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    checkpoint = tmp_path / "runs/old/pretrain_gen/checkpoints/last.ckpt"
    exported, trained = (Colorizer.from_checkpoint(path) for path in (tmp_path / "runs/old.safetensors", checkpoint))
    assert exported.preprocessing == trained.preprocessing
    config = configure(
        "train",
        "phase=pretrain_gen",
        "recipe=demo",
        "model=tiny",
        "model.width_factor=0.25",
        "ema.half_life_share=0.25",
        "resolution.size_px=[32,48]",
        "resolution.batch_size=[8,4]",
        "resolution.epochs=[1,1]",
        f"data.root={photos}",
        f"runs_dir={tmp_path / 'runs'}",
        "run=old",
        "resume=true",
    )
    train.run(config)
    rows = (tmp_path / "runs/old/pretrain_gen/metrics.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["epoch", "1", "2"]


def test_where_the_photos_lay_is_found_under_the_key_of_before(photos: Path, configure: Callable[..., Any]) -> None:
    config = configure("train", "phase=pretrain_gen", f"data.root='{photos}'")
    earlier = settings(config)
    earlier["data.root, data.file_list"] = earlier.pop("data.root")
    assert differences(earlier, config) == []
    config.data.root = "elsewhere"
    assert differences(earlier, config) == ["data.root"]
