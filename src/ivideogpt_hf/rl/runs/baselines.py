"""Runs of agents to compare with: one that only imitates, and one that only imagines."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...data.clips.order import hash_seed
from ...environment import WorldModelVectorEnv
from ...extras import require_packages
from ..agents.by_name import FrameFeatures
from ..agents.drqv2 import DrQv2
from ..agents.networks import random_shift
from ..agents.presets import preset
from ..environments.demonstrations import MeanActionPolicy, clone
from ..environments.imagined import ImaginedWorlds
from ..replay.buffer import MixedReplayBuffer
from .agent_run import AgentRun

require_packages("stable_baselines3", purpose="reinforcement learning")

from stable_baselines3 import PPO  # noqa: E402

CLONE_RATE = 1e-3  # learning rate of cloning
NUM_STARTS = 512  # number of moments of the demonstrations that imagined episodes begin at
MIN_FRAMES = 100  # of a buffer


class CloneRun(AgentRun):
    """A run of DrQ-v2's networks, whose actor is fitted to the demonstrations. It takes no step of its own.

    The agent never changes afterwards, so that its one evaluation stands for each step at which others are evaluated.
    """

    @property
    def agent_name(self) -> str:
        """The agent whose networks learn."""
        return "drqv2"

    def _learn(self) -> None:
        settings, agent = self.settings, self.agent
        assert isinstance(agent, DrQv2)
        network = nn.Sequential(agent.encoder, agent.actor)
        policy = MeanActionPolicy(network, agent.action_space.low, agent.action_space.high)
        optimizer = torch.optim.Adam(network.parameters(), lr=CLONE_RATE)
        generator = torch.Generator(agent.device).manual_seed(settings.seed)
        clone(
            policy,
            optimizer,
            self.demonstrations,
            num_updates=settings.clone_updates,
            batch_size=agent.batch_size,
            num_stack=settings.num_stack,
            augment=lambda observations: random_shift(observations, agent.max_shift, generator),
            seed=settings.seed,
        )
        entry, every = self.evaluate(), settings.evaluate_every
        for step in range(every, settings.num_steps + every, every):
            self._write({**entry, "step": min(step, settings.num_steps)})
        self._evaluated_step = agent.num_timesteps = settings.num_steps
        self.save()


class DreamingRun(AgentRun):
    """A run of a stock PPO, all of whose steps are imagined, and which is evaluated in the real environment.

    The world model learns from the demonstrations, by the warm-up of the schedule, and stays as it is then. Imagined
    episodes begin at any of their frames. All of them begin anew with each round of PPO, from a seed that is a function
    of the step, so that a run can go on from there.
    """

    agent: PPO

    @property
    def buffer(self) -> MixedReplayBuffer:
        """The demonstrations."""
        return self._demonstrated

    @property
    def num_imagined(self) -> int:
        """Number of imagined steps so far: all that the agent took."""
        return self.agent.num_timesteps

    def _make_agent(self) -> Any:
        settings, schedule = self.settings, self.settings.schedule()
        assert self.start is not None
        self.start.world.to(settings.device)
        frame_size, context = self.frame_size, self.start.world.spec.num_context_frames
        self.worlds = WorldModelVectorEnv(
            self.start.world,
            np.zeros((1, context, 3, *frame_size), np.uint8),  # until there are demonstrations
            schedule.num_starts,
            horizon=schedule.horizon,
            frame_stack=settings.num_stack,
            action_low=self.action_space.low.tolist(),
            action_high=self.action_space.high.tolist(),
        )
        self._demonstrated = MixedReplayBuffer(
            max(settings.demos * (settings.max_steps + 1), MIN_FRAMES),
            self.environment.observation_space,
            self.environment.action_space,
            seed=settings.seed,
        )
        sizes = preset(settings.preset)["policy_kwargs"]
        given: dict[str, Any] = {"batch_size": settings.batch_size, "learning_rate": settings.learning_rate}
        return PPO(
            "MlpPolicy",
            ImaginedWorlds(self.worlds),
            n_steps=schedule.horizon,
            seed=settings.seed,
            device=settings.device,
            policy_kwargs={
                "features_extractor_class": FrameFeatures,
                "features_extractor_kwargs": {name: sizes[name] for name in ("num_channels", "strides", "trunk_dim")},
                "normalize_images": False,
                "net_arch": [sizes["hidden_dim"]] * 2,
            },
            **{name: value for name, value in given.items() if value is not None},
        )

    def _make_imagined(self) -> None:
        return None

    def _begin(self) -> None:
        super()._begin()
        schedule = self.settings.schedule()
        assert self.learner is not None
        for _ in self.learner.warm_up(self.buffer, schedule.warmup_vq_updates, schedule.warmup_updates, has_bar=True):
            pass
        self._set_starts()

    def _load(self) -> None:
        super()._load()
        self._set_starts()

    def _set_starts(self) -> None:
        """Let imagined episodes begin with frames of the demonstrations."""
        rng = np.random.default_rng(self.settings.seed)
        starts = self.buffer.sample_starts(NUM_STARTS, self.worlds.world.spec.num_context_frames, rng)
        self.worlds.start_frames = starts.context_frames

    def between_steps(self) -> None:
        """Evaluate and save where it is time to, and begin all imagined episodes anew.

        Raises:
            Interrupted: if a signal asked to stop.
        """
        super().between_steps()
        agent = self.agent
        assert agent.env is not None
        agent.env.seed(hash_seed("imagined episodes", self.settings.seed, agent.num_timesteps) % 2**31)
        agent._last_obs = agent.env.reset()  # type: ignore[assignment] # stable-baselines3 allows for dicts
        agent._last_episode_starts = np.ones(agent.n_envs, bool)
