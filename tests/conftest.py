"""What several test modules share: a folder of small photos, and configurations composed from conf/."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image, ImageDraw

from colorize import config as schema

TINY = (
    "model=tiny",
    "model.width_factor=0.25",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.enable_progress_bar=false",
    "data=folder",
    "data.num_workers=0",
)
"""Overrides that make any phase run in seconds on a CPU."""

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
        schema.register()
        own = [f"runs_dir='{tmp_path}/runs'", f"data.root='{photos}'", "data.val_fraction=0.25"]
        tiny = [o for o in TINY if command != "generate" or o.split("=")[0].split(".")[0] != "model"]
        if command == "generate":
            tiny = [o for o in tiny if "progress" not in o]
        with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
            composed = compose(command, [*tiny, *own, *overrides])
        return schema.from_hydra(composed, schema.SCHEMAS[command])

    return make
