"""Batches as the Trainer gets them: order, augmentation, sizes, ranks, unreadable files, generated pairs."""

import logging
import multiprocessing
import os
import pickle
import signal
import time
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from colorize.color import rgb_to_grey
from colorize.config.sections import ResolutionConfig
from colorize.data import loading
from colorize.data.augment import Augmentation
from colorize.data.datamodule import ColorizationDataModule
from colorize.data.datasets import Batch, CenterSquareDataset, RawBatch, collate, to_floats
from colorize.data.generated import Generated
from colorize.data.images import save_png
from colorize.data.luma_lookup import LumaLookup
from colorize.data.resolution import ResolutionSchedule, fit_to_photos
from colorize.data.sources import Names, Photos
from colorize.data.tensors import to_pil
from colorize.runtime.errors import UserError
from tests.conftest import draw_photo
from tests.test_augment import EVERYTHING


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """22 pictures, 18 of them for training."""
    for index in range(22):
        draw_photo(index, 80, 64).save(tmp_path / f"Фото {index:02}.jpg", quality=90)
    names = sorted(path.name for path in tmp_path.iterdir())
    return Photos(tmp_path, names[:18], names[18:])


def make_datamodule(
    photos: Photos, epoch: int = 0, rank: int = 0, world_size: int = 1, **options: Any
) -> ColorizationDataModule:
    """A data module as a Trainer would have it."""
    datamodule = ColorizationDataModule(photos, **{"seed": 1, "val_size_px": 32, "val_batch_size": 3} | options)
    datamodule.schedule = ResolutionSchedule(ResolutionConfig([32, 48], [8, 4], [1, 1]))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    place = {"current_epoch": epoch, "global_rank": rank, "world_size": world_size}
    datamodule.trainer = SimpleNamespace(**place, training=True, strategy=strategy)  # type: ignore[assignment]
    return datamodule


def by_name(batch: RawBatch) -> dict[str, list[float]]:
    assert batch.grey_change is not None
    both = zip(batch.names, batch.rgb, batch.grey_change, strict=True)
    return {name: rgb.flatten().tolist() + change.flatten().tolist() for name, rgb, change in both}


def test_a_stage_counted_in_images_ends_and_begins_inside_an_order_of_the_photos(photos: Photos) -> None:
    """18 photos: 16 in batches of 4, then batches of 3: 2 photos left are too few, so on in the next order."""
    asked = ResolutionConfig([32, 48], [4, 3], images=[16, 30])
    resolution = fit_to_photos(asked, len(photos.train))
    datamodule, shown = make_datamodule(photos), []
    datamodule.schedule = ResolutionSchedule(resolution)
    for epoch in range(sum(resolution.epochs)):
        loader = datamodule.train_loader(epoch)
        shown.append([(batch.rgb.shape[-1], batch.names) for batch in loader])
        assert len(loader) == len(shown[-1])
    assert [(len(epoch), epoch[0][0]) for epoch in shown] == [(4, 32), (6, 48), (4, 48)]
    assert datamodule.schedule.epoch_images(18) == [16, 18, 12]
    for order, epochs_of in enumerate(shown):
        whole = [photos.train[index] for index in photos.order(18, 1, order)]
        found = [name for _, names in epochs_of for name in names]
        assert found == whole[: len(found)]


