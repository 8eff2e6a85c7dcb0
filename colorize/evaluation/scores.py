"""From what each photo scored to means, intervals and differences, and the tables that show them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from colorize.evaluation.bootstrap import Floats, interval, resampled_ratios
from colorize.evaluation.measuring import LOOKUP, TRUTH, Measurements
from colorize.evaluation.regions import COUNTED, TAKEN_FOR
from colorize.metrics import COLUMNS, METRICS

_REGIONS = "region_accuracy"

_NONE = np.full(1, np.nan)


@dataclass(frozen=True)
class Score:
    """Mean over photos, or the difference of two; NaN where there is none."""

    mean: float
    samples: Floats
    """``(resamples,)``, paired between all rows and metrics."""
    without_greys: float = np.nan
    """The mean over the photos that are not grey themselves."""
    left_out: int = 0
    """Photos without a finite value, which are in no mean."""

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Bounds of a 95 % bootstrap interval; NaN where it has none."""
        return interval(self.samples)

    @property
    def exceeds(self) -> bool:
        """Tell whether a difference is beyond what other photos would bring: 0 is not in its interval."""
        low, high = self.bounds
        return low > 0 or high < 0

    def half_width(self, decimals: int) -> str:
        """Return " ± " and half the width of the interval; nothing where there is none."""
        low, high = self.bounds
        return "" if np.isnan(low) else f" ± {(high - low) / 2:.{decimals}f}"

    def to_json(self) -> dict[str, float | None]:
        """Return the mean and its interval."""
        low, high = self.bounds
        return {"mean": _number(self.mean), "low": _number(low), "high": _number(high)}


@dataclass(frozen=True)
class Table:
    """The scores of each row, and of each region where the images are scenes."""

    rows: dict[str, dict[str, Score]]
    regions: dict[str, dict[str, Score]]
    measured: Measurements
    seed: int

    @property
    def photos(self) -> int:
        """Number of photos that were measured."""
        return len(self.measured.names)

    @property
    def columns(self) -> list[str]:
        """The metrics of this table, with those that were asked for and could not be had."""
        return [name for name in COLUMNS if name in self.rows[TRUTH] or name in self.measured.missing]

    def difference(self, metric: str, row: str, minus: str) -> Score:
        """Return how much higher `row` scores than `minus`, on the same photos."""
        first, second = self.rows[row][metric], self.rows[minus][metric]
        if not first.left_out and not second.left_out:
            return Score(first.mean - second.mean, first.samples - second.samples)
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
        for number, region in enumerate(COUNTED if _REGIONS in found else ()):
            table = found[_REGIONS][:, number]
            cells[row, f"region/{region}"] = table[:, number], table.sum(axis=1)
    all_sums, all_counts = (np.stack([cell[part] for cell in cells.values()], axis=1) for part in (0, 1))
    rows: dict[str, dict[str, Score]] = {row: {} for row in measured.values}
    regions: dict[str, dict[str, Score]] = {row: {} for row, found in measured.sums.items() if _REGIONS in found}
    coloured = ~measured.true_grey
    for ((row, name), (sums, counts)), samples in zip(
        cells.items(), resampled_ratios(all_sums, all_counts, seed).T, strict=True
    ):
        without_greys = _ratio(sums[coloured], counts[coloured])
        kind, _, region = name.partition("/")
        if kind == "region":
            regions[row][region] = Score(_ratio(sums, counts), samples, without_greys)
        else:
            rows[row][name] = Score(_ratio(sums, counts), samples, without_greys, int((counts == 0).sum()))
    for row, scores in rows.items():
        for name in _like_the_truth(scores):
            one, truth = scores[name], rows[TRUTH][name]
            scores[f"delta_{name}_of_means"] = Score(
                abs(one.mean - truth.mean),
                np.abs(one.samples - truth.samples),
                abs(one.without_greys - truth.without_greys),
            )
        if "skill/own" in scores:
            scores["skill"] = _geometric_mean(scores.pop("skill/own"), scores.pop("skill/true"))
        if row in measured.fid:  # only running sums of the features are kept, of which no interval can be had
            scores["fid"] = Score(measured.fid[row], _NONE)
        if row in regions:
            scores[_REGIONS] = _mean_of(list(regions[row].values()))
    return Table(rows, regions, measured, seed)


def _like_the_truth(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in METRICS and METRICS[name].better == "truth"]


