"""Colouring without PyTorch: the bundled generator and exports in ONNX Runtime, and the environment of `make light`."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from colorize import Colorizer
from colorize.inference import backends
from colorize.inference.backends import chosen_backend
from colorize.inference.onnx_backend import OnnxBackend
from colorize.networks.generator_registry import make_generator
from colorize.runtime.errors import UserError, missing_packages_told
from colorize.weights.bundled import BUNDLED
from colorize.weights.load import load_weights
from tests.predicting import draw_photo

ROOT = Path(__file__).parents[1]
BUNDLED_ONNX = BUNDLED.with_suffix(".onnx")

OUTSIDE = {
    name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS|VENV|LIGHT|ARGS|WHAT|PYTHON", name)
}
"""The environment as it was around the `make` that runs the tests, without its variables."""

HIDDEN = ("torch", "torchvision", "lightning", "torchmetrics", "tensorboard", "scipy", "safetensors")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN!r})); from colorize.__main__ import main; main()"
"""The command `colorize` where none of these packages is installed."""


def colorize_without_torch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_photos_are_coloured_without_torch_as_with_it(tmp_path: Path) -> None:
    draw_photo(3).resize((330, 240)).save(tmp_path / "a.png")
    draw_photo(4).resize((90, 120)).convert("L").save(tmp_path / "b.tif")
    asked = ("device=cpu", "keep_color=true", "compare=true", "contact_sheet=sheet.png", "tta=true", "saturation=1.1")
    done = colorize_without_torch(tmp_path, "a.png", "b.tif", "-o", "out", "format=png", *asked)
    assert done.returncode == 0, done.stderr
    assert "1 coloured, 1 left in their own colours" in done.stderr and "32-true in ONNX Runtime on cpu" in done.stderr
    assert (tmp_path / "sheet.png").is_file() and len(list(tmp_path.glob("out/*.compare.jpg"))) == 2
    by_torch = Colorizer.from_checkpoint(device="cpu", precision="32-true", backend="torch")
    expected = by_torch.colorize(tmp_path / "b.tif", tta=True, saturation=1.1)
    with Image.open(tmp_path / "out" / "b.png") as made:
        assert np.abs(np.asarray(made, int) - np.asarray(expected, int)).max() <= 1
        assert np.ptp(np.asarray(made, int), axis=2).max() > 8


def test_what_needs_torch_says_so_in_one_line(tmp_path: Path) -> None:
    shutil.copy(BUNDLED, tmp_path / "mine.safetensors")
    draw_photo(0).save(tmp_path / "a.png")
    for words in (["export", "output=b.safetensors"], ["a.png", "checkpoint=mine.safetensors"]):
        done = colorize_without_torch(tmp_path, *words)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        assert re.match(r"colorize\.(export|predict): this needs the package (torch|safetensors), which", done.stderr)
    with pytest.raises(UserError, match="needs the package opencv-python-headless"), missing_packages_told():
        raise ModuleNotFoundError(name="cv2.data")
    with pytest.raises(ModuleNotFoundError), missing_packages_told():  # a mistake of ours
        raise ModuleNotFoundError(name="colorize.gone")


def test_the_bundled_files_are_one_generator() -> None:
    said = OnnxBackend(BUNDLED_ONNX).stated
    weights = load_weights(BUNDLED)
    stated = make_generator(said.generator).architecture  # with the options that came later
    assert stated == weights.network.architecture and said.preprocessing == weights.preprocessing
    assert said.provenance == weights.provenance and said.title == weights.title


def test_what_colours_rest_on_is_the_same() -> None:
    grey = np.asarray(draw_photo(5).convert("L").resize((96, 64)), np.float32)[None] / 255
    made = [
        Colorizer.from_checkpoint(device="cpu", precision="32-true", backend=backend).backend.likely(grey)
        for backend in ("onnx", "torch")
    ]
    for one, other, most in zip(*made, (1 / 255, 0.1, 0), strict=True):
        assert one.shape == other.shape and np.abs(one - other).max() <= most


def test_where_memory_runs_out_in_onnx_runtime_a_photo_is_rendered_smaller(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    colorizer = Colorizer.from_checkpoint(device="cpu", backend="onnx")
    run = colorizer.backend.run

    def short_of_memory(grey: np.ndarray) -> np.ndarray:
        if grey.shape[-1] > 100:
            raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException("Failed to allocate memory for a buffer")
        return run(grey)

    monkeypatch.setattr(colorizer.backend, "run", short_of_memory)
    colorizer.colorize(draw_photo(1, 120, 120), render_px=160)
    assert "memory ran out: a photo is rendered at 80 px instead of 160" in caplog.text


def test_the_choice_of_a_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, export = tmp_path / "mine.ckpt", tmp_path / "mine.onnx"
    monkeypatch.setattr(backends, "gpu_in_sight", lambda: False)
    assert chosen_backend("auto", BUNDLED, "auto", "auto") == ("onnx", BUNDLED_ONNX)
    assert chosen_backend("auto", BUNDLED, "cpu", "bf16-mixed") == ("torch", BUNDLED)
    assert chosen_backend("auto", mine, "auto", "auto") == ("torch", mine)
    assert chosen_backend("auto", export, "auto", "auto") == ("onnx", export)
    monkeypatch.setattr(backends, "gpu_in_sight", lambda: True)
    assert chosen_backend("auto", BUNDLED, "auto", "auto") == ("torch", BUNDLED)
    assert chosen_backend("auto", BUNDLED, "cpu", "auto") == ("onnx", BUNDLED_ONNX)
    for words, said in (
        (("torch", export, "auto", "auto"), "PyTorch reads no ONNX"),
        (("onnx", mine, "auto", "auto"), "export it first"),
        (("onnx", export, "cuda", "auto"), "computes on the CPU"),
        (("auto", export, "cpu", "bf16-mixed"), "computes on the CPU"),
    ):
        with pytest.raises(UserError, match=said):
            chosen_backend(*words)


def test_other_onnx_files_are_refused(tmp_path: Path) -> None:
    broken, foreign = tmp_path / "broken.onnx", tmp_path / "foreign.onnx"
    broken.write_bytes(BUNDLED_ONNX.read_bytes()[:1000])
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    end = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [shape], [end])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), foreign)
    for path, said in ((broken, "no ONNX file that ONNX Runtime can run"), (foreign, "of another program")):
        with pytest.raises(UserError, match=said):
            Colorizer.from_checkpoint(path)


def test_the_line_that_docs_show_is_what_make_light_runs() -> None:
    shown = re.search(r"^pip install (--no-deps .*)$", (ROOT / "docs/COLOURING.md").read_text(), re.MULTILINE)
    make = ["make", "-n", "light"]
    ran = subprocess.run(make, cwd=ROOT, env=OUTSIDE, check=True, capture_output=True, text=True).stdout
    [what] = set(re.findall(r"WHAT='([^']+)'", ran))
    assert shown is not None and shown[1].replace("-c requirements.lock ", "") == what


@pytest.mark.slow
def test_make_light(tmp_path: Path) -> None:
    """Downloads: the environment has no PyTorch, takes less than 300 MB beside pip, and colours a photo."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    subprocess.run(["make", "light"], cwd=checkout, env=OUTSIDE, check=True, capture_output=True)
    [packages] = checkout.glob(".venv-light/lib/python3*/site-packages")
    assert not (packages / "torch").exists()
    beside_pip = [one for one in packages.iterdir() if one.name.partition("-")[0] not in ("pip", "setuptools")]
    files = [file for one in beside_pip for file in (one.rglob("*") if one.is_dir() else [one]) if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 300e6
    draw_photo(3).save(checkout / "a.jpg")
    (checkout / "h.json").write_text(json.dumps([{"x": 5, "y": 5, "rgb": "#8a2b2b"}]))
    command = [".venv-light/bin/colorize", "a.jpg"]
    subprocess.run(command, cwd=checkout, check=True)
    assert (checkout / "a_colour.jpg").is_file()
    failed = subprocess.run([*command, "-o", "b.jpg", "hints=h.json"], cwd=checkout, capture_output=True, text=True)
    assert failed.returncode == 1 and "this needs the package scipy" in failed.stderr
