"""Controllers, which act in a planning benchmark: the world model, and what it is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..world.protocol import World
from ..world.results import Rollout
from .objectives import Objective
from .planners import Cost, Planner
from .policy import PlannerPolicy
from .replanning import Replanner, derived_seed
from .tasks import PlanningTask

# A function from the goal (3, H, W) uint8 of an instance, or None, to its objective.
MakeObjective = Callable[[Tensor | None], Objective]


class Controller(ABC):
    """Acts in one instance at a time."""

    @abstractmethod
    def reset(self, task: PlanningTask, seed: int) -> None:
        """Begin an instance.

        Args:
            task: task in which the instance has begun.
            seed: seed of the controller.
        """

    @abstractmethod
    def act(self, frame: Tensor) -> Tensor:
        """The action (A,) after a frame (3, H, W) uint8."""

    @property
    def num_plans(self) -> int:
        """Number of plans since the instance began."""
        return 0


class RandomController(Controller):
    """Acts at random, uniformly between the bounds."""

    def reset(self, task: PlanningTask, seed: int) -> None:
        self._low, self._high = (torch.tensor(bound) for bound in task.bounds)
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, frame: Tensor) -> Tensor:
        return self._low + (self._high - self._low) * torch.rand(len(self._low), generator=self._generator)


class ZeroController(Controller):
    """Takes actions of zeros."""

    def reset(self, task: PlanningTask, seed: int) -> None:
        self._zeros = torch.zeros(len(task.bounds[0]))

    def act(self, frame: Tensor) -> Tensor:
        return self._zeros


class ModelController(Controller):
    """Plans in a world model.

    Args:
        world: world that predicts.
        planner: search that looks for actions.
        make_objective: function from the goal of an instance to its objective.
        replan_every, first_action_zero, chunk_size, temperature: see `PlannerPolicy`.
    """

    policy_type: type[PlannerPolicy] = PlannerPolicy

    def __init__(
        self,
        world: World[Any],
        planner: Planner,
        make_objective: MakeObjective,
        *,
        replan_every: int = 1,
        first_action_zero: bool = False,
        chunk_size: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.world, self.planner, self.make_objective = world, planner, make_objective
        self.settings = {
            "replan_every": replan_every,
            "first_action_zero": first_action_zero,
            "chunk_size": chunk_size,
            "temperature": temperature,
        }

    def reset(self, task: PlanningTask, seed: int) -> None:
        goal = task.goal[None] if self.world.spec.goal_conditioned and task.goal is not None else None
        self._policy = self.policy_type(
            self.world, self.planner, self.make_objective(task.goal), goal=goal, seed=seed, **self.settings
        )

    def act(self, frame: Tensor) -> Tensor:
        return self._policy.select_action(frame[None])[0]

    @property
    def num_plans(self) -> int:
        return self._policy.num_plans


class ShuffledPolicy(PlannerPolicy):
    """A `PlannerPolicy` in which each candidate gets the cost of another one: how well planning works when a model
    does not follow actions."""

    def _make_cost(self) -> Cost:
        cost = super()._make_cost()
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "shuffle", self.num_plans))

        def shuffled(actions: Tensor) -> Tensor:
            return cost(actions[:, torch.randperm(actions.shape[1], generator=generator).to(actions.device)])

        return shuffled


class ShuffledController(ModelController):
    """Plans in a world model that predicts each candidate by the actions of another one."""

    policy_type = ShuffledPolicy


class SimulatorController(Controller):
    """Plans in the environment itself, with the same planner and objective: the best that a model could reach.

    Args:
        planner, make_objective, replan_every, first_action_zero: arguments of `ModelController`.
    """

    def __init__(
        self,
        planner: Planner,
        make_objective: MakeObjective,
        *,
        replan_every: int = 1,
        first_action_zero: bool = False,
    ) -> None:
        self.planner, self.make_objective = planner, make_objective
        self.replan_every, self.first_action_zero = replan_every, first_action_zero

    def reset(self, task: PlanningTask, seed: int) -> None:
        self._replanner = Replanner(
            self.planner, self.replan_every, first_action_zero=self.first_action_zero, seed=seed
        )
        self._cost = simulated_cost(task, self.make_objective(task.goal))

    def act(self, frame: Tensor) -> Tensor:
        return self._replanner.select(lambda: self._cost, 1)[0]

    @property
    def num_plans(self) -> int:
        return self._replanner.num_plans


def simulated_cost(task: PlanningTask, objective: Objective) -> Cost:
    """A cost (1, N) of candidates (1, N, H, A), by what the simulator does with them from its current state."""

    def cost(actions: Tensor) -> Tensor:
        imagined = task.imagine(actions[0], objective.decode_steps if "frames" in objective.outputs else None)
        steps = tuple(range(actions.shape[2]))
        rollout = Rollout(
            frames=None if imagined.frames is None else imagined.frames[None],
            rewards=imagined.rewards[None],
            tokens=None,
            log_probs=torch.zeros(actions.shape[:3]),
            actions=actions,
            decoded_steps=steps if objective.decode_steps == "all" else steps[-1:],
            reanchored_at=(),
            state=None,
        )
        return objective(rollout, actions)

    return cost
