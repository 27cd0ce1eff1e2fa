"""What a world takes and gives, in numbers; how a clip splits, and which action leads to which frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


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

    Example:
        >>> from ivideogpt_hf import WorldModel
        >>> spec = WorldModel.default().spec
        >>> spec.frame_size, spec.num_context_frames, spec.action_dim, spec.has_reward
        ((64, 64), 2, 4, True)
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

    @property
    def action_bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Bounds (low, high) of each action dimension in environment units, as planners take them.

        Raises:
            ValueError: if the checkpoint does not tell them.
        """
        if self.action_low is None or self.action_high is None:
            raise ValueError(
                "the checkpoint does not state the bounds of its actions: give the planner low and high, a number for "
                f"each of the {self.action_dim} dimensions, or train on data that convert-data made with --action-low "
                f"and --action-high"
            )
        return self.action_low, self.action_high

    def resize_frames(self, frames: Tensor) -> Tensor:
        """Crop and resize frames (..., 3, h, w) uint8 to the (..., 3, H, W) uint8 that the world takes: bilinear, with
        antialiasing."""
        from .models.resizing import resize_frames  # here, so that lengths and choices can be checked without torch

        return resize_frames(frames, self.frame_size, crop_to_aspect=self.crop_to_aspect)

    @property
    def first_action(self) -> int:
        """Row of the first action that conditions a future frame, see `first_action`."""
        return first_action(self.num_context_frames)


class SplitClip(NamedTuple):
    """A clip as a world model sees it.

    Attributes:
        context: (..., C, 3, H, W), the first frames.
        future: (..., T, 3, H, W), the frames that follow.
        actions: (..., T, A), row t leads to future frame t; None without actions.
    """

    context: Tensor
    future: Tensor
    actions: Tensor | None


def first_action(num_context_frames: int) -> int:
    """Row of the first action that conditions a future frame, where rows begin at the clip's first frame.

    Row t of a clip's actions, and of its rewards, leads from frame t to frame t + 1: the row of the last context frame
    leads to the first future frame.
    """
    return num_context_frames - 1


def split_clip(
    frames: Tensor, actions: Tensor | None = None, *, num_context_frames: int, num_future_frames: int | None = None
) -> SplitClip:
    """Split a clip into context and future.

    Args:
        frames: (..., N, 3, H, W) of any dtype.
        actions: (..., M, A), rows that begin at the clip's first frame, at least one for each frame but the last;
            None: without.
        num_context_frames: number of frames that are the context.
        num_future_frames: largest number of future frames to return; None: all.

    Raises:
        ValueError: if the clip has fewer frames than the context.
    """
    if frames.shape[-4] < num_context_frames:
        raise ValueError(f"a clip has {frames.shape[-4]} frames, fewer than the {num_context_frames} of the context")
    context, future = frames[..., :num_context_frames, :, :, :], frames[..., num_context_frames:, :, :, :]
    future = future[..., :num_future_frames, :, :, :]
    if actions is not None:
        first = first_action(num_context_frames)
        actions = actions[..., first : first + future.shape[-4], :]
    return SplitClip(context, future, actions)


def check_clip(num_frames: int, num_context_frames: int) -> None:
    """Check that a clip has room for a context and a future.

    Raises:
        ValueError: unless ``1 <= num_context_frames < num_frames``.
    """
    if not 1 <= num_context_frames < num_frames:
        raise ValueError(
            f"a clip needs context and future: 1 <= num_context_frames < num_frames, got {num_context_frames} and "
            f"{num_frames}"
        )
