"""Options of rollouts are checked where they come in."""

import numpy as np
import pytest

from ivideogpt_hf import RolloutOptions, Sampling


def test_options_are_values():
    assert RolloutOptions(Sampling(seed=1), ["frames", "rewards"]) == RolloutOptions(
        Sampling(seed=1), ("rewards", "frames")
    )


@pytest.mark.parametrize(
    ("decode_steps", "steps"),
    [("all", (0, 1, 2)), ("last", (2,)), ([2, 0, 2], (0, 2)), ((), ()), (np.array([1]), (1,))],
)
def test_steps_to_decode(decode_steps, steps):
    assert RolloutOptions(decode_steps=decode_steps).steps_to_decode(3) == steps
    assert RolloutOptions(outputs=("rewards",), decode_steps=decode_steps).steps_to_decode(3) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ("frame",)}, "outputs must be"),
        ({"outputs": "frames"}, "outputs must be"),
        ({"outputs": (name for name in ("frames",))}, "outputs must be"),
        ({"decode_steps": "first"}, "decode_steps must be"),
        ({"decode_steps": [True, False]}, "decode_steps must be"),
        ({"decode_steps": iter([0, 1])}, "decode_steps must be"),
        ({"horizon_policy": "wrap"}, "horizon_policy must be"),
    ],
)
def test_what_is_unknown_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RolloutOptions(**options)


def test_a_step_beyond_the_rollout_is_refused():
    with pytest.raises(ValueError, match=r"steps of 0 \.\.\. 2"):
        RolloutOptions(decode_steps=(3,)).steps_to_decode(3)
