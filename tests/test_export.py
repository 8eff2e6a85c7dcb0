"""What `colorize.export` writes: the same network again, a card that says what it is, or nothing at all."""

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from colorize import Colorizer, export
from colorize.cli.command import run_command
from colorize.config import ExportConfig
from colorize.exporting import weight_files
from colorize.networks.folding import fold_norms
from colorize.networks.light_unet import LightUNet
from colorize.networks.preprocessing import Preprocessing
from colorize.networks.unet import UNet
from colorize.runtime.errors import UserError
from colorize.weights.checkpoints import AVERAGE, CheckpointMetadata
from colorize.weights.load import Weights, load_weights

CONFIG = """
phase: gan
recipe: demo
seed: 3
model: {name: tiny, encoder_weights: /home/somebody/resnet.pth}
data: {kind: scenes, root: /home/somebody/photos, train_fraction: 0.5}
resolution: {size_px: [32, 64], epochs: [1, 1]}
init_from: {generator: runs/mine/pretrain_gen/checkpoints/best.ckpt}
"""


def small_unet(seed: int) -> UNet:
    torch.manual_seed(seed)
    network = UNet(encoder="resnet10_half", width_factor=0.25).eval()
    with torch.no_grad():  # a self-attention, and norms, that do something
        network.get_submodule("up_blocks.1.attention").gamma.fill_(0.7)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return network


