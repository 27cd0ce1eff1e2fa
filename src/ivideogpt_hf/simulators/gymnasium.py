"""Any gymnasium environment with continuous actions that renders rgb arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..extras import require_packages
from ..media.pixels import resize_pixels
from .base import Simulator, Transition


class GymnasiumSimulator(Simulator):
    """An environment by its gymnasium id, as ``gymnasium.make(id, render_mode="rgb_array")`` makes it.

    Success is ``info["is_success"]`` or ``info["success"]``, if the environment gives one of them.

    Args:
        environment_id: id such as "Pendulum-v1", or "package:Name-v0" to import a package that registers it.
        size: side of the frames, in pixels; rendered frames are resized to it.
        options: further arguments of ``gymnasium.make``.

    Raises:
        ImportError: without gymnasium; names the extra.
        ValueError: if there is no such environment, its actions are not a bounded box of one dimension, or it does not
            render.
    """

    def __init__(self, environment_id: str, size: int, **options: Any) -> None:
        require_packages("gymnasium", purpose="a gymnasium environment")
        import gymnasium

        try:
            self._environment = gymnasium.make(environment_id, render_mode="rgb_array", **options)
        except (
            gymnasium.error.Error,
            TypeError,
        ) as error:  # TypeError: it takes no such option, not even a render mode
            raise ValueError(f"gymnasium cannot make {environment_id!r}: {error}") from error
        modes = self._environment.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            raise ValueError(f"{environment_id} does not render RGB images: its render modes are {modes}")
        space = self._environment.action_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
            raise ValueError(f"{environment_id} has the actions {space}; a bounded one-dimensional Box is needed")
        self.task = environment_id.split(":")[-1].split("/")[-1]
        self.size = size
        self.action_low, self.action_high = space.low.astype(np.float32), space.high.astype(np.float32)

    def reset(self, seed: int) -> None:
        self.observation, _ = self._environment.reset(seed=seed)

    def step(self, action: np.ndarray) -> Transition:
        dtype = self._environment.action_space.dtype
        self.observation, reward, terminated, truncated, info = self._environment.step(action.astype(dtype))
        success = info.get("is_success", info.get("success"))
        success = None if success is None else bool(success)
        return Transition(float(reward), success, bool(terminated or truncated))

    def render(self) -> np.ndarray:
        image = self._environment.render()
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"{self.task} does not render RGB images: got {got}")
        if image.shape[:2] == (self.size, self.size):
            return np.ascontiguousarray(image, dtype=np.uint8)
        return resize_pixels(image[None].astype(np.uint8), (self.size, self.size))[0]

    def close(self) -> None:
        self._environment.close()
