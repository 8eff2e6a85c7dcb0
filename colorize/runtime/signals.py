"""Signals that ask a command to end: Ctrl-C, SIGTERM, and the warning that Slurm sends before it ends a job (SIGUSR1).

Training notes the first one, finishes its step, saves, and ends (`deferred`); anything else ends at once. The exit
status is 128 + the signal's number, as of a process that the signal has killed: 130, 143, 138.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from colorize.runtime.errors import UserError
from colorize.runtime.processes import is_first_process

BOUNCE_S = 1.0  # a second signal within it is the first: a terminal's Ctrl-C reaches a step by the pipeline too
_STEP = "COLORIZE_STEP"  # the variable by which a step knows that it is one: the process of the pipeline
_WATCH_S = 0.5
_noted: tuple[int, float] | None = None  # the signal that training has yet to act on, and when it came
_concluded = False  # true: the work is saved, and about to end with words that say so


class Stopped(BaseException):
    """The signal `signum` has ended the work in good order; the command exits with `status`."""

    more: Sequence[str] = ()  # words that the command which resumes needs beside those that were typed

    def __init__(self, signum: int, said: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}{said and f' {said}'}")
        self.signum, self.status = signum, 128 + signum


def under_slurm() -> bool:
    """Return whether a Slurm job runs this process."""
    return "SLURM_JOB_ID" in os.environ


def _handle(handler: Callable[[int, FrameType | None], None], *more: int) -> dict[int, Any]:
    """Let `handler` receive SIGTERM, Slurm's warning and `more` until `conclude`; return what received them before."""

    def receive(signum: int, frame: FrameType | None) -> None:
        if not _concluded or signum == signal.SIGINT:
            handler(signum, frame)

    if threading.current_thread() is not threading.main_thread():  # only there does Python let anyone
        return {}
    warning = [signal.SIGUSR1] if under_slurm() else []
    return {signum: signal.signal(signum, receive) for signum in (signal.SIGTERM, *warning, *more)}


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *more: int) -> Iterator[None]:
    global _concluded
    _concluded, before = False, _handle(handler, *more)
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier or signal.SIG_DFL)  # None: somebody outside Python set it


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


def at_once() -> AbstractContextManager[None]:
    """Let Ctrl-C, SIGTERM and Slurm's warning raise Stopped wherever the process is."""
    return _handled(_stop, *_ctrl_c())


def _ctrl_c() -> list[int]:
    """Return SIGINT, unless whoever started the process in the background has it ignored."""
    return [] if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else [signal.SIGINT]


def while_importing(program: str) -> None:
    """Let a signal end a command at once, with the words it has later on: nothing has begun that could be lost."""

    def end(signum: int, frame: FrameType | None) -> None:
        again = f"resume with: {shlex.join(['python', '-m', program, *sys.argv[1:]])}"
        if is_first_process() and not is_step():
            more = requeue() if signum == getattr(signal, "SIGUSR1", None) else again
            os.write(2, f"{program}: {Stopped(signum)}; {more}\n".encode("utf-8", "backslashreplace"))
        os._exit(128 + signum)

    _handle(end, *_ctrl_c())


def end_with(parent: int) -> None:
    """Send this process SIGTERM when `parent`, which started it, is gone: killed, it could not hand that on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.name == "posix":
        threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _note(signum: int, frame: FrameType | None) -> None:
    global _noted
    if _noted is None:
        _noted = signum, time.monotonic()
        if is_first_process():  # not by print, in whose midst this may be
            name = signal.Signals(signum).name
            os.write(2, f"\n{name}: saves after this step, then stops (again: stops at once)\n".encode())
    elif time.monotonic() - _noted[1] > BOUNCE_S:
        raise Stopped(signum, "at once")


@contextmanager
def deferred() -> Iterator[None]:
    """Only note the first signal that comes within it, see `noted`; let another one raise Stopped at once."""
    global _noted
    _noted = None
    try:
        with _handled(_note, signal.SIGINT):
            yield
    except UserError:
        raise
    except Exception as error:
        if (signum := noted()) is None:
            raise
        # The signal has ended another process too, a worker say, without which the step cannot be finished.
        raise Stopped(signum, f"before it could save ({type(error).__name__})") from error
    finally:
        _noted = None


def conclude() -> None:
    """Let only Ctrl-C cut short what is left to do: torchrun sends SIGTERM to all ranks once the first has ended."""
    global _concluded
    _concluded = True


def noted() -> int | None:
    """Return the signal that came within `deferred`."""
    return _noted[0] if _noted else None


def run(command: list[str]) -> int:
    """Run a command of ours, handing signals on to it, and return its status; raise Stopped where a signal ended it."""
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if process is not None:
            process.send_signal(signum)

    with _handled(hand_on, signal.SIGINT):
        process = subprocess.Popen(command, env=os.environ | {_STEP: str(os.getpid())})
        if received:
            process.send_signal(received[0])
        status = process.wait()
    if received:
        raise Stopped(received[0])
    return status


def end_with_pipeline() -> None:
    """In a step, end when the pipeline is gone, saving first where there is something to save."""
    if is_step() and is_first_process():  # with which the other processes end
        end_with(int(os.environ[_STEP]))


def is_step() -> bool:
    """Return whether another command of ours, which started this one by `run`, says what resumes, and asks Slurm."""
    return _STEP in os.environ


def requeue() -> str:
    """Have Slurm put this job into its queue again; return what came of it, in words."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        return f"Slurm did not put job {job} back into its queue ({' '.join(reason.split())})"
    return f"Slurm has job {job} back in its queue"
