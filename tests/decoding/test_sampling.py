import json
from dataclasses import asdict

import numpy as np
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.decoding.sampling import MIN_TEMPERATURE, draw, uniforms


def rows(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_uniforms_are_uniform_and_uncorrelated():
    values = uniforms(torch.arange(2000), torch.zeros(2000, dtype=torch.int64), rows(0).expand(2000), 50)
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=20, min=0, max=1)
    expected = values.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-square, 19 degrees of freedom, p < 0.001
    correlation = torch.corrcoef(values.T)
    assert (correlation - torch.eye(50)).abs().max() < 0.12


def test_uniforms_depend_on_seed_stream_and_position_alone():
    both = uniforms(rows(1, 2), rows(3, 4), rows(5, 6), 4)
    assert both[1:].equal(uniforms(rows(2), rows(4), rows(6), 4))
    assert both[:1, 2:].equal(uniforms(rows(1), rows(3), rows(7), 2))
    for changed in ((rows(9), rows(4), rows(6)), (rows(2), rows(9), rows(6)), (rows(2), rows(4), rows(99))):
        assert not both[1:].equal(uniforms(*changed, 4))


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    ids, log_prob = draw(logits.expand(20_000, -1), uniform, Sampling(temperature=0.7, top_k=3))
    kept = logits[0].clone()
    kept[[0, 3]] = float("-inf")
    expected = (kept / 0.7).softmax(-1)
    torch.testing.assert_close(ids.bincount(minlength=5) / 20_000, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(log_prob.exp(), expected[ids])


def test_the_largest_uniform_number_draws_a_possible_id():
    ids, log_prob = draw(torch.randn(100, 300), torch.full((100,), 1 - 2.0**-24), Sampling(top_k=None))
    assert ids.max() < 300
    assert log_prob.isfinite().all()


def test_greedy_takes_the_mode():
    logits = torch.randn(50, 30)
    ids, log_prob = draw(logits, torch.rand(50), Sampling(greedy=True, top_k=None))
    assert ids.equal(logits.argmax(-1))
    torch.testing.assert_close(log_prob, logits.log_softmax(-1).amax(-1))


def test_the_smallest_temperature_draws_the_likeliest_id():
    logits = torch.randn(50, 30) * 1000
    ids, log_prob = draw(logits, torch.rand(50), Sampling(temperature=MIN_TEMPERATURE, top_k=None))
    assert ids.equal(logits.argmax(-1))
    assert log_prob.isfinite().all()


def test_numbers_of_other_kinds_become_those_of_python():
    sampling = Sampling(np.float32(0.5), np.int64(7), seed=np.uint8(3), greedy=np.bool_(1))
    assert json.dumps(asdict(sampling)) == json.dumps(asdict(Sampling(0.5, 7, seed=3, greedy=True)))
    assert hash(Sampling(seed=np.arange(2).tolist())) == hash(Sampling(seed=(0, 1)))


def test_any_integer_is_a_seed():
    for seed in (0, -1, 2**63, 2**64 - 1):
        assert Sampling(seed=seed).row_seeds(3, torch.device("cpu")).shape == (3,)
