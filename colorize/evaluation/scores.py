"""Means over photos with their intervals and differences, from what each photo scored, and as metrics.json has them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colorize.evaluation.measuring import GREY, TRUTH, Floats, Measurements
from colorize.evaluation.regions import COUNTED, TAKEN_FOR
from colorize.metrics import COLUMNS, METRICS

_REGIONS = "region_accuracy"
_NONE = np.full(1, np.nan)
RESAMPLES = 2000
_CELLS_AT_ONCE = 2_000_000  # counts held at a time, so that memory does not grow with resamples times photos


def resampled_ratios(numerators: NDArray[np.number], denominators: NDArray[np.number], seed: int) -> Floats:
    """Divide sums by sums over many samples of as many photos, drawn with replacement (Efron 1979).

    Both are ``(photos, columns)``, finite; the result is ``(RESAMPLES, columns)``, NaN where a denominator is 0. All
    columns, and calls with as many photos and the same seed, are resampled alike: differences are paired.
    """
    photos, columns = numerators.shape
    table = np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    rng, sums, at_once = np.random.default_rng(seed), [], max(1, _CELLS_AT_ONCE // photos)
    for first in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - first)
        drawn = rng.integers(photos, size=(count, photos)) + photos * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * photos).reshape(count, photos)
        sums.append(counts.astype(np.float64) @ table)
    total = np.concatenate(sums)
    with np.errstate(invalid="ignore"):
        return np.asarray(total[:, :columns] / total[:, columns:])


@dataclass(frozen=True)
class Score:
    """Mean over photos, or the difference of two; NaN where there is none."""

    mean: float
    samples: Floats  # (resamples,), paired between all rows and metrics
    without_greys: float = np.nan  # the mean over the photos that are not grey themselves
    left_out: int = 0  # photos without a finite value, which are in no mean

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the middle 95 % of the samples that are there, a percentile interval; NaN where none is."""
        kept = self.samples[~np.isnan(self.samples)]
        low, high = np.percentile(kept, [2.5, 97.5]) if len(kept) else (np.nan, np.nan)
        return float(low), float(high)

    @property
    def exceeds(self) -> bool:
        """Tell whether a difference is beyond what other photos would bring: 0 is not in its interval."""
        low, high = self.bounds
        return low > 0 or high < 0

    def to_json(self) -> dict[str, Any]:
        low, high = self.bounds
        return {"mean": self.mean, "low": low, "high": high}


@dataclass(frozen=True)
class Table:
    """The scores of each row, and of each region where the images are scenes."""

    rows: dict[str, dict[str, Score]]
    regions: dict[str, dict[str, Score]]
    measured: Measurements
    seed: int

    @property
    def columns(self) -> list[str]:
        """The metrics of this table, with those that were asked for and could not be had."""
        return [name for name in COLUMNS if name in self.rows[TRUTH] or name in self.measured.missing]

    def difference(self, metric: str, row: str, minus: str) -> Score:
        """Return how much higher `row` scores than `minus`, on the same photos."""
        first, second = self.rows[row][metric], self.rows[minus][metric]
        if not first.left_out and not second.left_out:
            return _combined(np.subtract, first, second)
        gap, ones = _finite(self.measured.values[row][metric], self.measured.values[minus][metric])
        return Score(_ratio(gap, ones), resampled_ratios(gap[:, None], ones[:, None], self.seed)[:, 0])


def tabulate(measured: Measurements, seed: int) -> Table:
    """Average over photos, with intervals from one bootstrap, of this seed, that all cells share."""
    cells: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for row, values in measured.values.items():
        cells |= {(row, name): _finite(scores) for name, scores in values.items() if not METRICS[name].of_sums}
        for name in _like_the_truth(values):
            difference = np.abs(values[name] - measured.values[TRUTH][name])
            cells[row, f"delta_{name}_per_image"] = _finite(difference)
    for row, found in measured.sums.items():
        if "skill" in found:
            product, own, true = found["skill"].T
            cells |= {(row, "skill/own"): (product, own), (row, "skill/true"): (product, true)}
        for number, (region, table) in enumerate(_confusions(found).items()):
            cells[row, f"region/{region}"] = table[:, number], table.sum(axis=1)
    all_sums, all_counts = (np.stack([cell[part] for cell in cells.values()], axis=1) for part in (0, 1))
    rows: dict[str, dict[str, Score]] = {row: {} for row in measured.values}
    regions: dict[str, dict[str, Score]] = {row: {} for row, found in measured.sums.items() if _REGIONS in found}
    coloured = ~measured.true_grey
    resampled = resampled_ratios(all_sums, all_counts, seed).T
    for ((row, name), (sums, counts)), samples in zip(cells.items(), resampled, strict=True):
        without_greys = _ratio(sums[coloured], counts[coloured])
        kind, _, region = name.partition("/")
        if kind == "region":
            regions[row][region] = Score(_ratio(sums, counts), samples, without_greys)
        else:
            rows[row][name] = Score(_ratio(sums, counts), samples, without_greys, int((counts == 0).sum()))
    for row, scores in rows.items():
        for name in _like_the_truth(scores):
            gap = _combined(np.subtract, scores[name], rows[TRUTH][name])
            scores[f"delta_{name}_of_means"] = _combined(np.abs, gap)
        if "skill/own" in scores:
            scores["skill"] = _combined(_geometric_mean, scores.pop("skill/own"), scores.pop("skill/true"))
        if row in measured.fid:  # only running sums of the features are kept, of which no interval can be had
            scores["fid"] = Score(measured.fid[row], _NONE)
        if row in regions:
            scores[_REGIONS] = _combined(_mean, *regions[row].values())
    return Table(rows, regions, measured, seed)


