"""Bootstrap intervals: how far a mean over these photos may be from the mean over others like them.

Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979; percentile intervals.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000

LEVEL_PERCENT = 95.0

_CELLS_AT_ONCE = 2_000_000
"""Counts held at a time, so that memory does not grow with the number of resamples times that of photos."""


def resampled_ratios(
    numerators: NDArray[np.number], denominators: NDArray[np.number], seed: int, resamples: int = RESAMPLES
) -> Floats:
    """Divide sums by sums over many samples of as many photos, drawn with replacement.

    Both are ``(photos, columns)``, finite; the result is ``(resamples, columns)``, NaN where a sample's denominator is
    0. With values and ones these are means, with values and zeros or ones means over some of the photos. All columns
    are resampled alike, and so are two calls with the same number of photos and the same seed: differences of columns
    are paired.
    """
    photos, columns = numerators.shape
    if photos == 0:
        raise ValueError("there are no photos to resample")
    table = np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    rng, sums, at_once = np.random.default_rng(seed), [], max(1, _CELLS_AT_ONCE // photos)
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = rng.integers(photos, size=(count, photos)) + photos * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * photos).reshape(count, photos)
        sums.append(counts.astype(np.float64) @ table)
    total = np.concatenate(sums)
    with np.errstate(invalid="ignore"):
        ratios: Floats = total[:, :columns] / total[:, columns:]
    return ratios


def interval(samples: Floats) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of ``(resamples,)`` samples; NaN ones are left out, NaN where all are."""
    kept = samples[~np.isnan(samples)]
    if len(kept) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(kept, [50 - LEVEL_PERCENT / 2, 50 + LEVEL_PERCENT / 2])
    return float(low), float(high)