def save(path: Path, network: UNet, phase: str, images_seen: int, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    card = CheckpointMetadata(phase, 2, 2, images_seen, 64, network.architecture, None, 0, averaged=AVERAGE in content)
    state = {f"generator.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"colorize": asdict(card), "state_dict": state, "callbacks": content}, path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run that has moved, with averaged weights that are not those of the last step."""
    run = tmp_path_factory.mktemp("elsewhere") / "mine"
    rows = [
        {"images_seen": 100, "val/psnr": 11.0, "val_ema/psnr": 12.0},
        {"images_seen": 1234, "val/psnr": 21.0, "val_ema/psnr": 22.25, "val_ema/content": float("nan")},
    ]
    average = {"generator": small_unet(1).state_dict(), "images": 1234}
    path = run / "gan/checkpoints/last.ckpt"
    save(path, small_unet(0), "gan", 1234, Monitor={"rows": rows}, **{AVERAGE: average})
    save(run / "pretrain_gen/checkpoints/best.ckpt", small_unet(2), "pretrain_gen", 5678)
    (run / "gan/config.yaml").write_text(CONFIG)
    return path


def coloured(path: Path, use_ema: bool = True) -> np.ndarray:
    picture = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    return Colorizer.from_checkpoint(path, "cpu", "32-true", use_ema).colorize(picture)


def test_an_export_says_at_which_size_photos_are_to_be_shown(checkpoint: Path, tmp_path: Path) -> None:
    export.run(ExportConfig(str(checkpoint), str(tmp_path / "large.safetensors"), render_px=96))
    assert load_weights(tmp_path / "large.safetensors").preprocessing.render_px == 96
    assert "short side has 96 px" in (tmp_path / "large.safetensors.md").read_text()
    grey = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    asked = Colorizer.from_checkpoint(checkpoint, "cpu", "32-true").colorize(grey, render_px=96)
    assert np.array_equal(coloured(tmp_path / "large.safetensors"), asked)


def test_safetensors_colours_exactly_as_the_checkpoint_and_says_where_it_is_from(
    checkpoint: Path, tmp_path: Path
) -> None:
    first, last, again = (tmp_path / "new" / f"{name}.safetensors" for name in ("first", "last", "again"))
    export.run(ExportConfig(str(checkpoint), str(first)))
    export.run(ExportConfig(str(checkpoint), str(last), use_ema=False))
    export.run(ExportConfig(str(first), str(again)))
    np.testing.assert_array_equal(coloured(first), coloured(checkpoint))
    np.testing.assert_array_equal(coloured(last), coloured(checkpoint, use_ema=False))
    assert (coloured(first) != coloured(last)).any()
    assert load_weights(first).preprocessing == load_weights(checkpoint).preprocessing
    assert again.read_bytes() == first.read_bytes()  # an export passes on what it was told

    stated = load_weights(first).provenance
    assert (stated["phase"], stated["images_seen"], stated["averaged"]) == ("gan", 1234, True)
    assert stated["figures"] == {"psnr": 22.25}  # of the averaged weights, at that very epoch
    assert load_weights(last).provenance["figures"] == {"psnr": 21.0}
    assert stated["started_from"] == {"source": "checkpoint of phase pretrain_gen, 5678 images seen"}
    assert (stated["training"]["data"], stated["training"]["sizes_px"]) == ("scenes", [32, 64])
    card = Path(f"{first}.md").read_text(encoding="utf-8")
    for said in (
        "invented, not recovered",
        "1,234",
        "5678",
        "22.25",
        "64 px",
        stated["sha256"],
        "scenes",
        "## Licence",
    ):
        assert said in card
    for file in first.parent.iterdir():
        assert b"/home/somebody" not in file.read_bytes()
        assert str(checkpoint.parents[3]).encode() not in file.read_bytes()


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export.run(ExportConfig(str(checkpoint), str(path), "onnx"))
    return path


@pytest.mark.slow
def test_onnx_runtime_agrees_at_sizes_that_the_export_did_not_check(checkpoint: Path, exported: Path) -> None:
    loaded = load_weights(checkpoint)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for size in ((2, 32, 32), (1, 33, 47), (3, 97, 32), (1, 128, 130)):
        grey = torch.rand(size[0], 1, *size[1:], generator=torch.Generator().manual_seed(1))
        (rgb,) = session.run(["rgb"], {"grey": grey.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(rgb), loaded.network(grey), atol=1e-4, rtol=0)
    metadata = session.get_modelmeta().custom_metadata_map
    stated = json.loads(metadata["colorize"])
    assert stated["preprocessing"] == asdict(loaded.preprocessing)
    assert stated["provenance"]["images_seen"] == 1234
    assert "[0, 1]" in metadata["grey"] and "not clamped" in metadata["rgb"]
    assert "differ by at most" in Path(f"{exported}.md").read_text(encoding="utf-8")
    package = str(Path(export.__file__).parent).encode()
    assert package not in exported.read_bytes()  # PyTorch notes the lines of code that each node comes from


@pytest.mark.slow
def test_half_the_size_and_the_colours_of_the_rounded_weights(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, half = (tmp_path / f"{name}.safetensors" for name in ("whole", "half"))
    export.run(ExportConfig(str(checkpoint), str(whole)))
    export.run(ExportConfig(str(checkpoint), str(half), half=True))
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    assert "stored as float16" in Path(f"{half}.md").read_text(encoding="utf-8")
    assert 0 < np.abs(coloured(half).astype(int) - coloured(whole)).max() <= 1

    torch.manual_seed(0)
    light = LightUNet().eval()  # the bundled network
    for name, buffer in light.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    light.to_colour.scale(10)
    source, path = tmp_path / "light.safetensors", tmp_path / "light.onnx"
    source.write_bytes(weight_files.to_safetensors(Weights(light, Preprocessing(64), "")))
    caplog.set_level("INFO", "colorize")
    export.run(ExportConfig(str(source), str(path), "onnx", half=True))
    assert "float16 moves a value of the RGB by at most" in caplog.text
    card = Path(f"{path}.md").read_text(encoding="utf-8")
    assert "weights rounded to float16) differ by at most" in card and "self-attention" not in card
    assert path.stat().st_size <= 12_000_000
    stored = onnx.load(path).graph.initializer
    kernels = [constant for constant in stored if len(constant.dims) > 1 and np.prod(constant.dims) > 64]
    assert {constant.data_type for constant in kernels} == {onnx.TensorProto.FLOAT16}
    rounded = fold_norms(light)
    for parameter in rounded.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    grey = torch.rand(1, 1, 65, 80, generator=torch.Generator().manual_seed(1))
    (rgb,) = onnxruntime.InferenceSession(path).run(["rgb"], {"grey": grey.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(rgb), rounded(grey), atol=1e-4, rtol=0)
        assert float(rounded(grey).std(dim=1).mean()) > 0.01  # with colours, of which the 1e-4 is little


def test_weights_that_float16_cannot_hold_are_said_to_be_so(tmp_path: Path) -> None:
    network = small_unet(0)
    network.to_colour.scale(1e9)
    path = tmp_path / "large.safetensors"
    path.write_bytes(weight_files.to_safetensors(Weights(network, Preprocessing(64), "")))
    with pytest.raises(UserError, match="half=true: float16 cannot hold"):
        export.run(ExportConfig(str(path), str(tmp_path / "half.safetensors"), half=True))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def graph(channels: int = 3, value: float = 0.0) -> bytes:
    """An ONNX file that repeats the grey as often, times `value`."""
    shape = ["batch", None, "height", "width"]
    kind = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Mul", ["grey", "value"], ["one"]),
            onnx.helper.make_node("Concat", ["one"] * channels, ["rgb"], axis=1),
        ],
        "wrong",
        [onnx.helper.make_tensor_value_info("grey", kind, shape)],
        [onnx.helper.make_tensor_value_info("rgb", kind, shape)],
        [onnx.helper.make_tensor("value", kind, [1], [value])],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (graph(value=0.5), "differs from PyTorch by 0."),
        (graph(value=float("nan")), "differs from PyTorch by nan"),
        (graph(channels=1), "differs from PyTorch by inf"),
        (graph(channels=3).replace(b"Concat", b"Nonsen"), "cannot run"),
    ],
    ids=["other values", "not numbers", "other shape", "not to be run"],
)
def test_an_onnx_file_that_computes_something_else_is_not_written(
    wrong: bytes, reason: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "_translate", lambda *_: wrong)
    monkeypatch.setattr(weight_files, "CHECKED", ((1, 32, 32),))
    with pytest.raises(UserError, match=reason):
        export.run(ExportConfig(str(checkpoint), str(tmp_path / "new/wrong.onnx"), "onnx"))
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_message_names_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit) as stop:
        run_command("export", export.run, [f"checkpoint={checkpoint}", f"output={tmp_path}/a=b.onnx", "format=onnx"])
    assert stop.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "onnxscript" in line and "colorize[onnx]" in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_stays_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    output, card = tmp_path / "mine.safetensors", tmp_path / "mine.safetensors.md"

    def refused(reason: str, **options: Any) -> None:
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        with pytest.raises((UserError, OSError), match=reason):
            export.run(ExportConfig(**{"checkpoint": str(checkpoint), "output": str(output), **options}))
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before

    refused("ends in .safetensors", output=str(tmp_path / "mine.onnx"))
    refused("there is no checkpoint", checkpoint=str(tmp_path / "none.ckpt"))
    Image.new("L", (1, 1)).save(tmp_path / "photo.png")
    refused("no file of weights", checkpoint=str(tmp_path / "photo.png"))
    refused("Not a directory|File exists", output=str(tmp_path / "photo.png/mine.safetensors"))
    card.write_text("my own notes")
    refused("mine.safetensors.md exists: give another output, or overwrite=true")
    export.run(ExportConfig(str(checkpoint), str(output), overwrite=True))
    assert "invented" in card.read_text(encoding="utf-8")
    card.unlink()
    refused("mine.safetensors exists: give another output, or overwrite=true")
    refused("is the checkpoint itself", checkpoint=str(output), overwrite=True)
    output.unlink()
    output.mkdir()
    refused("is a folder", overwrite=True)


def test_a_full_disk_leaves_neither_file(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        assert len(list(tmp_path.iterdir())) == 2, "both are written before either takes its place"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        export.run(ExportConfig(str(checkpoint), str(tmp_path / "mine.safetensors")))
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_of_another_fit_is_not_taken_for_its_own(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gan/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(checkpoint, path)
    (tmp_path / "gan/config.yaml").write_text(CONFIG.replace("phase: gan", "phase: pretrain_gen"))
    export.run(ExportConfig(str(path), str(tmp_path / "mine.safetensors")))
    assert "not the configuration of this checkpoint" in caplog.text
    assert "training" not in load_weights(tmp_path / "mine.safetensors").provenance
    assert "not known" in (tmp_path / "mine.safetensors.md").read_text(encoding="utf-8")