def _confusions(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    """Split the pixels of scenes by region: ``(photos, TAKEN_FOR)`` each."""
    return dict(zip(COUNTED, np.split(sums[_REGIONS], len(COUNTED), axis=1), strict=True)) if _REGIONS in sums else {}


def _like_the_truth(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in METRICS and METRICS[name].better == "truth"]


def _finite(first: Floats, second: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """`first` minus `second` with zeros where one is infinite, and ones where neither is."""
    usable = np.isfinite(first) & np.isfinite(second)
    with np.errstate(invalid="ignore"):
        return np.where(usable, first - second, 0.0), usable.astype(np.float64)


def _ratio(sums: Floats, counts: Floats) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def _combined(compute: Callable[..., Any], *scores: Score) -> Score:
    parts = [[getattr(score, part) for score in scores] for part in ("mean", "without_greys", "samples")]
    mean, without_greys, samples = (compute(*values) for values in parts)
    return Score(float(mean), samples, float(without_greys))


def _geometric_mean(own: Floats, true: Floats) -> Floats:
    """Return the skill p · t / |p||t| from p · t / p · p and p · t / t · t; 0 where p is 0."""
    return np.where(np.isnan(own), 0 * true, np.sign(own) * np.sqrt(own * true))


def _mean(*regions: Floats) -> Floats:
    """Every region that occurs counts alike, faces as much as the sky."""
    return np.asarray(np.ma.filled(np.ma.masked_invalid(np.stack(regions)).mean(axis=0), np.nan))


def verdict(table: Table, row: str, start: str, checkpoint: str) -> str:
    """Return sentences that say if `row` is better than the row `start`, which is that of `checkpoint`, and grey."""
    scores, grey = table.rows[row], table.rows[GREY]["ciede2000"].mean
    skill, ciede2000 = scores["skill"], scores["ciede2000"].mean
    said = [f"CIEDE2000 {ciede2000:.2f} (grey: {grey:.2f}), skill {skill.mean:.3f} ({_span(skill, '.3f')})"]
    if row != start:
        gained, farther = (table.difference(name, row, start) for name in ("skill", "ciede2000"))
        if (gained.bounds[0] > 0 and farther.mean <= 0) or (farther.bounds[1] < 0 and gained.mean >= 0):
            found = "better than its start: kept"
        else:
            worse = gained.bounds[1] < 0 or farther.bounds[0] > 0
            found = f"{'worse' if worse else 'no better'} than the generator it started from"
            found += f": use checkpoint={checkpoint}"
        change = f"skill {gained.mean:+.3f} ({_span(gained, '+.3f')}), CIEDE2000 {farther.mean:+.2f}"
        said.append(f"{found} ({change} ({_span(farther, '+.2f')}) against it)")
    if ciede2000 > grey:
        said.append("worse than no colour at all, by CIEDE2000")
    if not skill.bounds[0] > 0:
        said.append("not shown to know more of colours than luma tells")
    return f"The result, {row}: {'; '.join(said)}."


def _span(score: Score, form: str) -> str:
    return " to ".join(format(bound, form) for bound in score.bounds)


def rows_to_json(table: Table) -> dict[str, dict[str, dict[str, Any]]]:
    """Return every metric of each row: mean, interval, mean without true greys, how many PSNRs are infinite."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row, scores in table.rows.items():
        cells = found[row] = {}
        for metric in table.columns:
            if metric not in scores:  # its weights are missing
                cells[metric] = {"mean": None, "low": None, "high": None}
                continue
            cells[metric] = scores[metric].to_json() | {"without_greys": scores[metric].without_greys}
        cells["psnr"]["infinite"] = scores["psnr"].left_out
    return found


def difference_to_json(table: Table, row: str, minus: str) -> dict[str, Any]:
    """Return a row minus another in every metric that both have."""
    found = {name: table.difference(name, row, minus) for name in table.columns if name in table.rows[row]}
    cells = {name: score.to_json() | {"exceeds": score.exceeds} for name, score in found.items()}
    return {"row": row, "minus": minus, "metrics": cells}


def regions_to_json(table: Table) -> dict[str, dict[str, dict[str, Any]]]:
    """Return for each row and each region that occurs its pixels, the share that is right, what they are taken for."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row, regions in table.regions.items():
        found[row] = {}
        for region, confusion in _confusions(table.measured.sums[row]).items():
            counts = dict(zip(TAKEN_FOR, confusion.sum(axis=0).astype(int).tolist(), strict=True))
            if pixels := sum(counts.values()):
                shares = {name: count / pixels for name, count in counts.items() if count}
                found[row][region] = {"pixels": pixels, "right": regions[region].to_json(), "taken_for": shares}
    return found
