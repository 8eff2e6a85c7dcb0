#!/usr/bin/env bash
# ONNX Runtime's cubic Resize on a CPU takes some ten times as long as PyTorch's, and 30 to 50 times its own linear one.
#
# One would guess: four taps a direction instead of two, so two to four times the time of mode=linear; it is one node of
#   60, after convolutions of half a billion operations, so it does not count.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, torch 2.15.0 on Python 3.11, x86-64 (AVX2), one thread: 100 to 150 ns for
#   each value of the result at all sizes and numbers of channels tried, though the coefficients are the same in each
#   row. For an exported colourizer that enlarges two planes from 128 to 256 px at its end that was 12 to 17 % of all
#   its time. The same values come from two products with matrices, rows @ x @ columns, in a tenth of the time: MatMul
#   nodes where the size is fixed, or the last enlargement left to the program that runs the file.
# Needs network access to the Python package index and some GB of disk; exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import sys
import time

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch.nn.functional import interpolate

torch.set_num_threads(1)
SIDE = 128
x = np.random.default_rng(0).random((1, 2, SIDE, SIDE), np.float32)


def session(mode):
    resize = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, cubic_coeff_a=-0.75)
    graph = helper.make_graph(
        [resize],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 2 * SIDE, 2 * SIDE])],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: made.run(None, {"x": x})[0]


rows = interpolate(torch.eye(SIDE)[None, None], (2 * SIDE, SIDE), mode="bicubic")[0, 0].numpy()
ways = {
    "ONNX Runtime, linear": session("linear"),
    "ONNX Runtime, cubic": session("cubic"),
    "PyTorch, bicubic": lambda: interpolate(torch.from_numpy(x), scale_factor=2, mode="bicubic").numpy(),
    "two products (NumPy)": lambda: rows @ x @ rows.T,
}
least = dict.fromkeys(ways, float("inf"))
for _ in range(20):
    for name, way in ways.items():
        begin = time.process_time()
        way()
        least[name] = min(least[name], time.process_time() - begin)
exact = ways["PyTorch, bicubic"]()
for name, way in ways.items():
    print(f"{name}: {1000 * least[name]:.2f} ms, {abs(way() - exact).max():.1g} from PyTorch's bicubic")
cubic = least["ONNX Runtime, cubic"]
same = all(abs(ways[name]() - exact).max() < 1e-5 for name in ("ONNX Runtime, cubic", "two products (NumPy)"))
sys.exit(not (same and cubic > 4 * least["PyTorch, bicubic"] and cubic > 10 * least["ONNX Runtime, linear"]))
PY
OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/try.py"
