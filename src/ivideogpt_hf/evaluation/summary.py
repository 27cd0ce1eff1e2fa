"""Summaries of the measurements of all clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..metrics import REPEAT
from ..metrics.codes import perplexity
from .frechet import FeatureStatistics, frechet_distance
from .measures import FRAME_METRICS, MODEL, PREDICTED_ONLY, RECONSTRUCTION, SHUFFLED, WITH_CONTEXT, ZERO

Measures = Mapping[str, np.ndarray]
HIGHER_IS_BETTER = {"mse": False, "psnr": True, "ssim": True, "lpips": False}
MIN_REWARD_STD = 0.1  # below this standard deviation of the true reward, a correlation says nothing
DIGITS = 6


def check_num_clips(number: int) -> None:
    """Raise ValueError if clips are too few to be summarized: an interval needs two."""
    if number < 2:
        raise ValueError(f"an evaluation needs at least 2 clips, got {number}; ask for more with --num-clips")


def summarize_clips(clips: Sequence[Measures], features: tuple[str, bool] | None, num_codes: int) -> dict[str, Any]:
    """Summarize the measurements of all clips.

    Args:
        clips: measurements of at least two clips, as `measure_clip` returns them.
        features: name of the Frechet distance and whether it is standardised; None if no features were measured.
        num_codes: number of the model's dynamics codes.

    Raises:
        ValueError: if there are fewer than two clips.
    """
    check_num_clips(len(clips))
    methods = [name for name in (MODEL, REPEAT, RECONSTRUCTION, SHUFFLED, ZERO) if f"{name}/mse" in clips[0]]
    moving = moving_clips(clips)
    summary: dict[str, Any] = {
        "num_moving_clips": int(moving.sum()),
        "best_of_samples": {rule: best_of_samples(clips, rule) for rule in (PREDICTED_ONLY, WITH_CONTEXT)},
        "mean": {name: _means(clips, name) for name in methods},
        "mean_of_moving_clips": {name: _means([clips[i] for i in np.flatnonzero(moving)], name) for name in methods},
        **_steps(clips, methods),
        "tokens": token_use(clips, num_codes),
    }
    if features is not None:
        summary["frechet"] = {features[0]: frechet_distances(clips, standardised=features[1])}
    if SHUFFLED in methods:
        summary["wrong_over_right_actions_on_moving_clips"] = action_following(clips, moving)
    rewarded = [clip for clip in clips if "rewards/true" in clip]  # data sets of a mixture may have none
    if rewarded:
        summary["rewards"] = reward_quality(rewarded)
    return summary


def measured(clips: Sequence[Measures]) -> list[str]:
    """The metrics that were measured: all `FRAME_METRICS`, or all but LPIPS."""
    return [metric for metric in FRAME_METRICS if f"{MODEL}/{metric}" in clips[0]]


def _steps(clips: Sequence[Measures], methods: Sequence[str]) -> dict[str, Any]:
    """By method and metric, the mean of each predicted frame as "per_step", and its interval as "per_step_interval"."""
    means: dict[str, dict[str, list[float]]] = {}
    intervals: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in methods:
        means[name], intervals[name] = {}, {}
        for metric in measured(clips):
            values = np.stack([clip[f"{name}/{metric}"].mean(0, dtype=float) for clip in clips])
            means[name][metric] = _rounded(values.mean(0))
            intervals[name][metric] = [bootstrap_interval(step) for step in values.T]
    return {"per_step": means, "per_step_interval": intervals}


def moving_clips(clips: Sequence[Measures]) -> np.ndarray:
    """Mask (N,) bool of the half of the clips in which repeating the last frame is worst."""
    errors = np.array([clip[f"{REPEAT}/mse"].mean() for clip in clips])
    return errors >= np.median(errors)


def best_of_samples(clips: Sequence[Measures], rule: str) -> dict[str, dict[str, float]]:
    """The paper's numbers, for each metric.

    The metric is averaged over the frames of a sample, and the best sample of each clip counts. The result is the mean
    of all clips, with a bootstrap interval of 95 % over clips.
    """
    results = {}
    for metric in measured(clips):
        values = []
        for clip in clips:
            samples = clip[f"{MODEL}/{metric}"].astype(np.float64)
            if rule == WITH_CONTEXT:
                context = clip[f"context/{metric}"].astype(np.float64)
                samples = np.concatenate([np.broadcast_to(context, (len(samples), len(context))), samples], axis=1)
            means = samples.mean(1)
            values.append(means.max() if HIGHER_IS_BETTER[metric] else means.min())
        low, high = bootstrap_interval(np.array(values))
        results[metric] = {"value": round(float(np.mean(values)), DIGITS), "low": low, "high": high}
    return results


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of values (N,), by percentiles of resampled means."""
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:
        return (float(values[0]),) * 2
    interval = bootstrap(
        (values,), np.mean, n_resamples=2000, batch=100, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return round(float(interval.low), DIGITS), round(float(interval.high), DIGITS)


def frechet_distances(clips: Sequence[Measures], *, standardised: bool) -> dict[str, float]:
    """The Frechet distance between all samples of all clips and the true clips, by both rules of counting frames."""
    distances = {}
    for rule in (PREDICTED_ONLY, WITH_CONTEXT):
        statistics = []
        for kind in ("true", "predicted"):
            merged = FeatureStatistics.empty(clips[0][f"features/{kind}/{rule}"].shape[1])
            for clip in clips:
                merged = merged.merged(FeatureStatistics.of(torch.from_numpy(clip[f"features/{kind}/{rule}"])))
            statistics.append(merged)
        distances[rule] = round(frechet_distance(*statistics, standardised=standardised), DIGITS)
    return distances


def token_use(clips: Sequence[Measures], num_codes: int) -> dict[str, float]:
    """Measure the use of the dynamics codes.

    Returns:
        "repetition": share of tokens that repeat the token at the same place of the frame before; "usage": share of
        the codes that are ever predicted; "perplexity": their perplexity.
    """
    tokens = [clip["tokens"] for clip in clips]
    repeated = [(clip[:, 1:] == clip[:, :-1]).mean() for clip in tokens if clip.shape[1] > 1]
    counts = np.unique(np.concatenate([clip.ravel() for clip in tokens]), return_counts=True)[1]
    return {
        "repetition": round(float(np.mean(repeated)), DIGITS) if repeated else 0.0,
        "usage": round(len(counts) / num_codes, DIGITS),
        "perplexity": round(perplexity(torch.from_numpy(counts)), 3),
    }


def action_following(clips: Sequence[Measures], moving: np.ndarray) -> dict[str, float]:
    """Squared error under other actions, divided by that under the clip's own actions, in moving clips.

    It is empty where the model makes no error at all.
    """
    moving_only = [clips[i] for i in np.flatnonzero(moving)]
    errors = {
        name: np.mean([clip[f"{name}/mse"].mean(dtype=float) for clip in moving_only])
        for name in (MODEL, SHUFFLED, ZERO)
    }
    if errors[MODEL] == 0:
        return {}
    return {name: round(float(errors[name] / errors[MODEL]), 3) for name in (SHUFFLED, ZERO)}


def reward_quality(clips: Sequence[Measures]) -> dict[str, Any]:
    """Measure the quality of the predicted rewards, as the mean of the samples.

    Returns:
        "mean_absolute_error", "correlation" with the true reward, and "correlation_per_task". A correlation is None
        where the true reward does not vary, and 0 where it does, but the predicted one is always the same.
    """
    true = [clip["rewards/true"].astype(np.float64) for clip in clips]
    predicted = [clip["rewards/predicted"].mean(0, dtype=np.float64) for clip in clips]
    tasks = np.array([str(clip["task"]) for clip in clips])

    def correlation(rows: np.ndarray) -> float | None:
        pair = [np.concatenate([values[i] for i in np.flatnonzero(rows)]) for values in (true, predicted)]
        if pair[0].std() <= MIN_REWARD_STD:
            return None
        if np.ptp(pair[1]) == 0:
            return 0.0
        return round(float(np.corrcoef(*pair)[0, 1]), 3)

    return {
        "mean_absolute_error": round(float(np.abs(np.concatenate(predicted) - np.concatenate(true)).mean()), 4),
        "correlation": correlation(np.ones(len(clips), dtype=bool)),
        "correlation_per_task": {task: correlation(tasks == task) for task in sorted(set(tasks.tolist()))},
    }


def gates(summary: Mapping[str, Any]) -> dict[str, bool]:
    """Tests that a model must pass before plans made in it mean anything: name of each, and whether it passes."""
    model, repeat = (summary["per_step"][name] for name in (MODEL, REPEAT))
    result = {}
    if "lpips" in model:
        later_steps = zip(model["lpips"][1:], repeat["lpips"][1:], strict=True)
        result["LPIPS below repeating the last frame, from the second step on"] = all(
            error < repeat_error for error, repeat_error in later_steps
        )
    difference = summary["mean"][MODEL]["psnr"] - summary["mean"][REPEAT]["psnr"]
    result["mean PSNR above repeating the last frame"] = difference > 0
    if summary.get("wrong_over_right_actions_on_moving_clips"):
        ratio = summary["wrong_over_right_actions_on_moving_clips"][SHUFFLED]
        result["error with another clip's actions at least 1.3 times that with right ones, on moving clips"] = (
            ratio >= 1.3
        )
    if "rewards" in summary:
        correlations = [value for value in summary["rewards"]["correlation_per_task"].values() if value is not None]
        result["reward correlation at least 0.8 in every task where it varies"] = min(correlations, default=0) >= 0.8
    return result


def _means(clips: Sequence[Measures], name: str) -> dict[str, float]:
    """The mean of each metric over clips, samples and predicted frames."""
    return {
        metric: round(float(np.mean([clip[f"{name}/{metric}"].mean(dtype=float) for clip in clips])), DIGITS)
        for metric in measured(clips)
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
