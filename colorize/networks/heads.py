"""Heads, which read a generator's last features as RGB, the chroma of Lab, or a distribution over cells of it."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from colorize.color import grey_to_lightness, lab_to_rgb, rgb_to_lab
from colorize.networks.layers import denormalize_imagenet

CELL = 10  # side of a cell, in units of Lab's a and b
MOST_AB = 110  # beyond ± this no sRGB colour has a or b


class Prediction(NamedTuple):
    """Colours that a generator gives grey images, and what they rest on."""

    rgb: Tensor  # (B, 3, H, W) float32, sRGB-encoded, nominally in [0, 1] but not clamped
    ab: Tensor | None = None  # (B, 2, h, w) float32, Lab chroma at the network's own resolution; None of `RGBHead`
    logits: Tensor | None = None  # (B, cells, h, w) float32, over `BinsHead.centres`; None of other heads


class RGBHead(nn.Module):
    """RGB by a scaled sigmoid in ImageNet-normalised space, in `output_range`, as fastai and DeOldify have it."""

    channels = 3

    def __init__(self, output_range: Sequence[float]) -> None:
        super().__init__()
        self.low, self.high = output_range

    def forward(self, raw: Tensor, luma: Tensor) -> Prediction:
        """Read `(B, 3, H, W)`; a head that predicts chroma puts it on the lightness of `luma`, `(B, 1, H, W)`."""
        return Prediction(denormalize_imagenet(self.low + (self.high - self.low) * torch.sigmoid(raw)))


class ChromaHead(nn.Module):
    """Lab's a and b themselves, in ±110."""

    channels = 2

    def to_ab(self, raw: Tensor) -> Tensor:
        return MOST_AB * torch.tanh(raw)

    def forward(self, raw: Tensor, luma: Tensor) -> Prediction:
        ab = self.to_ab(raw)
        return Prediction(paint(ab, luma), ab, raw if isinstance(self, BinsHead) else None)


class BinsHead(ChromaHead):
    """Distribution over the cells of Lab chroma that sRGB has, decoded by its annealed mean (Zhang et al. 2016).

    The softmax's `temperature` moves it from the plain mean, 1, towards the likeliest cell, near 0. `centres` are a and
    b of each cell, `(cells, 2)`; `prior` is its share in training photos, `(cells,)`, uniform until `set_prior`.
    """

    centres: Tensor
    prior: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if not 0 < temperature <= 1:
            raise ValueError(f"temperature={temperature}: above 0 and at most 1")
        self.temperature = temperature
        self.register_buffer("centres", gamut_cells().clone())
        self.register_buffer("prior", torch.full((len(self.centres),), 1 / len(self.centres)))
        self.channels = len(self.centres)

    def to_ab(self, raw: Tensor) -> Tensor:
        """`(B, cells, h, w)` logits -> `(B, 2, h, w)` Lab chroma."""
        # Rows of cells: in channels_last, the layout of all networks here, they lie together.
        share = torch.softmax(raw.permute(0, 2, 3, 1) / self.temperature, dim=-1)
        with torch.autocast(raw.device.type, enabled=False):  # half precision would round hues
            return (share @ self.centres).permute(0, 3, 1, 2)


def make_head(output: str, output_range: Sequence[float], temperature: float) -> RGBHead | ChromaHead:
    """Build a head by its name. Raises ValueError for an unknown one, or a temperature out of (0, 1]."""
    heads: dict[str, Callable[[], RGBHead | ChromaHead]] = {
        "rgb": lambda: RGBHead(output_range), "chroma": ChromaHead, "bins": lambda: BinsHead(temperature),
    }  # fmt: skip
    if output not in heads:
        raise ValueError(f"output={output!r}: {', '.join(heads)}")
    return heads[output]()


@cache
def gamut_cells() -> Tensor:
    """Return `(cells, 2)` float32: centres, multiples of `CELL`, of the cells that hold some sRGB colour's chroma."""
    with torch.device("cpu"):  # also where a network is made on the device meta, which computes nothing
        level = torch.linspace(0, 1, 33, dtype=torch.float64)  # so that no machine's rounding changes the cells
        rgb = torch.stack(torch.meshgrid(level, level, level, indexing="ij")).flatten(2)
        cells = (rgb_to_lab(rgb)[1:] / CELL).round().flatten(1)
        return CELL * torch.unique(cells, dim=1).T.contiguous().float()


def _cubic_shares(source: int, target: int) -> Tensor:
    """Return `(target, source)`: the share of each value in those that bicubic interpolation makes of a row of them."""
    place = (torch.arange(target) + 0.5) * (source / target) - 0.5
    far = (place[:, None] - torch.arange(-2, source + 2)).abs()
    near, tail = (1.25 * far - 2.25) * far.square() + 1, ((-0.75 * far + 3.75) * far - 6) * far + 3
    share = torch.where(far <= 1, near, torch.where(far < 2, tail, 0.0))
    first, last = (part.sum(dim=1, keepdim=True) for part in (share[:, :3], share[:, -3:]))  # the border repeats itself
    return torch.cat([first, share[:, 3:-3], last], dim=1)


def paint(ab: Tensor, luma: Tensor) -> Tensor:
    """Put Lab chroma `(B, 2, h, w)` on the lightness of luma `(B, 1, H, W)`, in [0, 1]: sRGB, not clamped."""
    ab = ab.float()
    if torch.compiler.is_exporting():  # ONNX Runtime takes ten times as long for its own cubic Resize
        rows, columns = (_cubic_shares(ab.shape[axis], luma.shape[axis]) for axis in (-2, -1))
        ab = rows @ ab @ columns.T
    elif ab.shape[-2:] != luma.shape[-2:]:
        ab = interpolate(ab, luma.shape[-2:], mode="bicubic", align_corners=False)
    return lab_to_rgb(torch.cat([grey_to_lightness(luma.float()), ab], dim=-3))
