"""Measuring coloured photos against the originals: the rows of the table, and the scores of each photo in each row.

Row `grey` is no colour at all, `truth` the originals themselves, and `luma_lookup` the training photos' mean colour for
each grey value: the best that can be done without seeing what a photo shows.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.backends import cudnn

from colorize.color import rgb_to_grey
from colorize.data.images import to_pil
from colorize.data.luma_lookup import LumaLookup
from colorize.data.sources import spread
from colorize.evaluation.bootstrap import Floats
from colorize.evaluation.learned_metrics import FeatureStatistics, Learned, frechet_distance
from colorize.evaluation.protocols import EvaluationBatch
from colorize.evaluation.regions import taken_for
from colorize.inference.colorizer import Colorizer
from colorize.metrics import MEASURED, is_true_grey, measure
from colorize.runtime import distributed
from colorize.runtime.errors import UserError

LOOKUP_PHOTOS = 2000
"""Training photos that the luma look-up averages: 256 means need no more."""

GREY, LOOKUP, TRUTH = "grey", "luma_lookup", "truth"

_STRIP_PIXELS = 1 << 20
"""Measured at a time."""


class Shown(NamedTuple):
    """Batch of photos on the device, as floats in [0, 1]."""

    rgb: Tensor
    """``(B, 3, H, W)``, the originals."""
    grey: Tensor
    """``(B, 1, H, W)``, their Rec. 601 luma."""
    coloured: list[Tensor]
    """``(B, 3, H, W)`` for each folder of coloured images."""


Colourer = Callable[[Shown], Tensor]
"""A row of the table: what it makes of photos, ``(B, 3, H, W)``, RGB in [0, 1]."""


def to_shown(batch: EvaluationBatch, device: torch.device) -> Shown:
    """Convert 8-bit images to floats on a device, with their grey."""
    rgb, *coloured = (pixels.to(device).float() / 255 for pixels in (batch.rgb, *batch.coloured))
    return Shown(rgb, rgb_to_grey(rgb), coloured)


# --- rows -------------------------------------------------------------------------------------------------------------


def with_baselines(methods: Mapping[str, Colourer], lookup: Colourer | None = None) -> dict[str, Colourer]:
    """Put the rows that are always there around those of `methods`; `lookup` is what `fit_luma_lookup` gives."""
    grey: dict[str, Colourer] = {GREY: lambda shown: shown.grey.expand(-1, 3, -1, -1)}
    return grey | ({LOOKUP: lookup} if lookup else {}) | {**methods, TRUTH: lambda shown: shown.rgb}


def from_folder(number: int) -> Colourer:
    """Take the images of the folder of coloured images with this number, as they are."""
    return lambda shown: shown.coloured[number]


def lookup_photos(identities: Sequence[str]) -> Sequence[str]:
    """Choose the photos that the luma look-up averages: enough of them, evenly spread."""
    return spread(identities, LOOKUP_PHOTOS)


def fit_luma_lookup(batches: Iterable[EvaluationBatch]) -> Colourer:
    """Average the colours of each grey value over `batches` (of all ranks), for each photo's own luma."""
    own, lookup = LumaLookup(), LumaLookup()
    for batch in batches:
        own.update(batch.rgb.float() / 255)
    for part in distributed.gathered(own):
        lookup.add(part)
    return lambda shown: lookup.predict(shown.grey)


def by(colorizer: Colorizer, render_px: int | None, saturation: float = 1.0) -> Colourer:
    """Colour as a user sees a generator do it: from 8-bit grey at `render_px`, the photo's own luma kept."""

    def colour(shown: Shown) -> Tensor:
        greys = (shown.grey[:, 0] * 255).round().to(torch.uint8).cpu().numpy()
        images = np.stack(colorizer.colorize_batch(list(greys), render_px, saturation=saturation))
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(shown.rgb.device).float() / 255

    return colour


# --- scores -----------------------------------------------------------------------------------------------------------


@dataclass
class Measurements:
    """Numbers of each photo in each row; nothing here grows with the size of the photos."""

    names: list[str]
    digests: list[str]
    """SHA-256 of each photo."""
    true_grey: NDArray[np.bool_]
    values: dict[str, dict[str, Floats]]
    """By row and metric, ``(photos,)``. PSNR is infinite where nothing differs; skill is each photo's own cosine."""
    luma_psnr: dict[str, float]
    """By row: how well the luma of the originals was kept, in dB (infinite: to the bit)."""
    sums: dict[str, dict[str, Floats]] = field(default_factory=dict)
    """By row and metric, sums over pixels: of skill ``(photos, 3)``, where the look-up is among the rows; of region
    accuracy, where the photos are scenes, ``(photos, COUNTED × TAKEN_FOR)``."""
    fid: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """The learned metrics that were asked for and could not be had, and why."""


