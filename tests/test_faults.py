"""What may go wrong on a machine, injected: each fault, its message, and the state that it leaves (docs/FAULTS.md)."""

import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.memory_limits import MEGABYTES, predict
from colorize import generate, train
from colorize.cli.command import run_command
from colorize.data.from_config import list_photos
from colorize.data.generated import image_path, read_manifest, with_saved_images
from colorize.data.images import load_rgb
from colorize.data.sources import Split, list_folder
from colorize.runs import PhaseFolder
from colorize.runtime.errors import OutOfMemory, UserError, one_line
from colorize.runtime.files import locked, write_text
from colorize.training.callbacks.checkpointing import WholeFiles
from colorize.training.module import ColorizationModule
from colorize.weights.checkpoints import read_checkpoint
from colorize.weights.load import load_weights
from tests.conftest import TINY, draw_photo
from tests.test_evaluation import save_checkpoint
from tests.tiny_checkpoint import write_checkpoint

Configure = Callable[..., Any]

FIT = (
    *("phase=pretrain_gen", "resolution.size_px=[32]", "resolution.batch_size=[8]", "resolution.epochs=[2]"),
    *("data.val_fraction=0.25", "grid_photos=1", "save.score_photos=2", "optim.generator.freeze_high=null"),
)


def typed(photos: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and last line of `python -m colorize.train` with these words, in this process."""
    try:
        run_command("train", train.run, [*TINY, *FIT, f"data.root={photos}", "data.train_fraction=1", *words])
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err.splitlines()[-1]
    return 0, ""


# --- disks ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_checkpoints_before_and_training_resumes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, save = PhaseFolder("runs", "default", "pretrain_gen"), torch.save

    def full(content: Any, file: Any) -> None:
        if content["epoch"] == 1:
            file.write(b"PK" * 1000)
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:  # as torch does, whose archive cannot be ended then
                raise RuntimeError("unexpected pos 704 vs 598")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    status, line = typed(photos, capsys)
    assert status == 1 and line.startswith("colorize.train: No space left on device: runs/default/pretrain_gen/check")
    assert line.endswith("make room, and the same command resumes (training with resume=auto)")
    assert read_checkpoint(folder.last)[0].epochs_done == 1
    assert not list(folder.checkpoints.glob(".*"))
    monkeypatch.setattr(torch, "save", save)
    assert typed(photos, capsys, "resume=auto")[0] == 0
    metadata, _ = read_checkpoint(folder.last)
    assert metadata.epochs_done == metadata.epochs


def test_a_folder_that_turns_read_only_is_named_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, opened = tmp_path / "last.ckpt", Path.open
    last.write_bytes(b"kept")

    def read_only(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return opened(self, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", read_only)
        for write in (lambda: WholeFiles().save_checkpoint({}, last), lambda: write_text(last, "new")):
            with pytest.raises(OSError) as caught:
                write()
            line = one_line(caught.value)
            assert line.startswith(f"Read-only file system: {last}; once it can be written to, the same command")
    assert last.read_bytes() == b"kept" and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "runs"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(UserError, match=r"runs cannot be written .*Permission denied.*: choose another runs_dir=DIR"):
        locked(tmp_path / "runs").__enter__()


def test_a_full_disk_while_images_are_saved_leaves_whole_ones_and_an_unfinished_folder(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (f"checkpoint='{save_checkpoint(tmp_path / 'a.ckpt')}'", "data.train_fraction=1", "size_px=32")
    config = configure("generate", *given, "batch_size=4")
    folder, save, saved = generate.output_folder(config), Image.Image.save, []

    def full(self: Image.Image, file: Any, **options: Any) -> None:
        if len(saved) == 5:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(file)
        save(self, file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match=r"No space left on device: .*generated/.*\.jpg\.png"):
            generate.run(config)
    assert len(list(folder.rglob("*.png"))) == 5 and not list(folder.rglob("*.tmp"))
    photos = list_folder(config.data.root, Split(0.25, seed=0))
    with pytest.raises(UserError, match="is unfinished: run `python -m colorize"):
        with_saved_images(photos, folder)
    generate.run(config)
    manifest = read_manifest(folder)
    assert manifest.complete and len(manifest.images) == 24
    assert all(load_rgb(image_path(folder, identity)).size == (32, 32) for identity in manifest.images)


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_ends_training_with_a_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    step = ColorizationModule.training_step

    def kill_workers(self: ColorizationModule, batch: Any, batch_idx: int) -> Any:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ColorizationModule, "training_step", kill_workers)
    status, line = typed(photos, capsys, "data.num_workers=1", "resolution.batch_size=[2]", "resolution.epochs=[1]")
    assert status == 1 and line.startswith("colorize.train: a process that reads photos ended (")
    assert line.endswith("lower data.num_workers, and the same command resumes (training with resume=auto)")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with locked(tmp_path):
            os.write(writer, b"held")
            signal.pause()
    os.read(reader, 4)
    with pytest.raises(UserError, match="is in use by another process"), locked(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass


# --- photos -----------------------------------------------------------------------------------------------------------


def test_photos_that_vanish_or_break_in_the_middle_are_replaced_and_named_once(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(
        "train", *FIT, "data.train_fraction=1", f"data.root='{tmp_path}/photos'", "data.max_unreadable=3"
    )
    root, step, seen = tmp_path / "photos", ColorizationModule.training_step, []
    root.mkdir()
    for index in range(24):
        draw_photo(index).save(root / f"{index:02}.jpg")
    photos = list_photos(config.data, config.seed, config.runs_dir)
    vanishing, breaking, val = photos.path(photos.train[3]), photos.path(photos.train[9]), photos.path(photos.val[0])

    def damage(self: ColorizationModule, batch: Any, batch_idx: int) -> Any:
        if self.trainer.current_epoch == 1 and batch_idx == 0:
            vanishing.unlink(missing_ok=True)
            breaking.write_bytes(breaking.read_bytes()[:-300])
            val.write_bytes(b"")
        seen.append(batch.names)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ColorizationModule, "training_step", damage)
    monkeypatch.setattr(config.resolution, "epochs", [3])
    train.run(config)
    assert [len(names) for names in seen] == [8] * 6
    assert {names for batch in seen[4:] for names in batch}.isdisjoint({vanishing.name, breaking.name})
    for path, reason in (
        (vanishing, "No such file"),
        (breaking, "image file is truncated"),
        (val, "the file is empty"),
    ):
        assert caplog.text.count(f"skipped an unreadable image: {path.name} ({reason}") == 1


@pytest.mark.parametrize("phase", [pytest.param("pretrain_gen", marks=pytest.mark.slow), "gan"])
def test_one_validation_photo_a_batch_larger_than_the_data_and_photos_under_32_px(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr("colorize.training.first_weights.init_from", lambda *_: False)
    monkeypatch.setattr("colorize.train.starting_weights", lambda *_: None)
    root = tmp_path / "few"
    root.mkdir()
    for index, size in enumerate(((20, 12), (5, 31), (31, 31), (1, 1))):
        draw_photo(index).resize(size).save(root / f"{index}.png")
    words = [*FIT, f"phase={phase}", f"data.root='{root}'", "data.train_fraction=1", "data.val_fraction=0"]
    config = configure("train", *words, "resolution.epochs=[1]", "save.score_photos=9")
    train.run(config)
    card, state = read_checkpoint(PhaseFolder(config.runs_dir, config.run, phase).last)
    assert (card.images_seen, card.epochs_done) == (3, card.epochs)
    assert all(value.isfinite().all() for value in state.values())


# --- weights that are not damaged -------------------------------------------------------------------------------------


def test_weights_that_change_while_they_are_read_are_told_from_damaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load = write_checkpoint(tmp_path / "a.ckpt"), torch.load

    def load_while(change: Callable[[], object]) -> None:
        def loaded(*arguments: Any, **options: Any) -> Any:
            content = load(*arguments, **options)
            change()
            return content

        monkeypatch.setattr(torch, "load", loaded)
        load_weights(path)

    def rename() -> None:
        shutil.copyfile(path, tmp_path / "new")
        os.replace(tmp_path / "new", path)

    load_while(rename)
    with pytest.raises(UserError, match=r"a\.ckpt changed while it was read"):
        load_while(lambda: path.write_bytes(path.read_bytes() + b"!"))


@pytest.mark.parametrize("place", ["torch.load", "colorize.weights.checkpoints.make_generator"])
def test_a_lack_of_memory_is_not_taken_for_a_damaged_checkpoint(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap 9 bytes from file <a.ckpt>: Cannot allocate memory (12)")

    path = write_checkpoint(tmp_path / "a.ckpt")
    monkeypatch.setattr(place, fail)
    with pytest.raises(OutOfMemory, match=r"not enough memory for reading .*a\.ckpt"):
        load_weights(path)


@pytest.mark.slow
def test_less_and_less_memory_never_ends_in_a_traceback_or_without_colours(tmp_path: Path) -> None:
    for index in range(4):
        draw_photo(index, 400, 300).save(tmp_path / f"{index}.jpg")
    words = [f"input={tmp_path}", "batch_size=4", "render_px=1200", "device=cpu"]
    ends = [predict(words, megabytes) for megabytes in MEGABYTES]
    assert not [end for end in ends if end.traceback or (end.status == 0) != (end.results == 4)]
    assert any(end.smaller for end in ends)
