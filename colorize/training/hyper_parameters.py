"""Hyper-parameters: the options that make a phase come out as it does."""

from functools import reduce
from pathlib import Path
from typing import Any

from colorize.config import TrainConfig
from colorize.runtime.files import sha256
from colorize.runtime.schema import leaves
from colorize.training.phases import PHASES, Network

Value = bool | int | float | str

NO_HYPER_PARAMETERS = {
    *("run", "sweep", "job", "resume", "grid_photos"),
    *(f"data.{name}" for name in ("val_batch_size", "num_workers", "max_unreadable")),
    *(f"save.{name}" for name in ("every_n_images", "every_share", "keep", "every_n_minutes", "score_photos")),
    *(f"trainer.{name}" for name in ("accelerator", "threads", "num_nodes", "log_every_n_steps", "deterministic")),
    *("trainer.compile", "trainer.enable_progress_bar"),
}
"""Keys that leave the result as it is. Paths are left out too: two runs differ in them anyway."""

BELONGS_TO: dict[str, tuple[Network, ...]] = {
    "optim.generator.": ("generator",),
    "optim.critic.": ("critic",),
    "model.name": (),
    "model.critic": ("critic",),
    "model.": ("generator",),
    "loss.adversarial": ("generator", "critic"),
    "loss.": ("generator",),
    "switch.": ("generator", "critic"),
    "ema.": ("generator",),
    "use_ema": ("generator",),
}
"""The networks that a phase must train for a key to matter; the first prefix that fits a key counts."""


def hyper_parameters(config: TrainConfig) -> dict[str, Value]:
    """Return the keys that make a phase come out as it does, as one types them; of a weights file only its name."""
    found: dict[str, Value] = {}
    for key in leaves(TrainConfig):
        networks = next((n for prefix, n in BELONGS_TO.items() if key.name.startswith(prefix)), ())
        left_out = key.name in NO_HYPER_PARAMETERS or (key.path and not key.name.endswith("_weights"))
        if left_out or not set(networks) <= set(PHASES[config.phase].trains):
            continue
        value = _plain(reduce(getattr, key.name.split("."), config))
        found[key.name] = Path(str(value)).name if key.path else value
    return found


def _plain(value: Any) -> Value:
    if value is None:
        return "null"
    return str(value).replace(" ", "") if isinstance(value, list) else value


NAMES = ("recipe", "phase", "model.name")  # hyper-parameters that name what other keys say in full
PHOTOS = "data.root"  # the key in `settings` that stands for where the photos are


def settings(config: TrainConfig) -> dict[str, Value]:
    """Return what a checkpoint keeps, to be compared by `differences`: of the machine's paths only a digest."""
    found = {
        name: value
        for name, value in hyper_parameters(config).items()
        if name not in NAMES and (not name.startswith("trainer.") or name.startswith("trainer.limit_"))
    }
    return found | {PHOTOS: sha256(str(Path(config.data.root).absolute()).encode())[:16]}


def differences(earlier: dict[str, Value], config: TrainConfig) -> list[str]:
    """Return `key=value (not earlier value)` for each of `settings` that is not as it was.

    A setting that `earlier`, those that a checkpoint kept, lacks was not an option yet: it had its default.
    """
    earlier = {PHOTOS: earlier.get("data.root, data.file_list", ""), **earlier}  # as it was called before
    now, defaults = settings(config), {key.name: _plain(key.default) for key in leaves(TrainConfig)}
    was = {name: earlier.get(name, defaults.get(name)) for name in now}
    changed = [name for name in now if now[name] != was[name]]
    return [name if name == PHOTOS else f"{name}={now[name]} (not {was[name]})" for name in changed]
