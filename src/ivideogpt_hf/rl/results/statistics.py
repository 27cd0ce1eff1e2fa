"""Statistics of scores over runs, as Agarwal et al. (2021) propose them: the interquartile mean, and a stratified
bootstrap for its interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

TRIMMED = 0.25  # share of the runs that an interquartile mean leaves out, on each side
NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles
DIGITS = 4
SAME = 1e-9  # a curve reaches a threshold even where the mean of its runs is rounded down


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean over runs without the lowest and the highest quarter of them, each rounded down.

    Args:
        scores: scores (R, ...) of R runs.

    Returns:
        The means (...) float64.

    Example:
        >>> import numpy as np
        >>> from ivideogpt_hf.rl.results.statistics import interquartile_mean
        >>> float(interquartile_mean(np.array([0.0, 0.1, 0.2, 0.6, 1.0])))
        0.3
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.asarray(scores, dtype=np.float64), TRIMMED, axis=0))


def bootstrap_intervals(strata: Sequence[np.ndarray], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of the interquartile mean over the runs of all strata, by a stratified bootstrap.

    A resample draws, in each stratum, as many of its runs as it has, with replacement. The interval is that of the
    percentiles of the resamples' means.

    Args:
        strata: scores (R, ...) of the R runs in each stratum, such as an environment. R may differ.
        seed: seed of the draws.

    Returns:
        The lower and the upper bounds (...) float64.

    Raises:
        ValueError: if no stratum has two runs, so that resamples would not differ.
    """
    from scipy.stats import trim_mean

    if not any(len(scores) > 1 for scores in strata):
        raise ValueError("an interval over seeds needs at least two runs that differ in the seed")
    generator = np.random.default_rng(seed)
    resamples = []
    for scores in strata:
        values = np.asarray(scores, dtype=np.float64)
        resamples.append(values[generator.integers(len(values), size=(NUM_RESAMPLES, len(values)))])
    means = trim_mean(np.concatenate(resamples, axis=1), TRIMMED, axis=1)
    low, high = np.percentile(means, INTERVAL, axis=0)
    return low, high


def steps_to_reach(threshold: float, steps: ArrayLike, success: ArrayLike) -> float | None:
    """The number of real steps after which a curve first reaches a threshold.

    Between two evaluations the curve is a straight line. A curve that begins at or above the threshold reaches it at
    its first evaluation.

    Args:
        threshold: success rate.
        steps: numbers (E,) of real steps, ascending.
        success: success rates (E,) at these steps.

    Returns:
        The number of steps, or None if the curve never reaches the threshold.

    Example:
        >>> from ivideogpt_hf.rl.results.statistics import steps_to_reach
        >>> steps_to_reach(0.5, [0, 1000, 2000], [0.0, 0.2, 0.6])
        1750.0
    """
    points = list(zip(np.asarray(steps).tolist(), np.asarray(success).tolist(), strict=True))
    threshold -= SAME
    if points[0][1] >= threshold:
        return float(points[0][0])
    for (step, value), (next_step, next_value) in pairwise(points):
        if next_value >= threshold:
            share = (threshold + SAME - value) / (next_value - value)
            return round(step + min(share, 1.0) * (next_step - step), DIGITS)
    return None
