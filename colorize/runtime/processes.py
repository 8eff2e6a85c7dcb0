"""The processes that a launcher (torchrun, srun) started together, by the variables that it sets."""

import os


def is_first_process() -> bool:
    """Return whether this process is the one that was typed, or rank 0 of those that a launcher started together."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def processes_started() -> int:
    """Count the processes of this very command that torchrun or srun started, by the variables that they set."""
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return int(os.environ.get("WORLD_SIZE", "1"))


def spare_cores(devices: int) -> int:
    """Return the cores of a device less one, 1 to 8: its share of the machine's, or those of its task of srun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared_by = 1 if "SLURM_PROCID" in os.environ and processes_started() > 1 else devices
    return min(8, max(1, cores // shared_by - 1))
