"""Episodes from simulated environments, as a reader: conversion then writes them like those of any other source.

Episode i is a function of the environment, the behaviour and seed + i, so that processes, jobs and restarts change
nothing.
"""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...simulators import Simulator, make_simulator
from ..clips.order import hash_seed
from ..clips.segments import check_choice
from ..episodes import DEFAULT_CAMERA, Episode, Signature
from ..readers import EpisodeReader, ReadOptions

PolicyKind = Literal["random", "scripted", "python"]
# Takes the environment's observation and a generator, returns an action (A,).
PolicyFunction = Callable[[Any, np.random.Generator], np.ndarray]
# A class stands for a policy with a memory, which each episode gets anew.
LoadedPolicy = PolicyFunction | type[Any]
# A random walk keeps its direction for about 7 steps: white noise alone would hardly move an arm.
TURN_PROBABILITY, WALK_JITTER = 0.15, 0.3


@dataclass(frozen=True)
class Behaviour:
    """How actions are chosen.

    Attributes:
        policy: "random" (a walk that keeps its direction for a while, within the bounds), "scripted" (the environment's
            expert), or "package.module:name", a `PolicyFunction` written in Python or a class of them, such as
            "ivideogpt_hf.simulators.visits:Visits". Each episode has an instance of the class for itself.
        noise_fraction: share of the episodes in which noise is added to a policy that is not random.
        noise: standard deviation of the Gaussian noise, as a share of half the range of each dimension.

    Raises:
        ValueError: if a number is out of range, or the policy's name is unknown.
    """

    policy: str = "scripted"
    noise_fraction: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_choice("policy", self.kind, get_args(PolicyKind))
        if not 0 <= self.noise_fraction <= 1 or not self.noise >= 0:
            raise ValueError(
                f"noise_fraction must be in [0, 1] and noise at least 0, got {self.noise_fraction} and {self.noise}"
            )
        if (self.noise_fraction > 0) != (self.noise > 0):
            raise ValueError(
                f"noise needs both a level and a share of the episodes, got noise {self.noise} in a share of "
                f"{self.noise_fraction}"
            )
        if self.kind == "random" and self.noise:
            raise ValueError("a random policy takes no noise")

    @property
    def kind(self) -> str:
        """The kind of the policy: "random", "scripted" or "python"."""
        return "python" if ":" in self.policy else self.policy

    def load(self) -> LoadedPolicy:
        """The policy written in Python, or its class.

        Raises:
            ValueError: if the module or the name in it cannot be imported, or is neither function nor class.
        """
        module, _, name = self.policy.partition(":")
        try:
            policy = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the policy {self.policy!r} cannot be imported: {error}") from error
        if not callable(policy):
            raise ValueError(f"the policy {self.policy!r} is no function or class, it is a {type(policy).__name__}")
        return policy


