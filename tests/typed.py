"""Commands as a user types them, each in a process of its own, forked from the test: no second import of torch."""

import io
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import torch

from colorize.runtime import signals


def typed(command: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Do what `python -m colorize.COMMAND WORDS` does in `cwd`; the steps of a pipeline are forked from here too."""
    arguments = ["-m", f"colorize.{command}", *words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process, steps = _start(arguments, cwd, (out, err))
        while (step := _next(steps)) is not None:
            child, _ = _start(step, cwd, (out, err))
            steps.send(_status(child))
        status = _status(process)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, status, *said)


def typed_in_a_shell(command: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Do the same in interpreters of their own, which is slow; Lightning starts a process for each device so."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", f"colorize.{command}", *words]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True)


def _next(steps: Connection) -> list[str] | None:
    try:
        return list(steps.recv())
    except EOFError:
        return None


def _status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _start(arguments: list[str], cwd: Path, streams: tuple[IO[bytes], IO[bytes]]) -> tuple[int, Connection]:
    """Start `python ARGUMENTS`; return its identifier, and the end of a pipe by which it asks for its steps."""
    ours, theirs = Pipe()
    if child := os.fork():
        theirs.close()
        return child, ours
    status = 1
    try:
        ours.close()
        os.chdir(cwd)
        for number, stream in enumerate(streams, 1):
            os.dup2(stream.fileno(), number)
        status = _run(arguments, theirs)
    finally:
        os._exit(status)


def _run(arguments: list[str], asked: Connection) -> int:
    def step(command: list[str]) -> int:
        asked.send(command[1:])
        return int(asked.recv())

    signals.run = step
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), write_through=True) for number in (1, 2))
    torch.set_num_threads(1)  # a fork has none of the threads that its parent computed with
    _, module, *sys.argv[1:] = arguments
    sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
