"""Costs of action sequences: what an objective makes of the futures that a world model predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..decoding.sampling import Sampling
from ..world.options import HorizonPolicy
from ..world.protocol import World
from ..world.state import State
from .objectives import Objective


def check_rollouts(num_futures: int, chunk_size: int | None) -> None:
    """Raise ValueError unless candidates can be rolled out in so many futures, and so many at a time."""
    for name, value in (("num_futures", num_futures), ("chunk_size", chunk_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass
class RolloutCost:
    """A cost for planners, of B worlds at once.

    The context is coded and prefilled once, when ``state`` was made. All candidates draw with the same random numbers,
    so that they differ only by their actions, unless ``sampling`` says otherwise.

    Args:
        world: world that predicts.
        state: state of the B worlds to start from.
        objective: objective that says what the predicted futures are worth.
        num_futures: number of futures of each candidate, whose mean cost counts.
        sampling: distribution that tokens are drawn from; without a seed, one is drawn now, so that all iterations of a
            planner see the same luck.
        chunk_size: number of candidates that are rolled out at a time; None: all.
        horizon_policy: policy at the end of the horizon, see `WorldModel.rollout`.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import RewardSum
        >>> world = WorldModel.default()
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> cost = RolloutCost(world, state, RewardSum())
        >>> candidates = read_actions(EXAMPLE_EPISODE)[1:3].expand(1, 4, -1, -1)  # (B, N, H, A)
        >>> cost(candidates).shape
        torch.Size([1, 4])
    """

    world: World[Any]
    state: State
    objective: Objective
    num_futures: int = 1
    sampling: Sampling | None = None
    chunk_size: int | None = None
    horizon_policy: HorizonPolicy = "reanchor"

    def __post_init__(self) -> None:
        check_rollouts(self.num_futures, self.chunk_size)
        sampling = self.sampling or Sampling(common_random_numbers=True)
        seed = int(torch.randint(2**62, (1,))) if sampling.seed is None else sampling.seed
        if not isinstance(seed, int):
            raise ValueError("the seed of a cost must be one number, from which those of the futures follow")
        self._sampling_of_futures = [replace(sampling, seed=seed + future) for future in range(self.num_futures)]

    def __call__(self, actions: Tensor) -> Tensor:
        """Costs (B, N) of candidates (B, N, H, A)."""
        chunks = actions.split(self.chunk_size or actions.shape[1], dim=1)
        return torch.cat([self._cost(chunk) for chunk in chunks], dim=1)

    def _cost(self, actions: Tensor) -> Tensor:
        costs = []
        for sampling in self._sampling_of_futures:
            rollout = self.world.rollout(
                self.state,
                actions,
                sampling=sampling,
                outputs=tuple(self.objective.outputs),
                decode_steps=self.objective.decode_steps or "all",
                horizon_policy=self.horizon_policy,
            )
            costs.append(self.objective(rollout, actions.to(rollout.log_probs)))
        return torch.stack(costs).mean(0)
