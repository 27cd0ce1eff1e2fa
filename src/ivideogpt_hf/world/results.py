"""What stepping and rolling out return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .state import State, WorldState

# A tensor that a call computes if it is asked to, else None. `Any` lets a caller who asked for it use it without a test
# for None, as `re.Match.group` does.
Requested = Tensor | Any


@dataclass(frozen=True)
class Step:
    """The result of one action.

    Args:
        frame: predicted frame (B, 3, H, W) uint8; None if not asked for.
        reward: predicted reward (B,) float32 in reward units; None without a reward head or if not asked for.
        tokens: vocabulary ids (B, tokens_per_future_frame) int64.
        log_prob: log-probability (B,) float32 of the tokens under the sampling distribution.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_actions, read_video
        >>> world, actions = WorldModel.default(), read_actions(EXAMPLE_EPISODE)
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> step, state = world.step(state, actions[1:2])
        >>> step.frame.shape, step.reward.shape
        (torch.Size([1, 3, 64, 64]), torch.Size([1]))
    """

    frame: Requested
    reward: Requested
    tokens: Tensor
    log_prob: Tensor

    def index(self, rows: slice) -> Step:
        """The given rows."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})


@dataclass(frozen=True)
class Observation:
    """What a policy sees of the worlds that it acts in.

    Args:
        frame: last known frame (B, 3, H, W) uint8.
        reward: reward (B,) float32 of the last step; None before the first or without a reward head.
        step: number of steps taken so far in this call.
        state: state of the worlds.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_actions, read_video
        >>> world, actions = WorldModel.default(), read_actions(EXAMPLE_EPISODE)
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> def policy(seen):  # an Observation
        ...     return actions[1 + seen.step][None]
        >>> world.rollout(state, policy, num_frames=2).actions.shape
        torch.Size([1, 2, 4])
    """

    frame: Tensor
    reward: Requested
    step: int
    state: State


@dataclass(frozen=True)
class RolloutStatistics:
    """What a rollout cost.

    Args:
        num_frames: number of predicted frames, of all rows.
        num_tokens: number of predicted tokens, of all rows.
        prefill_seconds: time in the transformer for contexts, those of re-anchoring included.
        decode_seconds: time in the transformer for predicted frames.
        vq_seconds: time in the VQ model for contexts and decoded frames.
        cache_bytes: memory of the keys and values that the rollout's state holds, of contexts and rows.
        num_guessed: number of tokens that `Sampling.num_guesses` tried in each row.
        num_right: number of those that were kept.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_actions, read_video
        >>> world, actions = WorldModel.default(), read_actions(EXAMPLE_EPISODE)
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> rollout = world.rollout(state, actions[None, 1:4], outputs=("frames", "statistics"))
        >>> rollout.statistics.num_frames, rollout.statistics.decode_seconds > 0
        (3, True)
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
        """Tokens that the transformer predicts in a second, prefill not counted."""
        return self.num_tokens / self.decode_seconds

    @property
    def frames_per_second(self) -> float:
        """Frames in a second, everything counted."""
        return self.num_frames / (self.prefill_seconds + self.decode_seconds + self.vq_seconds)

    @property
    def acceptance(self) -> float | None:
        """Share of the guesses that were right; None without guesses."""
        return self.num_right / self.num_guessed if self.num_guessed else None


@dataclass(frozen=True)
class Rollout:
    """Predicted futures. The axis N of candidates is there if actions had it or `num_samples` was given.

    Args:
        frames: predicted frames (B, [N,] decoded steps, 3, H, W) uint8; None if not asked for.
        rewards: predicted rewards (B, [N,] T) float32 in reward units; None without a reward head or if not asked for.
        tokens: vocabulary ids (B, [N,] T, tokens_per_future_frame) int64; None if not asked for.
        log_probs: log-probability (B, [N,] T) float32 of each frame's tokens under the sampling distribution.
        actions: actions (B, [N,] T, A) float32 in environment units; None if action-free.
        decoded_steps: numbers of the steps that `frames` shows.
        reanchored_at: numbers of the steps before which some row was re-anchored on its own predictions.
        state: state of the B * N worlds at the end; None where it is not in this process.
        statistics: time and memory that the rollout took; None if not asked for.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_actions, read_video
        >>> world, actions = WorldModel.default(), read_actions(EXAMPLE_EPISODE)
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> rollout = world.rollout(state, actions[None, 1:4], num_samples=2)
        >>> rollout.frames.shape, rollout.rewards.shape
        (torch.Size([1, 2, 3, 3, 64, 64]), torch.Size([1, 2, 3]))
    """

    frames: Requested
    rewards: Requested
    tokens: Requested
    log_probs: Tensor
    actions: Requested
    decoded_steps: tuple[int, ...]
    reanchored_at: tuple[int, ...]
    state: WorldState | None
    statistics: RolloutStatistics | Any = None

    @staticmethod
    def of_steps(
        steps: Sequence[Step],
        *,
        frames: Tensor | None,
        actions: Tensor | None,
        decoded_steps: tuple[int, ...],
        reanchored_at: Sequence[int],
        state: WorldState | None,
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


ResultT = TypeVar("ResultT", Step, Rollout)


def with_ordinary_tensors(result: ResultT) -> ResultT:
    """The same with tensors that may be changed in place, and take part in a loss.

    Tensors that were made in inference mode may not, and their copies outside it may.
    """
    copies: dict[str, Any] = {
        name: value.clone()
        for name, value in vars(result).items()
        if isinstance(value, Tensor) and value.is_inference()
    }
    return replace(result, **copies)
