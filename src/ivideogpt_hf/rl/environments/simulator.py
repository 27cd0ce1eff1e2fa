"""Simulators as agents see them: stacks of frames, rewards of an agent's steps, and episodes that belong to seeds."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ...data.clips.order import hash_seed
from ...data.clips.segments import check_choice
from ...extras import require_packages
from ...simulators import make_simulator

require_packages("gymnasium", purpose="an environment")

import gymnasium  # noqa: E402
from gymnasium.spaces import Box  # noqa: E402

# What episodes are for. No two purposes share an episode of a simulator.
Purpose = Literal["training", "evaluation", "demonstration"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
NUM_SEEDS = 2**32  # RoboDesk's generator takes no larger seeds
ROUNDING = 1e-5  # of an action's range: scaling to [-1, 1] and back may lead beyond a bound by so much

Act = Callable[[np.ndarray], np.ndarray]


def episode_seed(purpose: str, seed: int, episode: int) -> int:
    """The simulator's seed of an episode, in 0 ... 2**32 - 1.

    It depends on nothing but the arguments. Seeds of two purposes always differ.

    Args:
        purpose: purpose of the episode, one of `PURPOSES`.
        seed: seed of a sequence of episodes.
        episode: number of the episode in its sequence, from 0.
    """
    number = hash_seed("episode of an agent", purpose, seed, episode) % (NUM_SEEDS // len(PURPOSES))
    return len(PURPOSES) * number + PURPOSES.index(purpose)


def stack_frames(frames: Sequence[np.ndarray] | np.ndarray, step: int, num_stack: int) -> np.ndarray:
    """The observation at a step of an episode: its last frames along the channels, the oldest first.

    Args:
        frames: frames (T, 3, H, W) uint8 of the episode, or a sequence of them.
        step: number of the newest frame, in 0 ... T - 1.
        num_stack: number of frames. Before the episode's first frame there is that frame again.

    Returns:
        The observation (3 * num_stack, H, W) uint8.
    """
    return np.concatenate([frames[max(0, step - back)] for back in reversed(range(num_stack))])


class SimulatorEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A simulator as a gymnasium environment for agents that see frames.

    An observation holds the last ``num_stack`` frames along the channels, (3 * num_stack, H, W) uint8, the oldest
    first. At a reset all of them are the first frame. Frames are those that `ivideogpt collect` writes. Actions (A,)
    are in the simulator's units. Those beyond the bounds are errors.

    The reward of an agent's step is the sum of the simulator's rewards over ``action_repeat`` steps, plus
    ``success_bonus`` if the task counted as solved after any of them. Episodes never terminate. They are truncated
    after ``max_steps`` steps, or where the simulator itself ends them: worlds imagine no ends, so that values of real
    and of imagined steps mean the same.

    Infos hold "episode_seed" at a reset: the simulator's seed. At a step they hold "is_success" if the simulator tells
    success: whether the task was solved at any time of the episode so far.

    ``reset(seed=s)`` begins episode 0 of the sequence s, and each ``reset()`` the next episode. Episode i of the
    sequence s is the same in any process. The simulator is made once.

    Args:
        environment: name of the simulator, see `make_simulator`.
        frame_size: height and width of the frames, in pixels, which must be equal.
        purpose: use of the episodes: "training", "evaluation" or "demonstration". Different purposes have different
            episodes.
        num_stack: number of frames in an observation.
        action_repeat: number of simulator steps per action.
        max_steps: number of steps after which an episode is truncated.
        success_bonus: reward of a step in which the task was solved, beside the simulator's own.
        seed: sequence of episodes until ``reset`` is given another one.

    Attributes:
        simulator: simulator that is stepped and drawn.
        environment, purpose, frame_size, num_stack, action_repeat, max_steps, success_bonus: arguments.

    Raises:
        ImportError: if the simulator's package is missing; names the extra.
        ValueError: if there is no such simulator, its actions are not a bounded box of one dimension, it does not
            render, the frames are not square, or a number is out of range.

    Example:
        >>> from ivideogpt_hf.rl.environments.simulator import SimulatorEnv
        >>> environment = SimulatorEnv("push2d", max_steps=20)
        >>> observation, info = environment.reset(seed=0)
        >>> observation.shape, observation.dtype
        ((9, 64, 64), dtype('uint8'))
        >>> observation, reward, terminated, truncated, info = environment.step(environment.action_space.sample())
        >>> terminated, truncated, info
        (False, False, {'is_success': False})
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        environment: str,
        frame_size: tuple[int, int] = (64, 64),
        *,
        purpose: str = "training",
        num_stack: int = 3,
        action_repeat: int = 2,
        max_steps: int = 100,
        success_bonus: float = 10.0,
        seed: int = 0,
    ) -> None:
        check_choice("purpose", purpose, PURPOSES)
        height, width = frame_size
        if height != width:
            raise ValueError(f"simulators render squares, and the frames are to be {height} x {width}")
        numbers = {"frame_size": height, "num_stack": num_stack, "action_repeat": action_repeat, "max_steps": max_steps}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if height < 3 * num_stack:  # stable-baselines3 takes the smallest of the three sizes for that of the channels
            raise ValueError(
                f"frame_size must be at least 3 * num_stack = {3 * num_stack}, got {height}: raise it, or lower "
                "num_stack"
            )
        if not np.isfinite(success_bonus):
            raise ValueError(f"success_bonus must be finite, got {success_bonus}")
        self.environment, self.purpose, self.num_stack = environment, purpose, num_stack
        self.frame_size = (height, width)
        self.action_repeat, self.max_steps, self.success_bonus = action_repeat, max_steps, float(success_bonus)
        self.simulator = make_simulator(environment, height)
        self.render_mode = "rgb_array"
        low, high = self.simulator.action_low, self.simulator.action_high
        self.action_space = Box(low, high, dtype=np.float32)
        self.observation_space = Box(0, 255, (3 * num_stack, height, width), dtype=np.uint8)
        self._seed, self._episode = seed, -1
        self._frames: deque[np.ndarray] = deque(maxlen=num_stack)
        self._actions: list[np.ndarray] = []
        self._is_running, self._was_solved = False, False
        self.simulator.reset(0)
        self._draw()  # a simulator that does not render says so now
        atexit.register(self.simulator.close)  # only now: what the renderer registers itself must come after this

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: sequence whose episode 0 begins; None: the next episode of the present one.
            options: must be None or empty.

        Returns:
            The observation (3 * num_stack, H, W) uint8, and infos.
        """
        if options:
            raise ValueError(f"an environment of a simulator has no options, got {', '.join(sorted(options))}")
        super().reset(seed=seed)
        if seed is None:
            self._episode += 1
        else:
            self._seed, self._episode = seed, 0
        return self._begin()

    def _begin(self) -> tuple[np.ndarray, dict[str, Any]]:
        seed = episode_seed(self.purpose, self._seed, self._episode)
        self.simulator.reset(seed)
        self._frames.extend([self._draw()] * self.num_stack)
        self._actions, self._is_running, self._was_solved = [], True, False
        return self._observation(), {"episode_seed": seed}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action (A,).

        Returns:
            The observation (3 * num_stack, H, W) uint8, the reward, False, whether the episode is over, and infos.

        Raises:
            ValueError: if no episode has begun or it is over, or if the action has another shape, is not finite or lies
                beyond the bounds.
        """
        if not self._is_running:
            raise ValueError("there is no episode to go on with: call reset")
        action = self._checked_action(action)
        transition = self.simulator.step_repeatedly(action, self.action_repeat)
        self._frames.append(self._draw())
        self._actions.append(action)
        self._was_solved |= bool(transition.success)
        truncated = transition.done or len(self._actions) >= self.max_steps
        self._is_running = not truncated
        reward = transition.reward + (self.success_bonus if transition.success else 0.0)
        info = {} if transition.success is None else {"is_success": self._was_solved}
        return self._observation(), reward, False, truncated, info

    def render(self) -> np.ndarray:
        """The newest frame, (H, W, 3) uint8.

        Raises:
            ValueError: before the first `reset`.
        """
        if not self._frames:
            raise ValueError("there is no episode to render: call reset")
        return self._frames[-1].transpose(1, 2, 0).copy()

    def state_dict(self) -> dict[str, Any]:
        """The sequence, the number of the episode, and the actions (t, A) float32 taken in it so far."""
        actions = np.array(self._actions, dtype=np.float32).reshape(-1, len(self.simulator.action_low))
        return {"seed": self._seed, "episode": self._episode, "actions": actions}

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray | None:
        """Go on where another environment with the same arguments stood: its actions are taken again.

        Args:
            state: result of `state_dict`.

        Returns:
            The observation (3 * num_stack, H, W) uint8 there; None if its first episode had not begun.
        """
        self._seed, self._episode = int(state["seed"]), int(state["episode"])
        if self._episode < 0:
            self._is_running = False
            return None
        observation, _ = self._begin()
        for action in np.asarray(state["actions"], dtype=np.float32):
            observation, *_ = self.step(action)
        return observation

    def close(self) -> None:
        """Free the renderer."""
        atexit.unregister(self.simulator.close)
        self.simulator.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _draw(self) -> np.ndarray:
        """The present frame, (3, H, W) uint8."""
        image = self.simulator.render()
        expected = (*self.frame_size, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f"{self.environment} must render {expected} uint8, got {image.shape} {image.dtype}")
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def _observation(self) -> np.ndarray:
        return stack_frames(list(self._frames), self.num_stack - 1, self.num_stack)

    def _checked_action(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, dtype=np.float32)
        low, high = self.simulator.action_low, self.simulator.action_high
        if action.shape != low.shape or not np.isfinite(action).all():
            raise ValueError(f"an action of {self.environment} must be {low.shape} finite numbers, got {action}")
        slack = ROUNDING * (high - low)
        if (action < low - slack).any() or (action > high + slack).any():
            raise ValueError(f"an action of {self.environment} must lie between {low} and {high}, got {action}")
        return np.clip(action, low, high)


@dataclass(frozen=True)
class RealEpisode:
    """An episode of a simulator. ``actions[t]`` leads from frame t to frame t + 1, and ``rewards[t]`` belongs to it.

    Attributes:
        frames: frames (T + 1, 3, H, W) uint8.
        actions: actions (T, A) float32, within the bounds.
        rewards: rewards (T,) float32, success bonus included.
        success: whether the task was solved at any time; None if the simulator does not tell.
        episode_seed: seed of the simulator.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool | None
    episode_seed: int

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.actions)


def play_episode(environment: SimulatorEnv, act: Act, seed: int | None = None) -> RealEpisode:
    """Play an episode to its end.

    Args:
        environment: environment to play in.
        act: function from an observation (3 * num_stack, H, W) uint8 to an action (A,).
        seed: sequence whose episode 0 is played; None: the next episode of the present one.

    Raises:
        ValueError: if an action does not fit, see `SimulatorEnv.step`.
    """
    observation, info = environment.reset(seed=seed)
    seed_of_simulator = info["episode_seed"]
    frames, rewards, truncated = [observation[-3:]], [], False
    while not truncated:
        observation, reward, _, truncated, info = environment.step(act(observation))
        frames.append(observation[-3:])
        rewards.append(reward)
    return RealEpisode(
        frames=np.stack(frames),
        actions=environment.state_dict()["actions"],
        rewards=np.array(rewards, dtype=np.float32),
        success=info.get("is_success"),
        episode_seed=seed_of_simulator,
    )
