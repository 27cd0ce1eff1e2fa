"""Merged statistics equal those of everything at once."""

import json

import numpy as np
import pytest

from ivideogpt_hf.data.statistics import EpisodeStatistics, Moments, merge_statistics
from tests.data.files import make_episode

LENGTHS = [5, 9, 2, 30]


def count(indices):
    statistics = EpisodeStatistics()
    for index in indices:
        statistics.add(make_episode(index, LENGTHS[index]))
    return statistics


def test_moments_are_numpys():
    rows = np.random.default_rng(0).normal(5, 3, (100, 2))
    moments = Moments()
    for part in np.split(rows, [3, 50]):
        moments.add(part)
    assert moments.mean == pytest.approx(rows.mean(axis=0))
    assert moments.std == pytest.approx(rows.std(axis=0))
    assert (moments.low == rows.min(axis=0)).all()
    assert (moments.high == rows.max(axis=0)).all()


def test_moments_far_from_zero_are_precise():
    rows = 1e8 + np.arange(10, dtype=np.float64)[:, None]
    moments = Moments()
    for row in rows:
        moments.add(row[None])
    assert moments.std == pytest.approx(rows.std(axis=0))


def test_shards_add_up():
    merged, whole = merge_statistics([count([0, 1]), count([2, 3])]), count([0, 1, 2, 3])
    assert merged.lengths == whole.lengths
    assert merged.num_frames == sum(LENGTHS)
    assert merged.actions.mean == pytest.approx(whole.actions.mean)
    assert merged.actions.std == pytest.approx(whole.actions.std)
    assert merged.returns.mean == pytest.approx(np.mean([sum(range(length - 1)) for length in LENGTHS]))


def test_json_keeps_everything():
    statistics = count([0, 3])
    statistics.skip("a", "broken")
    again = EpisodeStatistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert again.to_json() == statistics.to_json()


def test_a_constant_dimension_is_seen():
    moments = Moments()
    moments.add(np.array([[1.0, 2.0], [1.0, 3.0]]))
    assert moments.is_constant.tolist() == [True, False]
