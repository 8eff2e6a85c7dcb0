"""Measuring coloured photos against the originals: the rows of the table, and the scores of each photo in each row."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from colorize.color import rgb_to_grey
from colorize.data.datasets import Batch, RawBatch, to_floats
from colorize.data.luma_lookup import LumaLookup
from colorize.data.tensors import to_pil
from colorize.evaluation.learned_metrics import Learned, frechet_distance, moments
from colorize.evaluation.regions import taken_for
from colorize.inference.colorizer import Colorizer
from colorize.metrics import MEASURED, is_true_grey, measure
from colorize.runtime import distributed
from colorize.runtime.devices import exact_convolutions
from colorize.runtime.errors import UserError

Floats = NDArray[np.float64]
LOOKUP_PHOTOS = 2000  # training photos, evenly spread, that the luma look-up averages: 256 means need no more
GREY, LOOKUP, TRUTH = "grey", "luma_lookup", "truth"
_STRIP_PIXELS = 1 << 20  # measured at a time
Colourer = Callable[[Batch], Tensor]  # a row of the table: what it makes of photos, (B, 3, H, W), RGB in [0, 1]


def with_baselines(methods: Mapping[str, Colourer], lookup: Colourer | None = None) -> dict[str, Colourer]:
    """Put the rows that are always there around those of `methods`; `lookup` is what `fit_luma_lookup` gives."""
    grey: dict[str, Colourer] = {GREY: lambda shown: shown.grey.expand(-1, 3, -1, -1)}
    return grey | ({LOOKUP: lookup} if lookup else {}) | {**methods, TRUTH: lambda shown: shown.rgb}


def from_folder(number: int) -> Colourer:
    """Take the images of the folder of coloured images with this number, as they are."""
    return lambda shown: shown.fake[:, number]  # type: ignore[index]


def fit_luma_lookup(batches: Iterable[RawBatch]) -> Colourer:
    """Average the colours of each grey value over `batches` (of all ranks), for each photo's own luma."""
    lookup = LumaLookup()
    for batch in batches:
        lookup.update(batch.rgb.float() / 255)
    lookup.sums = torch.stack(distributed.gathered(lookup.sums)).sum(dim=0)
    return lambda shown: lookup.predict(shown.grey)


def by(colorizer: Colorizer, render_px: int | None, saturation: float = 1.0) -> Colourer:
    """Colour as a user sees a generator do it: from 8-bit grey at `render_px`, the photo's own luma kept."""

    def colour(shown: Batch) -> Tensor:
        greys = (shown.grey[:, 0] * 255).round().to(torch.uint8).cpu().numpy()
        images = np.stack(colorizer.colorize_batch(list(greys), render_px, saturation=saturation))
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(shown.rgb.device).float() / 255

    return colour


@dataclass
class Measurements:
    """Numbers of each photo in each row; nothing here grows with the size of the photos."""

    names: list[str]
    digests: list[str]  # SHA-256 of each photo
    true_grey: NDArray[np.bool_]
    values: dict[str, dict[str, Floats]]  # by row and metric, (photos,); PSNR may be infinite, skill is a cosine
    luma_psnr: dict[str, float]  # by row: how well the luma of the originals was kept, in dB (infinite: to the bit)
    sums: dict[str, dict[str, Floats]] = field(default_factory=dict)
    """By row and metric, sums over pixels: of skill ``(photos, 3)``, where the look-up is among the rows; of region
    accuracy, where the photos are scenes, ``(photos, COUNTED × TAKEN_FOR)``."""
    fid: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # learned metrics that could not be had, and why


