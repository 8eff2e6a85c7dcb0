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
