"""How tokens are drawn: the options, random numbers that depend on nothing but seed and position, and the draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

# Constants of the SplitMix64 generator (Steele, Lea and Flood, 2014) as signed 64-bit integers.
_GOLDEN_GAMMA = -0x61C8864680B583EB
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
MIN_TEMPERATURE = 1e-6  # logits that are divided by much less are not finite


@dataclass(frozen=True)
class Sampling:
    """How the tokens of future frames are chosen.

    Args:
        temperature: divisor of the logits, finite and at least 1e-6.
        top_k: number of the most likely ids that are drawn from; None: all.
        greedy: whether to take the most likely id. Log-probabilities are still those of the distribution that the other
            arguments describe.
        restrict_to_codes: whether to draw only dynamics codes inside a frame, and to put the slot at a slot. False is
            what the original code does: any id may be drawn, in an action-free model at slots (but the first) too, and
            decoding moves an id that is no dynamics code to the nearest one that is.
        seed: seed of the random numbers, one for all rows or one for each. The same seed gives the same video whatever
            the batch it is in, but for draws within rounding of the border between two tokens. None draws one from
            torch's default generator. Candidates of one row draw differently.
        common_random_numbers: whether all candidates of a row draw with the same random numbers, so that they differ
            only by their actions.
        num_guesses: number of guessed tokens to try in each pass besides the one that is certain (speculative decoding,
            Leviathan et al., 2023). Guesses are the tokens of the frame before, or what a draft head says
            (`IVideoGPTConfig.draft_head`). A guess is kept where it is what is drawn anyway,
            so that the result is the same. Whether it is faster depends on model and machine.

    Raises:
        ValueError: if a value is out of range, or no number or flag.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_actions, read_video
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=2)[None]
        >>> actions, sampling = read_actions(EXAMPLE_EPISODE)[None, 1:3], Sampling(temperature=0.5, seed=0)
        >>> first, second = (world.rollout(frames, actions, sampling=sampling) for _ in range(2))
        >>> first.frames.equal(second.frames)
        True
    """

    temperature: float = 1.0
    top_k: int | None = 100
    greedy: bool = False
    restrict_to_codes: bool = True
    seed: int | Sequence[int] | None = None
    common_random_numbers: bool = False
    num_guesses: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, Real) or not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise ValueError(
                f"temperature must be a finite number of at least {MIN_TEMPERATURE:g}, got {self.temperature!r}; use "
                f"greedy=True for the mode"
            )
        # Python's own numbers, which can be written as JSON and hashed, whatever numbers were given, such as numpy's.
        plain: dict[str, Any] = {"temperature": float(self.temperature)}
        if self.top_k is not None:
            plain["top_k"] = check_count(self.top_k, "top_k")
        plain["num_guesses"] = check_count(self.num_guesses, "num_guesses", 0)
        for name in ("greedy", "restrict_to_codes", "common_random_numbers"):
            plain[name] = _check_flag(getattr(self, name), name)
        seeds = self.seed if isinstance(self.seed, Sequence) else [self.seed]
        if self.seed is not None:
            if not all(isinstance(seed, Integral) for seed in seeds):
                raise ValueError(f"seed must be a whole number, or a list with one for each row, got {self.seed!r}")
            plain["seed"] = int(self.seed) if isinstance(self.seed, Integral) else tuple(map(int, seeds))
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def row_seeds(self, num_rows: int, device: torch.device) -> Tensor:
        """Seeds (num_rows,) int64; draws one for all rows from torch's default generator if there is none.

        Raises:
            ValueError: if a sequence of seeds has another length.
        """
        if self.seed is None:
            return torch.randint(2**62, (1,), device="cpu").to(device).expand(num_rows)
        if not isinstance(self.seed, Sequence):
            return torch.tensor(_as_signed(self.seed), device=device).expand(num_rows)
        if len(self.seed) != num_rows:
            raise ValueError(f"seed must be one number or one per row ({num_rows}), got {len(self.seed)}")
        return torch.tensor([_as_signed(seed) for seed in self.seed], device=device)


def check_count(value: Any, name: str, minimum: int = 1) -> int:
    """A whole number of at least ``minimum``.

    Raises:
        ValueError: if it is none, such as 2.0, an array or a flag.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def _check_flag(value: Any, name: str) -> bool:
    is_scalar = getattr(value, "shape", None) == () and str(value.dtype).endswith("bool")
    if not isinstance(value, bool) and not is_scalar:
        raise ValueError(f"{name} must be True or False, for all rows, got {value!r}")
    return bool(value)


def _as_signed(seed: int) -> int:
    seed = int(seed) % 2**64
    return seed - 2**64 if seed >= 2**63 else seed


def _mix(x: Tensor) -> Tensor:
    """The output function of SplitMix64; masks make the shifts of signed integers logical ones."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MULTIPLIERS[0]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MULTIPLIERS[1]
    return x ^ ((x >> 31) & (2**33 - 1))


def uniforms(seeds: Tensor, streams: Tensor, first: Tensor, count: int) -> Tensor:
    """Random numbers that are a function of (seed, stream, position) alone.

    Args:
        seeds: seed (rows,) int64 of each row.
        streams: number (rows,) int64 of its stream, which branches of one row do not share.
        first: first position (rows,) int64 in the stream.
        count: number of consecutive positions.

    Returns:
        (rows, count) float32 in [0, 1).
    """
    keys = _mix(_mix(seeds * _GOLDEN_GAMMA) + streams * _GOLDEN_GAMMA)
    positions = first[:, None] + torch.arange(1, count + 1, device=seeds.device)
    bits = _mix(keys[:, None] + positions * _GOLDEN_GAMMA)
    return ((bits >> 40) & (2**24 - 1)).to(torch.float32) * 2.0**-24


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one id per row by inverting the distribution function; everything stays on the device.

    Args:
        logits: logits (rows, ids).
        uniform: random numbers (rows,) float32 in [0, 1).
        sampling: distribution to draw from.

    Returns:
        ids (rows,) int64 and their log-probabilities (rows,) float32 under the sampling distribution.
    """
    logits = logits.float() / sampling.temperature
    num_ids = logits.shape[-1]
    top, ids = logits.topk(min(sampling.top_k or num_ids, num_ids), dim=-1)
    log_probs = top.log_softmax(dim=-1)
    if sampling.greedy:
        # Ties are broken as argmax does, which is how `generate` breaks them.
        return logits.argmax(dim=-1), log_probs[:, 0]
    cumulative = log_probs.exp().cumsum(dim=-1)
    # Rounding may leave the last value below the largest uniform number.
    choice = (
        (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(dim=-1, keepdim=True).clamp(max=top.shape[-1] - 1)
    )
    return ids.gather(-1, choice)[:, 0], log_probs.gather(-1, choice)[:, 0]
