"""The files that `checkpoint=…` names. Nothing here imports torch, so that a wrong name is refused at once."""

import os
from pathlib import Path

from colorize.runtime.errors import UserError

BUNDLED = Path(__file__).with_name("pocket.safetensors")  # that comes with this program, if it does; .onnx beside it


def find_weights(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the file that a `checkpoint` names, there or not, or `BUNDLED`; raise UserError where that is missing."""
    if str(checkpoint) != "bundled":
        return Path(checkpoint)
    if not BUNDLED.is_file():
        raise UserError("no generator is bundled with this installation: give checkpoint=FILE")
    return BUNDLED


def existing_weights(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the file that a `checkpoint` names; raise UserError where there is no such file."""
    if not (path := find_weights(checkpoint)).exists():
        raise UserError(f"there is no checkpoint {path}")
    return path
