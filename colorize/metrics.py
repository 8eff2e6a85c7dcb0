"""Distances of a colourization from the truth: each metric, and its row in the table that says where it is shown."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from colorize.color import ciede2000, rgb_to_lab
from colorize.runtime import distributed

SSIM_WINDOW_PX = 11  # side of the Gaussian window (σ 1.5 px); smaller images have no SSIM
TRUE_GREY_SPREAD = 2  # a photo whose channels differ by no more than this (of 255) in any pixel is grey: codecs round


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the PSNR in dB of ``(B, 3, H, W)``, RGB floats in [0, 1], as ``(B,)``; infinite for equal images."""
    if not (prediction.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"psnr takes floats in [0, 1], got {prediction.dtype} and {target.dtype}")
    prediction, target = prediction.float(), target.float()
    return peak_signal_noise_ratio(prediction, target, data_range=1.0, dim=(1, 2, 3), reduction="none")


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004), the mean over channels and windows that lie in the image.

    ``(B, 3, H, W)``, RGB in [0, 1], both sides at least ``SSIM_WINDOW_PX``, gives ``(B,)``, 1 for identical images.
    """
    if min(prediction.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(f"ssim takes images of at least {SSIM_WINDOW_PX} px, not {tuple(prediction.shape[-2:])}")
    # In float32, a photo is off by up to 3e-4 (flat areas); on a CPU, float64 takes ten times as long.
    _, windows = structural_similarity_index_measure(
        255 * prediction.float(), 255 * target.float(), data_range=255.0, reduction="none", return_full_image=True
    )
    edge = SSIM_WINDOW_PX // 2  # there torchmetrics mirrors the image
    return windows[..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


def mean_ciede2000(rgb1: Tensor, rgb2: Tensor) -> Tensor:
    """Return the mean over pixels of :func:`colorize.color.ciede2000`: ``(B, 3, H, W)`` RGB in [0, 1] to ``(B,)``."""
    return ciede2000(rgb_to_lab(rgb1), rgb_to_lab(rgb2)).mean(dim=(-2, -1))


def colourfulness(rgb: Tensor, absolute: bool = False) -> Tensor:
    """Return how colourful each image looks: 0 for grey, 15 slightly, 33 moderately, 59 quite, 109 extremely so.

    ``(B, 3, H, W)``, RGB in [0, 1], gives ``(B,)``. Hasler & Süsstrunk, "Measuring colourfulness in natural images",
    2003: spread and mean of red - green and yellow - blue; published scripts take their `absolute` values.
    """
    red, green, blue = (255 * rgb).unbind(dim=1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), dim=1).flatten(2)
    variance, mean = torch.var_mean(opponents.abs() if absolute else opponents, dim=2, correction=0)
    return variance.sum(dim=1).sqrt() + 0.3 * mean.square().sum(dim=1).sqrt()


def is_true_grey(rgb: Tensor) -> Tensor:
    """Tell which photos, ``(B, 3, H, W)`` in [0, 1], are grey themselves, to ``TRUE_GREY_SPREAD``: ``(B,)``, bool."""
    spread = (rgb.amax(dim=1) - rgb.amin(dim=1)).amax(dim=(-2, -1))
    return spread * 255 < TRUE_GREY_SPREAD + 0.5


def skill_sums(prediction: Tensor, target: Tensor, lookup: Tensor) -> Tensor:
    """Return the sums over pixels that :func:`skill` is computed from, which add up over photos: ``(B, 3)``.

    All are ``(B, 3, H, W)``, RGB in [0, 1]; ``lookup`` is what the luma look-up makes of ``target``. The sums are of
    p · t, p · p and t · t, of the chroma (Lab's a and b) of ``prediction`` and ``target`` less that of ``lookup``.
    """
    known = rgb_to_lab(lookup)[:, 1:]
    own, true = rgb_to_lab(prediction)[:, 1:] - known, rgb_to_lab(target)[:, 1:] - known
    return torch.stack([(a * b).sum(dim=(1, 2, 3)) for a, b in ((own, true), (own, own), (true, true))], dim=1)


def skill(sums: Tensor) -> Tensor:
    """Return the cosine between prediction and truth of chroma less the luma look-up's, over all pixels summed up.

    From :func:`skill_sums`, ``(..., 3)``, to ``(...)`` in [-1, 1]: 1 for the truth, near 0 for any tint from luma.
    """
    product, own, true = sums.unbind(dim=-1)
    length = own.sqrt() * true.sqrt()
    return torch.where(length == 0, 0.0, product / length)


@dataclass(frozen=True)
class Metric:
    """Row of `METRICS`."""

    title: str  # with the unit
    decimals: int
    better: Literal["higher", "lower", "truth"]  # "truth": a property of one image, whose differences are shown
    measure: Callable[..., Tensor] | None = None  # of prediction and truth (B, 3, H, W), or the first alone, to (B,)
    of_sums: Callable[[Tensor], Tensor] | None = None  # of the sums, (B, n), that `measure` gives, with the look-up too
    overlap_px: int | None = None  # rows that windows share, to measure a large image in strips; None: it is not
    most: float = math.inf  # larger values count as this in training's means, for PSNR may be infinite
    note: str = ""  # the meaning of its ends
    validated: bool = False  # training logs it of the validation photos, and the pipeline's table shows it
    scored: bool = False  # it is among the scores on fixed photos that say which checkpoint to take
    printed: bool = False  # `colorize.evaluate` prints it; metrics.md and metrics.json have every metric


METRICS = {
    "psnr": Metric("PSNR, dB", 2, "higher", psnr, most=100.0, validated=True, printed=True),
    "ssim": Metric("SSIM", 4, "higher", ssim, overlap_px=SSIM_WINDOW_PX - 1, printed=True),
    "lpips_alex": Metric("LPIPS Alex", 4, "lower", printed=True),
    "lpips_vgg": Metric("LPIPS VGG", 4, "lower"),
    "ciede2000": Metric(
        "CIEDE2000", 2, "lower", mean_ciede2000, overlap_px=0, note="1 is just noticeable", validated=True, scored=True,
        printed=True,
    ),
    "skill": Metric(
        "skill", 3, "higher", skill_sums, skill, 0, note="0: what luma tells, 1: truth", validated=True, scored=True,
        printed=True,
    ),
    "cf": Metric("CF", 2, "truth", colourfulness, note="colourfulness", validated=True, scored=True, printed=True),
    "cf_abs": Metric("CF abs", 2, "truth", partial(colourfulness, absolute=True)),
    "fid": Metric("FID", 2, "lower", printed=True),
    "region_accuracy": Metric("regions right", 3, "higher"),
}  # fmt: skip
"""Every metric, in the order of the tables."""

JUDGED_BY = "ciede2000"  # the metric that sums up an evaluation, and by which its gallery sorts photos; lower is better


def _columns() -> Iterator[tuple[str, Metric]]:
    for name, metric in METRICS.items():
        yield name, metric
        if metric.better == "truth":
            for ending, words in (("of_means", "of means"), ("per_image", "per photo")):
                yield f"delta_{name}_{ending}", replace(metric, title=f"Δ{metric.title} {words}", better="lower")


def _logged(name: str, metric: Metric) -> tuple[str, Metric]:
    of_one = metric.measure
    if metric.better != "truth" or of_one is None:
        return name, metric

    def difference(prediction: Tensor, truth: Tensor) -> Tensor:
        return (of_one(prediction) - of_one(truth)).abs()

    return f"delta_{name}", replace(metric, title=f"Δ{metric.title}", better="lower", measure=difference)


COLUMNS = dict(_columns())  # of tables: after metrics that should be the truth's come their differences from it
MEASURED = dict(sorted((row for row in METRICS.items() if row[1].measure), key=lambda row: bool(row[1].of_sums)))
"""The metrics that need no network; what the look-up is needed for comes last."""

LOGGED = dict(_logged(*row) for row in MEASURED.items())  # as training logs them: `delta_cf` in place of `cf`
SUMMARY = [name for name, metric in COLUMNS.items() if metric.validated and not name.endswith("_of_means")]
"""The columns of the pipeline's table."""

VALIDATED = {name: metric for name, metric in LOGGED.items() if metric.validated}
SCORED = {name: metric for name, metric in LOGGED.items() if metric.scored}


def measure(
    rows: Mapping[str, Metric],
    prediction: Tensor,
    truth: Tensor,
    lookup: Tensor | None = None,
    strip_pixels: int | None = None,
) -> dict[str, Tensor]:
    """Measure each image of a batch by `rows` of `MEASURED` or `LOGGED`: by name ``(B,)``, or ``(B, n)`` of `of_sums`.

    Images are ``(B, 3, H, W)``, RGB in [0, 1]. `lookup` is the prediction of the luma look-up; None leaves out the
    metrics that need it. `strip_pixels` are measured at a time, for the memory of large images; None: all.
    """
    images, (height, width) = [prediction, truth], truth.shape[-2:]
    images += [] if lookup is None else [lookup]
    found = {}
    for name, metric in rows.items():
        needed = 3 if metric.of_sums else 1 if metric.better == "truth" else 2
        if needed > len(images) or metric.measure is None:
            continue
        overlap = metric.overlap_px or 0
        windows = tall = max(1, height - overlap)
        if strip_pixels is not None and metric.overlap_px is not None:
            tall = max(1, strip_pixels // (width * len(truth)))
        found[name] = truth.new_zeros(())
        for top in range(0, windows, tall):
            count = min(tall, windows - top)
            strips = (rgb[..., top : top + count + overlap, :] for rgb in images[:needed])
            found[name] = found[name] + metric.measure(*strips) * (1.0 if metric.of_sums else count / windows)
    return found


OF_GREY = "grey_"  # prefix of the scores of grey, on the same photos, in the points of a training's curve
LEAST_OF_GREY = 1.0  # least that grey is taken to score, so that true greys divide nothing by zero


def distance(score: Mapping[str, float], of_grey: Mapping[str, float]) -> float:
    """Return the mean of CIEDE2000 and ΔCF, each as a share of that of grey: 0 is the truth, 1 as far away as grey.

    CIEDE2000 alone is lowest for cautious greys, ΔCF for any colours of the right strength.
    """
    return sum(score[name] / max(of_grey[name], LEAST_OF_GREY) for name in ("ciede2000", "delta_cf")) / 2


def rank(score: Mapping[str, float], first: Mapping[str, float]) -> tuple[bool, float]:
    """Return the sort key of a curve's points, the one to take first: True where skill has fallen, and the distance.

    A stronger sepia is nearer than a weaker one: only points count whose skill is not below that of the `first` point,
    the start; where it was not measured, all do. `best.ckpt` goes by this rule.
    """
    return score.get("skill", math.inf) < first.get("skill", -math.inf), score["distance"]


def beats_start(curve: Sequence[Mapping[str, float]]) -> bool | None:
    """Return True if some point of a curve is to be taken before its first, the start; None where there is no other."""
    return min(rank(point, curve[0]) for point in curve[1:]) < rank(curve[0], curve[0]) if len(curve) > 1 else None


class MeanMetrics:
    """Means over photos or steps, whichever rank had how many: of 3 and 2 photos, Lightning's own would make 2 each."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor], count: int = 1, group: str = "") -> None:
        """Add `count` photos: of each term its mean ``()``, or `measure`'s result. Names begin with `group`."""
        for term, values in terms.items():
            values = values.detach().to(torch.promote_types(values.dtype, torch.float32))
            if values.ndim:
                values = values.clamp_max(LOGGED[term].most).mean(dim=0)
            self._add(group + term, values * count, count)

    def _add(self, name: str, total: Tensor, count: int) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """Return the means over what all ranks added, each of which has to call it, though it had none."""
        parts = self.state()["ranks"]
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            totals, counts = zip(*(part[name] for part in parts if name in part), strict=True)
            total, metric = torch.stack(totals).double().sum(dim=0), LOGGED.get(name.rpartition("/")[2])
            found[name] = float(metric.of_sums(total) if metric and metric.of_sums else total / sum(counts))
        return found

    def take(self) -> dict[str, float]:
        """Return the same, and begin anew."""
        found, self._sums, self._counts = self.means(), {}, {}
        return found

    def state(self) -> dict[str, Any]:
        """Return the sums and counts of each rank, all of which have to call it."""
        own = {name: (total.cpu(), self._counts[name]) for name, total in self._sums.items()}
        return {"ranks": distributed.gathered(own)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume with what this rank had, to the bit; of another number of ranks than before, with some of theirs."""
        self._sums, self._counts = {}, {}
        mean = {name: (total, state["counts"][name]) for name, total in state.get("sums", {}).items()}  # until 0.2.0
        for part in distributed.dealt(state.get("ranks") or [mean] * distributed.world_size()):
            for name, (total, count) in part.items():
                self._add(name, total, count)
