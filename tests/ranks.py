"""Several processes of one command, as torchrun would start them, forked from the test: no second import of torch."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch


def on_ranks(work: Callable[[int], Any], world_size: int = 2) -> list[Any]:
    """What `work(rank)` returns in each process; an exception comes back as itself, with its trace in `notes`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started = []
    for rank in range(world_size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(work, rank, world_size, port, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    found = []
    for process, ours in started:
        try:
            found.append(ours.recv())
        except EOFError:
            found.append(RuntimeError("the process died"))
        process.join()
    return found


def _run(work: Callable[[int], Any], rank: int, world_size: int, port: int, answer: Connection) -> None:
    torch.set_num_threads(1)  # a fork has none of the threads that its parent computed with
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "NODE_RANK": 0}
    places |= {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    try:
        result = work(rank)
    except BaseException as error:
        error.add_note(traceback.format_exc())
        result = error
    try:
        answer.send(result)
    finally:
        os._exit(0)
