"""Interface to stable-worldmodel: a world model as its solvers take one, an object that gives candidates a cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..media.pixels import pixels_to_uint8
from ..world.protocol import World
from ..world.state import State
from .costs import RolloutCost
from .objectives import Objective, PixelError


class CostableWorldModel:
    """A `Costable` of stable-worldmodel 0.1, to pass to its solvers.

    The solvers expand one observation for all candidates. Here it is coded once, for all iterations of a solver.

    Args:
        world: action-conditioned world model.
        make_objective: function from goal images (B, 3, H, W) uint8 to an objective; the default compares the pixels
            of the last frame.
        options: further arguments of `RolloutCost`.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> from ivideogpt_hf.planning.stable_worldmodel import CostableWorldModel
        >>> costs, frames = CostableWorldModel(WorldModel.default()), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> images = {"pixels": frames[None, None, :2], "goal": frames[None, None, 3:]}
        >>> images = {name: value.expand(-1, 4, -1, -1, -1, -1) for name, value in images.items()}
        >>> costs.get_cost(images, torch.zeros(1, 4, 2, 4)).shape  # of 4 candidates with 2 actions each
        torch.Size([1, 4])
    """

    def __init__(
        self, world: World[Any], make_objective: Callable[[Tensor], Objective] = PixelError, **options: Any
    ) -> None:
        self.world, self.make_objective, self.options = world, make_objective, options
        self._last_context: tuple[Tensor, State] | None = None

    def get_cost(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs (B, S) of candidates; lower is better.

        Args:
            info_dict: images "pixels" and "goal", each (B, S, T, 3, H, W), uint8 or float in [0, 1], the same for all
                S. The last frames are used. The first is repeated where there are too few for the context. The context
                of a goal-conditioned model begins with the last goal.
            action_candidates: candidates (B, S, H, A) in environment units.

        Raises:
            ValueError: if an image is missing or out of range, or sizes do not fit.
        """
        frames, goal = (self._images(info_dict, name) for name in ("pixels", "goal"))
        cost = RolloutCost(self.world, self._state(frames, goal), self.make_objective(goal[:, -1]), **self.options)
        return cost(action_candidates).to(action_candidates)

    criterion = get_cost

    def _state(self, frames: Tensor, goal: Tensor) -> State:
        length = self.world.spec.num_real_context_frames
        missing = max(0, length - frames.shape[1])
        goals = goal[:, goal.shape[1] - self.world.spec.num_goal_frames :]  # the last one, where the model sees it
        context = torch.cat([goals, frames[:, :1].expand(-1, missing, -1, -1, -1), frames[:, -length:]], dim=1)
        if self._last_context is None or not self._last_context[0].equal(context):
            self._last_context = context, self.world.reset(context)
        return self._last_context[1]

    def _images(self, info_dict: Mapping[str, Any], name: str) -> Tensor:
        if name not in info_dict:
            raise ValueError(f"info_dict must hold {name!r}, got the keys {sorted(info_dict)}")
        images = torch.as_tensor(info_dict[name])
        if images.ndim != 6 or images.shape[3] != 3:
            raise ValueError(f"{name} must be (B, S, T, 3, H, W), got {tuple(images.shape)}")
        return self.world.spec.resize_frames(pixels_to_uint8(images[:, 0]).cpu())
