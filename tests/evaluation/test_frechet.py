"""The Frechet distance against closed forms and scipy, and statistics that are gathered in parts."""

import numpy as np
import pytest
import torch

from ivideogpt_hf.evaluation.frechet import FeatureStatistics, frechet_distance


def features(count, width, seed=0, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return scale * torch.randn(count, width, generator=generator) @ mixing + shift


def gaussian(mean, covariance, count=100):
    mean, covariance = torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)
    return FeatureStatistics(count, mean, covariance * count)


def test_gaussians_with_known_moments():
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2 over standard deviations."""
    one = gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 9.0]])
    other = gaussian([1.0, 2.0], [[1.0, 0.0], [0.0, 25.0]])
    assert frechet_distance(one, other) == pytest.approx(5 + 1 + 4, rel=1e-12)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_it_is_scipys_on_random_features():
    linalg = pytest.importorskip("scipy.linalg")
    one, other = features(300, 40), features(200, 40, seed=1, scale=1.3, shift=0.2)
    statistics = FeatureStatistics.of(one), FeatureStatistics.of(other)
    (m1, c1), (m2, c2) = (
        (x.double().numpy().mean(0), np.cov(x.double().numpy(), rowvar=False, bias=True)) for x in (one, other)
    )
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-6)


def test_fewer_features_than_dimensions():
    """Singular covariances give a finite distance."""
    one, other = FeatureStatistics.of(features(5, 40)), FeatureStatistics.of(features(7, 40, seed=1))
    assert np.isfinite(frechet_distance(one, other))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-5 * one.covariance.trace().item())


def test_standardised_distances_do_not_depend_on_units():
    one, other = features(300, 5), features(300, 5, seed=1)
    scale = torch.tensor([1e-3, 1.0, 10.0, 5.0, 2.0])
    plain = frechet_distance(FeatureStatistics.of(one), FeatureStatistics.of(other), standardised=True)
    scaled = [FeatureStatistics.of(x * scale) for x in (one, other)]
    assert frechet_distance(*scaled, standardised=True) == pytest.approx(plain, rel=1e-4)
    constant = [FeatureStatistics.of(torch.cat([x, torch.ones(300, 1)], 1)) for x in (one, other)]
    assert frechet_distance(*constant, standardised=True) == pytest.approx(plain, rel=1e-6)


def test_parts_in_any_order_are_the_whole():
    everything = features(100, 6, shift=1e3)
    parts = [FeatureStatistics.of(part) for part in everything.split([1, 59, 40])]
    whole = FeatureStatistics.of(everything)
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = FeatureStatistics.empty(6)
        for index in order:
            merged = merged.merged(parts[index])
        assert merged.count == 100
        torch.testing.assert_close(merged.mean, whole.mean)
        torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-9, atol=1e-9)


def test_a_state_can_be_put_back():
    statistics = FeatureStatistics.of(features(10, 3))
    again = FeatureStatistics(**statistics.state_dict())
    assert frechet_distance(statistics, again) == pytest.approx(0, abs=1e-9)


def test_what_is_refused():
    with pytest.raises(ValueError, match="3 and 4 wide"):
        frechet_distance(FeatureStatistics.of(features(5, 3)), FeatureStatistics.of(features(5, 4)))
    with pytest.raises(ValueError, match="at least 2 features"):
        frechet_distance(FeatureStatistics.of(features(1, 3)), FeatureStatistics.of(features(5, 3)))
    with pytest.raises(ValueError, match="finite"):
        FeatureStatistics.of(torch.full((2, 3), float("nan")))
