"""What a rollout is asked for: one object, made and checked where a call comes in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, get_args

from ..decoding.sampling import Sampling

HorizonPolicy = Literal["reanchor", "error"]
DecodeSteps = Literal["all", "last"] | Sequence[int]
STEP_OUTPUTS = ("frames", "rewards", "tokens")
ROLLOUT_OUTPUTS = (*STEP_OUTPUTS, "statistics")


@dataclass(frozen=True)
class RolloutOptions:
    """How futures are predicted, and what of them is computed; `WorldModel.rollout` explains each field.

    Args:
        sampling: distribution and random numbers that tokens are drawn with.
        outputs: names of what to compute, of "frames", "rewards", "tokens" and "statistics".
        decode_steps: steps whose frames are decoded: "all", "last", or numbers from 0.
        horizon_policy: policy at the end of the model's horizon: "reanchor" or "error".

    Raises:
        ValueError: if a name is unknown.

    Example:
        >>> from ivideogpt_hf import Sampling
        >>> from ivideogpt_hf.world.options import RolloutOptions
        >>> options = RolloutOptions(Sampling(seed=0), outputs=("rewards",), decode_steps="last")
        >>> options.horizon_policy
        'reanchor'
    """

    sampling: Sampling = field(default_factory=Sampling)
    outputs: Sequence[str] | frozenset[str] = STEP_OUTPUTS
    decode_steps: DecodeSteps = "all"
    horizon_policy: HorizonPolicy = "reanchor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", check_outputs(self.outputs))
        if self.horizon_policy not in get_args(HorizonPolicy):
            raise ValueError(f"horizon_policy must be 'reanchor' or 'error', got {self.horizon_policy!r}")
        steps = self.decode_steps
        if isinstance(steps, str):
            known = steps in ("all", "last")
        else:  # a mask is none, and what can be gone through only once is not either
            known = isinstance(steps, Collection) and all(
                isinstance(step, Integral) and not isinstance(step, bool) for step in steps
            )
        if not known:
            raise ValueError(f"decode_steps must be 'all', 'last' or whole numbers of steps, got {steps!r}")
        if not isinstance(steps, str):
            object.__setattr__(self, "decode_steps", tuple(map(int, steps)))

    @property
    def shows_last(self) -> bool:
        """Whether the last step is decoded, whichever it is."""
        return "frames" in self.outputs and self.decode_steps == "last"

    def steps_to_decode(self, num_frames: int) -> tuple[int, ...]:
        """The numbers of the steps whose frames are decoded, in rising order; none unless "frames" are asked for.

        Raises:
            ValueError: if a step is not among the ``num_frames`` predicted ones.
        """
        if "frames" not in self.outputs:
            return ()
        if isinstance(self.decode_steps, str):
            return tuple(range(num_frames)) if self.decode_steps == "all" else (num_frames - 1,)
        if any(not 0 <= step < num_frames for step in self.decode_steps):
            raise ValueError(
                f"decode_steps must be 'all', 'last' or steps of 0 ... {num_frames - 1}, got {self.decode_steps!r}"
            )
        return tuple(sorted(set(self.decode_steps)))


def check_outputs(
    outputs: Sequence[str] | frozenset[str], allowed: tuple[str, ...] = ROLLOUT_OUTPUTS
) -> frozenset[str]:
    """Names of outputs as a set.

    Raises:
        ValueError: if a name is unknown.
    """
    is_collection = isinstance(outputs, Collection) and not isinstance(outputs, str)
    unknown = [name for name in outputs if name not in allowed] if is_collection else [outputs]
    if unknown:
        raise ValueError(f"outputs must be a sequence of names of {allowed}, got {unknown}")
    return frozenset(outputs)
