"""From what each photo scored to means, intervals and differences, and the tables that show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colorize.evaluation.bootstrap import Floats, interval, resampled_ratios
from colorize.evaluation.measuring import LOOKUP, TRUTH, Measurements
from colorize.evaluation.regions import COUNTED, TAKEN_FOR


@dataclass(frozen=True)
class Column:
    """How a metric is shown."""

    title: str
    decimals: int


COLUMNS = {
    "psnr": Column("PSNR, dB", 2),
    "ssim": Column("SSIM", 4),
    "lpips_alex": Column("LPIPS Alex", 4),
    "lpips_vgg": Column("LPIPS VGG", 4),
    "ciede2000": Column("CIEDE2000", 2),
    "skill": Column("skill", 3),
    "cf": Column("CF", 2),
    "delta_cf_of_means": Column("ΔCF of means", 2),
    "delta_cf_per_image": Column("ΔCF per photo", 2),
    "cf_abs": Column("CF abs", 2),
    "delta_cf_abs_of_means": Column("ΔCF abs of means", 2),
    "delta_cf_abs_per_image": Column("ΔCF abs per photo", 2),
    "fid": Column("FID", 2),
    "region_accuracy": Column("regions right", 3),
}
"""Every metric, in the order of the table."""

_DELTAS = {"cf": "delta_cf", "cf_abs": "delta_cf_abs"}


@dataclass(frozen=True)
class Score:
    """One cell of the table. NaN where there is no such figure."""

    mean: float
    low: float
    high: float
    """A 95 % bootstrap interval."""
    without_greys: float
    """The mean over the photos that are not grey themselves."""
    samples: Floats
    """``(resamples,)``, paired between all rows and metrics."""
    left_out: int = 0
    """Photos without a finite value, which are in no mean."""


@dataclass(frozen=True)
class Difference:
    """One row minus another."""

    mean: float
    low: float
    high: float

    @property
    def exceeds(self) -> bool:
        """Whether it is beyond what another choice of photos would bring: 0 is not in its interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Table:
    """The scores of each row, and of each region where the pictures are scenes."""

    rows: dict[str, dict[str, Score]]
    regions: dict[str, dict[str, Score]]
    measured: Measurements
    seed: int

    @property
    def photos(self) -> int:
        """How many were measured."""
        return len(self.measured.names)

    @property
    def columns(self) -> list[str]:
        """The metrics of this table, those included that were asked for and could not be had."""
        return [name for name in COLUMNS if name in self.rows[TRUTH] or name in self.measured.missing]

    def difference(self, metric: str, row: str, minus: str) -> Difference:
        """How much higher `row` scores than `minus`, on the same photos."""
        first, second = self.rows[row][metric], self.rows[minus][metric]
        if not first.left_out and not second.left_out:
            return Difference(first.mean - second.mean, *interval(first.samples - second.samples))
        gap, ones = _finite(self.measured.values[row][metric], self.measured.values[minus][metric])
        samples = resampled_ratios(gap[:, None], ones[:, None], self.seed)[:, 0]
        return Difference(_ratio(gap, ones), *interval(samples))