def test_batches_do_not_depend_on_workers_and_ranks_but_on_seed_and_epoch(photos: Photos) -> None:
    augmented = {"augmentation": Augmentation(**EVERYTHING)}
    alone = list(make_datamodule(photos, **augmented).train_dataloader())
    assert [batch.rgb.shape for batch in alone] == [(8, 3, 32, 32)] * 2 and alone[0].rgb.dtype == torch.uint8
    assert len({name for batch in alone for name in batch.names}) == 16
    with_workers = make_datamodule(photos, num_workers=2, **augmented).train_dataloader()
    for other, expected in zip(with_workers, alone, strict=True):
        assert other.names == expected.names and by_name(other) == by_name(expected)
    ranks = [
        list(make_datamodule(photos, rank=rank, world_size=3, **augmented).train_dataloader()) for rank in range(3)
    ]
    for number, expected in enumerate(alone):
        assert [len(rank[number].names) for rank in ranks] == [3, 3, 2]
        assert by_name(collate([rank[number] for rank in ranks])) == by_name(expected)
    shares = [list(make_datamodule(photos, rank=rank, world_size=3).val_dataloader()) for rank in range(3)]
    assert sorted(name for share in shares for batch in share for name in batch.names) == photos.val

    schedule = ResolutionSchedule(ResolutionConfig([32], [100], [2]))
    epochs = []
    for options in ({"epoch": 0}, {"epoch": 1}, {"seed": 2}):
        datamodule = make_datamodule(photos, **augmented, **options)
        datamodule.schedule = schedule
        (batch,) = datamodule.train_dataloader()  # more than there are: all of them
        assert sorted(batch.names) == photos.train
        epochs.append(batch)
    for one, other in pairwise(epochs):
        assert one.names != other.names
        assert all(by_name(one)[name] != by_name(other)[name] for name in photos.train)
    with pytest.raises(UserError, match=r"18 training images .* 19 devices"):
        make_datamodule(photos, world_size=19).train_dataloader()


in_a_fit = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec.*deprecated:FutureWarning",  # between Lightning and torch
)


