"""A policy that plans in a world model at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..decoding.sampling import Sampling
from ..media.pixels import pixels_to_uint8
from ..world.protocol import World
from ..world.state import State
from .costs import RolloutCost, check_rollouts
from .objectives import Objective
from .planners import Plan, Planner
from .replanning import Replanner, derived_seed

# LeRobot names images "observation.image", or "observation.images.<camera>" where there are several.
IMAGE_KEY = "observation.image"


class Proposals(Protocol):
    """What proposes candidates for a plan, such as an agent: `ivideogpt_hf.rl.imagination.proposals.AgentProposals`.

    Attributes:
        num_frames: number S of frames that it looks at.
    """

    num_frames: int

    def __call__(self, frames: Tensor, state: State) -> Tensor:
        """Candidates (B, K, H, A) after the last frames (B, S, 3, H, W) uint8, and the state of the worlds there."""


class PlannerPolicy(nn.Module):
    """Closes the loop between real frames and plans: for gymnasium's environments and LeRobot's evaluation.

    The last real frames are the context. If there are too few, the first one is repeated. The previous plan's mean,
    shifted by the executed steps, starts the search. The planner minimises the predicted cost.

    Args:
        world: world that predicts, here or served.
        planner: search that looks for actions.
        objective: objective that says what predicted futures are worth.
        replan_every: number of a plan's actions that are executed.
        first_action_zero: whether to execute zeros first, to see how the world goes on, as VP2 does (Tian et al.,
            2023).
        goal: goal images (B, 3, H, W), as observations are given, the first context frame of a goal-conditioned model.
        num_futures, chunk_size: see `RolloutCost`.
        temperature: temperature of the predictions; below 1, they are nearer to the most likely future.
        proposals: source of further candidates for each plan, which take the place of as many random ones; None: none.
            A plan costs at most what the best of them does.
        seed: seed of planner and predictions.

    Raises:
        ValueError: if the planner's actions do not fit the model, it plans too short, a goal is missing, or the
            temperature or a count is out of range.

    Example:
        >>> from ivideogpt_hf import CEM, EXAMPLE_EPISODE, PlannerPolicy, WorldModel, read_video
        >>> from ivideogpt_hf.planning.objectives import RewardSum
        >>> world = WorldModel.default()
        >>> low, high = world.spec.action_low, world.spec.action_high
        >>> planner = CEM(low=low, high=high, horizon=2, num_candidates=8, num_iterations=2, num_elites=2)
        >>> policy = PlannerPolicy(world, planner, RewardSum())
        >>> policy.select_action(read_video(EXAMPLE_EPISODE, max_frames=1)).shape
        torch.Size([1, 4])
    """

    def __init__(
        self,
        world: World[Any],
        planner: Planner,
        objective: Objective,
        *,
        replan_every: int = 1,
        first_action_zero: bool = False,
        goal: Tensor | None = None,
        num_futures: int = 1,
        chunk_size: int | None = None,
        temperature: float = 1.0,
        proposals: Proposals | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if planner.action_dim != world.spec.action_dim:
            raise ValueError(
                f"the planner's actions are {planner.action_dim} wide, the model's {world.spec.action_dim}"
            )
        if (goal is not None) != world.spec.goal_conditioned:
            needs = "needs a goal" if world.spec.goal_conditioned else "takes no goal"
            raise ValueError(f"the model {needs} in its context")
        check_rollouts(num_futures, chunk_size)
        self.world, self.objective = world, objective
        self.goal = None if goal is None else self._as_frame(goal)
        self.num_futures, self.chunk_size, self.seed = num_futures, chunk_size, seed
        self.proposals = proposals
        self.sampling = Sampling(temperature=temperature, common_random_numbers=True)
        self._replanner = Replanner(
            planner, replan_every, first_action_zero=first_action_zero, seed=seed, device=world.device
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        num_seen = 1 if self.proposals is None else self.proposals.num_frames
        self._num_kept = max(self.world.spec.num_real_context_frames, num_seen)
        self._frames: deque[Tensor] = deque(maxlen=self._num_kept)
        self._replanner.reset()

    @property
    def num_plans(self) -> int:
        """Number of plans in this episode."""
        return self._replanner.num_plans

    @property
    def last_plan(self) -> Plan | None:
        """The last plan in this episode; None before the first."""
        return self._replanner.last_plan

    @torch.no_grad()
    def select_action(self, observation: Any) -> Tensor:
        """The next action.

        Args:
            observation: the newest frames (B, 3, H, W), tensor or array, uint8 or float in [0, 1]; or a mapping with
                one image, such as LeRobot's batches.

        Returns:
            (B, A) float32 in environment units, on the CPU.

        Raises:
            ValueError: if the observation is of another size or out of range, or a batch holds no image or several.
        """
        self._see(observation)
        propose = None if self.proposals is None else self._propose
        return self._replanner.select(self._make_cost, len(self._frames[-1]), propose)

    @torch.no_grad()
    def predict_action_chunk(self, observation: Any) -> Tensor:
        """A whole new plan, (B, H, A); arguments as of `select_action`."""
        self._see(observation)
        cost = self._make_cost()
        proposals = None if self.proposals is None else self._propose(cost)
        return self._replanner.plan(cost, len(self._frames[-1]), proposals).actions.cpu()

    def _see(self, observation: Any) -> None:
        frame = self._as_frame(observation)
        if self._frames and len(frame) != len(self._frames[-1]):
            raise ValueError(f"{len(frame)} frames after {len(self._frames[-1])}: call reset before another batch")
        if self.goal is not None and len(frame) != len(self.goal):
            raise ValueError(f"{len(frame)} frames, but {len(self.goal)} goal images: give a goal for each frame")
        self._frames.extend([frame] * (1 if self._frames else self._num_kept))

    def _as_frame(self, observation: Any) -> Tensor:
        if isinstance(observation, Mapping):
            keys = [key for key in observation if key.startswith(IMAGE_KEY)]
            if len(keys) != 1:
                raise ValueError(f"a batch must hold one {IMAGE_KEY}, got {keys or sorted(observation)}")
            observation = observation[keys[0]]
        frame = torch.as_tensor(observation)
        if frame.ndim != 4 or frame.shape[1] != 3:
            raise ValueError(f"frames must be (B, 3, H, W), got {tuple(frame.shape)}")
        return self.world.spec.resize_frames(pixels_to_uint8(frame))

    def _propose(self, cost: RolloutCost) -> Tensor:
        assert self.proposals is not None
        frames = list(self._frames)[-self.proposals.num_frames :]
        return self.proposals(torch.stack(frames, dim=1), cost.state)

    def _make_cost(self) -> RolloutCost:
        """Cost of the futures that follow the last frames."""
        frames = list(self._frames)[-self.world.spec.num_real_context_frames :]
        if self.goal is not None:
            frames.insert(0, self.goal)
        seed = derived_seed(self.seed, self.num_plans)
        return RolloutCost(
            self.world,
            self.world.reset(torch.stack(frames, dim=1)),
            self.objective,
            num_futures=self.num_futures,
            sampling=replace(self.sampling, seed=seed),
            chunk_size=self.chunk_size,
        )
