"""What stepping and rolling out return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .state import WorldState


@dataclass(frozen=True)
class Step:
    """The result of one action.

    Args:
        frame: (B, 3, H, W) uint8, or None if not asked for.
        reward: (B,) float32 in reward units, or None without a reward head or if not asked for.
        tokens: (B, tokens_per_future_frame) int64, vocabulary ids.
        log_prob: (B,) float32, log-probability of the tokens under the sampling distribution.
    """

    frame: Tensor | None
    reward: Tensor | None
    tokens: Tensor
    log_prob: Tensor


@dataclass(frozen=True)
class Observation:
    """What a policy sees in `WorldModel.imagine`.

    Args:
        frame: (B, 3, H, W) uint8, the last known frame.
        reward: (B,) float32, reward of the last step; None before the first or without a reward head.
        step: steps taken so far in this call.
        state: where the worlds stand.
    """

    frame: Tensor
    reward: Tensor | None
    step: int
    state: WorldState


@dataclass(frozen=True)
class RolloutStatistics:
    """What a rollout cost.

    Args:
        num_frames: predicted frames of all rows.
        num_tokens: predicted tokens of all rows.
        prefill_seconds: spent in the transformer on contexts; also of those that were re-anchored.
        decode_seconds: spent in the transformer on predicted frames.
        vq_seconds: spent in the VQ model on contexts and on decoded frames.
        cache_bytes: held by the rollout's state: keys and values of contexts and rows.
        num_guessed, num_right: tokens tried in each row by `Sampling.num_guesses`, and those that were kept.
    """

    num_frames: int
    num_tokens: int
    prefill_seconds: float
    decode_seconds: float
    vq_seconds: float
    cache_bytes: int
    num_guessed: int
    num_right: int

    @property
    def tokens_per_second(self) -> float:
        """Of the transformer, without prefill."""
        return self.num_tokens / self.decode_seconds

    @property
    def frames_per_second(self) -> float:
        """Of everything together."""
        return self.num_frames / (self.prefill_seconds + self.decode_seconds + self.vq_seconds)

    @property
    def acceptance(self) -> float | None:
        """Share of the guesses that were right; None without guesses."""
        return self.num_right / self.num_guessed if self.num_guessed else None


@dataclass(frozen=True)
class Rollout:
    """Predicted futures. The axis N of candidates is there if actions had it or `num_samples` was given.

    Args:
        frames: (B, [N,] decoded steps, 3, H, W) uint8, predicted frames only; None if not asked for.
        rewards: (B, [N,] T) float32 in reward units; None without a reward head or if not asked for.
        tokens: (B, [N,] T, tokens_per_future_frame) int64, vocabulary ids; None if not asked for.
        log_probs: (B, [N,] T) float32, log-probability of each frame's tokens under the sampling distribution.
        actions: (B, [N,] T, A) float32 in environment units, or None if action-free.
        decoded_steps: which of the T steps `frames` shows.
        reanchored_at: steps before which some row was re-anchored on its own predictions.
        state: where the worlds stand at the end, B * N rows; None if no world model made this.
        statistics: what it cost; None if not asked for.
    """

    frames: Tensor | None
    rewards: Tensor | None
    tokens: Tensor | None
    log_probs: Tensor
    actions: Tensor | None
    decoded_steps: tuple[int, ...]
    reanchored_at: tuple[int, ...]
    state: WorldState | None
    statistics: RolloutStatistics | None = None

    @staticmethod
    def of_steps(
        steps: Sequence[Step],
        *,
        frames: Tensor | None,
        actions: Tensor | None,
        decoded_steps: tuple[int, ...],
        reanchored_at: Sequence[int],
        state: WorldState,
        statistics: RolloutStatistics | None = None,
    ) -> Rollout:
        """Put the steps of B rows one after the other."""
        return Rollout(
            frames=frames,
            rewards=None if steps[0].reward is None else torch.stack([step.reward for step in steps], dim=1),
            tokens=torch.stack([step.tokens for step in steps], dim=1),
            log_probs=torch.stack([step.log_prob for step in steps], dim=1),
            actions=actions,
            decoded_steps=decoded_steps,
            reanchored_at=tuple(reanchored_at),
            state=state,
            statistics=statistics,
        )

    def split_candidates(self, num_candidates: int) -> Rollout:
        """Turn the leading axis B * N of every tensor into (B, N)."""
        tensors = {
            field.name: value.unflatten(0, (-1, num_candidates))
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)
