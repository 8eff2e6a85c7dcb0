"""A stopped run goes on as if nothing had happened: to the bit, with what is left of it, or it says why not."""

import copy
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import dropout

from colorize import generate, train
from colorize.cli.command import how_to_resume, run_command
from colorize.config import TrainConfig
from colorize.config.sections import DataConfig, ModelConfig
from colorize.data.generated import SavedFiles, image_path
from colorize.runs import PhaseFolder, before
from colorize.runtime import signals
from colorize.runtime.errors import UserError
from colorize.runtime.files import locked
from colorize.training import build, hyper_parameters, resuming
from colorize.training.callbacks.checkpointing import WholeFiles, random_states, restore_random_states
from colorize.training.module import ColorizationModule
from colorize.training.resuming import compare, newest_whole
from colorize.weights.checkpoints import CheckpointMetadata, read_checkpoint, write_metadata
from colorize.weights.checksum import fingerprint
from colorize.weights.safe_reading import read_file
from tests.sameness import assert_same, curves, rows

Configure = Callable[..., Any]

SHORT = (
    *("resolution.size_px=[48,32]", "resolution.epochs=[1,1]", "data.val_size_px=32", "data.max_val=2"),
    *("data.train_fraction=1", "data.noise=0.05", "trainer.log_every_n_steps=1"),
    *("grid_photos=1", "save.score_photos=2", "optim.generator.lr=1e-4", "optim.critic.lr=1e-4"),
    *("data.val_fraction=0.1", "switch.max_critic_steps=2", "switch.threshold=0.69"),
    "optim.generator.frozen_norms=fixed",
)
"""20 photos an epoch."""


class Crash(Exception):
    """Ends a fit where it stands."""


@contextmanager
def breaking(steps: list[int], crash: int = 0, terminate: int = 0, validating: int = 0) -> Iterator[None]:
    """Fits with dropout, each of whose steps is noted by the images seen before it, and that end as asked for.

    Args:
        steps: gets them.
        crash: a step that ends in an exception when it begins.
        terminate: one in which SIGTERM comes.
        validating: a validation that ends in an exception, by the images seen.
    """
    training_step, make_networks = ColorizationModule.training_step, build.make_networks

    def step(self: ColorizationModule, batch: Any, batch_idx: int) -> Any:
        if crash and self.images_seen == crash:
            raise Crash
        if terminate and self.images_seen == terminate:
            os.kill(os.getpid(), signal.SIGTERM)
        steps.append(self.images_seen)
        return training_step(self, batch, batch_idx)

    def validate(self: ColorizationModule) -> None:
        if validating and self.images_seen == validating:
            raise Crash

    def networks(*arguments: Any) -> Any:
        made = make_networks(*arguments)
        for network, inside in zip(made[:2], ("encoder", "body"), strict=True):
            if network is not None:
                layer = getattr(network, inside).layer1
                layer.register_forward_hook(lambda module, _, seen: dropout(seen, 0.1, module.training))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorizationModule, "training_step", step)
        patch.setattr(ColorizationModule, "on_validation_start", validate, raising=False)
        patch.setattr(build, "make_networks", networks)
        yield


def folder_of(config: Any) -> PhaseFolder:
    return PhaseFolder(config.runs_dir, config.run, config.phase)


