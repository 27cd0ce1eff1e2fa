"""How measurements of clips are put together, against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from ivideogpt_hf.evaluation.frechet import FeatureStatistics, frechet_distance
from ivideogpt_hf.evaluation.measures import FRAME_METRICS, MODEL, PREDICTED_ONLY, SHUFFLED, WITH_CONTEXT, ZERO
from ivideogpt_hf.evaluation.summary import (
    action_following,
    best_of_samples,
    bootstrap_interval,
    frechet_distances,
    gates,
    moving_clips,
    reward_quality,
    token_use,
)
from ivideogpt_hf.metrics import REPEAT

pytest.importorskip("scipy")


def clip(samples, context=(0.0, 0.0), **more):
    """A clip whose every metric has these values by sample and frame."""
    arrays = {f"{MODEL}/{metric}": np.array(samples, dtype=np.float32) for metric in FRAME_METRICS}
    arrays |= {f"context/{metric}": np.array(context, dtype=np.float32) for metric in FRAME_METRICS}
    return arrays | more


def test_the_best_sample_is_chosen_per_metric_after_the_mean_over_frames():
    clips = [clip([[1, 5], [4, 4]]), clip([[0, 2], [2, 2]])]
    best = best_of_samples(clips, PREDICTED_ONLY)
    assert best["psnr"]["value"] == (4 + 2) / 2  # more is better
    assert best["lpips"]["value"] == (3 + 1) / 2  # less is better


def test_the_papers_rule_counts_reconstructed_context_frames():
    clips = [clip([[1, 5], [4, 4]], context=(8, 8)), clip([[0, 2], [2, 2]], context=(6, 6))]
    best = best_of_samples(clips, WITH_CONTEXT)
    assert best["psnr"]["value"] == ((16 + 8) / 4 + (12 + 4) / 4) / 2


def test_the_interval_holds_the_mean_and_shrinks_with_more_values():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert bootstrap_interval(np.ones(5)) == (1, 1)


def test_frechet_statistics_are_those_of_all_clips_together():
    generator = np.random.default_rng(0)
    clips = []
    for _ in range(6):
        arrays = {}
        for rule in (PREDICTED_ONLY, WITH_CONTEXT):
            arrays[f"features/true/{rule}"] = generator.normal(size=(1, 3)).astype(np.float32)
            arrays[f"features/predicted/{rule}"] = generator.normal(1, 2, size=(4, 3)).astype(np.float32)
        clips.append(arrays)
    both = [
        FeatureStatistics.of(torch.from_numpy(np.concatenate([c[f"features/{kind}/{PREDICTED_ONLY}"] for c in clips])))
        for kind in ("true", "predicted")
    ]
    found = frechet_distances(clips, standardised=False)[PREDICTED_ONLY]
    assert found == pytest.approx(frechet_distance(*both), abs=1e-6)


def test_moving_clips_are_those_that_repeating_fails():
    errors = [0.1, 0.4, 0.2, 0.3]
    moving = moving_clips([{f"{REPEAT}/mse": np.array([[error]])} for error in errors])
    assert moving.tolist() == [False, True, False, True]


def test_token_use():
    tokens = np.array([[[1, 2], [1, 3], [1, 3]]])  # 3 of 4 repeat
    use = token_use([{"tokens": tokens}], num_codes=10)
    assert use["repetition"] == 0.75
    assert use["usage"] == 0.3
    shares = np.array([3, 1, 2]) / 6
    assert use["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=1e-3)


def test_wrong_actions_are_compared_in_moving_clips_only():
    errors = {MODEL: (1.0, 2.0), SHUFFLED: (9.0, 6.0), ZERO: (9.0, 3.0)}
    clips = [{f"{name}/mse": np.array([[values[i]]]) for name, values in errors.items()} for i in range(2)]
    assert action_following(clips, np.array([False, True])) == {SHUFFLED: 3.0, ZERO: 1.5}


def test_without_an_error_no_ratio_is_told():
    clips = [{f"{name}/mse": np.zeros((1, 2)) for name in (MODEL, SHUFFLED, ZERO)}]
    assert action_following(clips, np.array([True])) == {}


def test_rewards_correlate_per_task_where_they_vary():
    rising = {"rewards/true": np.array([0.0, 1, 2]), "rewards/predicted": np.array([[1.0, 3, 5], [1, 3, 5]])}
    still = {"rewards/true": np.zeros(3), "rewards/predicted": np.ones((2, 3))}
    quality = reward_quality([rising | {"task": np.array("reach")}, still | {"task": np.array("push")}])
    assert quality["correlation_per_task"] == {"push": None, "reach": 1.0}
    assert quality["mean_absolute_error"] == pytest.approx((1 + 2 + 3 + 1 + 1 + 1) / 6, abs=1e-4)


def test_a_reward_that_is_always_the_same_does_not_pass_for_one_that_varies():
    rising = {"rewards/true": np.array([0.0, 1, 2]), "task": np.array("reach")}
    constant = reward_quality([rising | {"rewards/predicted": np.ones((2, 3))}])
    assert constant["correlation_per_task"] == {"reach": 0.0}


@pytest.mark.parametrize(("lpips", "ratio", "correlation"), [(0.1, 2.0, 0.9), (0.3, 2.0, 0.9), (0.1, 1.1, 0.9)])
def test_gates_are_as_they_are_written(lpips, ratio, correlation):
    summary = {
        "per_step": {MODEL: {"lpips": [0.9, lpips]}, REPEAT: {"lpips": [0.1, 0.2]}},
        "mean": {MODEL: {"psnr": 30.0}, REPEAT: {"psnr": 29.0}},
        "wrong_over_right_actions_on_moving_clips": {SHUFFLED: ratio},
        "rewards": {"correlation_per_task": {"reach": correlation, "push": None}},
    }
    assert list(gates(summary).values()) == [lpips < 0.2, True, ratio >= 1.3, True]
