#!/usr/bin/env bash
# torch.onnx.export turns -(-h // 2), Python's idiom for rounding a half up, into a half rounded down where h is dynamic.
#
# One would guess: the exported graph computes what PyTorch computes for every size that the dynamic dimension allows;
#   -(-9 // 2) is 5. TensorFlow's SAME padding and every "pad to a multiple" is written so.
# Seen with torch 2.15.0 (dynamo exporter), onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0 on Python 3.11, x86-64:
#   no warning; ONNX Runtime gives 4 for h = 9 and 6 for h = 13, where PyTorch has 5 and 7. Even sizes are right, so
#   the size of an example rarely shows it. (h + 1) // 2 and h % 2 come out right: write it so.
# Needs network access to the Python package index and some GB of disk; exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import sys

import numpy as np
import onnxruntime
import torch


class Halves(torch.nn.Module):
    def forward(self, image):
        h = image.shape[-2]
        zero = torch.zeros(1)
        return zero + 1.0 * -(-h // 2), zero + 1.0 * ((h + 1) // 2), zero + 1.0 * (h % 2)


height = torch.export.Dim("height", min=2)
program = torch.onnx.export(
    Halves().eval(), (torch.zeros(1, 1, 8, 8),), dynamo=True, dynamic_shapes=({2: height},), verbose=False
)
session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
name = session.get_inputs()[0].name
seen = {}
for h in (8, 9, 13):
    exported = [float(value[0]) for value in session.run(None, {name: np.zeros((1, 1, h, 8), np.float32)})]
    eager = [float(value) for value in Halves()(torch.zeros(1, 1, h, 8))]
    seen[h] = exported
    print(f"h = {h}: PyTorch {eager}, ONNX Runtime {exported}   (-(-h // 2), (h + 1) // 2, h % 2)")
sys.exit(seen != {8: [4.0, 4.0, 0.0], 9: [4.0, 5.0, 1.0], 13: [6.0, 7.0, 1.0]})
PY
"$folder/venv/bin/python" "$folder/try.py"