class Recorder(L.LightningModule):
    """Notes what arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []
        self.val_names: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        assert isinstance(batch, Batch) and batch.fake is None and batch.rgb.dtype == torch.float32
        torch.testing.assert_close(batch.grey, rgb_to_grey(batch.rgb))
        self.seen.append((self.current_epoch, *batch.rgb.shape))
        return self.weight * batch.rgb.mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.rgb.shape == (len(batch.names), 3, 32, 32)
        self.val_names += batch.names

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(photos: Photos, batches: int | None = None, **options: Any) -> tuple[Recorder, ColorizationDataModule]:
    module, datamodule = Recorder(), make_datamodule(photos, **options)
    L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1, limit_train_batches=batches,
    ).fit(module, datamodule=datamodule)  # fmt: skip
    return module, datamodule


@in_a_fit
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fit_sees_the_sizes_of_the_schedule(photos: Photos, num_workers: int) -> None:
    module, _ = fit(photos, num_workers=num_workers)
    assert module.seen == [(0, 8, 3, 32, 32)] * 2 + [(1, 4, 3, 48, 48)] * 4
    assert module.val_names == photos.val * 2


@in_a_fit
def test_no_worker_outlives_a_fit_that_leaves_batches(photos: Photos) -> None:
    module, _ = fit(photos, num_workers=1, batches=1)
    assert len(module.seen) == 2
    assert not multiprocessing.active_children()  # or the process would wait for it at its end


def test_workers_end_with_the_process_though_their_loader_is_gone(photos: Photos) -> None:
    dataset = CenterSquareDataset(photos, photos.train, 32)
    running = iter(loading.make_loader(dataset, 1, batch_size=2, collate_fn=collate))
    assert next(running).names == photos.train[:2]
    loading._stop_all()  # as the interpreter does; it would wait for them for ever
    assert not multiprocessing.active_children()


def test_workers_outlast_a_sigterm_to_all_processes_but_not_the_one_that_they_work_for(photos: Photos) -> None:
    dataset = CenterSquareDataset(photos, photos.train, 32)
    loader = loading.make_loader(dataset, 1, batch_size=1, collate_fn=collate)
    running = iter(loader)
    next(running)
    (worker,) = multiprocessing.active_children()
    for pid in (forkserver._forkserver._forkserver_pid, worker.pid):
        os.kill(pid, signal.SIGTERM)
    assert len(list(running)) == len(photos.train) - 1
    loader.stop()

    context = multiprocessing.get_context("fork")
    reader, writer = os.pipe()  # at its end once both processes have ended

    def work() -> None:
        loading._begin_worker(0)
        os.write(writer, b"began")
        time.sleep(20)
        os.write(writer, b"outlives it")

    def train() -> None:
        context.Process(target=work).start()
        signal.pause()

    training = context.Process(target=train)
    training.start()
    os.close(writer)
    assert os.read(reader, 5) == b"began"
    training.kill()
    training.join()
    assert os.read(reader, 1) == b""
    os.close(reader)


@in_a_fit
def test_unreadable_files_are_replaced_named_once_and_counted(photos: Photos, caplog: pytest.LogCaptureFixture) -> None:
    for name in (*photos.train[:2], *photos.val[:3]):
        photos.path(name).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="colorize"):
        module, datamodule = fit(photos, max_unreadable=5)
    assert [shape[1] for shape in module.seen] == [8, 8, 4, 4, 4, 4] and module.val_names == photos.val[3:] * 2
    assert set(datamodule.unreadable) <= {*photos.train[:2], *photos.val[:3]}
    warned = [record.getMessage() for record in caplog.records if record.name == "colorize"]
    assert len(warned) == len(datamodule.unreadable)
    assert all(any(name in line for line in warned) for name in datamodule.unreadable)
    assert datamodule.fixed_val(4).names == photos.val[3:]
    with pytest.raises(UserError, match=r"3 images .*max_unreadable=2: .*" + photos.val[0]):
        fit(Photos(photos.root, photos.train[2:], photos.val), max_unreadable=2)
    for name in photos.train:
        photos.path(name).write_bytes(b"")
    with pytest.raises(UserError, match=r"no training image in .* can be read"):
        fit(photos)
    with pytest.raises(UserError, match=r"more than data\.max_unreadable=0"):
        fit(photos, max_unreadable=0)


def test_every_rank_has_the_luma_lookup_of_the_same_training_photos(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colorize.data.datamodule.LOOKUP_PHOTOS", 8)
    photos.path(photos.train[3]).write_bytes(b"")
    expected = LumaLookup()
    for batch in make_datamodule(photos).center_squares([*photos.train[:3:3], *photos.train[6::3]]):
        expected.update(batch.rgb)
    grey = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    for rank in range(2):
        datamodule = make_datamodule(photos, rank=rank, world_size=2, val_size_px=32, num_workers=rank)
        assert torch.allclose(datamodule.luma_lookup.predict(grey), expected.predict(grey), atol=1e-6)
    assert (expected.predict(grey) - grey).abs().max() > 0.01
    for name in photos.train:
        photos.path(name).write_bytes(b"")
    with pytest.raises(UserError, match="none of those for it can be read"):
        make_datamodule(photos).luma_lookup.predict(grey)


@pytest.mark.parametrize("val_size_px", [40, 32])
def test_a_photo_and_its_resaved_self_cannot_be_told_apart(photos: Photos, tmp_path: Path, val_size_px: int) -> None:
    folder = tmp_path / "generated"
    squares = CenterSquareDataset(photos, photos.train + photos.val, 40)
    for index in range(len(squares)):
        batch = to_floats(squares[index], "cpu")
        save_png(to_pil(batch.rgb[0]), folder / f"{batch.names[0]}.png")
    options = {"generated": Generated(folder, 40), "val_size_px": val_size_px}
    datamodule = make_datamodule(photos, **options, augmentation=Augmentation(**EVERYTHING))
    for loader, size_px in ((datamodule.train_dataloader(), 32), (datamodule.val_dataloader(), val_size_px)):
        for raw in loader:
            assert raw.rgb.shape == (len(raw.names), 3, size_px, size_px) and raw.names and not raw.unreadable
            assert raw.fake is not None and torch.equal(raw.rgb, raw.fake) and raw.grey_change is None
    fixed = datamodule.fixed_val(4)
    assert fixed.fake is not None and torch.equal(fixed.rgb, fixed.fake)

    draw_photo(0, 41, 40).save(folder / f"{photos.val[0]}.png")
    (folder / f"{photos.val[1]}.png").unlink()
    raw = collate(list(datamodule.val_dataloader()))
    assert raw.names == photos.val[2:]
    assert [name for name, _ in raw.unreadable] == [f"generated/{name}.png" for name in photos.val[:2]]


def test_names_are_a_sequence_of_any_names() -> None:
    words = ["", "a/b.jpg", "Фото/ü.png", "\udcff.jpg", "\ud800.jpg", "a/b.jpg"]
    for names in (Names(words), pickle.loads(pickle.dumps(Names(words)))):
        assert list(names) == words and names[2] == words[2] and names[-1] == words[-1]
        assert len(names) == 6 and "a/b.jpg" in names and "c" not in names
    with pytest.raises(IndexError):
        names[6]
    assert list(Names([])) == []
