"""An iVideoGPT world model for LeRobot's EnvHub: ``make_env`` gives imagined worlds as a gymnasium vector environment.

This file is published with checkpoints as env.py. It needs numpy and gymnasium only, since the package ivideogpt-hf and
LeRobot need different versions of torch. The model runs in an environment of its own, perhaps on another machine::

    pip install 'ivideogpt-hf[serve]'  # while it is not on PyPI: pip install '.[serve]' in a clone of it
    ivideogpt serve user/my-model --port 8000

The environment variable IVIDEOGPT_SERVER names the address, http://127.0.0.1:8000 where it is not set, and
IVIDEOGPT_SERVER_TOKEN the token of a server that asks for one. Whatever checkpoint is served there is the world.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import urllib.error
import urllib.request
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SERVER_VARIABLE, TOKEN_VARIABLE = "IVIDEOGPT_SERVER", "IVIDEOGPT_SERVER_TOKEN"
DEFAULT_SERVER = "http://127.0.0.1:8000"
HORIZON = 15
TIMEOUT_SECONDS = 300.0
MAX_SEED = 2**62


def make_env(n_envs: int = 1, use_async_envs: bool = False, cfg: Any = None) -> ServedWorlds:
    """What EnvHub calls. The worlds are one batch, whatever ``use_async_envs`` says; ``cfg`` is not read."""
    return ServedWorlds(os.environ.get(SERVER_VARIABLE, DEFAULT_SERVER), n_envs, os.environ.get(TOKEN_VARIABLE))


class ServedWorlds(VectorEnv):
    """Imagined worlds, in the form that LeRobot's policies are evaluated in.

    An observation is ``{"pixels": (num_envs, H, W, 3) uint8}``. Episodes begin in the episode that came with the
    checkpoint, at a frame that the seed draws, and all are truncated after 15 steps. The next step begins new ones, and
    ignores its actions.

    Args:
        server: address of ``ivideogpt serve``.
        num_envs: number of worlds.
        token: token that the server asks for.

    Raises:
        OSError: if the server cannot be reached or refuses.
        ValueError: if the served model is no environment: it has no rewards, no bounds of actions, or no start.
    """

    def __init__(self, server: str, num_envs: int, token: str | None = None) -> None:
        if num_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {num_envs}")
        self.num_envs, self._server, self._token = num_envs, server.rstrip("/"), token
        self._spec = self._request("GET", "/v1/spec")
        for name, what in (
            ("has_reward", "reward head"),
            ("num_starts", "episode.npz"),
            ("action_low", "action bounds"),
        ):
            if not self._spec[name]:
                raise ValueError(f"the checkpoint {self._spec['checkpoint']!r} served at {server} has no {what}")
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = "rgb_array"
        frame_space = Box(0, 255, (*self._spec["frame_size"], 3), np.uint8)
        low, high = (np.array(self._spec[name], np.float32) for name in ("action_low", "action_high"))
        self.single_observation_space, self.single_action_space = Dict(pixels=frame_space), Box(low, high)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [gymnasium.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self._session = self._state = None
        self._num_steps = 0

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin episodes in all worlds.

        Args:
            seed: seed of each world, or that of the first, where each next world has the next number; None: the worlds
                go on drawing.
            options: read by nobody: LeRobot tells here that a new evaluation begins, which every reset is.
        """
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
            if len(seeds) != self.num_envs:
                raise ValueError(f"seed must be one number, or one for each of {self.num_envs} worlds, got {seeds}")
            self._generators = [gymnasium.utils.seeding.np_random(int(one))[0] for one in seeds]
        starts = [int(generator.integers(self._spec["num_starts"])) for generator in self._generators]
        self._seeds = [int(generator.integers(MAX_SEED)) for generator in self._generators]
        self._end_session()
        self._session = self._request("POST", "/v1/sessions")["session"]
        answer = self._call("begin", starts=starts)
        self._num_steps = 0
        return self._observe(answer), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act in every world, (num_envs, A) within the bounds of the action space."""
        if self._session is None:
            raise ValueError("call reset before step")
        if self._num_steps == HORIZON:
            observation, info = self.reset()
            return observation, *self._ends(is_over=False), info
        actions = np.asarray(actions, np.float32)
        if not self.action_space.contains(actions):
            space = self.single_action_space
            raise ValueError(
                f"actions must be {self.action_space.shape} and lie between {space.low} and {space.high}, got {actions}"
            )
        sampling = {"seed": self._seeds}
        answer = self._call("step", state=self._state, actions=actions.tolist(), sampling=sampling, replace=True)
        self._num_steps += 1
        rewards, terminations, truncations = self._ends(is_over=self._num_steps == HORIZON)
        rewards[:] = answer["rewards"]
        return self._observe(answer), rewards, terminations, truncations, {}

    def render(self) -> tuple[np.ndarray, ...]:
        """The newest frame of every world, (H, W, 3) uint8."""
        return tuple(self._frames.copy())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What each world's method or attribute of this name gives."""
        if name == "render":
            return self.render()
        return self.get_attr(name)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute of each world: they have the number of steps of an episode, and a task."""
        values = {"_max_episode_steps": HORIZON, "task": "", "task_description": ""}
        if name not in values:
            raise AttributeError(f"worlds have {', '.join(values)} and no {name}")
        return (values[name],) * self.num_envs

    def close_extras(self, **kwargs: Any) -> None:
        """End the session on the server."""
        self._end_session()

    def _observe(self, answer: dict[str, Any]) -> dict[str, np.ndarray]:
        frames = [np.frombuffer(base64.b64decode(text), np.uint8) for text in answer["frames"]]
        self._state, self._frames = answer["state"], np.stack(frames).reshape(-1, *self._spec["frame_size"], 3)
        return {"pixels": self._frames.copy()}

    def _ends(self, *, is_over: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.full(self.num_envs, is_over)

    def _end_session(self) -> None:
        """Let the server forget the worlds. A server that was restarted, or is gone, has done so."""
        if self._session is not None:
            with contextlib.suppress(OSError):
                self._request("DELETE", f"/v1/sessions/{self._session}")
            self._session = None

    def _call(self, name: str, **fields: Any) -> dict[str, Any]:
        return self._request("POST", f"/v1/sessions/{self._session}/{name}", fields | {"frame_format": "rgb"})

    def _request(self, method: str, path: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        content = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self._server + path, content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise OSError(f"the server {self._server} answers {error.code}: {error.read().decode()}") from error
        except OSError as error:
            raise OSError(
                f"no world model is served at {self._server} ({error}): start one with `ivideogpt serve`, and set "
                f"{SERVER_VARIABLE} to its address"
            ) from error
