"""Measuring coloured photos against the originals: who colours them, and what each photo scores.

Every method is held against two rows: `grey` is no colour at all; `luma_lookup` is the training photos' mean colour for
each grey value, which is what can be had without seeing what a photo shows. `truth` is the originals themselves.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.backends import cudnn

from colorize import metrics
from colorize.color import rgb_to_grey
from colorize.data.images import to_pil
from colorize.data.sources import spread
from colorize.evaluation.learned_metrics import FeatureStatistics, Learned, frechet_distance
from colorize.evaluation.protocols import Pictures
from colorize.evaluation.regions import taken_for
from colorize.inference.colorizer import Colorizer
from colorize.runtime import distributed
from colorize.runtime.errors import UserError

LOOKUP_PHOTOS = 2000
"""Training photos that the luma look-up averages: 256 means need no more."""

GREY, LOOKUP, TRUTH = "grey", "luma_lookup", "truth"

_STRIP_PIXELS = 1 << 20
"""Measured at a time, so that a large photo needs little more memory than a small one."""

Floats = NDArray[np.float64]


class Shown(NamedTuple):
    """A batch of photos on the device, as floats in [0, 1]."""

    rgb: Tensor
    """``(B, 3, H, W)``, the originals."""
    grey: Tensor
    """``(B, 1, H, W)``, their Rec. 601 luma."""
    coloured: list[Tensor]
    """``(B, 3, H, W)`` for each folder of coloured pictures."""
    lookup: Tensor | None = None
    """``(B, 3, H, W)``, what the luma look-up makes of them, where that is measured too."""


Colourer = Callable[[Shown], Tensor]
"""Says what one row of the table makes of photos: ``(B, 3, H, W)``, RGB in [0, 1]."""


def to_shown(batch: Pictures, device: torch.device) -> Shown:
    """8-bit pictures as floats on a device, with their grey."""
    rgb, *coloured = (pixels.to(device).float() / 255 for pixels in (batch.rgb, *batch.coloured))
    return Shown(rgb, rgb_to_grey(rgb), coloured)


# --- rows -------------------------------------------------------------------------------------------------------------


def grey_only(shown: Shown) -> Tensor:
    """No colour: the grey plane three times."""
    return shown.grey.expand(-1, 3, -1, -1)


def the_truth(shown: Shown) -> Tensor:
    """The originals."""
    return shown.rgb


def from_folder(number: int) -> Colourer:
    """What the folder of coloured pictures with this number holds, as it is."""
    return lambda shown: shown.coloured[number]


def lookup_photos(identities: Sequence[str]) -> Sequence[str]:
    """Those photos of many that the luma look-up averages: enough of them, evenly spread."""
    return spread(identities, LOOKUP_PHOTOS)


def fit_luma_lookup(batches: Iterable[Pictures]) -> Colourer:
    """The mean colour of each grey value over `batches` (of all ranks), on each photo's own luma."""
    own = metrics.LumaLookup()
    for batch in batches:
        own.update(batch.rgb.float() / 255)
    lookup = metrics.LumaLookup()
    for part in distributed.gathered(own):
        lookup.add(part)
    return lambda shown: lookup.predict(shown.grey)


