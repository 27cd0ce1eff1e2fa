"""What a world is, whoever computes it: in this process, or on a server.

Planners, policies, environments and the playground take any `World`. Its states are opaque: they come from the world,
and go back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ..decoding.sampling import Sampling, check_count
from ..spec import WorldModelSpec
from .options import DecodeSteps, HorizonPolicy
from .results import Observation, Rollout, Step
from .state import State

# From what is seen of B worlds to their actions (B, A) in environment units.
Policy = Callable[[Observation], Tensor]
# Called after each step with its number, from 0, and what it brought; True ends the rollout there.
OnStep = Callable[[int, Step], bool | None]


def is_end(returned: Any) -> bool:
    """Whether a rollout ends by what its ``on_step`` returned.

    Raises:
        ValueError: if that is a flag for each row.
    """
    if getattr(returned, "shape", ()) != ():
        raise ValueError(f"on_step must return one flag for all rows, got {returned!r}")
    return bool(returned)


StateT = TypeVar("StateT", bound=State)


@runtime_checkable
class World(Protocol[StateT]):
    """A world that is reset with frames and stepped with actions. `WorldModel` and `RemoteWorldModel` are worlds; their
    docstrings say what arguments and results mean.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, World, WorldModel, read_actions, read_video
        >>> def predict(world: World, frames, actions):  # takes a WorldModel, and a RemoteWorldModel as well
        ...     return world.rollout(frames, actions).frames
        >>> frames, actions = read_video(EXAMPLE_EPISODE, max_frames=2)[None], read_actions(EXAMPLE_EPISODE)[None, 1:3]
        >>> predict(WorldModel.default(), frames, actions).shape
        torch.Size([1, 2, 3, 64, 64])
    """

    @property
    def spec(self) -> WorldModelSpec:
        """Sizes of what goes in and comes out."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the tensors that come out."""
        ...

    def reset(self, frames: Tensor) -> StateT:
        """Start B worlds from frames (B, C, 3, H, W) uint8."""
        ...

    def step(
        self,
        state: StateT,
        action: Tensor | None = None,
        *,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards"),
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> tuple[Step, StateT]:
        """Take one action (B, A) in every world."""
        ...

    def rollout(
        self,
        frames: Tensor | StateT,
        actions: Tensor | Policy | None = None,
        *,
        num_frames: int | None = None,
        num_samples: int | None = None,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards", "tokens"),
        decode_steps: DecodeSteps = "all",
        horizon_policy: HorizonPolicy = "reanchor",
        on_step: OnStep | None = None,
    ) -> Rollout:
        """Predict futures of actions, or of what a policy does."""
        ...

    def observe(self, state: StateT, action: Tensor | None, frame: Tensor) -> StateT:
        """Go on from what really happened: frames (B, 3, H, W) uint8."""
        ...


def imagine(
    world: World[StateT],
    state: StateT,
    policy: Policy | Tensor,
    horizon: int,
    *,
    sampling: Sampling | None = None,
    horizon_policy: HorizonPolicy = "reanchor",
) -> Rollout:
    """Let a policy act in imagined worlds: a rollout whose actions are chosen on the way.

    Args:
        world: world to imagine in, of any class.
        state: B worlds to start from.
        policy: callable from an `Observation` to actions (B, A) in environment units, or an action tensor
            (B, horizon, A).
        horizon: number of steps.
        sampling, horizon_policy: as in `WorldModel.rollout`.

    Raises:
        ValueError: if the policy's actions do not fit the world, or the horizon ends and the policy is "error".

    Example:
        >>> import torch
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, imagine, read_video
        >>> world = WorldModel.default()
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> dream = imagine(world, state, lambda seen: torch.zeros(1, 4), horizon=2, sampling=Sampling(seed=0))
        >>> dream.frames.shape, dream.actions.shape
        (torch.Size([1, 2, 3, 64, 64]), torch.Size([1, 2, 4]))
    """
    check_count(horizon, "horizon")
    if isinstance(policy, Tensor) and (policy.ndim != 3 or policy.shape[1] != horizon):
        raise ValueError(f"an action tensor must have shape (B, {horizon}, A), got {tuple(policy.shape)}")
    return world.rollout(state, policy, num_frames=horizon, sampling=sampling, horizon_policy=horizon_policy)
