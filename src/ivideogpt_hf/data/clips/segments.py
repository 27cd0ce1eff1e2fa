"""Which frames of an episode make a clip, and what happens to the actions between them: pure functions of integers.

Stride, short episodes and the choice of future frames follow the iVideoGPT paper's public data code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ...spec import check_clip

Starts = Literal["random", "first"]
ShortEpisodes = Literal["shrink", "drop"]
ActionAggregation = Literal["sum", "last", "concatenate"]
MIN_FRAMES = 2  # fewer are no video


@dataclass(frozen=True)
class SegmentSpec:
    """What clips are cut from episodes.

    Attributes:
        num_frames: number of frames in a clip, T.
        num_context_frames: number of frames of a clip that are context; it matters where ``horizon`` is a number.
        horizon: number of strides from the start within which future frames are chosen: a random, sorted choice, as the
            paper trains its VQ model (6 of 14). None takes frames at equal distances.
        goal_conditioned: whether the segment's last frame is put first, as goal, so that context 2 is (goal, first
            frame).
        starts: "random" makes a clip of every start in an episode; "first" makes one clip, from its beginning.
        short_episodes: rule for an episode that is shorter than stride times length. "shrink" lowers the stride until
            the clip fits, and repeats the last frame (and action) of an episode that is still too short, as the paper
            does; "drop" leaves the episode out.

    Raises:
        ValueError: if the numbers contradict each other.

    Example:
        >>> from ivideogpt_hf import SegmentSpec
        >>> segment = SegmentSpec(num_frames=6, num_context_frames=2, horizon=12)
        >>> segment.num_future_frames
        4
    """

    num_frames: int = 16
    num_context_frames: int = 2
    horizon: int | None = None
    goal_conditioned: bool = False
    starts: Starts = "random"
    short_episodes: ShortEpisodes = "shrink"

    def __post_init__(self) -> None:
        check_clip(self.num_frames, self.num_context_frames)
        if self.horizon is not None and self.horizon < self.num_frames:
            raise ValueError(f"horizon ({self.horizon}) must be at least num_frames ({self.num_frames})")
        if self.horizon is not None and self.goal_conditioned:
            raise ValueError("horizon (a random choice of future frames) and goal_conditioned exclude each other")
        if self.goal_conditioned and self.num_context_frames < 2:
            raise ValueError("goal_conditioned needs num_context_frames >= 2: the goal and at least one real frame")
        check_choice("starts", self.starts, get_args(Starts))
        check_choice("short_episodes", self.short_episodes, get_args(ShortEpisodes))

    @property
    def num_goal_frames(self) -> int:
        """Number of goal frames, 0 or 1, that come before the other context frames."""
        return int(self.goal_conditioned)

    @property
    def num_future_frames(self) -> int:
        """Number of frames of a clip that are not context."""
        return self.num_frames - self.num_context_frames

    @property
    def length(self) -> int:
        """Number of strides that a segment covers."""
        return self.horizon or self.num_frames


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless a value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def frame_stride(stride: float, *, video_step: float = 1, base_stride: float = 1) -> int:
    """Number of frames of an episode from one frame of a clip to the next.

    Args:
        stride: stride of the source.
        video_step: base rate of the mixture.
        base_stride: stride that one step of that rate is.

    Returns:
        ``max(round(video_step * stride / base_stride), 1)``.
    """
    return max(round(video_step * stride / base_stride), 1)


def fitting_stride(stride: int, episode_frames: int, spec: SegmentSpec) -> int:
    """The stride for an episode: lowered where a segment would not fit."""
    if stride * spec.length > episode_frames:
        return max(1, episode_frames // spec.length)
    return stride


def count_starts(episode_frames: np.ndarray, stride: int, spec: SegmentSpec) -> np.ndarray:
    """Number of clips that each episode gives, (N,) int; 0 where it is left out.

    Args:
        episode_frames: (N,) int, number of frames of each episode.
        stride: number of frames from one frame of a clip to the next, where it fits.
        spec: frames that a clip takes of an episode.
    """
    fits = stride * spec.length <= episode_frames
    strides = np.where(fits, stride, np.maximum(1, episode_frames // spec.length))
    starts = np.maximum(episode_frames - strides * spec.length + 1, 1)
    if spec.starts == "first":
        starts = np.ones_like(starts)
    if spec.short_episodes == "drop":
        starts = np.where(fits, starts, 0)
    return np.where(episode_frames >= MIN_FRAMES, starts, 0)


def choose_frames(
    episode_frames: int, start: int, stride: int, spec: SegmentSpec, generator: np.random.Generator
) -> np.ndarray:
    """The frames of a clip, (T,) int64, in the order of the clip.

    Args:
        episode_frames: number of frames in the episode.
        start: index of the segment's first frame.
        stride: number of frames from one frame of the clip to the next, as `fitting_stride` gives it.
        spec: frames that a clip takes of an episode.
        generator: source of the random choice of future frames.
    """
    steps = np.arange(spec.num_frames)
    if spec.horizon is None:
        frames = np.minimum(start + stride * steps, episode_frames - 1)
        return np.roll(frames, 1) if spec.goal_conditioned else frames
    context = start + stride * steps[: spec.num_context_frames]
    first = start + stride * spec.num_context_frames
    pool = np.arange(first, min(start + stride * spec.horizon, episode_frames))
    number = min(spec.num_future_frames, len(pool))
    future = np.sort(generator.choice(pool, number, replace=False)) if len(pool) else pool
    frames = np.concatenate([context, future])
    frames = np.pad(frames, (0, spec.num_frames - len(frames)), mode="edge")
    return np.minimum(frames, episode_frames - 1)


def between_frames(rows: np.ndarray, frames: np.ndarray, stride: int, how: ActionAggregation) -> np.ndarray:
    """What lies between the frames of a clip, (T - 1, A) or (T - 1, A * stride).

    Args:
        rows: (N - 1, A) actions of an episode; row t leads from frame t to frame t + 1.
        frames: (T,) indices of the clip's frames, rising; after the episode's end the last one repeats.
        stride: number of frames from one frame of the clip to the next.
        how: "sum" adds the rows, "last" takes the last, "concatenate" puts them side by side.
    """
    out: list[np.ndarray] = []
    for first, last in zip(frames[:-1].tolist(), frames[1:].tolist(), strict=True):
        if last == first and out:  # after the end: frame and action repeat
            out.append(out[-1])
            continue
        group = rows[first:last]
        if how == "sum":
            out.append(group.sum(axis=0))
        elif how == "last":
            out.append(group[-1])
        else:
            out.append(np.pad(group, ((0, stride - len(group)), (0, 0)), mode="edge").reshape(-1))
    return np.stack(out).astype(np.float32)