def by(colorizer: Colorizer, render_px: int | None, saturation: float = 1.0) -> Colourer:
    """What a user sees of a generator: shown the 8-bit grey picture at `render_px`, the picture's own luma kept."""

    def colour(shown: Shown) -> Tensor:
        greys = (shown.grey[:, 0] * 255).round().to(torch.uint8).cpu().numpy()
        pictures = np.stack(colorizer.colorize_batch(list(greys), render_px, saturation=saturation))
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).to(shown.rgb.device).float() / 255

    return colour


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass
class Measurements:
    """Scalars of each photo in each row; nothing here grows with the size of the photos."""

    names: list[str]
    digests: list[str]
    """SHA-256 of each photo."""
    true_grey: NDArray[np.bool_]
    values: dict[str, dict[str, Floats]]
    """By row and metric, ``(photos,)``. PSNR is infinite where nothing differs; skill is each photo's own cosine."""
    luma_psnr: dict[str, float]
    """By row: how well the luma of the originals was kept, in dB (infinite: to the bit)."""
    skill_sums: dict[str, Floats] = field(default_factory=dict)
    """By row: ``(photos, 3)``, see `metrics.skill_sums`; only where the look-up is among the rows."""
    right: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    """By row, of scenes: ``(photos, regions)`` pixels whose hue class is right."""
    counted: NDArray[np.int32] | None = None
    """Of scenes: ``(photos, regions)`` pixels that have a hue to get right."""
    confusion: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """By row, of scenes: ``(regions, TAKEN_FOR)`` pixels over all photos."""
    fid: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """The learned metrics that were asked for and could not be had, and why."""


def measure(
    colourers: Mapping[str, Colourer],
    batches: Iterable[Pictures],
    device: torch.device,
    learned: Learned | None = None,
    order: Sequence[str] | None = None,
) -> Measurements:
    """What each row's pictures score, photo by photo, in one pass over the photos and constant memory.

    Pictures are rounded to 8 bits, as they would be saved, and compared as floats. Where there are several ranks, each
    measures photos of its own, and all get the measurements of all.

    Args:
        colourers: the rows, with `TRUTH` among them; where `LOOKUP` is too, skill is measured against it.
        learned: the metrics that need pretrained networks; None for none of them.
        order: the identities of the photos of all ranks; None: they come in the order in which they are measured.

    Raises:
        UserError: no photo can be used.
    """
    networks = learned.networks if learned else {}
    tallies = {row: _Tally() for row in colourers}
    names: list[str] = []
    digests: list[str] = []
    greys: list[Tensor] = []
    for batch in batches:
        shown = to_shown(batch, device)
        names += batch.names
        digests += batch.digests
        greys.append(metrics.is_true_grey(shown.rgb).cpu())
        regions = None if batch.regions is None else batch.regions.to(device)
        for row, colour in sorted(colourers.items(), key=lambda named: named[0] != LOOKUP):  # that one first
            picture = shown.rgb if row == TRUTH else (colour(shown).clamp(0, 1) * 255).round() / 255
            if row == LOOKUP:
                shown = shown._replace(lookup=picture)
            with torch.inference_mode(), _exact_convolutions(device):
                tallies[row].add(picture, shown, regions, networks)
    (names, digests, greys, tallies), *others = distributed.gathered((names, digests, greys, tallies))
    for more_names, more_digests, more_greys, more in others:
        names, digests, greys = names + more_names, digests + more_digests, greys + more_greys
        for row, tally in tallies.items():
            tally.join(more[row])
    if not names:
        raise distributed.on_all(UserError("none of the photos can be used, see above"))
    place = {name: number for number, name in enumerate(names if order is None else order)}
    sort = np.array(sorted(range(len(names)), key=lambda number: place[names[number]]))
    found = Measurements(
        names=[names[number] for number in sort],
        digests=[digests[number] for number in sort],
        true_grey=torch.cat(greys).numpy()[sort],
        values={r: {name: np.array(v)[sort] for name, v in tally.scores.items()} for r, tally in tallies.items()},
        luma_psnr={row: tally.luma_psnr() for row, tally in tallies.items()},
        missing=learned.missing if learned else {},
    )
    if tallies[TRUTH].skill_sums:
        found.skill_sums = {row: torch.cat(tally.skill_sums).numpy()[sort] for row, tally in tallies.items()}
    if tallies[TRUTH].counted:
        found.right = {row: torch.cat(tally.right).numpy()[sort] for row, tally in tallies.items()}
        found.counted = torch.cat(tallies[TRUTH].counted).numpy()[sort]
        found.confusion = {row: np.asarray(tally.confusion) for row, tally in tallies.items()}
    if "fid" in networks and len(names) > 1:
        found.fid = {row: frechet_distance(tally.features, tallies[TRUTH].features) for row, tally in tallies.items()}
    return found


