"""The states of all random number generators, saved and restored, so that a resumed training draws the same."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch

from colorize.runtime import distributed


class RandomStates(L.Callback):
    """Puts the states of all generators into each checkpoint, and takes them back just before the first step.

    Each rank has its own states; with another number of ranks than before, all resume with those of the first.
    """

    def __init__(self) -> None:
        self.restored: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": distributed.gathered(states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict["ranks"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not earlier: networks are made, and photos scored, before.
        if self.restored is not None:
            same = len(self.restored) == distributed.world_size()
            restore(self.restored[trainer.global_rank if same else 0])
            self.restored = None


def states() -> dict[str, Any]:
    """Return the states of this process's generators, in primitives and tensors."""
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    found = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore(saved: dict[str, Any]) -> None:
    """Set this process's generators to `states()` of an earlier one; those of a GPU where both have one."""
    random.setstate(saved["python"])
    numpy = saved["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": key}})
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
