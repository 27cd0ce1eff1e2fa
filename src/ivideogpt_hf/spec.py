"""What a world takes and gives, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .models.resizing import resize_frames


@dataclass(frozen=True)
class WorldModelSpec:
    """What a world model takes and gives.

    Args:
        frame_size: size (height, width) of frames, in pixels.
        num_context_frames: number of frames that `WorldModel.reset` takes.
        action_dim: width of an action, 0 if action-free.
        action_low, action_high: bounds of each action dimension in environment units; None where unknown.
        has_reward: whether steps have a reward.
        goal_conditioned: whether the first context frame is the goal.
        num_trained_frames: length of the longest future seen in training; None where unknown.
        max_future_frames: number of frames after which a rollout has to re-anchor: what training and positions allow.
        action_names: name of each action dimension; None where unknown.
        crop_to_aspect: whether frames of another aspect ratio are cropped before they are resized, instead of squeezed.
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
    action_names: tuple[str, ...] | None = None
    crop_to_aspect: bool = False

    @property
    def num_goal_frames(self) -> int:
        """Number of context frames that are goals: they stand first, and no action leads from or to them."""
        return int(self.goal_conditioned)

    @property
    def num_real_context_frames(self) -> int:
        """Number of context frames that a camera saw: all but the goal."""
        return self.num_context_frames - self.num_goal_frames

    def resize_frames(self, frames: Tensor) -> Tensor:
        """Crop and resize frames (..., 3, h, w) uint8 to the (..., 3, H, W) uint8 that the world takes: bilinear, with
        antialiasing."""
        return resize_frames(frames, self.frame_size, crop_to_aspect=self.crop_to_aspect)
