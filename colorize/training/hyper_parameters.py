"""The options that make a phase come out as it does: what one compares between fits, and what makes a fit another."""

import hashlib
from functools import reduce
from pathlib import Path
from typing import Any

from colorize.config import TrainConfig
from colorize.runtime.schema import leaves
from colorize.training.alternation import Network
from colorize.training.phases import TRAINED

Value = bool | int | float | str

NO_HYPER_PARAMETERS = (
    "run",
    "sweep",
    "job",
    "resume",
    "grid_photos",
    "data.val_batch_size",
    "data.cache_gb",
    "data.num_workers",
    "data.max_unreadable",
    "data.report",
    "save.every_n_images",
    "save.keep",
    "save.every_n_minutes",
    "save.score_photos",
    "trainer.accelerator",
    "trainer.threads",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.deterministic",
    "trainer.compile",
    "trainer.enable_progress_bar",
)
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
    """The keys that make this phase come out as it does: what one compares between runs.

    Lists are as one would type them, null is "null", and of a weights file only its name is left.
    """
    found: dict[str, Value] = {}
    for key in leaves(TrainConfig):
        networks = next((n for prefix, n in BELONGS_TO.items() if key.name.startswith(prefix)), ())
        is_weights = key.name.endswith("_weights")
        if key.name in NO_HYPER_PARAMETERS or (key.path and not is_weights):
            continue
        if not set(networks) <= set(TRAINED[config.phase]):
            continue
        value = _plain(reduce(getattr, key.name.split("."), config))
        found[key.name] = Path(str(value)).name if key.path else value
    return found


def _plain(value: Any) -> Value:
    """As one would type it."""
    if value is None or isinstance(value, list):
        return "null" if value is None else str(value).replace(" ", "")
    return value


NAMES = ("recipe", "phase", "model.name")
"""Hyper-parameters that are names of what other keys say in full."""

PHOTOS = "data.root, data.file_list"
"""What stands, in `settings`, for where the photos are."""


def settings(config: TrainConfig) -> dict[str, Value]:
    """What a checkpoint keeps, to be compared by `differences`: no paths of the machine, but a digest of them.

    Where and how a fit is computed (`trainer`) may change; how many batches it sees may not.
    """
    found = {
        name: value
        for name, value in hyper_parameters(config).items()
        if name not in NAMES and (not name.startswith("trainer.") or name.startswith("trainer.limit_"))
    }
    places = [str(Path(path).absolute()) for path in (config.data.root, config.data.file_list) if path is not None]
    return found | {PHOTOS: hashlib.sha256("\0".join(places).encode()).hexdigest()[:16]}


def differences(earlier: dict[str, Value], config: TrainConfig) -> list[str]:
    """`key=value (not earlier value)` for each of `settings` that is not as it was.

    A setting that `earlier`, those that a checkpoint kept, lacks was not an option yet: it had its default.
    """
    now, defaults = settings(config), {key.name: _plain(key.default) for key in leaves(TrainConfig)}
    was = {name: earlier.get(name, defaults.get(name)) for name in now}
    return [
        name if name == PHOTOS else f"{name}={value} (not {was[name]})"
        for name, value in now.items()
        if value != was[name]
    ]
