"""Imagined worlds as vector environments of stable-baselines3, for agents that learn in nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from ...environment import WorldModelVectorEnv
from ...extras import require_packages

require_packages("stable_baselines3", purpose="reinforcement learning")

from gymnasium.vector import AutoresetMode  # noqa: E402
from stable_baselines3.common.vec_env import VecEnv  # noqa: E402


class ImaginedWorlds(VecEnv):
    """A `WorldModelVectorEnv` as stable-baselines3 wants its vector environments, which are older than gymnasium's.

    Args:
        worlds: imagined worlds with the autoreset mode "SameStep".

    Raises:
        ValueError: if the worlds have another autoreset mode.

    Example:
        >>> from stable_baselines3 import PPO
        >>> from ivideogpt_hf import WorldModelVectorEnv
        >>> from ivideogpt_hf.rl.environments.imagined import ImaginedWorlds
        >>> environment = ImaginedWorlds(WorldModelVectorEnv("default", num_envs=2, horizon=2))
        >>> agent = PPO("CnnPolicy", environment, n_steps=2, batch_size=4, n_epochs=1, seed=0, device="cpu")
        >>> agent.learn(4).num_timesteps
        4
    """

    def __init__(self, worlds: WorldModelVectorEnv) -> None:
        if worlds.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"worlds must begin episodes anew in the step that ends them, as stable-baselines3 expects: make them "
                f"with autoreset_mode {AutoresetMode.SAME_STEP.value!r}, got {worlds.autoreset_mode.value!r}"
            )
        self.worlds = worlds
        self._actions: np.ndarray | None = None
        super().__init__(worlds.num_envs, worlds.single_observation_space, worlds.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin an episode in every world, with the seed that was set by ``seed``, if any.

        Returns:
            Observations (num_envs, 3 * frame_stack, H, W) uint8.
        """
        observations, _ = self.worlds.reset(seed=self._seeds[0])
        self._reset_seeds()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Take note of actions (num_envs, A)."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Act in every world.

        Returns:
            Observations (num_envs, 3 * frame_stack, H, W) uint8, rewards (num_envs,) float32, whether episodes are over
            (num_envs,) bool, and infos, which hold the last observation of an episode that is over.
        """
        assert self._actions is not None
        observations, rewards, terminations, truncations, infos = self.worlds.step(self._actions)
        is_over = terminations | truncations
        per_world: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(truncated)} for truncated in truncations]
        for row in np.flatnonzero(is_over):
            per_world[row]["terminal_observation"] = infos["final_obs"][row]
        return observations, rewards.astype(np.float32), is_over, per_world

    def close(self) -> None:
        """Close the worlds."""
        self.worlds.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """The attribute of the worlds, which they share."""
        return [getattr(self.worlds, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> NoReturn:
        """Refuse: the worlds of a batch share their attributes."""
        raise NotImplementedError("the worlds of a batch share their attributes")

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> NoReturn:
        """Refuse: the worlds of a batch have no methods of their own."""
        raise NotImplementedError("the worlds of a batch have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        """False for every world."""
        rows: Sequence[int] = list(self._get_indices(indices))
        return [False for _ in rows]
