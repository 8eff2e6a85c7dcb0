"""What the tests of `colorize.predict` share: small grey photos, and looking at what became of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import draw_photo

Colour = Callable[..., tuple[int, str]]
"""The fixture `colour`."""


def grey(seed: int = 0, width: int = 60, height: int = 44) -> Image.Image:
    return draw_photo(seed).resize((width, height)).convert("L")


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or grey()).save(path, **options)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def is_coloured_version(result: Path, source: Image.Image, tolerance: float) -> bool:
    """Whether a result has the luma of `source`, and colours."""
    with Image.open(result) as opened:
        rgb = np.asarray(opened.convert("RGB"), float)
    luma = np.asarray(source.convert("L"), float)
    black_and_white = set(np.unique(luma)) <= {0, 255}  # have no colours
    if rgb.shape[:2] != luma.shape or (np.ptp(rgb, axis=2).max() <= tolerance and not black_and_white):
        return False
    return bool(np.abs(rgb @ np.array((0.299, 0.587, 0.114)) - luma).max() <= tolerance)
