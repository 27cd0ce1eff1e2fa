"""Objectives: the costs of predicted futures, where lower is better.

An objective says which outputs of a rollout it reads and which frames must be decoded for it, so that nothing else is
computed. Sizes: B problems, N candidates, H steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..world.results import Rollout

FrameChoice = Literal["all", "last"]
# The number of frames that a network is given at a time.
FRAMES_PER_CHUNK = 256


class Objective(Protocol):
    """Costs of predicted futures, as planners ask for them: lower is better.

    Example:
        >>> from ivideogpt_hf.planning.objectives import Objective, WeightedSum
        >>> class Brightness:  # a planner looks for bright last frames
        ...     outputs = frozenset({"frames"})
        ...     decode_steps = "last"
        ...     def __call__(self, rollout, actions):
        ...         return -rollout.frames[:, :, -1].float().mean((2, 3, 4))
        >>> objective: Objective = Brightness()
        >>> WeightedSum([(0.5, objective)]).decode_steps
        'last'
    """

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the rollout's outputs that are read."""
        ...

    @property
    def decode_steps(self) -> FrameChoice | None:
        """Frames that are read: "all", the "last" one, or None for none."""
        ...

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        """Costs (B, N) of a rollout whose fields are (B, N, H, ...), and of its actions (B, N, H, A)."""
        ...


def _chosen(rollout: Rollout, frames: FrameChoice) -> Tensor:
    """The frames (B, N, 1 or H, 3, H, W) that an objective reads."""
    return rollout.frames[:, :, -1:] if frames == "last" else rollout.frames


def _check_goal(goal: Tensor, frames: Tensor) -> Tensor:
    """A goal (B, 3, H, W) beside frames (B, N, T, 3, H, W)."""
    expected = (len(frames), *frames.shape[3:])
    if goal.dtype != torch.uint8 or goal.shape != expected:
        raise ValueError(f"the goal must be uint8 of shape {expected}, got {goal.dtype} of shape {tuple(goal.shape)}")
    return goal[:, None, None].to(frames.device)


def _in_chunks(network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply a network to the frames (B, N, T, 3, H, W) of each input; (B, N, T, ...)."""
    leading = inputs[0].shape[:3]
    parts = zip(*(frames.flatten(0, 2).split(FRAMES_PER_CHUNK) for frames in inputs), strict=True)
    return torch.cat([network(*part) for part in parts]).unflatten(0, leading)


@dataclass(frozen=True)
class PixelError:
    """Squared error of pixels in [0, 1] to a goal image.

    Args:
        goal: goal images (B, 3, H, W) uint8.
        frames: frames that are compared: the "last" one, or "all".
        reduction: operation that puts pixels and frames together; "sum" is VP2's (Tian et al., 2023).

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import PixelError
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), PixelError(frames[3:4]))
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    goal: Tensor
    frames: FrameChoice = "last"
    reduction: Literal["mean", "sum"] = "mean"
    outputs: ClassVar[frozenset[str]] = frozenset({"frames"})

    @property
    def decode_steps(self) -> FrameChoice:
        return self.frames

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        frames = _chosen(rollout, self.frames)
        error = ((frames.float() - _check_goal(self.goal, frames).float()) / 255).square().flatten(2)
        return error.sum(2) if self.reduction == "sum" else error.mean(2)


@dataclass(frozen=True)
class PerceptualError:
    """LPIPS to a goal image, the mean over frames.

    Args:
        goal: goal images (B, 3, H, W) uint8.
        lpips: function from pairs (M, 3, H, W) in [0, 1] to distances (M,), see `ivideogpt_hf.metrics.lpips.LPIPS`.
        frames: frames that are looked at: the "last" one, or "all".

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import PerceptualError
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> def distance(predicted, goal):  # LPIPS takes its place
        ...     return (predicted - goal).abs().mean((1, 2, 3))
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), PerceptualError(frames[3:4], distance))
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    goal: Tensor
    lpips: Callable[[Tensor, Tensor], Tensor]
    frames: FrameChoice = "last"
    outputs: ClassVar[frozenset[str]] = frozenset({"frames"})

    @property
    def decode_steps(self) -> FrameChoice:
        return self.frames

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        frames = _chosen(rollout, self.frames)
        goal = _check_goal(self.goal, frames).expand_as(frames)
        return _in_chunks(
            lambda images, goals: self.lpips(images.float() / 255, goals.float() / 255), frames, goal
        ).mean(2)


@dataclass(frozen=True)
class FeatureError:
    """Squared distance of features of the last frame to those of a goal image.

    Args:
        goal: goal images (B, 3, H, W) uint8.
        encode: function from frames (M, 3, H, W) uint8 to features (M, D).

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import FeatureError
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE)
        >>> def mean_colour(frames):
        ...     return frames.float().mean((2, 3))
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), FeatureError(frames[3:4], mean_colour))
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    goal: Tensor
    encode: Callable[[Tensor], Tensor]
    outputs: ClassVar[frozenset[str]] = frozenset({"frames"})
    decode_steps: ClassVar[FrameChoice] = "last"

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        frames = _chosen(rollout, "last")
        goal = _in_chunks(self.encode, _check_goal(self.goal, frames))
        return (_in_chunks(self.encode, frames) - goal).square().sum((2, 3))


