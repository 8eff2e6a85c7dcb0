#!/usr/bin/env bash
# efficientnet-lite-pytorch pads for 224 px whatever it is shown: at odd sizes its feature maps are a pixel short.
#
# One would guess: EfficientNet.from_name("efficientnet-lite0") is fully convolutional with TensorFlow's SAME padding, so
#   that an image of 97 x 71 px has features of ceil(97 / 2) x ceil(71 / 2) = 49 x 36 after the first stride of two.
# Seen with efficientnet-lite-pytorch 0.1.0 and torch 2.15.0 on Python 3.11: 48 x 35. The padding of each convolution is
#   computed once, for the size that the variant was trained on (224; 240, 260, 280, 300 for lite1 to lite4), where a
#   stride of two needs one pixel at one end; an odd side needs one at both. No error and no warning.
#   from_name(..., image_size=None) computes it for each image, and gives 49 x 36 and the same features at even sizes.
# Needs network access to the Python package index and some GB of disk; exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 efficientnet-lite-pytorch==0.1.0 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import sys

import torch
from efficientnet_lite_pytorch import EfficientNet

torch.manual_seed(0)
usual = EfficientNet.from_name("efficientnet-lite0").eval()
dynamic = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
dynamic.load_state_dict(usual.state_dict())


def first_features(network, height, width):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network._bn0(network._conv_stem(image))


seen = {}
for size in ((96, 64), (97, 71)):
    one, other = first_features(usual, *size), first_features(dynamic, *size)
    seen[size] = tuple(one.shape[-2:]), tuple(other.shape[-2:])
    print(f"{size[0]} x {size[1]} px: as it comes {seen[size][0]}, with image_size=None {seen[size][1]}")
even = torch.equal(first_features(usual, 96, 64), first_features(dynamic, 96, 64))
print(f"at an even size the two agree: {even}")
sys.exit(not even or seen != {(96, 64): ((48, 32), (48, 32)), (97, 71): ((48, 35), (49, 36))})
PY
"$folder/venv/bin/python" "$folder/try.py"
