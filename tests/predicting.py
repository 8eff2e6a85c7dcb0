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


def make_profile(colorants: dict[str, tuple[float, float, float]], curve: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """An ICC profile (version 2): of RGB from the colorants' XYZ (D50), or of grey without any; `curve` to linear."""

    def fixed(*values: float) -> bytes:
        return b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)

    steps = (curve(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2").tobytes()
    table = b"curv" + bytes(4) + (1024).to_bytes(4, "big") + steps
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)
    parts = {
        b"wtpt": white,
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"desc": b"desc" + bytes(4) + b"\0\0\0\2p" + bytes(80),
    }
    parts |= {f"{name}XYZ".encode(): b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in colorants.items()}
    parts |= {f"{name}TRC".encode(): table for name in colorants or "k"}
    entries, content = b"", b""
    for name, data in parts.items():
        entries += name + (132 + 12 * len(parts) + len(content)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        content += data + bytes(-len(data) % 4)
    space = b"RGB " if colorants else b"GRAY"
    head = bytes(4) + b"lcms" + b"\2\x20\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += fixed(0.9642, 1.0, 0.8249)
    body = head.ljust(128, b"\0") + len(parts).to_bytes(4, "big") + entries + content
    return len(body).to_bytes(4, "big") + body[4:]


def srgb_curve(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def lstar_curve(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.08, x * 100 / 903.3, ((x * 100 + 16) / 116) ** 3)


PROFILES = {
    "adobe": make_profile(
        {"r": (0.60974, 0.31111, 0.01947), "g": (0.20528, 0.62567, 0.06087), "b": (0.14919, 0.06322, 0.74457)},
        lambda x: x**2.19921875,
    ),
    "prophoto": make_profile(
        {"r": (0.79767, 0.28804, 0.0), "g": (0.13519, 0.71188, 0.0), "b": (0.03134, 0.00009, 0.82491)},
        lambda x: x**1.8,
    ),
    "lstar": make_profile(
        {"r": (0.65021, 0.32028, 0.0), "g": (0.17803, 0.60205, 0.06784), "b": (0.13591, 0.07767, 0.7571)}, lstar_curve
    ),
    "p3": make_profile(
        {"r": (0.51512, 0.2412, -0.00105), "g": (0.29198, 0.69225, 0.04189), "b": (0.1571, 0.06657, 0.78407)},
        srgb_curve,
    ),
    "srgb": make_profile(
        {"r": (0.43607, 0.22249, 0.01392), "g": (0.38515, 0.71687, 0.09708), "b": (0.14307, 0.06061, 0.7141)},
        srgb_curve,
    ),
    "grey 1.8": make_profile({}, lambda x: x**1.8),
    "grey L*": make_profile({}, lstar_curve),
}
