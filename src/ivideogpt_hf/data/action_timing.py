"""Whether actions and motion go together at the same step, from the data themselves.

Changes of the actions are correlated with changes of the motion in the pictures: one step earlier, at the same step,
and one step later. An effect before its cause tells that the actions are one row late. Motion that follows one step
later may be the delay of a robot, or tell that they are one row early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .episodes import Episode, decode_frames

# A part tells as much as the whole, and encoded images are decoded for it.
MEASURED_EPISODES, MEASURED_FRAMES = 4, 128
GRID = 16  # sides of the coarse picture that motion is measured in
MIN_STEPS = 4
DEVIATIONS = 3.0  # by which the best step must stand out of what chance does
EARLIER, SAME, LATER = -1, 0, 1


@dataclass
class ActionTiming:
    """Correlations between actions and motion, as sums that can be merged.

    Attributes:
        num_episodes: number of episodes that were measured.
        count: number of steps, of all cameras.
        products: (3, F, M) sums of products of F features of the actions with M of the motion one step earlier, at the
            same step, and one step later; None before the first episode.
    """

    num_episodes: int = 0
    count: int = 0
    products: np.ndarray | None = None

    def add(self, episode: Episode) -> None:
        """Measure an episode, if it is one of the first and has actions."""
        if episode.actions is None or self.num_episodes >= MEASURED_EPISODES:
            return
        self.num_episodes += 1
        actions = _standardized(np.diff(_action_features(episode.actions[: MEASURED_FRAMES - 1]), axis=0))
        for frames in episode.frames.values():
            motion = _standardized(np.diff(_motion_features(decode_frames(frames[:MEASURED_FRAMES])), axis=0))
            if len(motion) >= MIN_STEPS:
                inner, number = actions[1:-1], len(motion)
                shifted = [motion[1 + step : number - 1 + step] for step in (EARLIER, SAME, LATER)]
                products = np.stack([inner.T @ part for part in shifted])
                self.merge(ActionTiming(0, number - 2, products))

    def merge(self, other: ActionTiming) -> None:
        """Add what another has measured. Actions of another width are left out."""
        self.num_episodes += other.num_episodes
        if other.products is None or (self.products is not None and self.products.shape != other.products.shape):
            return
        self.count += other.count
        self.products = other.products if self.products is None else self.products + other.products

    @property
    def best_step(self) -> int | None:
        """-1 if motion goes together with the actions of the next step, 0 of the same, 1 of the one before.

        None if none of these stands out.
        """
        if self.products is None:
            return None
        correlations = self.products / self.count
        strengths = np.square(correlations).sum(axis=(1, 2))
        num_pairs = int((correlations != 0).any(axis=0).sum())
        chance, deviation = num_pairs / self.count, np.sqrt(2 * num_pairs) / self.count
        second, first = np.sort(strengths)[-2:]
        if first <= 2 * chance or first - second <= DEVIATIONS * deviation:
            return None
        return (EARLIER, SAME, LATER)[int(strengths.argmax())]

    def to_json(self) -> dict[str, Any]:
        products = None if self.products is None else self.products.tolist()
        return {"num_episodes": self.num_episodes, "count": self.count, "products": products}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ActionTiming:
        products = content["products"]
        return cls(content["num_episodes"], content["count"], None if products is None else np.array(products))


def _action_features(actions: np.ndarray) -> np.ndarray:
    """(T, 2 A + 1): the actions, their distances from the mean, and their length."""
    distances = np.abs(actions - actions.mean(axis=0))
    spread = actions.std(axis=0)
    length = np.linalg.norm(actions / np.where(spread > 0, spread, 1), axis=1, keepdims=True)
    return np.concatenate([actions, distances, length], axis=1).astype(np.float64)


def _motion_features(frames: np.ndarray) -> np.ndarray:
    """(T - 1, 4): how much brightness changes, and where it goes: to the right, down, and into the picture."""
    rows, columns = (max(1, side // (4 * GRID)) for side in frames.shape[1:3])
    coarse = frames[:, ::rows, ::columns].mean(axis=-1, dtype=np.float32)
    steps = [max(1, side // GRID) for side in coarse.shape[1:]]
    height, width = (side // step for side, step in zip(coarse.shape[1:], steps, strict=True))
    coarse = coarse[:, : height * steps[0], : width * steps[1]]
    coarse = coarse.reshape(len(frames), height, steps[0], width, steps[1]).mean(axis=(2, 4))
    change = np.diff(coarse, axis=0)
    across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    measures = (np.abs(change), change * across, change * down, change)
    return np.stack([measure.mean(axis=(1, 2)) for measure in measures], axis=1).astype(np.float64)


def _standardized(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and spread 1 in each column; 0 where a column is constant."""
    if not len(rows):
        return rows
    rows = rows - rows.mean(axis=0)
    spread = rows.std(axis=0)
    return np.divide(rows, spread, out=np.zeros_like(rows), where=spread > 1e-6)
