"""The processes and threads of a command."""

import logging

import lightning as L
import torch

from colorize.config.sections import DevicesConfig
from colorize.runtime.devices import pick_device
from colorize.runtime.processes import processes_started
from colorize.runtime.schema import BadOption


def take_place(settings: DevicesConfig) -> None:
    """Compute on as many cores as the configuration says: threads that wait for a busy one spin, and slow it down.

    Raises BadOption where torchrun or srun started another number of processes than it says: each would do all.
    """
    started, wanted = processes_started(), settings.devices * settings.num_nodes
    if started not in (1, wanted):
        raise BadOption(
            f"{started} processes were started, but trainer.devices={settings.devices} times "
            f"trainer.num_nodes={settings.num_nodes} is {wanted}: give the devices of a machine, and the machines"
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)


def quieten() -> None:
    """Silence Lightning's own announcements, which are not for our users."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)


def launch(settings: DevicesConfig) -> L.Fabric:
    """Return this one of the processes that share a command's photos; the first starts the others if need be."""
    take_place(settings)
    quieten()
    several = settings.devices * settings.num_nodes > 1
    fabric = L.Fabric(
        accelerator=pick_device(settings.accelerator).type,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy="ddp" if several else "auto",
    )
    fabric.launch()
    return fabric
