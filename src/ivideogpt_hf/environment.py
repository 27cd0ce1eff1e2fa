"""World models as gymnasium environments: a batch of imagined worlds, or one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoints.layout import EPISODE_FILE
from .checkpoints.loading import fetch
from .decoding.sampling import Sampling, check_count
from .extras import require_packages
from .spec import WorldModelSpec
from .world.checks import check_frames
from .world.protocol import World
from .world.results import Step
from .world.starts import read_starts
from .world.state import State
from .world.world_model import WorldModel

require_packages("gymnasium", purpose="an environment")

import gymnasium  # noqa: E402
from gymnasium.spaces import Box  # noqa: E402
from gymnasium.vector import AutoresetMode, VectorEnv  # noqa: E402
from gymnasium.vector.utils import batch_space  # noqa: E402

StepRule = Callable[[Step], Tensor]

DEFAULT_HORIZON = 15
# gymnasium reads it of the class, before there is an environment.
METADATA = {"render_modes": ["rgb_array"], "render_fps": 10}


class WorldModelVectorEnv(VectorEnv):
    """Imagined worlds as a vector environment: what an agent does in them costs no real interaction.

    An episode begins with real frames and is truncated after ``horizon`` steps. An observation holds the last
    ``frame_stack`` frames along the channels, (3 * frame_stack, H, W) uint8, the newest last; where the start has fewer
    frames, its first one is repeated. The goal of a goal-conditioned model is not part of it.

    Infos of `reset` and of `step` hold the same: "start", the number of the episode's start frames, and "log_prob", the
    log-probability of the newest frame, which is low where the model is uncertain. It is 0 for start frames, which are
    real.

    Args:
        world: a world, here or served; or the folder or Hub id of a checkpoint, or the name of an embedded one.
        start_frames: frames (S, C, 3, H, W) uint8 of S starts, C = spec.num_context_frames. None: those in the episode
            that came with the checkpoint.
        num_envs: number of worlds; None: one for each start.
        horizon: number of steps after which an episode is truncated; None: 15.
        max_episode_steps: the same number, under the name by which `gymnasium.make_vec` passes it.
        frame_stack: number of frames in an observation.
        autoreset_mode: moment at which a world whose episode ended begins the next one: in the same step (its last
            observation is then in ``infos["final_obs"]``), in the next step (whose action is ignored), or when `reset`
            is told to.
        sampling: distribution that tokens are drawn from; its seed must be None, since seeds come from `reset`.
        reward: function from a `Step` of B worlds to rewards (B,), instead of the model's rewards.
        terminates: function from a `Step` of B worlds to (B,) bool, True where the episode is over. None: only the
            horizon ends episodes.
        action_low, action_high: bounds of an action's values, instead of the checkpoint's or where it has none.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: if an argument does not fit the model, or both ``horizon`` and ``max_episode_steps`` are given.
        OSError: if a checkpoint cannot be read.

    Example:
        >>> from ivideogpt_hf import WorldModelVectorEnv
        >>> envs = WorldModelVectorEnv("default", num_envs=2, horizon=15)
        >>> observations, infos = envs.reset(seed=0)
        >>> observations.shape, observations.dtype
        ((2, 3, 64, 64), dtype('uint8'))
        >>> observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        >>> rewards.shape, truncations.tolist()
        ((2,), [False, False])
    """

    metadata: dict[str, Any] = METADATA  # as gymnasium declares it

    def __init__(
        self,
        world: World[Any] | str | os.PathLike[str] = "default",
        start_frames: Tensor | np.ndarray | None = None,
        num_envs: int | None = None,
        *,
        horizon: int | None = None,
        max_episode_steps: int | None = None,
        frame_stack: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        sampling: Sampling | None = None,
        reward: StepRule | None = None,
        terminates: StepRule | None = None,
        action_low: float | Sequence[float] | None = None,
        action_high: float | Sequence[float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        folder = None
        if isinstance(world, (str, os.PathLike)):
            folder = fetch(world)
            world = WorldModel.from_pretrained(world)
        elif not isinstance(world, World):
            raise ValueError(f"world must be a World, or the folder or Hub id of a checkpoint, got {world!r}")
        self.world: World[Any] = world
        spec = world.spec
        if start_frames is None and folder is not None:
            start_frames = read_starts(folder, spec.num_context_frames)
        if start_frames is None:
            raise ValueError(f"start_frames are missing: no {EPISODE_FILE} came with the world model")
        # A copy, since the caller may write other frames into the same memory.
        self.start_frames = _checked_starts(torch.as_tensor(start_frames).clone().cpu(), spec)
        self.num_envs = check_count(len(self.start_frames) if num_envs is None else num_envs, "num_envs")
        self.horizon = check_count(_horizon(horizon, max_episode_steps), "horizon")
        self.frame_stack = check_count(frame_stack, "frame_stack")
        if reward is None and not spec.has_reward:
            raise ValueError("the model has no reward head: pass reward, a function of a Step")
        self.sampling = sampling or Sampling()
        if self.sampling.seed is not None:
            raise ValueError("sampling must come without a seed: pass it to reset(seed=...)")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.reward, self.terminates, self.render_mode = reward, terminates, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = METADATA | {"autoreset_mode": self.autoreset_mode}

        self.single_observation_space = Box(0, 255, (3 * frame_stack, *spec.frame_size), np.uint8)
        self.single_action_space: Box = _action_space(spec, action_low, action_high)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        self._state: State | None = None
        self._frames = np.zeros((self.num_envs, frame_stack, 3, *spec.frame_size), np.uint8)
        self._seeds = [0] * self.num_envs
        self._starts = np.zeros(self.num_envs, np.int64)
        self._num_steps = np.zeros(self.num_envs, np.int64)
        self._is_over = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: seed of the starts that are drawn, and of everything that the worlds do until the next seed.
            options: "start": number of a start for each world, instead of drawing; "reset_mask": (num_envs,) bool, True
                for the worlds to reset, where the others go on.

        Returns:
            Observations (num_envs, 3 * frame_stack, H, W) uint8 and infos.

        Raises:
            ValueError: on an unknown option or a start that is not there.
        """
        super().reset(seed=seed)
        starts, mask = self._checked_options(options or {})
        infos = self._begin(np.flatnonzero(mask), starts)
        return self._observations(), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act in every world.

        Args:
            actions: (num_envs, A) within the bounds of the action space.

        Returns:
            Observations (num_envs, 3 * frame_stack, H, W) uint8, rewards (num_envs,) float64, terminations and
            truncations (num_envs,) bool, and infos.

        Raises:
            ValueError: before the first `reset`, on actions of another shape or out of bounds, or if a world's episode
                is over and autoreset is disabled.
        """
        actions = self._checked_actions(actions)
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        step_infos: dict[int, dict[str, Any]] = {}
        beginning, acting = np.flatnonzero(self._is_over), np.flatnonzero(~self._is_over)
        if len(acting):
            step = self._act(acting, torch.from_numpy(actions[acting]))
            rewards[acting] = step.reward.double().cpu().numpy()
            self._num_steps[acting] += 1
            if self.terminates is not None:
                terminations[acting] = _checked_rule("terminates", self.terminates(step), len(acting)).cpu().numpy()
            truncations[acting] = (self._num_steps[acting] >= self.horizon) & ~terminations[acting]
            step_infos = {
                row: {"start": int(self._starts[row]), "log_prob": value}
                for row, value in zip(acting.tolist(), step.log_prob.tolist(), strict=True)
            }
        if len(beginning):
            infos = self._begin(beginning, None, infos)

        self._is_over = terminations | truncations
        beginning = np.flatnonzero(self._is_over & (self.autoreset_mode == AutoresetMode.SAME_STEP))
        final = self._observations()
        for row in beginning.tolist():
            step_infos[row] = {"final_obs": final[row], "final_info": step_infos[row]}
        for row, info in step_infos.items():
            infos = self._add_info(infos, info, row)
        if len(beginning):
            infos = self._begin(beginning, None, infos)
        return self._observations(), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The newest frame of every world, (H, W, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self._frames[:, -1].transpose(0, 2, 3, 1).copy())

    @property
    def state(self) -> State:
        """Where the worlds stand, to plan from or to branch.

        Raises:
            ValueError: before the first `reset`.
        """
        if self._state is None:
            raise ValueError("call reset first")
        return self._state

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(
        self, rows: np.ndarray, starts: np.ndarray | None, infos: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Begin an episode in the given worlds; returns infos with their starts added."""
        infos = {} if infos is None else infos
        random_starts = self.np_random.integers(len(self.start_frames), size=len(rows))
        row_starts = random_starts if starts is None else starts[rows]
        seeds = self.np_random.integers(2**62, size=len(rows))
        frames = self.start_frames[torch.from_numpy(row_starts)]
        self._put(rows, self.world.reset(frames))
        observations = frames[:, self.world.spec.num_goal_frames :].numpy()
        for i in range(self.frame_stack):
            self._frames[rows, -1 - i] = observations[:, -1 - min(i, observations.shape[1] - 1)]
        for row, start, row_seed in zip(rows, row_starts, seeds, strict=True):
            self._seeds[row], self._starts[row] = int(row_seed), start
            infos = self._add_info(infos, {"start": int(start), "log_prob": 0.0}, row)
        self._num_steps[rows] = 0
        self._is_over[rows] = False
        return infos

    def _act(self, rows: np.ndarray, actions: Tensor) -> Step:
        """Step the given worlds; the step holds their rewards, whoever gives them."""
        state = self.state if len(rows) == self.num_envs else self.state.index(rows.tolist())
        sampling = replace(self.sampling, seed=[self._seeds[row] for row in rows])
        step, state = self.world.step(state, actions, sampling=sampling)
        self._put(rows, state)
        self._frames[rows] = np.roll(self._frames[rows], -1, axis=1)
        self._frames[rows, -1] = step.frame.cpu().numpy()
        if self.reward is not None:
            step = replace(step, reward=_checked_rule("reward", self.reward(step), len(rows)))
        return step

    def _put(self, rows: np.ndarray, state: State) -> None:
        """Let the given worlds stand where the rows of a state do."""
        if len(rows) < self.num_envs:
            others = np.setdiff1d(np.arange(self.num_envs), rows)
            order = np.argsort(np.concatenate([others, rows]))
            state = type(state).cat([self.state.index(others.tolist()), state]).index(order.tolist())
        self._state = state

    def _observations(self) -> np.ndarray:
        return self._frames.reshape(self.observation_space.shape).copy()

    def _checked_options(self, options: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray]:
        unknown = set(options) - {"start", "reset_mask"}
        if unknown:
            raise ValueError(f"options must be of start and reset_mask, got {', '.join(sorted(unknown))}")
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask must be ({self.num_envs},) bool with a true value, got {mask!r}")
        if self._state is None and not mask.all():
            raise ValueError("the first reset must be of all worlds: leave reset_mask out")
        starts = options.get("start")
        if starts is not None:
            starts = np.asarray(starts)
            is_integer = starts.shape == (self.num_envs,) and np.issubdtype(starts.dtype, np.integer)
            if not is_integer or starts.min() < 0 or starts.max() >= len(self.start_frames):
                raise ValueError(
                    f"start must be {self.num_envs} numbers of the {len(self.start_frames)} starts, got {starts!r}"
                )
        return starts, mask

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        if self._state is None:
            raise ValueError("call reset before step")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._is_over.any():
            over = np.flatnonzero(self._is_over).tolist()
            raise ValueError(f"the episodes of worlds {over} are over: reset them, with options={{'reset_mask': ...}}")
        actions = np.asarray(actions, dtype=np.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {actions.shape}")
        if not self.action_space.contains(actions):
            space = self.single_action_space
            raise ValueError(f"actions must be finite and lie between {space.low} and {space.high}, got {actions}")
        return actions


class WorldModelEnv(gymnasium.Env):
    """One imagined world; takes what `WorldModelVectorEnv` takes but ``num_envs`` and ``autoreset_mode``.

    `gymnasium.make` does not pass ``max_episode_steps`` on: it cuts episodes from outside, so that it can only shorten
    the horizon.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModelEnv, read_video
        >>> environment = WorldModelEnv("default", read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> observation, _ = environment.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = environment.step(environment.action_space.sample())
        >>> observation.shape
        (3, 64, 64)
    """

    metadata: dict[str, Any] = METADATA  # as gymnasium declares it

    def __init__(
        self,
        world: World[Any] | str | os.PathLike[str] = "default",
        start_frames: Tensor | np.ndarray | None = None,
        *,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self._worlds = WorldModelVectorEnv(
            world, start_frames, 1, autoreset_mode=AutoresetMode.DISABLED, render_mode=render_mode, **options
        )
        self.observation_space = self._worlds.single_observation_space
        self.action_space = self._worlds.single_action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; the option "start" is the number of a start. See `WorldModelVectorEnv.reset`."""
        super().reset(seed=seed)
        if options:
            options = {name: [value] if name == "start" else value for name, value in options.items()}
        observations, infos = self._worlds.reset(seed=seed, options=options)
        return observations[0], _of_one(infos)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act; see `WorldModelVectorEnv.step`."""
        observations, rewards, terminations, truncations, infos = self._worlds.step(np.asarray(action)[None])
        return observations[0], float(rewards[0]), bool(terminations[0]), bool(truncations[0]), _of_one(infos)

    def render(self) -> np.ndarray | None:
        """The newest frame, (H, W, 3) uint8; None without a render mode."""
        frames = self._worlds.render()
        return None if frames is None else frames[0]


def _horizon(horizon: int | None, max_episode_steps: int | None) -> int:
    if None not in (horizon, max_episode_steps):
        raise ValueError(
            f"horizon ({horizon}) and max_episode_steps ({max_episode_steps}) are two names of one number: pass one"
        )
    given = max_episode_steps if horizon is None else horizon
    return DEFAULT_HORIZON if given is None else given


def _of_one(infos: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0].item() for name, values in infos.items() if not name.startswith("_")}


def _checked_starts(frames: Tensor, spec: WorldModelSpec) -> Tensor:
    try:
        check_frames(frames, spec)
    except ValueError as error:
        shape = (spec.num_context_frames, 3, *spec.frame_size)
        raise ValueError(f"start_frames must be uint8 of shape (starts, {str(shape)[1:]}: {error}") from error
    return frames


def _action_space(
    spec: WorldModelSpec, low: float | Sequence[float] | None, high: float | Sequence[float] | None
) -> Box:
    if not spec.action_dim:
        raise ValueError("an environment needs an action-conditioned model, and this one is action-free")
    low = spec.action_low if low is None else low
    high = spec.action_high if high is None else high
    if low is None or high is None:
        raise ValueError("the checkpoint does not know the bounds of its actions: pass action_low and action_high")
    bounds = [np.asarray(bound, np.float32) for bound in (low, high)]
    if any(bound.shape not in ((), (1,), (spec.action_dim,)) for bound in bounds) or not (bounds[0] <= bounds[1]).all():
        raise ValueError(
            f"action_low must not exceed action_high, each one number or {spec.action_dim}, got {low} and {high}"
        )
    lowest, highest = (np.broadcast_to(bound, (spec.action_dim,)) for bound in bounds)
    return Box(lowest, highest, dtype=np.float32)


def _checked_rule(name: str, values: Tensor, num_worlds: int) -> Tensor:
    values = torch.as_tensor(values)
    if values.shape != (num_worlds,):
        raise ValueError(f"{name} must return one value per world, ({num_worlds},), got {tuple(values.shape)}")
    return values
