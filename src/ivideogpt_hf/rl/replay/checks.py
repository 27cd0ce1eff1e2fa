"""What a replay buffer takes: which spaces, frames, actions and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ...extras import require_packages

require_packages("gymnasium", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402

NUM_CHANNELS = 3
# By how much an action may lie outside the bounds, as a share of their distance: rounding in float32. Where the bounds
# are far from zero and close to each other, stable-baselines3's scaling to [-1, 1] rounds more.
TOLERANCE, SCALED_TOLERANCE = 1e-5, 1e-3


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> int:
    """The number of frames in a stack.

    Raises:
        ValueError: if the spaces are not those of an agent that sees stacks of frames.
    """
    shape = observation_space.shape if isinstance(observation_space, spaces.Box) else None
    if shape is None or len(shape) != 3 or observation_space.dtype != np.uint8 or shape[0] % NUM_CHANNELS:
        raise ValueError(
            f"observations must be stacks of colour frames, a uint8 Box of shape (3 * num_stack, H, W); this "
            f"environment has {observation_space}"
        )
    if not isinstance(action_space, spaces.Box) or not action_space.is_bounded():
        raise ValueError(f"actions must be a Box with finite bounds; this environment has {action_space}")
    return shape[0] // NUM_CHANNELS


def check_frames(name: str, frames: np.ndarray, ndim: int, frame_shape: tuple[int, ...]) -> None:
    """Check that frames (..., 3, H, W) are uint8, and have a number of dimensions.

    Raises:
        ValueError: if they are not.
    """
    if frames.dtype != np.uint8 or frames.ndim != ndim or frames.shape[-3:] != frame_shape:
        raise ValueError(
            f"{name} must be uint8 with {ndim} dimensions that end in {frame_shape}, got {frames.dtype} {frames.shape}"
        )


class ActionScale:
    """Actions in environment units, and scaled to [-1, 1].

    Args:
        space: box of the actions.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.low, self.high = space.low.ravel(), space.high.ravel()

    def to_unit(self, actions: np.ndarray | Tensor, leading: tuple[int, ...], *, clip: bool = False) -> np.ndarray:
        """Actions (*leading, A) float32 in [-1, 1] of such in environment units.

        Args:
            actions: actions in environment units.
            leading: expected shape without the last dimension.
            clip: whether actions outside the bounds are clipped instead of refused.

        Raises:
            ValueError: if the shape is another, or an action lies outside the bounds or is not finite.
        """
        values = as_array(actions)
        if values.shape != (*leading, len(self.low)):
            raise ValueError(f"actions must have shape {(*leading, len(self.low))}, got {values.shape}")
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        if clip and np.isfinite(values).all():
            values = np.clip(values, low, high)
        hint = "clip them first, as the environment does (add_episode: clip_actions=True)"
        _check_bounds(values, low, high, TOLERANCE, hint)
        return np.clip(2 * (values - low) / (high - low) - 1, -1, 1).astype(np.float32)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., A) float32 in environment units of such in [-1, 1]."""
        return (self.low + (actions + 1) * ((self.high - self.low) / 2)).astype(np.float32)


def check_scaled_actions(actions: np.ndarray) -> None:
    """Check that actions (..., A) are scaled to [-1, 1].

    Raises:
        ValueError: if they are not.
    """
    bounds = np.ones(actions.shape[-1])
    _check_bounds(actions, -bounds, bounds, SCALED_TOLERANCE, "add takes actions that are scaled to them")


def _check_bounds(actions: np.ndarray, low: np.ndarray, high: np.ndarray, tolerance: float, hint: str) -> None:
    margin = tolerance * (high - low)
    is_outside = ~((actions >= low - margin) & (actions <= high + margin))  # also where an action is NaN
    if is_outside.any():
        index = tuple(int(number) for number in np.argwhere(is_outside)[0])
        raise ValueError(
            f"{int(is_outside.sum())} numbers in the actions lie outside the bounds, the first, at index {index}, is "
            f"{actions[index]:.4g} where {low[index[-1]]:.4g} to {high[index[-1]]:.4g} is allowed; {hint}"
        )


def check_rewards(rewards: np.ndarray | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Rewards as an array, which must be finite and of a shape.

    Raises:
        ValueError: if they are not.
    """
    values = as_array(rewards)
    if values.shape != shape:
        raise ValueError(f"rewards must be of shape {shape}, got {values.shape}")
    is_finite = np.isfinite(values)
    if not is_finite.all():
        raise ValueError(f"rewards must be finite, got {values[~is_finite][0]}")
    return values


def as_array(values: np.ndarray | Tensor) -> np.ndarray:
    """An array with the values of an array or tensor."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