class _Tally:
    """What one row has scored so far."""

    def __init__(self) -> None:
        self.scores: dict[str, array[float]] = {}
        self.skill_sums: list[Tensor] = []
        self.right: list[Tensor] = []
        self.counted: list[Tensor] = []
        self.confusion: Any = 0
        self.features = FeatureStatistics()
        self.luma_error, self.photos = 0.0, 0

    def add(self, picture: Tensor, shown: Shown, regions: Tensor | None, networks: Mapping[str, nn.Module]) -> None:
        truth = shown.rgb
        scores = {
            "psnr": metrics.psnr(picture, truth),
            "ssim": _in_strips(metrics.ssim, picture, truth, overlap=metrics.SSIM_WINDOW_PX - 1),
            "ciede2000": _in_strips(metrics.mean_ciede2000, picture, truth),
            "cf": metrics.colourfulness(picture),
            "cf_abs": metrics.colourfulness_abs(picture),
        }
        if shown.lookup is not None:
            sums = _in_strips(metrics.skill_sums, picture, truth, shown.lookup, sums=True)
            self.skill_sums.append(sums.cpu().double())
            scores["skill"] = metrics.skill(sums)
        for name, network in networks.items():
            if name == "fid":
                self.features.update(network(picture))
            else:
                scores[name] = torch.zeros(len(truth)) if picture is truth else network(picture, truth)
        for name, values in scores.items():
            self.scores.setdefault(name, array("d")).extend(values.tolist())
        if regions is not None:
            table = taken_for(picture, truth, regions).cpu()
            self.right.append(table.diagonal(dim1=1, dim2=2).int())
            self.counted.append(table.sum(dim=2).int())
            self.confusion = self.confusion + table.sum(dim=0)
        error = (rgb_to_grey(picture) - shown.grey).square().mean(dim=(1, 2, 3))
        self.luma_error += float(error.cpu().double().sum())
        self.photos += len(truth)

    def join(self, other: "_Tally") -> None:
        """Take in what another rank scored."""
        for name, values in other.scores.items():
            self.scores.setdefault(name, array("d")).extend(values)
        self.skill_sums += other.skill_sums
        self.right += other.right
        self.counted += other.counted
        self.confusion = self.confusion + other.confusion
        self.features.join(other.features)
        self.luma_error, self.photos = self.luma_error + other.luma_error, self.photos + other.photos

    def luma_psnr(self) -> float:
        error = self.luma_error / self.photos
        return float("inf") if error == 0 else -10 * float(np.log10(error))


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Without TF32, whose 10 bits are too few for the variances of SSIM."""
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def _in_strips(measure_strip: Callable[..., Tensor], *pictures: Tensor, overlap: int = 0, sums: bool = False) -> Any:
    """A metric that is a mean (or `sums`) over windows of `overlap` + 1 rows, strip by strip: ``(B, ...)``."""
    height, width = pictures[0].shape[-2:]
    windows = height - overlap
    rows = max(1, _STRIP_PIXELS // (width * len(pictures[0])))
    total: Tensor | float = 0.0
    for top in range(0, windows, rows):
        count = min(rows, windows - top)
        strip = slice(top, top + count + overlap)
        total = total + measure_strip(*(rgb[..., strip, :] for rgb in pictures)) * (1 if sums else count / windows)
    return total


# --- a gallery --------------------------------------------------------------------------------------------------------


def coloured(
    colourers: Mapping[str, Colourer], batches: Iterable[Pictures], device: torch.device
) -> Iterator[tuple[str, dict[str, Image.Image]]]:
    """Each photo's identity and what each row makes of it."""
    for batch in batches:
        shown = to_shown(batch, device)
        rows = {row: colour(shown) for row, colour in colourers.items()}
        for number, name in enumerate(batch.names):
            yield name, {row: to_pil(pictures[number]) for row, pictures in rows.items()}