def test_a_run_that_is_stopped_again_and_again_ends_to_the_bit_as_one_that_is_not(
    configure: Configure, tmp_path: Path
) -> None:
    """And with another number of workers: across size changes, frozen layers, averages, adaptive turns and dropout."""
    steps: list[int] = []

    def both(phase: str, *more: str) -> list[Any]:
        config = configure("train", f"phase={phase}", "resume=auto", "run=whole", *SHORT, *more)
        return [config, dataclasses.replace(copy.deepcopy(config), run="broken")]  # of the same predecessors

    # A generator, whose encoder is frozen in the first epoch: 10 steps of two photos, 5 of four.
    kept = ("ema.half_life_images=20", "save.every_n_images=8", "save.every_n_minutes=null")
    whole, broken = both("pretrain_gen", *kept, "resolution.batch_size=[2,4]")
    with breaking(steps):
        train.run(whole)
    assert steps == [*range(0, 20, 2), *range(20, 40, 4)]
    assert len(curves(folder_of(whole).path)["generator/total"]) == 15, "each step's loss is compared"
    steps.clear()
    with breaking(steps, terminate=4), pytest.raises(signals.Stopped, match=r"after 6 images; saved .*last.ckpt"):
        train.run(broken)
    broken.data.num_workers = 2
    with breaking(steps, validating=20), pytest.raises(Crash):
        train.run(broken)
    broken.data.num_workers = 0
    with breaking(steps):
        train.run(broken)
    assert steps == [*range(0, 20, 2), *range(16, 20, 2), *range(20, 40, 4)], "resumed at 6 and at 16 images"
    assert_same(folder_of(whole), folder_of(broken))
    names = [{path.name for path in folder_of(config).checkpoints.iterdir()} for config in (whole, broken)]
    assert names[0] == names[1] >= {"images-8.ckpt", "images-32.ckpt"}

    # Its images: what a network makes of a photo may differ in a last bit with what stands beside it in the batch.
    begun = SavedFiles("abcdefg", tmp_path, 2)
    for name in "abdef":
        image_path(tmp_path, name).touch()
    assert [part for part in begun.parts if not begun.has(part)] == [range(2, 4), range(6, 7)]
    words = ("data.train_fraction=1", "data.val_fraction=0.1", "size_px=48", "batch_size=5")
    config = configure("generate", "run=whole", *words)
    generate.run(config)
    folder = generate.output_folder(config)
    images = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for path in sorted(images)[::3]:
        path.unlink()
    generate.run(config)
    assert images == {path: path.read_bytes() for path in folder.rglob("*.png")} != {}

    # A critic, and both against each other, saved after every step until they are stopped; these in stages counted in
    # images: two batches and one of the first order of the photos, two of the next.
    for phase, asked, seen in (
        ("pretrain_critic", "null", [0, 5, 10, 15, 20, 30]),
        ("gan", "[10,30]", [0, 5, 10, 20, 30]),
    ):
        whole, broken = both(phase, "resolution.batch_size=[5,10]", f"resolution.images={asked}")
        with breaking([]):
            train.run(whole)
        steps.clear()
        broken.save.every_n_minutes = 0.0
        with breaking(steps, crash=30), pytest.raises(Crash):
            train.run(broken)
        broken.save.every_n_minutes = None
        with breaking(steps):
            train.run(broken)
        assert steps == seen, "each once"
        assert_same(folder_of(whole), folder_of(broken))
    assert {"generator/total", "critic/loss"} <= set(rows(folder_of(broken))[0]), "both had their turns"


def test_an_optimizer_that_decayed_the_lengths_of_weight_norms_does_not_go_on_but_its_weights_do(
    configure: Configure,
) -> None:
    config = configure("train", "phase=pretrain_gen", "resume=auto", *SHORT, "resolution.batch_size=[5,5]")
    config.save.every_n_minutes = 0.0
    with breaking([], crash=10), pytest.raises(Crash):
        train.run(config)
    last = folder_of(config).last
    content = torch.load(last, weights_only=True)
    groups = {group["name"]: group["params"] for group in content["optimizer_states"][0]["param_groups"]}
    groups["decoder"].append(groups["decoder_norms"].pop())
    WholeFiles().save_checkpoint(content, last)
    with pytest.raises(UserError, match=rf"weight norms were decayed.* another run with init_from\.generator={last}$"):
        train.run(config)
    config.run, config.init_from.generator, config.resolution.epochs = "other", str(last), [1, 0]
    with breaking([]):
        train.run(config)
    assert read_checkpoint(folder_of(config).last)[0].images_seen == 20


def test_random_states_come_back() -> None:
    saved = random_states()
    drawn = [(random.random(), np.random.rand(), float(torch.rand(1))) for _ in range(2)]
    restore_random_states(saved)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == drawn[0] != drawn[1]


# --- damaged files ----------------------------------------------------------------------------------------------------

