"""The bundled generator: the word by which it is named, what an installation without it says, and the file itself."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colorize import Colorizer, export, generate, predict, train
from colorize.config import EvaluateConfig, ExportConfig, PredictConfig
from colorize.evaluation import candidates
from colorize.exporting import model_card, weight_files
from colorize.inference.torch_backend import TorchBackend
from colorize.networks.light_unet import LightUNet
from colorize.networks.preprocessing import Preprocessing
from colorize.runtime.errors import UserError
from colorize.training import build
from colorize.weights.bundled import BUNDLED
from colorize.weights.load import Weights, load_weights
from tests.conftest import draw_photo
from tests.tiny_checkpoint import SIZE_PX, tiny_unet

POCKET_SHA256 = "cdfe3b6d0ab4a0c252617da582bc911a12fbceeb6bb862690b0b660bc7fe7641"
MOST_BYTES = 12_000_000

Configure = Callable[..., Any]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network in the place of the bundled one, and a folder to work in that has a file called "bundled"."""
    path = tmp_path / "installed" / "pocket.safetensors"
    path.parent.mkdir()
    path.write_bytes(weight_files.to_safetensors(Weights(tiny_unet(), Preprocessing(SIZE_PX), "")))
    monkeypatch.setattr("colorize.weights.bundled.BUNDLED", path)
    monkeypatch.chdir(tmp_path)
    Path("bundled").write_text("not this one")
    return path


def test_who_names_no_checkpoint_gets_the_bundled_generator_and_is_told(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "colorize")
    draw_photo(0).convert("L").save("photo.png")
    predict.run(PredictConfig(input=["photo.png"], output="colour.png", device="cpu", precision="32-true"))
    assert caplog.text.count("1 to colour at 48 px: the bundled generator (pocket); ") == 1
    expected = Colorizer(TorchBackend(tiny_unet(), "cpu", "32-true"), Preprocessing(SIZE_PX)).colorize("photo.png")
    assert np.array_equal(Colorizer.from_checkpoint(device="cpu", precision="32-true").colorize("photo.png"), expected)
    export.run(ExportConfig(output="mine.safetensors"))
    assert "mine.safetensors: the bundled generator (pocket)" in caplog.text
    assert torch.equal(*(load_weights(p).network.to_colour.conv.weight for p in (bundle, "mine.safetensors")))
    with pytest.raises(UserError, match="is the checkpoint itself"):
        export.run(ExportConfig(output=str(bundle), overwrite=True))


def test_the_word_stands_wherever_a_generator_is_named(
    bundle: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = candidates.find_checkpoints(EvaluateConfig(recipe="demo", checkpoint=["bundled"]))
    assert (found, list(candidates.named(found))) == ([bundle], ["pocket"])
    seen: list[Any] = []
    monkeypatch.setattr(generate, "save_images", lambda config, _: seen.append(config.checkpoint))
    generate.run(configure("generate", "checkpoint=bundled"))
    monkeypatch.setattr(train, "fit", lambda config, *_: seen.append(config.init_from.generator) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(configure("train", "phase=pretrain_gen", "init_from.generator=bundled"))
    assert seen == [str(bundle)] * 2
    assert model_card._started_from(str(bundle), Path("runs/mine")) == {
        "started_from": {"source": "the bundled generator (pocket)"}
    }


def test_an_installation_without_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    monkeypatch.setattr("colorize.weights.bundled.BUNDLED", tmp_path / "pocket.safetensors")
    for task in (
        lambda: predict.run(PredictConfig(input=["x"], output="y")),
        lambda: export.run(ExportConfig(output="x.safetensors")),
        lambda: Colorizer.from_checkpoint(),
        lambda: candidates.find_checkpoints(EvaluateConfig(recipe="demo", checkpoint=["bundled"])),
        lambda: train.run(configure("train", "phase=pretrain_gen", "init_from.generator=bundled")),
    ):
        with pytest.raises(UserError, match=r"^no generator is bundled with this installation: give checkpoint=FILE$"):
            task()


@pytest.mark.parametrize("half", [False, True])
def test_training_goes_on_from_an_export(half: bool, configure: Configure, tmp_path: Path) -> None:
    light = ["model.decoder=light", "model.encoder=resnet10_half", "model.output=bins", "model.keep_luma=true"]
    words = ["phase=pretrain_gen", *light, "model.widths=[16,16,12,8]"]
    torch.manual_seed(1)
    network = LightUNet(encoder="resnet10_half", widths=[16, 16, 12, 8], refine_width=4)
    path = tmp_path / "handed on.safetensors"
    path.write_bytes(weight_files.to_safetensors(Weights(network, Preprocessing(64), ""), half))

    def started(refine_width: int) -> Any:
        given = [f"model.refine_width={refine_width}", f"init_from.generator='{path}'"]
        return build.make_networks(configure("train", *words, *given), None)[0]

    generator = started(4)
    assert isinstance(generator, LightUNet) and generator.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(generator.state_dict()[name], tensor, rtol=2**-11 if half else 0, atol=1e-7 * half)
    with pytest.raises(UserError, match=r"holds a generator of another architecture: refine_width=4 instead of 8"):
        started(8)


needs_the_file = pytest.mark.skipif(not BUNDLED.is_file(), reason="no generator is bundled yet")


@needs_the_file
def test_the_bundled_generator_is_small_and_colours(tmp_path: Path) -> None:
    assert BUNDLED.stat().st_size <= MOST_BYTES
    loaded = load_weights("bundled")
    assert isinstance(loaded.network, LightUNet) and loaded.network.options.keep_luma
    made = np.asarray(Colorizer.from_checkpoint(device="cpu").colorize(draw_photo(0).convert("L")), int)
    assert np.ptp(made, axis=2).max() > 5


@pytest.mark.skipif(not POCKET_SHA256, reason="no generator is bundled yet")
def test_the_bundled_generator_is_the_one_that_was_measured() -> None:
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() == POCKET_SHA256