def measure_rows(
    colourers: Mapping[str, Colourer],
    batches: Iterable[RawBatch],
    device: torch.device,
    learned: Learned | None = None,
    order: Sequence[str] | None = None,
) -> Measurements:
    """Score what each row makes of each photo, in one pass over the photos.

    Images are rounded to 8 bits, as they would be saved, and compared as floats. Each rank measures its own `batches`,
    and all get the measurements of all, in `order` (None: as measured). `TRUTH` is among `colourers`; where `LOOKUP` is
    too, skill is measured against it. Raises UserError where no photo can be used.
    """
    networks = dict(learned.networks) if learned else {}
    inception = networks.pop("fid", None)
    names, digests, features = list[str](), list[str](), {row: torch.zeros(()) for row in colourers}
    numbers: dict[tuple[str, str, str], array[float]] = {}

    def add(kind: str, row: str, name: str, found: Tensor) -> None:
        numbers.setdefault((kind, row, name), array("d")).extend(found.flatten().tolist())

    for batch in batches:
        names += batch.names
        digests += batch.digests
        shown, lookup = to_floats(batch, device), None
        truth = shown.rgb
        add("photo", "", "true_grey", is_true_grey(truth))
        for row, colour in sorted(colourers.items(), key=lambda named: named[0] != LOOKUP):  # that one first
            image = truth if row == TRUTH else (colour(shown).clamp(0, 1) * 255).round() / 255
            lookup = image if row == LOOKUP else lookup
            with torch.inference_mode(), exact_convolutions(device):
                for name, found in measure(MEASURED, image, truth, lookup, _STRIP_PIXELS).items():
                    of_sums = MEASURED[name].of_sums
                    if of_sums:
                        add("sums", row, name, found)
                    add("values", row, name, of_sums(found) if of_sums else found)
                for name, network in networks.items():
                    add("values", row, name, torch.zeros(len(truth)) if image is truth else network(image, truth))
                if inception is not None:
                    features[row] = features[row] + moments(inception(image))
                if batch.regions is not None:
                    add("sums", row, "region_accuracy", taken_for(image, truth, batch.regions.to(device)))
                add("luma", row, "error", (rgb_to_grey(image) - shown.grey).square().mean(dim=(1, 2, 3)))
    parts = distributed.gathered((names, digests, numbers))
    digest_of = {name: digest for part in parts for name, digest in zip(*part[:2], strict=True)}
    names = [name for part in parts for name in part[0]]
    if not names:
        raise distributed.on_all(UserError("none of the photos can be used, see above"))
    place = {name: number for number, name in enumerate(order or names)}
    sort = sorted(range(len(names)), key=lambda number: place[names[number]])
    tables: dict[str, dict[str, dict[str, Floats]]] = {"sums": {}}
    for key in dict.fromkeys(key for part in parts for key in part[2]):
        kind, row, name = key
        table = np.concatenate([part[2].get(key, ()) for part in parts]).reshape(len(names), -1)[sort]
        tables.setdefault(kind, {}).setdefault(row, {})[name] = table[:, 0] if table.shape[1] == 1 else table
    fid = {}
    if inception is not None and len(names) > 1:
        everywhere = {row: sum(distributed.gathered(own), torch.zeros(())) for row, own in features.items()}
        fid = {row: frechet_distance(own, everywhere[TRUTH]) for row, own in everywhere.items()}
    luma = {row: torch.tensor(tables["luma"][row]["error"].mean()) for row in colourers}
    names = [names[number] for number in sort]
    return Measurements(
        names=names,
        digests=[digest_of[name] for name in names],
        true_grey=tables["photo"][""]["true_grey"].astype(bool),
        values={row: tables["values"][row] for row in colourers},
        luma_psnr={row: float(-10 * error.log10()) for row, error in luma.items()},
        sums={row: tables["sums"][row] for row in colourers if row in tables["sums"]},
        fid=fid,
        missing=learned.missing if learned else {},
    )


def coloured(
    colourers: Mapping[str, Colourer], device: torch.device, batches: Iterable[RawBatch]
) -> Iterator[tuple[str, dict[str, Image.Image]]]:
    """Yield each photo's identity and what each row makes of it."""
    for batch in batches:
        shown = to_floats(batch, device)
        rows = {row: colour(shown) for row, colour in colourers.items()}
        for number, name in enumerate(batch.names):
            yield name, {row: to_pil(images[number]) for row, images in rows.items()}