CARD = {"phase": "gan", "epochs_done": 0, "epochs": 1, "size_px": 32, "generator": None, "critic": None, "turns": 0}


def write(path: Path, images_seen: int) -> None:
    content: dict[str, Any] = {"state_dict": {"weight": torch.arange(500.0)}}
    write_metadata(content, CheckpointMetadata(images_seen=images_seen, **CARD))
    WholeFiles().save_checkpoint(content, path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_any_flipped_byte_and_any_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write(path, 8)
    whole, print_of_whole = path.read_bytes(), fingerprint(path)
    shutil.copyfile(path, tmp_path / "copy.ckpt")
    assert read_checkpoint(tmp_path / "copy.ckpt")[0].images_seen == 8
    assert fingerprint(tmp_path / "copy.ckpt") == print_of_whole
    size = len(whole)
    for at in [*range(0, size, size // 40), *range(size - 93, size)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"last\.ckpt"):
            read_file(path)
    for cut in (size - 1, size - 71, size - 80, size // 2, 10, 0):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"last\.ckpt"):
            read_file(path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = PhaseFolder(tmp_path, "r", "gan")
    assert newest_whole(folder) is None
    for name, images in (("best", 10), ("images-20", 20), ("last", 40)):
        write(folder.checkpoints / f"{name}.ckpt", images)
    write(before(folder.last), 30)
    path, card = newest_whole(folder) or pytest.fail("none")
    assert (path, card.images_seen, caplog.text) == (folder.last, 40, "")
    flip(folder.last, 600)
    path, card = newest_whole(folder) or pytest.fail("none")
    assert (path, card.images_seen) == (before(folder.last), 30)
    assert "last.ckpt is damaged" in caplog.text and "resuming from" in caplog.text and "at 30 images" in caplog.text
    assert folder.last.with_name("last.ckpt.damaged").exists(), "kept, for whoever can make something of it"
    path, card = newest_whole(folder) or pytest.fail("none")
    assert (path, card.images_seen) == (folder.last, 30), "so that the next save does not keep the damaged one"
    folder.last.write_bytes(folder.last.read_bytes()[:-200])
    assert (newest_whole(folder) or pytest.fail("none"))[1].images_seen == 20
    for file in {file.stat().st_ino: file for file in folder.checkpoints.iterdir()}.values():
        file.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"last\.ckpt begins as.*no other to resume from: remove .*gan") as caught:
        newest_whole(folder)
    assert "\n" not in str(caught.value)


# --- complete, of these options ---------------------------------------------------------------------------------------


def test_a_phase_is_complete_only_of_the_options_and_files_it_came_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    critic = tmp_path / "critic.ckpt"
    write(critic, 8)
    config = TrainConfig(run="r", runs_dir="runs", recipe="paper", phase="gan", model=ModelConfig(name="paper"))
    config.data = DataConfig(kind="folder", root="photos")
    config.resolution.epochs, config.init_from.critic = [1, 1, 1], str(critic)
    card = CheckpointMetadata(
        **CARD | {"epochs_done": 3},
        images_seen=9,
        settings=hyper_parameters.settings(config),
        sources=resuming.sources(config),
    )
    assert list(card.sources) == ["init_from.critic"]
    config.data.num_workers, config.recipe, config.trainer.devices, config.save.keep = 9, "mine", 8, 1
    compare(config, card)
    assert caplog.text == ""
    config.data.root = "elsewhere"
    compare(config, card)
    assert "lay elsewhere than in data.root=elsewhere" in caplog.text

    config.optim.generator.lr, config.model.critic_weights = 0.5, "/a/b.pth"
    write(critic, 16)
    with pytest.raises(UserError) as caught:
        compare(config, card)
    said = (
        "optim.generator.lr=0.5 (not 0.001), what is in init_from.critic (another file then); start another with run="
    )
    assert str(caught.value).startswith(
        "phase gan of run r is complete, but came of other options: model.critic_weights"
    )
    assert said in str(caught.value) and "\n" not in str(caught.value)

    caplog.clear()
    config.resolution.epochs = [1, 1, 2]  # a longer fit goes on
    compare(config, card)
    assert "resumes with other options than until now" in caplog.text and "lr=0.5 (not 0.001)" in caplog.text
    compare(
        config, CheckpointMetadata(**CARD | {"epochs_done": 3}, images_seen=9)
    )  # written before there were settings


# --- signals ----------------------------------------------------------------------------------------------------------

WORDS = ["phase=gan", "data.root=my photos", "resume=false", "recipe=demo", "data=folder"]


def test_a_signal_ends_a_command_with_its_status_and_the_line_that_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def task(config: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    task.__module__ = "colorize.train"
    with pytest.raises(SystemExit) as end:
        run_command("train", task, WORDS)
    assert end.value.code == 143
    go_on = "resume with: python -m colorize.train phase=gan 'data.root=my photos' recipe=demo data=folder resume=auto"
    assert f"colorize.train: stopped by SIGTERM; {go_on}\n" in capsys.readouterr().err
    assert signals.Stopped(signal.SIGINT).status == 130

    warned = signals.Stopped(signal.SIGUSR1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    scontrol.chmod(0o755)
    assert how_to_resume("train", WORDS, warned) == "; Slurm has job 7 back in its queue"
    monkeypatch.setenv("COLORIZE_STEP", "1")
    assert how_to_resume("train", WORDS, warned) == "", "the pipeline that this is a step of says it"
    assert (tmp_path / "said").read_text() == "requeue 7\n"


def test_a_fit_notes_a_signal_and_a_second_one_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests in the background
    with signals.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # one key, by two ways
        assert signals.noted() == signal.SIGINT
        assert "SIGINT: saves after this step, then stops" in capfd.readouterr().err
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(signals, "BOUNCE_S", 0)
            with pytest.raises(signals.Stopped, match="by SIGINT at once"):
                os.kill(os.getpid(), signal.SIGINT)
    assert signals.noted() is None
    with pytest.raises(signals.Stopped, match=r"before it could save \(EOFError\)"), signals.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        raise EOFError  # of a worker that was ended too
    assert signal.getsignal(signal.SIGINT) is before


def test_a_step_ends_as_at_sigterm_when_its_pipeline_is_killed_and_lets_the_run_go(tmp_path: Path) -> None:
    step = (
        "import signal, time; from pathlib import Path; from colorize.cli.command import run_command\n"
        "from colorize.runtime.files import locked\n"
        "def work(_):\n"
        " with locked(Path('run')), signals.deferred():\n"
        "  Path('ready').touch()\n"
        "  while not signals.noted(): time.sleep(0.05)\n"
        "  Path('saved').touch(); raise signals.Stopped(signals.noted())\n"
        "from colorize.runtime import signals; work.__module__ = 'colorize.train'\n"
        "run_command('train', work, ['data.root=x'])"
    )
    pipeline = f"import sys; from colorize.runtime import signals; signals.run([sys.executable, '-c', {step!r}])"
    parent = subprocess.Popen([sys.executable, "-c", pipeline], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    with pytest.raises(UserError, match="in use by another process"), locked(tmp_path / "run"):
        pass
    parent.kill()
    parent.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLORIZE_STEP", "1")  # the step of the next start, which waits
        with locked(tmp_path / "run"):
            assert (tmp_path / "saved").exists()


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_imports_has_the_words_it_has_later(signum: int, tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("open('importing', 'w').close(); import time; time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "colorize.predict", "input=my photos"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(tmp_path / "importing")
    process.send_signal(signum)
    _, said = process.communicate()
    again = "resume with: python -m colorize.predict 'input=my photos'"
    assert said == f"colorize.predict: stopped by {signal.Signals(signum).name}; {again}\n"
    assert process.returncode == 128 + signum


def test_the_pipeline_hands_a_signal_on_and_waits_for_its_step(tmp_path: Path) -> None:
    child = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): time.sleep(0.2); pathlib.Path('saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path('ready').touch(); time.sleep(20)"
    )

    def terminate() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        threading.Thread(target=terminate).start()
        with pytest.raises(signals.Stopped, match="SIGTERM"):
            signals.run([sys.executable, "-c", child])
    assert (tmp_path / "saved").exists()
