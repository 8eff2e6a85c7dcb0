"""kill -9 at random moments, in every step of the method, as the commands are typed: the end is the same to the bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from colorize.data.generated import read_manifest
from colorize.runs import PhaseFolder
from tests.sameness import assert_same

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("COLORIZE_KILLS", "3"))
"""In each step."""

SHARED = (
    *("recipe=demo", "data.scenes=48", "data.max_val=6", "data.train_fraction=1", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "model.width_factor=0.25"),
)
FITS = (
    *(
        "resume=auto",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        "loss.feature_weights=[0,0,0]",
    ),
    *("resolution.size_px=[32,48]", "resolution.batch_size=[2,2]", "resolution.epochs=[2,2]", "data.noise=0.05"),
    *(
        "ema.half_life_images=20",
        "ema.half_life_share=null",
        "save.every_n_images=16",
        "save.keep=2",
        "save.every_n_minutes=0.02",
    ),
    *("optim.generator.freeze_low=[0,1]", "optim.generator.freeze_high=[0,1]", "data.val_size_px=32", "grid_photos=1"),
)
STEPS = {
    "pretrain_gen": ("train", "phase=pretrain_gen", *SHARED, *FITS),
    "generate": ("generate", *(word for word in SHARED if not word.startswith("model")), "size_px=48", "batch_size=4"),
    "pretrain_critic": ("train", "phase=pretrain_critic", *SHARED, *FITS, "data.num_workers=1"),
    "gan": ("train", "phase=gan", *SHARED, *FITS, "switch.max_critic_steps=2"),
}
AT_WORK = {"generate": "images of 48 px are there"}


def start(words: tuple[str, ...], run: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"colorize.{words[0]}", f"run={run}", *words[1:]]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **streams)


def wait_for_work(process: subprocess.Popen[str], step: str) -> list[str]:
    """What it says until it says that it has come to its work."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if AT_WORK.get(step, "training and") in line or "is complete" in line:
            break
    return said


def run_through(words: tuple[str, ...], run: str, folder: Path, step: str) -> float:
    """Seconds of work."""
    process = start(words, run, folder)
    said, since = wait_for_work(process, step), time.monotonic()
    _, rest = process.communicate()
    assert process.returncode == 0, "".join(said) + rest
    return time.monotonic() - since


@pytest.mark.slow
def test_killed_at_random_in_every_step_it_ends_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("COLORIZE_KILLS_SEED", time.time()))
    moments = random.Random(seed)
    survived: dict[str, list[str]] = {}
    for step, words in STEPS.items():
        seconds = run_through(words, "whole", tmp_path, step)
        survived[step] = []
        for _ in range(4 * KILLS):
            process = start(words, "killed", tmp_path)
            wait_for_work(process, step)
            moment = moments.uniform(0, seconds / KILLS)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                survived[step].append(f"{moment:.1f} s")
            process.communicate()
            if len(survived[step]) == KILLS or process.returncode == 0:
                break
        run_through(words, "killed", tmp_path, step)
        whole, killed = tmp_path / "runs/whole", tmp_path / "runs/killed"
        if step == "generate":
            images = [read_manifest(run / "generated").images for run in (whole, killed)]
            assert images[0] == images[1] != []
            for name in images[0]:
                assert len({(run / "generated" / f"{name}.png").read_bytes() for run in (whole, killed)}) == 1
            assert not [path for path in killed.rglob("*") if path.suffix in (".tmp", ".part")]
        else:
            assert_same(PhaseFolder(tmp_path / "runs", "whole", step), PhaseFolder(tmp_path / "runs", "killed", step))
        with capsys.disabled():
            moments_said = ", ".join(survived[step])
            print(f"\n{step}: survived {len(survived[step])} kills (of {seconds:.1f} s of work, after {moments_said})")
    with capsys.disabled():
        print(f"in all {sum(map(len, survived.values()))} kills survived, seed {seed}")
    assert all(survived.values())