class _PerPhoto:
    """Numbers of each photo by kind, row and metric, collected batch by batch in little memory."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.digests: list[str] = []
        self._numbers: dict[tuple[str, str, str], array[float]] = {}

    def add(self, kind: str, row: str, name: str, values: Tensor) -> None:
        """Add ``(B, …)`` of the photos of a batch."""
        self._numbers.setdefault((kind, row, name), array("d")).extend(values.flatten().tolist())

    def join(self, other: "_PerPhoto") -> None:
        """Add the photos of another rank."""
        self.names += other.names
        self.digests += other.digests
        for key, numbers in other._numbers.items():
            self._numbers.setdefault(key, array("d")).extend(numbers)

    def tables(self, kind: str, order: Sequence[int]) -> dict[str, dict[str, Floats]]:
        """Return by row and metric ``(photos,)`` or ``(photos, n)``, the photos in this order."""
        found: dict[str, dict[str, Floats]] = {}
        for (own, row, name), numbers in self._numbers.items():
            if own == kind:
                table = np.array(numbers).reshape(len(self.names), -1)[order]
                found.setdefault(row, {})[name] = table[:, 0] if table.shape[1] == 1 else table
        return found


def measure_rows(
    colourers: Mapping[str, Colourer],
    batches: Iterable[EvaluationBatch],
    device: torch.device,
    learned: Learned | None = None,
    order: Sequence[str] | None = None,
) -> Measurements:
    """Score what each row makes of each photo, in one pass over the photos.

    Images are rounded to 8 bits, as they would be saved, and compared as floats. Where there are several ranks, each
    measures its own `batches`, and all get the measurements of all. `TRUTH` is among `colourers`; where `LOOKUP` is
    too, skill is measured against it. `learned` are the metrics that need pretrained networks (None: none of them);
    `order` has the identities of the photos of all ranks (None: as measured). Raises UserError where no photo can be
    used.
    """
    networks = dict(learned.networks) if learned else {}
    inception = networks.pop("fid", None)
    own, features = _PerPhoto(), {row: FeatureStatistics() for row in colourers}
    for batch in batches:
        own.names += batch.names
        own.digests += batch.digests
        shown, lookup = to_shown(batch, device), None
        truth = shown.rgb
        own.add("photo", "", "true_grey", is_true_grey(truth))
        for row, colour in sorted(colourers.items(), key=lambda named: named[0] != LOOKUP):  # that one first
            image = truth if row == TRUTH else (colour(shown).clamp(0, 1) * 255).round() / 255
            lookup = image if row == LOOKUP else lookup
            with torch.inference_mode(), _exact_convolutions(device):
                for name, found in measure(MEASURED, image, truth, lookup, _STRIP_PIXELS).items():
                    of_sums = MEASURED[name].of_sums
                    if of_sums:
                        own.add("sums", row, name, found)
                    own.add("values", row, name, of_sums(found) if of_sums else found)
                for name, network in networks.items():
                    distance = torch.zeros(len(truth)) if image is truth else network(image, truth)
                    own.add("values", row, name, distance)
                if inception is not None:
                    features[row].update(inception(image))
                if batch.regions is not None:
                    table = taken_for(image, truth, batch.regions.to(device))
                    own.add("sums", row, "region_accuracy", table)
                own.add("luma", row, "error", (rgb_to_grey(image) - shown.grey).square().mean(dim=(1, 2, 3)))
    all_photos = _PerPhoto()
    for part in distributed.gathered(own):
        all_photos.join(part)
    names = all_photos.names
    if not names:
        raise distributed.on_all(UserError("none of the photos can be used, see above"))
    place = {name: number for number, name in enumerate(order or names)}
    sort = sorted(range(len(names)), key=lambda number: place[names[number]])
    values, sums, luma = (all_photos.tables(kind, sort) for kind in ("values", "sums", "luma"))
    fid = {}
    if inception is not None and len(names) > 1:
        everywhere = {row: statistics.over_ranks() for row, statistics in features.items()}
        fid = {row: frechet_distance(statistics, everywhere[TRUTH]) for row, statistics in everywhere.items()}
    return Measurements(
        names=[names[number] for number in sort],
        digests=[all_photos.digests[number] for number in sort],
        true_grey=all_photos.tables("photo", sort)[""]["true_grey"].astype(bool),
        values={row: values[row] for row in colourers},
        luma_psnr={row: _luma_psnr(luma[row]["error"]) for row in colourers},
        sums={row: sums[row] for row in colourers if row in sums},
        fid=fid,
        missing=learned.missing if learned else {},
    )


def _luma_psnr(errors: Floats) -> float:
    error = errors.mean()
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Switch off TF32, whose 10 bits are too few for the variances of SSIM."""
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


# --- a gallery --------------------------------------------------------------------------------------------------------


def coloured(
    colourers: Mapping[str, Colourer], batches: Iterable[EvaluationBatch], device: torch.device
) -> Iterator[tuple[str, dict[str, Image.Image]]]:
    """Yield each photo's identity and what each row makes of it."""
    for batch in batches:
        shown = to_shown(batch, device)
        rows = {row: colour(shown) for row, colour in colourers.items()}
        for number, name in enumerate(batch.names):
            yield name, {row: to_pil(images[number]) for row, images in rows.items()}
