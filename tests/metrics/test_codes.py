import pytest
import torch

from ivideogpt_hf.metrics.codes import perplexity


@pytest.mark.parametrize(
    ("counts", "expected"), [([7, 7, 7, 7], 4), ([0, 9, 0, 0], 1), ([5, 5, 0, 0], 2), ([0, 0], 1), ([3, 1], 1.7548)]
)
def test_perplexity_is_the_number_of_codes_in_effect(counts, expected):
    assert perplexity(torch.tensor(counts, dtype=torch.float32)) == pytest.approx(expected, rel=1e-4)
    assert perplexity(torch.tensor(counts)) == pytest.approx(expected, rel=1e-4)