def tabulate(measured: Measurements, seed: int) -> Table:
    """Means with their intervals, from one bootstrap, of this seed, that all cells share."""
    cells: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for row, values in measured.values.items():
        cells |= {(row, metric): _finite(scores) for metric, scores in values.items() if metric != "skill"}
        for metric, delta in _DELTAS.items():
            cells[row, f"{delta}_per_image"] = _finite(np.abs(values[metric] - measured.values[TRUTH][metric]))
    for row, products in measured.skill_sums.items():
        cells[row, "skill/own"], cells[row, "skill/true"] = ((products[:, 0], products[:, n]) for n in (1, 2))
    for row, right in measured.right.items():
        assert measured.counted is not None
        for number, region in enumerate(COUNTED):
            cells[row, f"region/{region}"] = right[:, number].astype(float), measured.counted[:, number].astype(float)
    sums, counts = (np.stack([cell[part] for cell in cells.values()], axis=1) for part in (0, 1))
    all_samples = resampled_ratios(sums, counts, seed)
    coloured = ~measured.true_grey
    rows: dict[str, dict[str, Score]] = {row: {} for row in measured.values}
    regions: dict[str, dict[str, Score]] = {row: {} for row in measured.right}
    for (row, metric), samples in zip(cells, all_samples.T, strict=True):
        sums_here, counts_here = cells[row, metric]
        score = _score(
            _ratio(sums_here, counts_here),
            _ratio(sums_here[coloured], counts_here[coloured]),
            samples,
            left_out=0 if metric.startswith("region/") else int((counts_here == 0).sum()),
        )
        if metric.startswith("region/"):
            regions[row][metric.removeprefix("region/")] = score
        else:
            rows[row][metric] = score
    for row, found in rows.items():
        for metric, delta in _DELTAS.items():
            own, true = found[metric], rows[TRUTH][metric]
            found[f"{delta}_of_means"] = _score(
                abs(own.mean - true.mean),
                abs(own.without_greys - true.without_greys),
                np.abs(own.samples - true.samples),
            )
        if row in measured.skill_sums:
            found["skill"] = _geometric_mean(found.pop("skill/own"), found.pop("skill/true"))
        if row in measured.fid:
            # Only running sums of the features are kept, and no interval can be had of them.
            nothing = np.full(1, np.nan)
            found["fid"] = Score(measured.fid[row], np.nan, np.nan, np.nan, nothing)
        if row in regions:
            found["region_accuracy"] = _mean_of(list(regions[row].values()))
    return Table(rows, regions, measured, seed)


