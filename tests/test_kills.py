"""kill -9 at random moments, in every step of the method, as the commands are typed: the end is the same to the bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from colorize.cli.command import exit_statuses
from colorize.data.generated import read_manifest
from colorize.runs import PhaseFolder
from colorize.runtime import signals
from colorize.weights.checkpoints import read_checkpoint
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


def test_the_sigterm_of_torchrun_to_a_rank_that_ends_anyway_changes_neither_its_words_nor_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes as soon as another rank has ended: while Lightning tears down, Hydra ends, the line is said."""

    def terminate(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "; resume"

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(os, "_exit", pytest.fail)
    try:
        signals.while_importing("colorize.train")
        with pytest.raises(SystemExit) as end, exit_statuses("colorize.train", terminate):
            try:
                with signals.deferred():
                    try:
                        signals.conclude()
                        raise signals.Stopped(signal.SIGTERM, "after 4 images; saved last.ckpt")
                    finally:
                        terminate()
            finally:
                terminate()
        terminate()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert end.value.code == 143
    assert capsys.readouterr().err == "colorize.train: stopped by SIGTERM after 4 images; saved last.ckpt; resume\n"


# --- two ranks under torchrun -----------------------------------------------------------------------------------------

LONGEST_S = 900.0
"""Of any wait: a rank that waits for a dead one has to show as a failure."""
RANKS = (
    *(*STEPS["pretrain_gen"][1:], "trainer.devices=2", "model=tiny", "data.scenes=22", "save.every_n_images=8"),
    *("resolution.size_px=[32,40]", "resolution.batch_size=[4,4]", "resolution.epochs=[1,2]"),
)

in_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the processes are found in /proc")


class Torchrun:
    """A training by two ranks; whatever it started and has not ended by itself is killed at the end of the context.

    The ranks have sessions of their own, and workers outlive their rank for a moment, so that a process is known by
    a variable which it inherited. All write to a file: of a pipe, the last of them would hold the end.
    """

    def __init__(self, folder: Path, run: str, restarts: int = 0) -> None:
        self.output = folder / f"{run}.txt"
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLORIZE_TEST": str(self.output)}
        own["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # docs/CLUSTER.md says why
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}")
        torchrun += (f"--shutdown-timeout={LONGEST_S:.0f}",)  # before it kills what it has sent SIGTERM
        command = [sys.executable, *torchrun, "-m", "colorize.train", f"run={run}", *RANKS]
        with self.output.open("w") as file:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=folder, env=os.environ | own, **streams)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while alive := self.alive():  # again: one may have started another meanwhile
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        return self.output.read_text()

    def alive(self) -> list[int]:
        """Torchrun and all that it started."""
        mark, found = f"COLORIZE_TEST={self.output}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended meanwhile, or is somebody else's
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def signal_one(self, signum: signal.Signals, moments: random.Random) -> str:
        """Send a signal to a rank that chance picks; return which, "" if they have ended."""
        ranks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if len(ranks) < 2:
            return ""
        rank = moments.randrange(2)
        os.kill(int(ranks[rank]), signum)
        return f"rank {rank}"

    def wait(self, condition: Callable[[], object]) -> bool:
        """Wait until it holds, or torchrun has ended; return whether that has not."""
        until = time.monotonic() + LONGEST_S
        while not condition() and self.process.poll() is None:
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)
        return self.process.poll() is None

    def work(self, seconds: float, words: str = "training and", times: int = 1) -> bool:
        """Let the ranks train for so long once they have said `words` so many times; return whether they still do."""
        if self.wait(lambda: self.said().count(words) >= times):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        return self.process.poll() is None

    def status(self) -> int:
        """Return the exit status of torchrun, once it and all that it started have ended."""
        self.wait(lambda: False)
        until = time.monotonic() + LONGEST_S
        while alive := self.alive():
            assert time.monotonic() < until, f"{alive} outlive torchrun:\n{self.said()}"
            time.sleep(0.05)
        return self.process.wait()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of an undisturbed run, "whole", and how long its work took in seconds."""
    folder = tmp_path_factory.mktemp("ranks")
    with Torchrun(folder, "whole") as whole:
        assert whole.work(0), whole.said()
        since = time.monotonic()
        assert whole.status() == 0, whole.said()
    return folder, time.monotonic() - since


@pytest.mark.slow
@in_proc
def test_ranks_killed_at_random_are_started_again_by_torchrun_and_end_the_same(
    two_ranks: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """KILLS times, each time one of the two."""
    seed = int(os.environ.get("COLORIZE_KILLS_SEED", time.time()))
    moments, survived, (folder, seconds) = random.Random(seed), [], two_ranks
    with Torchrun(folder, "killed", restarts=KILLS) as killed:
        for start in range(1, KILLS + 1):
            moment = moments.uniform(0, seconds / KILLS)
            if killed.work(moment, times=start) and (rank := killed.signal_one(signal.SIGKILL, moments)):
                survived.append(f"{rank} after {moment:.1f} s")
        assert killed.status() == 0, killed.said()
    assert_same(*(PhaseFolder(folder / "runs", run, "pretrain_gen") for run in ("whole", "killed")))
    assert survived
    with capsys.disabled():
        print(
            f"\nof two ranks: survived {len(survived)} kills ({', '.join(survived)}, of {seconds:.1f} s), seed {seed}"
        )


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("whom", ["a rank", "torchrun", "torchrun, by Ctrl-C"])
def test_a_signal_to_one_of_two_ranks_or_to_torchrun_saves_and_the_same_command_ends_the_same(
    whom: str, two_ranks: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """KILLS times, before the first step too, with workers that torchrun's own signal reaches as well."""
    seed = int(os.environ.get("COLORIZE_KILLS_SEED", time.time()))
    moments, (folder, seconds), told = random.Random(f"{seed} {whom}"), two_ranks, []
    run, signum = whom.replace(" ", "_").replace(",", ""), signal.SIGINT if "Ctrl-C" in whom else signal.SIGTERM
    last = PhaseFolder(folder / "runs", run, "pretrain_gen").last

    def curves() -> int:
        return len([*last.parents[1].glob("events*")])

    line = rf"stopped by {signum.name}(?: before the first step| after (\d+) images; saved .*last.ckpt)?; resume with: "
    for _ in range(KILLS):
        moment, sent_to = moments.uniform(0, seconds / KILLS / 2), whom  # they began to look for each other before
        starts = curves()
        with Torchrun(folder, run) as stopped:
            stopped.wait(lambda before=starts: curves() > before)  # until then ranks wait in C++ for one that has ended
            stopped.work(moment)
            if whom == "a rank":
                sent_to = stopped.signal_one(signum, moments)
            else:
                stopped.process.send_signal(signum)
            status = stopped.status()
        if "pretrain_gen is complete" in stopped.said():  # it came in the last validation, or later
            break
        assert status != 0 and stopped.said().count("colorize.train: ") == 1, stopped.said()
        [images] = re.findall(line, stopped.said())
        assert not images or read_checkpoint(last)[0].images_seen == int(images)
        assert whom != "a rank" or "exitcode  : 143" in stopped.said(), stopped.said()
        told.append(f"{sent_to} after {moment:.1f} s, {images or 'no'} images")
    with Torchrun(folder, run) as resumed:
        assert resumed.status() == 0, resumed.said()
    assert_same(*(PhaseFolder(folder / "runs", name, "pretrain_gen") for name in ("whole", run)))
    assert told, "it was always too late"
    with capsys.disabled():
        print(f"\n{signum.name} to {', to '.join(told)}; of {seconds:.1f} s, seed {seed}")
