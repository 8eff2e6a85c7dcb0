"""Where to stop: the score, its curve, the checkpoints that are kept; and what regions are taken for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from colorize.color import merge_luma, rgb_to_grey
from colorize.config.sections import SaveConfig
from colorize.data.datasets import CenterSquareDataset, collate, to_floats
from colorize.data.images import center_box
from colorize.data.luma_lookup import LumaLookup
from colorize.data.sources import Photos, Split, list_scenes
from colorize.data.tensors import to_uint8
from colorize.evaluation.regions import COUNTED, accuracies, taken_for
from colorize.metrics import beats_start, distance, rank
from colorize.runs import kept_in
from colorize.training.callbacks import scoring
from colorize.training.callbacks.checkpointing import Checkpoints, WholeFiles
from colorize.training.callbacks.monitor import Monitor
from colorize.weights.checkpoints import CheckpointMetadata, read_checkpoint, write_metadata

CPU = torch.device("cpu")


def test_the_truth_is_at_0_and_grey_at_1_and_wrong_colours_are_farther(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = list_scenes(12, Split(0.5, seed=0))
    rgb = torch.stack([to_uint8(scenes.square(name, 32, center_box)) for name in scenes.train])
    truth = rgb.float() / 255
    lookup = LumaLookup()
    lookup.update(torch.stack([to_uint8(scenes.square(name, 32, center_box)) for name in scenes.val]).float() / 255)
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    of_grey = scoring.score_photos(lambda grey: grey.expand(-1, 3, -1, -1), rgb, CPU, lookup)
    found, skill = {}, {}
    for name, coloured in {
        "truth": truth,
        "pale": (truth + truth.mean(dim=1, keepdim=True)) / 2,
        "strange": truth.roll(1, dims=1),
        "look-up": lookup.predict(rgb_to_grey(truth)),
    }.items():
        images = iter(coloured.split(4))
        score = scoring.score_photos(lambda _, images=images: next(images), rgb, CPU, lookup)
        found[name], skill[name] = distance(score, of_grey), score["skill"]
    assert distance(of_grey, of_grey) == pytest.approx(1)
    assert skill["truth"] == pytest.approx(1) and skill["pale"] > 0.7 > 0.4 > skill["strange"]
    assert abs(skill["look-up"]) < 0.01
    assert found["truth"] == pytest.approx(0, abs=1e-4)
    assert 0.2 < found["pale"] < 0.8 < found["strange"]


def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, files = tmp_path / "checkpoints" / "last.ckpt", WholeFiles()
    files.save_checkpoint({"epoch": 1}, path)
    save = torch.save

    def interrupted(content: Any, file: Any) -> None:
        save(content, file)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    for name in ("last.ckpt", "images-8.ckpt"):
        with pytest.raises(KeyboardInterrupt):
            files.save_checkpoint({"epoch": 2}, path.with_name(name))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path) == {"epoch": 1}


CARD = {"phase": "gan", "epochs_done": 0, "epochs": 1, "size_px": 32, "generator": None, "critic": None, "turns": 0}


def score(far: float, skill: float | None) -> dict[str, float]:
    figures = {"ciede2000": 10 * far, "delta_cf": 30 * far, "distance": far}
    return figures if skill is None else figures | {"skill": skill}


class Fit:
    """A fit without networks: steps of 10 images, of known distance to the truth; each 5th ends an epoch."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.callback = Checkpoints(folder / "checkpoints", "score/distance", SaveConfig(**options))
        self.module = SimpleNamespace(images_seen=0, curve=[], phase_images=100)
        self.module.passed = lambda n: n is not None and self.images % n == 0
        self.trainer = SimpleNamespace(
            is_global_zero=True,
            save_checkpoint=self.save,
            callback_metrics={},
            loggers=[],
            current_epoch=0,
            max_epochs=9,
        )

    @property
    def images(self) -> int:
        return self.module.images_seen

    def save(self, path: Path, weights_only: bool) -> None:
        card = CheckpointMetadata(images_seen=self.images, curve=self.module.curve, **CARD)
        content = {"state_dict": {}}
        write_metadata(content, card)
        WholeFiles().save_checkpoint(content, path)

    def start(self, far: float, skill: float) -> None:
        self.module.curve.append({"images_seen": 0, **score(far, skill)})

    def step(self, far: float, skill: float | None = None) -> None:
        self.module.images_seen += 10
        self.trainer.is_last_batch = self.images % 50 == 0
        if self.images % 20 == 0 or self.trainer.is_last_batch:
            self.module.curve.append({"images_seen": self.images, **score(far, skill)})
        self.callback.on_train_batch_end(self.trainer, self.module, None, None, 0)
        if self.trainer.is_last_batch:
            self.callback.on_train_epoch_end(self.trainer, self.module)


def test_a_best_of_other_validation_photos_is_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Fit(tmp_path, every_n_images=None, keep=None)
    first.trainer.datamodule = SimpleNamespace(photos=Photos(tmp_path, [], ["a.jpg", "b.jpg"]))
    first.callback.on_fit_start(first.trainer, first.module)  # type: ignore[arg-type]
    first.callback.best = 0.4
    for val, best in ((["a.jpg", "b.jpg"], 0.4), (["c.jpg"], None)):
        again = Fit(tmp_path, every_n_images=None, keep=None)
        again.callback.load_state_dict(first.callback.state_dict())
        again.trainer.datamodule = SimpleNamespace(photos=Photos(tmp_path, [], val))
        again.callback.on_fit_start(again.trainer, again.module)  # type: ignore[arg-type]
        assert again.callback.best == best
    assert caplog.text.count("best.ckpt is of other validation photos") == 1


