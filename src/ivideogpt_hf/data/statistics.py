"""What a data set holds, in numbers: sums that can be merged, so that every shard counts for itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..media.images import decode_images
from .action_timing import ActionTiming
from .episodes import Episode

# A dimension whose values differ by less than this share of the largest is constant up to rounding.
CONSTANT_SPREAD = 1e-6


@dataclass
class Moments:
    """Count, mean, spread and range of numbers, per dimension, in float64 (Chan, Golub & LeVeque 1979).

    Attributes:
        count: number of rows.
        mean: (D,) mean; None before the first row, as all that follow.
        squares: (D,) sum of squared differences from the mean.
        low: (D,) smallest values.
        high: (D,) largest values.
    """

    count: int = 0
    mean: np.ndarray | None = None
    squares: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        """Add rows (N, D)."""
        if len(rows):
            rows = rows.astype(np.float64)
            mean = rows.mean(axis=0)
            self.merge(Moments(len(rows), mean, np.square(rows - mean).sum(axis=0), rows.min(axis=0), rows.max(axis=0)))

    def merge(self, other: Moments) -> None:
        """Add the rows that another has counted."""
        if other.count == 0:
            return
        if self.count == 0:
            self.__dict__.update(other.__dict__)
            return
        count = self.count + other.count
        step = other.mean - self.mean
        self.mean = self.mean + step * (other.count / count)
        self.squares = self.squares + other.squares + step**2 * (self.count * other.count / count)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.count = count

    @property
    def std(self) -> np.ndarray:
        """Standard deviation per dimension, with 1/N."""
        return np.sqrt(self.squares / self.count)

    @property
    def is_constant(self) -> np.ndarray:
        """Which dimensions hardly change, (D,) bool."""
        return self.high - self.low <= CONSTANT_SPREAD * np.maximum(abs(self.low), abs(self.high))

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("mean", "squares", "low", "high")}
        return {"count": self.count, **{name: None if v is None else v.tolist() for name, v in values.items()}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Moments:
        arrays = {name: None if v is None else np.array(v) for name, v in content.items() if name != "count"}
        return cls(content["count"], **arrays)


@dataclass
class EpisodeStatistics:
    """Counts over episodes.

    Attributes:
        lengths: number of episodes for each number of frames.
        sizes: number of episodes for each "camera HxW".
        blank: number of episodes whose first frame has one colour only, for each camera.
        successes: number of episodes for each of "true", "false" and "unknown".
        actions: moments of the actions, per dimension.
        rewards: moments of the rewards of single steps.
        returns: moments of the sums of an episode's rewards.
        action_names: names of the action dimensions, from the first episode that has any.
        action_low: lower bounds of the actions, from the first episode that has any.
        action_high: upper bounds of the actions, from the first episode that has any.
        out_of_bounds: number of steps outside the bounds, per action dimension.
        skipped: reason for each episode that was left out, by its id.
        notes: number of episodes for each remark about how they were read.
        rates: number of episodes for each rate, in frames per second to three digits.
        timing: whether actions and motion go together at the same step.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    blank: Counter[str] = field(default_factory=Counter)
    successes: Counter[str] = field(default_factory=Counter)
    actions: Moments = field(default_factory=Moments)
    rewards: Moments = field(default_factory=Moments)
    returns: Moments = field(default_factory=Moments)
    action_names: Sequence[str] | None = None
    action_low: Sequence[float] | None = None
    action_high: Sequence[float] | None = None
    out_of_bounds: Sequence[int] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    rates: Counter[str] = field(default_factory=Counter)
    timing: ActionTiming = field(default_factory=ActionTiming)

    @property
    def num_episodes(self) -> int:
        """Number of episodes that were counted."""
        return sum(self.lengths.values())

    @property
    def num_frames(self) -> int:
        """Number of frames of all episodes, for one camera."""
        return sum(length * number for length, number in self.lengths.items())

    def add(self, episode: Episode) -> None:
        """Count an episode."""
        self.lengths[episode.num_frames] += 1
        self.notes.update(set(episode.notes))
        if episode.fps is not None:
            self.rates[f"{episode.fps:.3g}"] += 1
        self.timing.add(episode)
        for camera, frames in episode.frames.items():
            first = frames[0] if isinstance(frames, np.ndarray) else decode_images(frames[:1])[0]
            self.sizes[f"{camera} {first.shape[0]}x{first.shape[1]}"] += 1
            self.blank[camera] += int((first == first[0, 0]).all())
        self.successes["unknown" if episode.success is None else str(episode.success).lower()] += 1
        if episode.rewards is not None and len(episode.rewards):
            self.rewards.add(episode.rewards[:, None])
            self.returns.add(episode.rewards.sum(dtype=np.float64)[None, None])
        if episode.actions is not None:
            self._add_actions(episode)

    def _add_actions(self, episode: Episode) -> None:
        self.actions.add(episode.actions)
        for name in ("action_names", "action_low", "action_high"):
            value = getattr(episode, name)
            if getattr(self, name) is None and value is not None:
                setattr(self, name, list(value))
        if episode.action_low is not None and episode.action_high is not None:
            outside = (episode.actions < episode.action_low) | (episode.actions > episode.action_high)
            self.out_of_bounds = _sum(self.out_of_bounds, outside.sum(axis=0).tolist())

    def skip(self, episode_id: str, reason: str) -> None:
        """Note an episode that was left out."""
        self.skipped[episode_id] = reason

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.to_json() if isinstance(value, (Moments, ActionTiming)) else value
            for name, value in content.items()
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> EpisodeStatistics:
        """The inverse of `to_json`. What earlier versions did not count is empty; other names are left out."""
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in content.items() if name in names}
        values["lengths"] = Counter({int(length): number for length, number in values["lengths"].items()})
        for name in ("sizes", "blank", "successes", "notes", "rates"):
            values[name] = Counter(values.get(name, {}))
        for name in ("actions", "rewards", "returns"):
            values[name] = Moments.from_json(values[name])
        if "timing" in values:
            values["timing"] = ActionTiming.from_json(values["timing"])
        return cls(**values)


def merge_statistics(parts: Sequence[EpisodeStatistics]) -> EpisodeStatistics:
    """The statistics of several sets of episodes together."""
    total = EpisodeStatistics()
    for part in parts:
        for name in ("lengths", "sizes", "blank", "successes", "notes", "rates"):
            getattr(total, name).update(getattr(part, name))
        for name in ("actions", "rewards", "returns"):
            getattr(total, name).merge(getattr(part, name))
        total.timing.merge(part.timing)
        for name in ("action_names", "action_low", "action_high"):
            if getattr(total, name) is None:
                setattr(total, name, getattr(part, name))
        total.out_of_bounds = _sum(total.out_of_bounds, part.out_of_bounds)
        total.skipped.update(part.skipped)
    return total


def _sum(first: Sequence[int] | None, second: Sequence[int] | None) -> Sequence[int] | None:
    if first is None or second is None:
        return first or second
    return [a + b for a, b in zip(first, second, strict=True)]