class SimulatedEpisodes(EpisodeReader):
    """Episodes of an environment, made when they are read.

    Args:
        environment: name of the environment, as `make_simulator` takes it.
        num_episodes: number of episodes.
        num_frames: number of frames of an episode; fewer where the environment ends before.
        behaviour: choice of the actions.
        size: side of the frames, in pixels.
        action_repeat: number of simulator steps per action; their rewards are summed.
        seed: seed of the first episode; that of each later one is larger by 1.

    Raises:
        ImportError: if the environment's package is missing; names the extra.
        ValueError: if there is no such environment, or a number is not positive.
    """

    name = "simulator"
    description = "a simulated environment"

    def __init__(
        self,
        environment: str,
        num_episodes: int,
        num_frames: int,
        behaviour: Behaviour,
        *,
        size: int = 64,
        action_repeat: int = 1,
        seed: int = 0,
    ) -> None:
        numbers = {"num_episodes": num_episodes, "size": size, "action_repeat": action_repeat}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        if num_frames < 2:
            raise ValueError(f"num_frames must be at least 2, got {num_frames}")
        self.environment, self.num_frames, self.behaviour = environment, num_frames, behaviour
        self.size, self.action_repeat, self.seed = size, action_repeat, seed
        self.options, self.notes = ReadOptions(), []
        self.episode_ids = [f"{environment}/seed-{seed + index}" for index in range(num_episodes)]
        self._simulator: Simulator | None = None
        self._closes_at_exit = False
        self._policy = behaviour.load() if behaviour.kind == "python" else None

    @classmethod
    def recognizes(cls, path: Any) -> bool:
        return False

    def _list_episodes(self) -> list[str]:
        return self.episode_ids

    def files_of(self, index: int) -> list[Path]:
        """None: an episode is made when it is read."""
        return []

    @property
    def path(self) -> str:
        """The name of the environment, for messages."""
        return self.environment

    @property
    def simulator(self) -> Simulator:
        """The environment, made when it is first needed: each process has its own."""
        if self._simulator is None:
            self._simulator = make_simulator(self.environment, self.size)
        return self._simulator

    @cached_property
    def signature(self) -> Signature:
        """One camera, and the environment's actions: no episode has to be made to know this."""
        return Signature((DEFAULT_CAMERA,), len(self.simulator.action_low))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_simulator": None, "_closes_at_exit": False}

    def __getitem__(self, index: int) -> Episode:
        """Make an episode. Whatever the simulator raises is not the episode's fault, and passes through."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        return self._read(index)

    def _read(self, index: int) -> Episode:
        simulator = self.simulator
        generator = np.random.default_rng(hash_seed("episode", self.environment, self.seed + index))
        noise = self.behaviour.noise if generator.random() < self.behaviour.noise_fraction else 0.0
        choose = self._chooser(simulator, generator)
        simulator.reset(self.seed + index)
        frames = [simulator.render()]
        if not self._closes_at_exit:  # only now: what the renderer registers itself must come after this
            atexit.register(simulator.close)
            self._closes_at_exit = True
        actions, rewards, successes = [], [], []
        done = False
        while not done and len(frames) < self.num_frames:
            action = choose()
            if noise:
                half_range = (simulator.action_high - simulator.action_low) / 2
                action = action + noise * half_range * generator.standard_normal(len(action))
            action = np.clip(action, simulator.action_low, simulator.action_high).astype(np.float32)
            transition = simulator.step_repeatedly(action, self.action_repeat)
            frames.append(simulator.render())
            actions.append(action)
            rewards.append(transition.reward)
            successes.append(transition.success)
            done = transition.done
        return Episode(
            frames={DEFAULT_CAMERA: np.stack(frames)},
            episode_id=self.episode_ids[index],
            source=self.environment,
            actions=np.stack(actions),
            rewards=np.array(rewards, dtype=np.float32),
            success=None if None in successes else any(successes),
            task=simulator.task,
            action_names=simulator.action_names,
            action_low=simulator.action_low.tolist(),
            action_high=simulator.action_high.tolist(),
        )

    def _chooser(self, simulator: Simulator, generator: np.random.Generator) -> Callable[[], np.ndarray]:
        """What gives the actions of one episode, one after another, not clipped."""
        if self.behaviour.kind == "random":
            return RandomWalk(simulator, generator).step
        if self._policy is None:
            return simulator.expert_action
        policy = self._policy() if isinstance(self._policy, type) else self._policy

        def choose() -> np.ndarray:
            action = np.asarray(policy(simulator.observation, generator), dtype=np.float32)
            if action.shape != simulator.action_low.shape or not np.isfinite(action).all():
                raise ValueError(
                    f"the policy {self.behaviour.policy} must return {simulator.action_low.shape} finite numbers, got "
                    f"{action!r}"
                )
            return action

        return choose


class RandomWalk:
    """Random actions that keep their direction for a while.

    Args:
        simulator: environment with the bounds of the actions.
        generator: source of all draws.
    """

    def __init__(self, simulator: Simulator, generator: np.random.Generator) -> None:
        self._simulator, self._generator = simulator, generator
        self._direction = self._draw()

    def _draw(self) -> np.ndarray:
        return self._generator.uniform(self._simulator.action_low, self._simulator.action_high)

    def step(self) -> np.ndarray:
        """The next action, (A,), not clipped."""
        if self._generator.random() < TURN_PROBABILITY:
            self._direction = self._draw()
        half_range = (self._simulator.action_high - self._simulator.action_low) / 2
        return self._direction + WALK_JITTER * half_range * self._generator.standard_normal(len(half_range))
