"""What an agent would do, as candidates for a planner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...decoding.sampling import Sampling
from ...extras import require_packages
from ...world.protocol import World
from ...world.state import State
from ..replay.checks import NUM_CHANNELS
from .experience import ImaginedPolicy
from .worlds import check_world

require_packages("stable_baselines3", purpose="reinforcement learning")

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm  # noqa: E402


class AgentProposals:
    """Candidates for `PlannerPolicy`: what an agent's stochastic policy does in imagined futures.

    The planner compares them with its own candidates, so that a plan is at least as good in the model as the best of
    them, as TD-MPC2 does it (Hansen et al., 2024).

    Args:
        agent: agent whose actions these are.
        world: world that the planner plans in.
        num_candidates: number K of candidates for each plan.
        horizon: number H of actions of a candidate, that of the planner.
        seed: seed of the agent's noise and of the futures.

    Attributes:
        num_frames: number of frames that the agent sees.

    Raises:
        ValueError: if the agent does not fit the world, or the horizon is too long for it.

    Example:
        >>> import gymnasium
        >>> import numpy as np
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> from ivideogpt_hf.rl.agents.drqv2 import DrQv2
        >>> from ivideogpt_hf.rl.agents.presets import preset
        >>> from ivideogpt_hf.rl.imagination.proposals import AgentProposals
        >>> class Spaces(gymnasium.Env):
        ...     observation_space = gymnasium.spaces.Box(0, 255, (9, 64, 64), np.uint8)
        ...     action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        >>> agent = DrQv2("CnnPolicy", Spaces(), **preset("cpu") | {"buffer_size": 100, "seed": 0, "device": "cpu"})
        >>> world = WorldModel.default()
        >>> proposals = AgentProposals(agent, world, num_candidates=2, horizon=3)
        >>> frames = read_video(EXAMPLE_EPISODE, max_frames=3)[None]
        >>> proposals(frames, world.reset(frames[:, -2:])).shape
        torch.Size([1, 2, 3, 4])
    """

    def __init__(
        self, agent: OffPolicyAlgorithm, world: World[Any], *, num_candidates: int, horizon: int, seed: int = 0
    ) -> None:
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {num_candidates}")
        channels, height, width = agent.observation_space.shape or ()
        spec = replace(world.spec, has_reward=True)  # whether there are rewards is the objective's business
        check_world(spec, agent.action_space, (height, width), horizon)  # type: ignore[arg-type] # a box in all of them
        self.agent, self.world = agent, world
        self.num_candidates, self.horizon = num_candidates, horizon
        self.num_frames = channels // NUM_CHANNELS
        self._generator = torch.Generator(agent.device).manual_seed(seed)

    def __call__(self, frames: Tensor, state: State) -> Tensor:
        """Candidates (B, K, H, A) float32 in environment units.

        Args:
            frames: last frames (B, S, 3, H, W) uint8 that were seen, oldest first.
            state: state of the B worlds after them.
        """
        stacks = frames.flatten(1, 2).repeat_interleave(self.num_candidates, dim=0)
        policy = ImaginedPolicy(self.agent, stacks, self._generator)
        seed = int(torch.randint(2**62, (1,), generator=self._generator, device=self._generator.device))
        rollout = self.world.rollout(
            state,
            policy,
            num_frames=self.horizon,
            num_samples=self.num_candidates,
            sampling=Sampling(seed=seed),
            outputs=(),
            horizon_policy="error",
        )
        actions: Tensor = rollout.actions
        return actions
