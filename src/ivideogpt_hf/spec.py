"""What a world takes and gives, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorldModelSpec:
    """What a world model takes and gives.

    Args:
        frame_size: (height, width) in pixels.
        num_context_frames: frames that `WorldModel.reset` needs.
        action_dim: width of an action, 0 if action-free.
        action_low, action_high: bounds per dimension in environment units, or None where unknown.
        has_reward: whether steps have a reward.
        goal_conditioned: whether the first context frame is the goal.
        num_trained_frames: longest future seen in training, or None where unknown.
        max_future_frames: frames after which a rollout has to re-anchor: what training and positions allow.
    """

    frame_size: tuple[int, int]
    num_context_frames: int
    action_dim: int
    action_low: tuple[float, ...] | None
    action_high: tuple[float, ...] | None
    has_reward: bool
    goal_conditioned: bool
    num_trained_frames: int | None
    max_future_frames: int
