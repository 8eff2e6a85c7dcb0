#!/usr/bin/env bash
# torch.onnx.export fixes a dimension that dynamic_shapes calls dynamic, without a warning, where forward says len(x).
#
# One would guess: len(x) and x.shape[0] are the same; or, if len(x), which has to be an int, ties the graph to the
#   example's batch, the export refuses as torch.export.export does ("Constraints violated (batch)! … You marked batch
#   as dynamic but your code specialized it to be a constant (2)").
# Seen with torch 2.15.0 (dynamo exporter), onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0 on Python 3.11, x86-64:
#   no error and no warning; the input of the ONNX graph is [2, 3] instead of ['batch', 3]. It shows only where ONNX
#   Runtime is given another batch: "Got invalid dimensions for input … Got: 1 Expected: 2". An example of batch 1 would
#   have made a file that takes one picture at a time, and passed most checks.
# Needs network access to the Python package index and some GB of disk; exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import sys
import warnings

import numpy as np
import onnxruntime
import torch


class AddRow(torch.nn.Module):
    def __init__(self, count):
        super().__init__()
        self.count = count
        self.row = torch.nn.Parameter(torch.ones(1, 3))

    def forward(self, x):
        return self.row.expand(self.count(x), -1) + x


ways = {"x.shape[0]": lambda x: x.shape[0], "len(x)": len}
example, dynamic = (torch.zeros(2, 3),), ({0: torch.export.Dim("batch", min=1)},)
seen = {}
for name, count in ways.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = torch.onnx.export(
            AddRow(count).eval(), example, dynamo=True, dynamic_shapes=dynamic, input_names=["x"], verbose=False
        )
    model = program.model_proto
    sides = [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    warned = any("batch" in str(warning.message) for warning in caught)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString())
        answer = session.run(None, {"x": np.zeros((1, 3), np.float32)})[0].tolist()
    except Exception as error:
        answer = type(error).__name__
    seen[name] = (sides, warned, answer)
    print(f"{name:10} input {sides}, a warning of the batch: {warned}; a batch of one: {answer}")
try:
    torch.export.export(AddRow(len).eval(), example, dynamic_shapes=dynamic)
    refused = False
except Exception as error:
    refused = "specialized it to be a constant (2)" in str(error)
print(f"torch.export.export refuses len(x): {refused}")
good = {"x.shape[0]": (["batch", 3], False, [[1.0, 1.0, 1.0]]), "len(x)": ([2, 3], False, "InvalidArgument")}
sys.exit(not refused or seen != good)
PY
"$folder/venv/bin/python" "$folder/try.py"
