"""What a rollout has brought so far, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .clock import Clock
from .results import Rollout, RolloutStatistics, Step
from .state import WorldState


@dataclass(frozen=True)
class Advance:
    """What one more frame brings.

    Args:
        step: result of the frame, not decoded.
        state: state after it.
        previous_reward: reward of the frame before, where this frame's first pass read it.
        num_guessed, num_right: number of tokens that were guessed, and of those that were kept.
    """

    step: Step
    state: WorldState
    previous_reward: Tensor | None
    num_guessed: int
    num_right: int


@dataclass
class RolloutRecord:
    """What a rollout has brought so far, step after step.

    Attributes:
        with_reward: whether rewards are asked for.
        steps: results, with rewards once they are known.
        actions: actions (B, A) of each step; empty for an action-free model.
        frames: decoded frames (B, n, 3, H, W) uint8, in chunks.
        decoded_steps: numbers of the steps that they show.
        pending: tokens of steps that are still to be decoded.
        reanchored_at: numbers of the steps before which some row was re-anchored.
        num_guessed, num_right: as in `Advance`, of all steps.
    """

    with_reward: bool
    steps: list[Step] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)
    decoded_steps: list[int] = field(default_factory=list)
    pending: list[Tensor] = field(default_factory=list)
    reanchored_at: list[int] = field(default_factory=list)
    num_guessed: int = 0
    num_right: int = 0

    def add(self, advance: Advance) -> None:
        """Note one more step, and what its first pass said of the reward before."""
        if self.with_reward and self.steps and self.steps[-1].reward is None:
            self.steps[-1] = replace(self.steps[-1], reward=advance.previous_reward)
        self.steps.append(advance.step)
        self.num_guessed += advance.num_guessed
        self.num_right += advance.num_right

    def as_rollout(self, state: WorldState, clock: Clock | None) -> Rollout:
        """The rollout that ends in a state, with statistics if its time was measured."""
        statistics = None
        if clock is not None:
            statistics = RolloutStatistics(
                num_frames=len(self.steps) * state.batch_size,
                num_tokens=sum(step.tokens.numel() for step in self.steps),
                prefill_seconds=clock.seconds["prefill"],
                decode_seconds=clock.seconds["decode"],
                vq_seconds=clock.seconds["vq"],
                cache_bytes=state.num_bytes,
                num_guessed=self.num_guessed,
                num_right=self.num_right,
            )
        return Rollout.of_steps(
            self.steps,
            frames=torch.cat(self.frames, dim=1) if self.frames else None,
            actions=torch.stack(self.actions, dim=1) if self.actions else None,
            decoded_steps=tuple(self.decoded_steps),
            reanchored_at=self.reanchored_at,
            state=state,
            statistics=statistics,
        )
