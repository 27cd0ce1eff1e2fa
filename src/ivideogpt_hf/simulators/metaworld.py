"""Meta-world V3 tasks. Rendering off screen without shadows is ten times as fast, and close to the stock picture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..extras import require_packages
from . import mujoco_state
from .base import Simulator, Transition, choose_renderer

CAMERA = "corner"
OVERSAMPLING = 2  # boxes of 2 x 2 pixels are averaged, in place of the renderer's multisampling


class MetaWorldSimulator(Simulator):
    """A Meta-world V3 task, such as "plate-slide" or "plate-slide-v3", with its scripted expert.

    The camera is "corner", as in the original's demonstrations. It hangs upside down, so its rows are flipped. An
    episode never ends by itself. Success is decided by the environment.

    Args:
        task: name of the task.
        size: side of the frames, in pixels.

    Raises:
        ImportError: without metaworld; names the extra.
        ValueError: if there is no such task.
    """

    action_names = ("x", "y", "z", "gripper")

    def __init__(self, task: str, size: int) -> None:
        choose_renderer()
        require_packages("metaworld", purpose="Meta-world")
        import metaworld.policies
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as ENVIRONMENTS

        name = task if task.endswith("-v3") else f"{task}-v3"
        if f"{name}-goal-observable" not in ENVIRONMENTS:
            tasks = sorted(key.removesuffix("-v3-goal-observable") for key in ENVIRONMENTS)
            raise ValueError(f"Meta-world has no task {task!r}; it has {', '.join(tasks)}")
        self.task = name.removesuffix("-v3").replace("-", " ")
        self.size = size
        self._make = lambda seed: ENVIRONMENTS[f"{name}-goal-observable"](seed=seed)
        self._make_policy = metaworld.policies.ENV_POLICY_MAP[name]
        self._mujoco = mujoco
        self._environment: Any = None
        self._pristine: mujoco_state.MujocoEnvironmentState | None = None
        self._renderer: Any = None
        self.action_low, self.action_high = np.full(4, -1, np.float32), np.full(4, 1, np.float32)

    def reset(self, seed: int) -> None:
        # Making an environment takes 25 times as long as resetting one, and gives the same episode: everything that an
        # episode changes is put back, since the state of the last one would leak into the next one's reset.
        if self._pristine is None:
            self._environment = self._make(seed)
            self._environment._freeze_rand_vec = False  # a new object position at every reset, ...
            self._environment.seeded_rand_vec = True  # ... by the seed, not by numpy's global generator
            self._environment.max_path_length = 10**9
            self._pristine = mujoco_state.save_environment(self._environment)
            self._set_up_renderer()
        mujoco_state.restore_environment(self._pristine, self._environment)
        self._environment.seed(seed)
        self._policy = self._make_policy()
        self.observation, _ = self._environment.reset()

    def _set_up_renderer(self) -> None:
        model = self._environment.model
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = OVERSAMPLING * self.size
        self._renderer = self._mujoco.Renderer(model, OVERSAMPLING * self.size, OVERSAMPLING * self.size)
        for flag in (self._mujoco.mjtRndFlag.mjRND_SHADOW, self._mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0

    def render(self) -> np.ndarray:
        self._renderer.update_scene(self._environment.data, camera=CAMERA)
        image = self._renderer.render()[::-1].astype(np.float32)
        boxes = image.reshape(self.size, OVERSAMPLING, self.size, OVERSAMPLING, 3)
        return boxes.mean(axis=(1, 3)).round().astype(np.uint8)

    def step(self, action: np.ndarray) -> Transition:
        self.observation, reward, _, _, info = self._environment.step(action)
        return Transition(float(reward), bool(info["success"]), done=False)

    def get_state(self) -> Any:
        environment = self._environment
        return mujoco_state.save_state(environment, environment.model, environment.data), np.copy(self.observation)

    def set_state(self, state: Any) -> None:
        environment = self._environment
        simulation, observation = state
        mujoco_state.restore_state(simulation, environment, environment.model, environment.data)
        self.observation = observation.copy()

    def expert_action(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # it warns of actions beyond the bounds, which the caller clips
            return np.asarray(self._policy.get_action(self.observation), dtype=np.float32)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