def _finite(first: Floats, second: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """`first` minus `second` with zeros where one is infinite, and ones where neither is."""
    usable = np.isfinite(first) & np.isfinite(second)
    with np.errstate(invalid="ignore"):
        return np.where(usable, first - second, 0.0), usable.astype(np.float64)


def _ratio(sums: Floats, counts: Floats) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def _score(mean: float, without_greys: float, samples: Floats, left_out: int = 0) -> Score:
    return Score(mean, *interval(samples), without_greys, samples, left_out)


def _geometric_mean(own: Score, true: Score) -> Score:
    """The skill p · t / |p||t| from p · t / p · p and p · t / t · t, as a correlation from slopes; 0 where p is."""
    pairs = ((own.mean, true.mean), (own.without_greys, true.without_greys), (own.samples, true.samples))
    mean, without, samples = (np.where(np.isnan(p), 0 * t, np.sign(p) * np.sqrt(p * t)) for p, t in pairs)
    return _score(float(mean), float(without), samples)


def _mean_of(regions: Sequence[Score]) -> Score:
    """Every region that occurs counts alike, faces as much as the sky."""
    there = [region for region in regions if not np.isnan(region.mean)]
    if not there:
        return Score(np.nan, np.nan, np.nan, np.nan, np.full(1, np.nan))
    samples = np.stack([region.samples for region in there])
    present = ~np.isnan(samples)
    means = np.where(present, samples, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    mean, without_greys = (float(np.nanmean([getattr(r, part) for r in there])) for part in ("mean", "without_greys"))
    return _score(mean, without_greys, np.where(present.any(axis=0), means, np.nan))


# --- as text ----------------------------------------------------------------------------------------------------------


def title(row: str) -> str:
    """How a row is called in a table."""
    return "luma look-up" if row == LOOKUP else row


def markdown(
    table: Table, columns: Sequence[str], *, intervals: bool = False, without_greys: bool = False, truth: bool = True
) -> str:
    """The scores as a Markdown table of some metrics, if asked for with the half width of each interval.

    The means are over all photos, or those that are not grey themselves; the row of the originals may be left out.
    """
    lines = [["", *(COLUMNS[name].title for name in columns)], ["---"] * (len(columns) + 1)]
    for row, scores in table.rows.items():
        if row != TRUTH or truth:
            cells = [_cell(scores.get(name), COLUMNS[name].decimals, intervals, without_greys) for name in columns]
            lines.append([title(row), *cells])
    return _lines(lines)


def markdown_differences(table: Table, pairs: Sequence[tuple[str, str]], columns: Sequence[str]) -> str:
    """Rows minus rows as a Markdown table; bold where the difference exceeds its interval."""
    columns = [name for name in columns if name in table.rows[TRUTH]]
    lines = [["", *(COLUMNS[name].title for name in columns)], ["---"] * (len(columns) + 1)]
    for row, minus in pairs:
        cells = []
        for name in columns:
            found, decimals = table.difference(name, row, minus), COLUMNS[name].decimals
            half = "" if np.isnan(found.low) else f" ± {(found.high - found.low) / 2:.{decimals}f}"
            cell = "–" if np.isnan(found.mean) else f"{found.mean:+.{decimals}f}{half}"
            cells.append(f"**{cell}**" if found.exceeds else cell)
        lines.append([f"{title(row)} − {title(minus)}", *cells])
    return _lines(lines)


def markdown_regions(table: Table, row: str) -> str:
    """Of each region the share that is right, and what the rest is taken for most."""
    lines = [["", "right", "taken for", "pixels"], ["---"] * 4]
    for number, (region, score) in enumerate(table.regions[row].items()):
        counts = table.measured.confusion[row][number]
        if counts.sum():
            wrong = [(count, name) for count, name in zip(counts, TAKEN_FOR, strict=True) if name != region and count]
            shares = [f"{name} {count / counts.sum():.3f}" for count, name in sorted(wrong, reverse=True)[:3]]
            lines.append([region, _cell(score, 3, True, False), ", ".join(shares) or "–", f"{counts.sum():,}"])
    return _lines(lines)


def _cell(score: Score | None, decimals: int, intervals: bool, without_greys: bool) -> str:
    if score is None:
        return "no weights"
    value = score.without_greys if without_greys else score.mean
    if np.isnan(value):
        return "∞" if score.left_out and not without_greys else "–"
    half = f" ± {(score.high - score.low) / 2:.{decimals}f}" if intervals and not np.isnan(score.low) else ""
    return f"{value:.{decimals}f}{half}"


def _lines(cells: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


# --- as JSON ----------------------------------------------------------------------------------------------------------


def row_to_json(table: Table, row: str) -> dict[str, dict[str, Any]]:
    """Every metric of a row: mean, interval, the mean without true greys, and how many photos are in no mean."""
    found: dict[str, dict[str, Any]] = {}
    for metric in table.columns:
        score = table.rows[row].get(metric)
        if score is None:
            found[metric] = {"mean": None, "low": None, "high": None}
            continue
        found[metric] = _figures(mean=score.mean, low=score.low, high=score.high, without_greys=score.without_greys)
        if metric == "psnr":
            found[metric]["infinite"] = score.left_out
    return found


def difference_to_json(table: Table, row: str, minus: str) -> dict[str, Any]:
    """A row minus another in every metric that both have."""
    metrics: dict[str, Any] = {}
    for metric in table.columns:
        if metric in table.rows[row]:
            found = table.difference(metric, row, minus)
            metrics[metric] = _figures(mean=found.mean, low=found.low, high=found.high) | {"exceeds": found.exceeds}
    return {"row": row, "minus": minus, "metrics": metrics}


def regions_to_json(table: Table, row: str) -> dict[str, dict[str, Any]]:
    """Of each region that occurs: the share that is right with its interval, and of what it is taken for."""
    found: dict[str, dict[str, Any]] = {}
    for number, (region, score) in enumerate(table.regions[row].items()):
        counts = table.measured.confusion[row][number]
        if total := int(counts.sum()):
            shares = {
                name: round(int(count) / total, 6) for name, count in zip(TAKEN_FOR, counts, strict=True) if count
            }
            right = _figures(mean=score.mean, low=score.low, high=score.high)
            found[region] = {"pixels": total, "right": right, "taken_for": shares}
    return found


def _figures(**values: float) -> dict[str, float | None]:
    """JSON has neither NaN nor infinity."""
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in values.items()}
