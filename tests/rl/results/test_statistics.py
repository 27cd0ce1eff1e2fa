"""Statistics over runs: numbers worked out by hand."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from ivideogpt_hf.rl.results.statistics import bootstrap_intervals, interquartile_mean, steps_to_reach


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([0.7], 0.7),
        ([0.0, 0.1, 0.9], 1 / 3),  # a quarter of three is none
        ([0.9, 0.0, 0.2, 0.4], 0.3),
        ([0.0, 0.1, 0.2, 0.6, 1.0], 0.3),
        ([0, 0, 1, 2, 3, 4, 9, 99], 2.5),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side(scores, mean):
    assert interquartile_mean(np.array(scores)) == pytest.approx(mean)


def test_the_interquartile_mean_is_taken_at_each_step():
    curves = np.array([[0.0, 0.9], [0.2, 0.4], [0.4, 0.2], [0.9, 0.0]])
    np.testing.assert_allclose(interquartile_mean(curves), [0.3, 0.3])


def test_intervals_hold_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap_intervals([generator.normal(0.5, 0.1, 20)])
        held += low <= 0.5 <= high
    assert 0.85 < held / 200 < 0.99  # a bootstrap of 20 runs is somewhat too narrow


def test_equal_runs_have_an_interval_without_width():
    low, high = bootstrap_intervals([np.full((5, 3), 0.4)])
    np.testing.assert_allclose([low, high], 0.4)


def test_strata_keep_their_sizes_in_every_resample():
    """Two environments whose runs are alike: whatever is drawn, half of the scores are 0 and half are 1."""
    low, high = bootstrap_intervals([np.zeros(4), np.ones(4)])
    assert low == high == 0.5
    mixed_low, mixed_high = bootstrap_intervals([np.concatenate([np.zeros(4), np.ones(4)])])
    assert mixed_low < 0.5 < mixed_high


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="at least two runs"):
        bootstrap_intervals([np.ones(1), np.ones(1)])


@pytest.mark.parametrize(
    ("success", "reached"),
    [
        ([0.0, 0.2, 0.6, 1.0], 1750),  # three quarters of the way from 0.2 to 0.6
        ([0.0, 0.5, 0.4, 0.9], 1000),  # the first time counts
        ([0.5, 0.6, 0.7, 0.8], 0),  # from the first evaluation on
        ([0.9, 0.1, 0.1, 0.1], 0),
        ([0.0, 0.1, 0.2, 0.499], None),
        ([0.0, 0.0, 0.0, 0.5], 3000),
    ],
)
def test_steps_to_half_of_the_episodes(success, reached):
    assert steps_to_reach(0.5, [0, 1000, 2000, 3000], success) == reached


def test_a_mean_that_is_rounded_down_reaches_the_threshold():
    success = [0.0, 0.1 + 0.7 - 1e-16]
    assert success[1] < 0.8
    assert steps_to_reach(0.8, [0, 1000], success) == 1000
