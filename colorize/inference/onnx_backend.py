"""ONNX Runtime on the CPU, in float32: an export to ONNX, or the bundled generator, without PyTorch."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from colorize.color import Plane
from colorize.inference.backends import Backend, Likely
from colorize.runtime.errors import UserError, brief, is_out_of_memory, missing_packages_told
from colorize.weights.stated import Stated, read_stated

GREY, RGB, LOGITS, CENTRES = "grey", "rgb", "logits", "centres"
"""Input and outputs of an export, and the entry of its metadata with a and b of the cells that logits are of."""


def make_session(file: Path | bytes) -> Any:
    """Make ONNX Runtime ready to run a file on the CPU."""
    with missing_packages_told():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is an exception as well
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    # Threads that wait for work would take the cores from those that read and write photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class OnnxBackend(Backend):
    """The network of an ONNX file.

    It computes with as many threads as the machine has cores, or OMP_NUM_THREADS says. Raises UserError where ONNX
    Runtime is not installed, or the file is no export of this program.
    """

    device, precision, at_once = "cpu", "32-true in ONNX Runtime", 1

    def __init__(self, path: Path) -> None:
        try:
            self._session = make_session(path)
        except Exception as error:  # the runtime has a class for each status, outside its public names
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise UserError(f"{path} is no ONNX file that ONNX Runtime can run: {brief(error)}") from error
        said = self._session.get_modelmeta().custom_metadata_map
        if "colorize" not in said:
            raise UserError(f"{path} is an ONNX file of another program: give an export of python -m colorize.export")
        self.stated: Stated = read_stated(path, said["colorize"])
        self._centres = np.array(json.loads(said[CENTRES]), np.float32) if CENTRES in said else None

    def run(self, grey: Plane) -> Plane:
        return np.asarray(self._session.run([RGB], {GREY: grey})[0])

    def likely(self, grey: Plane) -> Likely:
        if self._centres is None:
            return Likely(self.run(grey[None])[0])
        rgb, logits = self._session.run([RGB, LOGITS], {GREY: grey[None]})
        return Likely(rgb[0], logits[0], self._centres)