def _finite(first: Floats, second: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """`first` minus `second` with zeros where one is infinite, and ones where neither is."""
    usable = np.isfinite(first) & np.isfinite(second)
    with np.errstate(invalid="ignore"):
        return np.where(usable, first - second, 0.0), usable.astype(np.float64)


def _ratio(sums: Floats, counts: Floats) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def _geometric_mean(own: Score, true: Score) -> Score:
    """The skill p · t / |p||t| from p · t / p · p and p · t / t · t, as a correlation from slopes; 0 where p is."""
    pairs = ((own.mean, true.mean), (own.without_greys, true.without_greys), (own.samples, true.samples))
    mean, without, samples = (np.where(np.isnan(p), 0 * t, np.sign(p) * np.sqrt(p * t)) for p, t in pairs)
    return Score(float(mean), samples, float(without))


def _mean_of(regions: Sequence[Score]) -> Score:
    """Every region that occurs counts alike, faces as much as the sky."""
    there = [region for region in regions if not np.isnan(region.mean)]
    if not there:
        return Score(np.nan, _NONE)
    samples = np.stack([region.samples for region in there])
    present = ~np.isnan(samples)
    means = np.where(present, samples, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    mean, without_greys = (float(np.nanmean([getattr(r, part) for r in there])) for part in ("mean", "without_greys"))
    return Score(mean, np.where(present.any(axis=0), means, np.nan), without_greys)


# --- as text ----------------------------------------------------------------------------------------------------------


def title(row: str) -> str:
    """Return the name of a row in a table."""
    return "luma look-up" if row == LOOKUP else row


def markdown(
    table: Table, columns: Sequence[str], *, intervals: bool = False, without_greys: bool = False, truth: bool = True
) -> str:
    """Return the scores as a Markdown table of some metrics, if asked for with half the width of each interval.

    The means are over all photos, or those that are not grey themselves; the row of the originals may be left out.
    """

    def cell(score: Score | None, decimals: int) -> str:
        if score is None:
            return "no weights"
        value = score.without_greys if without_greys else score.mean
        if np.isnan(value):
            return "∞" if score.left_out and not without_greys else "–"
        return f"{value:.{decimals}f}{score.half_width(decimals) if intervals else ''}"

    rows = [row for row in table.rows if row != TRUTH or truth]
    lines = (
        [title(row), *(cell(table.rows[row].get(name), COLUMNS[name].decimals) for name in columns)] for row in rows
    )
    return _lines([COLUMNS[name].title for name in columns], lines)


def markdown_differences(table: Table, pairs: Sequence[tuple[str, str]], columns: Sequence[str]) -> str:
    """Return rows minus rows as a Markdown table; bold where the difference exceeds its interval."""

    def cell(score: Score, decimals: int) -> str:
        text = "–" if np.isnan(score.mean) else f"{score.mean:+.{decimals}f}{score.half_width(decimals)}"
        return f"**{text}**" if score.exceeds else text

    columns = [name for name in columns if name in table.rows[TRUTH]]
    lines = (
        [
            f"{title(row)} − {title(minus)}",
            *(cell(table.difference(name, row, minus), COLUMNS[name].decimals) for name in columns),
        ]
        for row, minus in pairs
    )
    return _lines([COLUMNS[name].title for name in columns], lines)


def markdown_regions(table: Table, row: str) -> str:
    """Return for each region the share that is right, and what the rest is taken for most."""
    lines = []
    for region, score, counts in _regions_that_occur(table, row):
        wrong = [(count, name) for count, name in zip(counts, TAKEN_FOR, strict=True) if name != region and count]
        shares = [f"{name} {count / sum(counts):.3f}" for count, name in sorted(wrong, reverse=True)[:3]]
        right = f"{score.mean:.3f}{score.half_width(3)}"
        lines.append([region, right, ", ".join(shares) or "–", f"{sum(counts):,}"])
    return _lines(["right", "taken for", "pixels"], lines)


def _regions_that_occur(table: Table, row: str) -> Iterator[tuple[str, Score, list[int]]]:
    """Yield each region with its score and its pixels, by what they are taken for."""
    for (region, score), counts in zip(
        table.regions[row].items(), table.measured.sums[row][_REGIONS].sum(axis=0).astype(int).tolist(), strict=True
    ):
        if any(counts):
            yield region, score, counts


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (["", *head], ["---"] * (len(head) + 1), *rows))


# --- as JSON ----------------------------------------------------------------------------------------------------------


def row_to_json(table: Table, row: str) -> dict[str, dict[str, Any]]:
    """Return every metric of a row: mean, interval, the mean without true greys, and how many PSNRs are infinite."""
    found: dict[str, dict[str, Any]] = {}
    for metric in table.columns:
        score = table.rows[row].get(metric)
        if score is None:
            found[metric] = {"mean": None, "low": None, "high": None}
            continue
        found[metric] = score.to_json() | {"without_greys": _number(score.without_greys)}
        if metric == "psnr":
            found[metric]["infinite"] = score.left_out
    return found


def difference_to_json(table: Table, row: str, minus: str) -> dict[str, Any]:
    """Return a row minus another in every metric that both have."""
    metrics: dict[str, Any] = {}
    for metric in table.columns:
        if metric in table.rows[row]:
            found = table.difference(metric, row, minus)
            metrics[metric] = found.to_json() | {"exceeds": found.exceeds}
    return {"row": row, "minus": minus, "metrics": metrics}


def regions_to_json(table: Table, row: str) -> dict[str, dict[str, Any]]:
    """Return for each region that occurs the share that is right with its interval, and what it is taken for."""
    return {
        region: {
            "pixels": sum(counts),
            "right": score.to_json(),
            "taken_for": {
                name: round(count / sum(counts), 6) for name, count in zip(TAKEN_FOR, counts, strict=True) if count
            },
        }
        for region, score, counts in _regions_that_occur(table, row)
    }


def _number(value: float) -> float | None:
    """Round for JSON, which has neither NaN nor infinity."""
    return round(value, 6) if np.isfinite(value) else None
