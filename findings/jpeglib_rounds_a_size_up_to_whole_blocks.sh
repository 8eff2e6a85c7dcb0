#!/usr/bin/env bash
# jpeglib 1.0.2: a JPEG that is made of coefficients has the size of its blocks, and another layout than its source.
#
# One would guess: `read_dct`, then `from_dct` with the arrays that it gave and `write_dct`, makes a picture of the same
#   size; and `read_dct(…).write_dct(…)`, which changes no coefficient, keeps a progressive file progressive, with its
#   restart markers and the numbers of its components.
# Seen with jpeglib 1.0.2 ("turbo210") on Python 3.11, x86-64: `from_dct` takes the size from the number of blocks, so
#   61 × 47 px become 64 × 48 (an edge shows that never was to) unless `.width` and `.height` are set by hand.
#   `write_dct` writes a baseline file without restart markers, its components numbered from 0:
#   from_dct (64, 48) with the size set (61, 47) luma the same True; progressive True -> False;
#   restart markers 56 -> 0; components [1, 2, 3] -> [0, 1, 2]
# Needs network access to the Python package index; exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check jpeglib==1.0.2 numpy==2.3.5 Pillow==12.0.0
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import jpeglib
import numpy as np
from PIL import Image

jpeglib.version.set("turbo210")
y, x = np.mgrid[0:47, 0:61]
pixels = np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).astype(np.uint8)
photo = Image.fromarray(pixels)
photo.save("plain.jpg", quality=90)
photo.save("rich.jpg", quality=90, progressive=True, restart_marker_blocks=4)


def opened(name):
    with Image.open(name) as image:
        image.load()
        return image


def restarts(name):
    content = open(name, "rb").read()
    return sum(content.count(bytes((0xFF, 0xD0 + number))) for number in range(8))


read = jpeglib.read_dct("plain.jpg")
made = jpeglib.from_dct(Y=read.Y, Cb=read.Cb, Cr=read.Cr, qt=read.qt)
made.write_dct("made.jpg")
made.width, made.height = 61, 47
made.write_dct("sized.jpg")
same = bool((jpeglib.read_dct("sized.jpg").Y == read.Y).all())
jpeglib.read_dct("rich.jpg").write_dct("again.jpg")
before, after = opened("rich.jpg"), opened("again.jpg")

print("from_dct", opened("made.jpg").size, "with the size set", opened("sized.jpg").size, "luma the same", same)
print("progressive", "progressive" in before.info, "->", "progressive" in after.info)
print("restart markers", restarts("rich.jpg"), "->", restarts("again.jpg"))
print("components", [layer[0] for layer in before.layer], "->", [layer[0] for layer in after.layer])

assert opened("made.jpg").size == (64, 48) and opened("sized.jpg").size == (61, 47) and same
assert "progressive" in before.info and "progressive" not in after.info
assert restarts("rich.jpg") > 0 == restarts("again.jpg")
assert [layer[0] for layer in before.layer] == [1, 2, 3] and [layer[0] for layer in after.layer] == [0, 1, 2]
PYTHON