@dataclass(frozen=True)
class TokenError:
    """Share of the last frame's tokens that are not the goal's; no frame is decoded.

    Args:
        goal: vocabulary ids (B, tokens_per_future_frame) int64: the goal image as a future frame of the same context.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import TokenError
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> tokens, _ = world.vq_model.tokenize(frames[None] / 255)  # the goal is the last of these frames
        >>> goal = tokens[:, -world.vq_model.config.layout.tokens_per_future_frame :]
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), TokenError(goal))
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    goal: Tensor
    outputs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    decode_steps: ClassVar[None] = None

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        last = rollout.tokens[:, :, -1]
        if self.goal.shape != (len(last), last.shape[-1]):
            expected = (len(last), last.shape[-1])
            raise ValueError(f"the goal's tokens must have shape {expected}, got {tuple(self.goal.shape)}")
        return (last != self.goal[:, None].to(last.device)).float().mean(2)


@dataclass(frozen=True)
class SuccessClassifier:
    """Minus the logits of success that a classifier gives frames, summed over them.

    Args:
        classify: function from frames (M, 3, H, W) uint8 to logits (M,).
        frames: frames that are looked at: the "last" one, or "all".

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import SuccessClassifier
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> def classify(frames):  # a learned classifier takes its place
        ...     return frames.float().mean((1, 2, 3)) - 128
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), SuccessClassifier(classify))
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    classify: Callable[[Tensor], Tensor]
    frames: FrameChoice = "all"
    outputs: ClassVar[frozenset[str]] = frozenset({"frames"})

    @property
    def decode_steps(self) -> FrameChoice:
        return self.frames

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        return -_in_chunks(self.classify, _chosen(rollout, self.frames)).sum(2)


@dataclass(frozen=True)
class RewardSum:
    """Minus the discounted sum of predicted rewards; no frame is decoded.

    Args:
        discount: weight of each step over the one before, in (0, 1].

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import RewardSum
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), RewardSum(discount=0.99))
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    discount: float = 1.0
    outputs: ClassVar[frozenset[str]] = frozenset({"rewards"})
    decode_steps: ClassVar[None] = None

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        if rollout.rewards is None:
            raise ValueError("the model has no reward head: choose an objective that looks at frames")
        weights = self.discount ** torch.arange(rollout.rewards.shape[2], device=rollout.rewards.device)
        return -(weights * rollout.rewards).sum(2)


@dataclass(frozen=True)
class TerminalValue:
    """Minus the discounted value of the last frame.

    Args:
        value: function from frames (M, 3, H, W) uint8 to values (M,).
        discount: weight of each step over the one before, in (0, 1].

    Example:
        >>> from ivideogpt_hf.planning.objectives import RewardSum, TerminalValue, WeightedSum
        >>> def brightness(frames):  # a learned value function takes its place
        ...     return frames.float().mean((1, 2, 3))
        >>> returns = WeightedSum([(1.0, RewardSum(0.99)), (1.0, TerminalValue(brightness, 0.99))])
        >>> sorted(returns.outputs), returns.decode_steps
        (['frames', 'rewards'], 'last')
    """

    value: Callable[[Tensor], Tensor]
    discount: float = 1.0
    outputs: ClassVar[frozenset[str]] = frozenset({"frames"})
    decode_steps: ClassVar[FrameChoice] = "last"

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        return -(self.discount ** actions.shape[2]) * _in_chunks(self.value, _chosen(rollout, "last"))[:, :, 0]


@dataclass(frozen=True)
class ActionPenalty:
    """Sum of squared actions.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import ActionPenalty
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), ActionPenalty())
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    outputs: ClassVar[frozenset[str]] = frozenset()
    decode_steps: ClassVar[None] = None

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        return actions.square().sum((2, 3))


@dataclass(frozen=True)
class Uncertainty:
    """Minus the log-probability of the predicted tokens, summed over the steps: high where the model guesses.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import Uncertainty
        >>> world, frames = WorldModel.default(), read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> cost = RolloutCost(world, world.reset(frames[None, :2]), Uncertainty())
        >>> cost(read_actions(EXAMPLE_EPISODE)[None, None, 1:3]).shape
        torch.Size([1, 1])
    """

    outputs: ClassVar[frozenset[str]] = frozenset()
    decode_steps: ClassVar[None] = None

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        return -rollout.log_probs.sum(2)


@dataclass(frozen=True)
class WeightedSum:
    """Several objectives at once.

    Args:
        terms: pairs (weight, objective), at least one.

    Raises:
        ValueError: without terms.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, WorldModel, read_actions, read_video
        >>> from ivideogpt_hf.planning.objectives import ActionPenalty, RewardSum, Uncertainty, WeightedSum
        >>> world = WorldModel.default()
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=world.spec.num_context_frames)[None])
        >>> objective = WeightedSum([(1.0, RewardSum()), (0.01, ActionPenalty()), (0.1, Uncertainty())])
        >>> candidates = read_actions(EXAMPLE_EPISODE)[1:3].expand(1, 4, -1, -1)  # (B, N, H, A)
        >>> RolloutCost(world, state, objective)(candidates).shape
        torch.Size([1, 4])
        >>> objective.decode_steps is None  # none of the three looks at frames
        True
    """

    terms: Sequence[tuple[float, Objective]]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("there is nothing to sum: give at least one pair of a weight and an objective")

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset().union(*(objective.outputs for _, objective in self.terms))

    @property
    def decode_steps(self) -> FrameChoice | None:
        steps = {objective.decode_steps for _, objective in self.terms}
        return "all" if "all" in steps else "last" if "last" in steps else None

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        return reduce(add, (weight * objective(rollout, actions) for weight, objective in self.terms))