def test_kept_checkpoints_are_the_newest_and_the_best_is_the_nearest(tmp_path: Path) -> None:
    fit = Fit(tmp_path, every_n_images=20, keep=2)
    fit.callback.folder.mkdir()
    (fit.callback.folder / ".last.ckpt.part").write_bytes(b"half")
    (fit.callback.folder / "images-900.ckpt").write_bytes(b"of an earlier start that came further")
    fit.callback.on_fit_start(fit.trainer, fit.module)  # type: ignore[arg-type]
    for far in (0.9, 0.9, 0.7, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 0.5):
        fit.step(far)
    names = {path.name for path in fit.callback.folder.iterdir()}
    # 100 is the last batch of an epoch: not kept, but last and, being the nearest, best.
    kept = {f"images-{count}.ckpt" for count in (60, 80, 900)}
    assert names == kept | {"last.ckpt", "last.ckpt.before", "best.ckpt"}
    last, before, best = (fit.callback.folder / name for name in ("last.ckpt", "last.ckpt.before", "best.ckpt"))
    assert last.samefile(best), "one state is written once"
    assert before.samefile(fit.callback.folder / "images-80.ckpt")
    assert set(kept_in(fit.callback.folder)) == {60, 80, 900}
    (fit.callback.folder / "images-900.ckpt").unlink()
    assert fit.callback.best == 0.5
    assert read_checkpoint(fit.callback.folder / "best.ckpt")[0].images_seen == 100
    assert read_checkpoint(fit.callback.folder / "images-60.ckpt")[0].score["distance"] == 0.9

    curve = read_checkpoint(last)[0].curve
    assert [(point["images_seen"], point["distance"]) for point in curve] == [
        (20, 0.9), (40, 0.6), (50, 0.8), (60, 0.9), (80, 0.9), (100, 0.5)
    ]  # fmt: skip


def test_a_point_whose_skill_has_fallen_counts_only_where_none_else_is_there(tmp_path: Path) -> None:
    fit = Fit(tmp_path, every_n_images=20, keep=1)
    best = fit.callback.folder / "best.ckpt"
    monitor = Monitor(None, tmp_path / "metrics.csv", 1, "score/distance")  # type: ignore[arg-type]

    def shown() -> dict[str, float]:
        return monitor.best_metrics(fit.module.curve)

    fit.start(0.8, skill=0.2)
    for far, skill in ((0.9, 0.9), (0.6, 0.1)):
        fit.step(far, skill)
    assert read_checkpoint(best)[0].images_seen == 20 and fit.callback.fallen, "one there has to be"
    assert beats_start(fit.module.curve) is False

    for far, skill in ((0.9, 0.9), (0.7, 0.2)):
        fit.step(far, skill)
    assert read_checkpoint(best)[0].images_seen == 40 and not fit.callback.fallen, "farther, and as skilled"
    resumed = Fit(tmp_path, every_n_images=20, keep=1)
    resumed.callback.load_state_dict(fit.callback.state_dict())
    resumed.module.images_seen, resumed.module.curve = fit.images, fit.module.curve
    resumed.step(0.5, 0.19)
    resumed.step(0.3, 0.1)
    assert read_checkpoint(best)[0].images_seen == 40 and beats_start(resumed.module.curve) is True
    assert shown() == {"Best/distance": 0.7, "Best/ciede2000": 7, "Best/delta_cf": 21, "Best/skill": 0.2}
    old = [point if point["images_seen"] else score(0.8, None) for point in resumed.module.curve]
    assert min(old, key=lambda point: rank(point, old[0]))["distance"] == 0.3, "of before skill: all count"


def test_best_stays_where_it_was_lowest_inside_an_epoch_and_after_a_stop(tmp_path: Path) -> None:
    fit = Fit(tmp_path, every_n_images=20, keep=None)
    for far in (0.9, 0.4, 0.9, 0.9, 0.9):
        fit.step(far)
    resumed = Fit(tmp_path, every_n_images=20, keep=None)
    resumed.callback.load_state_dict(fit.callback.state_dict())
    resumed.module.images_seen, resumed.module.curve = 50, fit.module.curve
    resumed.step(0.9), resumed.step(0.6)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")[0].images_seen == 20


def test_regions_are_right_in_the_truth_and_colourless_in_grey() -> None:
    scenes = list_scenes(40, Split(0.4, seed=0))
    squares = CenterSquareDataset(scenes, scenes.val, 64)
    batch = to_floats(collate([squares[index] for index in range(len(squares))]), "cpu")
    assert batch.regions is not None and batch.regions.shape == (len(batch.names), 64, 64)
    drawn = torch.stack([to_uint8(scenes.square(name, 64, center_box)) for name in scenes.val])
    assert torch.equal(batch.rgb, drawn.float() / 255)
    green = merge_luma(torch.tensor([0.4, 0.6, 0.2]).view(1, 3, 1, 1).expand_as(batch.rgb), batch.grey)
    right, none, meadow = (
        accuracies(taken_for(seen, batch.rgb, batch.regions).sum(dim=0))
        for seen in (batch.rgb, batch.grey.expand(-1, 3, -1, -1), green)
    )
    assert {"sea", "grass", "sky"} <= set(right) <= {*COUNTED, "mean", "colourless"}
    assert right["mean"] > 0.95 and right["sea"] > 0.95
    assert none["mean"] < 0.01 and none["colourless"] > 0.99
    assert meadow["sea"] == 0 and meadow["grass"] > 0.9
    table = torch.zeros(len(COUNTED), len(COUNTED) + 2, dtype=torch.int64)
    assert accuracies(torch.zeros_like(table)) == {}
