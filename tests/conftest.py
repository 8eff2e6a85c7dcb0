"""What several test modules share: small photos, configurations composed from conf/, an untrained generator."""

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from colorize import config as schemas
from colorize import predict
from colorize.cli.command import configured
from colorize.inference.colorizer import Colorizer
from colorize.inference.torch_backend import TorchBackend
from colorize.networks.preprocessing import Preprocessing
from colorize.runtime import schema
from colorize.runtime.errors import UserError
from tests.tiny_checkpoint import SIZE_PX, tiny_unet, write_checkpoint

TINY = (
    "model=tiny",
    "model.width_factor=0.25",
    "loss.feature_weights=[0,0,0]",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.enable_progress_bar=false",
    "data=folder",
    "data.num_workers=0",
    "data.min_colourfulness=null",
    "ema.half_life_share=null",
    "save.every_share=null",
)
"""Overrides that make any phase run in seconds on a CPU: without a VGG, whose features take most of that time."""

PERCEPTUAL = ("loss.feature_layers=[1,4,7]", "loss.feature_weights=[20,70,10]")
"""A perceptual loss after all, of shallow features."""

TWO_SIZES = ("resolution.size_px=[32,48]", "resolution.batch_size=[8,4]", "resolution.epochs=[1,1]")


def draw_photo(seed: int, width_px: int = 80, height_px: int = 64) -> Image.Image:
    """A blue sky of varied light over green ground with a red disc."""
    rng = random.Random(seed)
    light = rng.uniform(0.6, 1.0)
    picture = Image.new("RGB", (width_px, height_px), tuple(int(v * light) for v in (90, 150, 235)))
    draw = ImageDraw.Draw(picture)
    horizon = rng.randint(height_px // 3, 2 * height_px // 3)
    for y in range(horizon, height_px):
        shade = light * rng.uniform(0.7, 1.0)
        draw.line((0, y, width_px, y), fill=tuple(int(v * shade) for v in (70, 160, 60)))
    x, y, r = rng.randint(10, width_px - 10), rng.randint(10, height_px - 10), rng.randint(4, 10)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(200, 40, 40))
    return picture


LONGEST = ("test_commands", "test_resume", "test_module", "test_generators", "test_sweeps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes longest begin first: at the end it would leave other processes idle."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    """Spare each collection of garbage, and each forked process, the half a million objects that imports have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 JPEGs in two folders."""
    root = tmp_path_factory.mktemp("photos")
    for index in range(24):
        path = root / ("a" if index % 2 else "b") / f"photo {index:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        draw_photo(index).save(path, quality=92)
    return root


@pytest.fixture
def configure(tmp_path: Path, photos: Path) -> Callable[..., Any]:
    """`configure(command, *overrides)`: the configuration that the command would get; runs lie in tmp_path."""

    def make(command: str, *overrides: str) -> Any:
        own = [f"runs_dir={tmp_path}/runs", f"data.root={photos}", "data.val_fraction=0.25"]
        tiny = [
            o
            for o in TINY
            if command != "generate" or o.split("=")[0].split(".")[0] not in ("model", "ema", "loss", "save")
        ]
        if command == "generate":
            tiny = [o for o in tiny if "progress" not in o]
            tiny += [] if any(o.startswith("recipe=") for o in overrides) else ["recipe=paper"]
        return configured(command, [*tiny, *own, *overrides])

    return make


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained generator."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "last.ckpt")


@pytest.fixture
def colour(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[..., tuple[int, str]]:
    """`colour(input, **keys)`: exit status of `colorize.predict` in tmp_path, and what it says; output=out by default.

    Without the half second of reading the command line and the checkpoint.
    """
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "colorize")

    def loaded(_: str, device: str, precision: str, use_ema: bool, backend: str) -> Colorizer:
        return Colorizer(TorchBackend(tiny_unet(), device, precision), Preprocessing(SIZE_PX))

    def start(given: str | Path, **keys: Any) -> tuple[int, str]:
        caplog.clear()
        words = {"checkpoint": str(tiny_file), "output": "out", "device": "cpu", **keys, "input": [str(given)]}
        try:
            predict.run(schemas.PredictConfig(**words))
        except schema.BadOption as error:
            return 2, f"{caplog.text}{error}"
        except UserError as error:
            return 1, f"{caplog.text}{error}"
        except KeyboardInterrupt:
            return 130, caplog.text
        return 0, caplog.text

    monkeypatch.setattr(Colorizer, "from_checkpoint", loaded)
    return start
