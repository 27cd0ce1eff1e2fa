"""Planning again and again: each plan begins where the one before ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .planners import Cost, Plan, Planner

CostT = TypeVar("CostT", bound=Cost)


class Replanner:
    """Executes plans and makes new ones.

    Args:
        planner: search that looks for actions.
        every: number of a plan's actions that are executed.
        first_action_zero: whether to execute zeros first, as VP2 does (Tian et al., 2023).
        seed: seed of the planner.
        device: device to plan on.

    Attributes:
        last_plan: plan that was made last; None after a reset.
        num_plans: number of plans since the last reset.

    Raises:
        ValueError: if more actions than a plan has are to be executed.
    """

    def __init__(
        self,
        planner: Planner,
        every: int = 1,
        *,
        first_action_zero: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= every <= planner.horizon:
            raise ValueError(f"replan_every must be from 1 to the horizon {planner.horizon}, got {every}")
        self.planner, self.every, self.first_action_zero = planner, every, first_action_zero
        self.seed, self.device = seed, device
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._generator = torch.Generator(device=self.device).manual_seed(self.seed)
        self._queue: deque[Tensor] = deque()
        self._num_selected = self.num_plans = 0
        self.last_plan: Plan | None = None

    def select(
        self, make_cost: Callable[[], CostT], batch_size: int, propose: Callable[[CostT], Tensor] | None = None
    ) -> Tensor:
        """The next action (B, A) on the CPU; a cost, and candidates (B, K, H, A) that are proposed, are made only if it
        is time to plan."""
        self._num_selected += 1
        if self.first_action_zero and self._num_selected == 1:
            return torch.zeros(batch_size, self.planner.action_dim)
        if not self._queue:
            cost = make_cost()
            plan = self.plan(cost, batch_size, None if propose is None else propose(cost))
            self._queue.extend(plan.actions[:, : self.every].cpu().unbind(1))
        return self._queue.popleft()

    def plan(self, cost: Cost, batch_size: int, proposals: Tensor | None = None) -> Plan:
        """A new plan, whose search begins with the mean of the one before, shifted by what was executed of it, and with
        candidates (B, K, H, A) that were proposed."""
        warm_start = None
        if self.last_plan is not None:
            executed = min(self.every, self.planner.horizon - 1)
            mean = self.last_plan.mean
            warm_start = torch.cat([mean[:, executed:], mean[:, -1:].expand(-1, executed, -1)], dim=1)
        self.num_plans += 1
        self.last_plan = self.planner.plan(
            cost,
            batch_size=batch_size,
            warm_start=warm_start,
            proposals=proposals,
            generator=self._generator,
            device=self.device,
        )
        return self.last_plan


def derived_seed(seed: int, *parts: int | str) -> int:
    """A seed that depends on another one and on all parts, such as the number of a plan: no two draw alike."""
    words = [seed]
    for part in parts:
        words += [part] if isinstance(part, int) else part.encode()
    return int(np.random.SeedSequence(words).generate_state(1)[0])
