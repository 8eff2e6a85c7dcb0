"""The processes and threads of a command."""

import logging
from datetime import timedelta

import lightning as L
import torch
from lightning.fabric.strategies import DDPStrategy

from colorize.config.sections import DevicesConfig
from colorize.runtime.devices import pick_device
from colorize.runtime.processes import processes_started
from colorize.runtime.schema import BadOption


def take_place(settings: DevicesConfig, prefix: str = "trainer.") -> None:
    """Compute on as many cores as the configuration says: threads that wait for a busy one spin, and slow it down.

    Raises BadOption where torchrun or srun started another number of processes than its keys, `prefix`…, say.
    """
    started, wanted = processes_started(), settings.devices * settings.num_nodes
    if started not in (1, wanted):
        raise BadOption(
            f"{started} processes were started, but {prefix}devices={settings.devices} times "
            f"{prefix}num_nodes={settings.num_nodes} is {wanted}: give the devices of a machine, and the machines"
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)


def quieten() -> None:
    """Silence Lightning's own announcements, which are not for our users."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)


def launch(settings: DevicesConfig, prefix: str = "trainer.", patient: bool = False) -> L.Fabric:
    """Return this one of the processes that share a command's photos; the first starts the others if need be.

    `prefix` is as for `take_place`. A `patient` one waits for the others at the end for as long as they take.
    """
    take_place(settings, prefix)
    quieten()
    strategy: str | DDPStrategy = "auto"
    if settings.devices * settings.num_nodes > 1:
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(days=365)) if patient else "ddp"
    fabric = L.Fabric(
        accelerator=pick_device(settings.accelerator).type,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy,
    )
    fabric.launch()
    return fabric
