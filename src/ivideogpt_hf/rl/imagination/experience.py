"""Imagined experience for off-policy agents: a world model that learns beside an agent, and what it lets it live
through."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...data.clips.segments import check_choice
from ...decoding.sampling import Sampling
from ...extras import require_packages
from ...world.results import Observation, Rollout
from ...world.world_model import WorldModel
from ..agents.drqv2 import DrQv2, set_generator_state
from ..replay.buffer import MixedReplayBuffer, Starts
from ..replay.checks import NUM_CHANNELS
from .learner import WorldModelLearner
from .worlds import check_world

require_packages("stable_baselines3", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.noise import VectorizedActionNoise  # noqa: E402
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm  # noqa: E402

FirstActions = Literal["random", "policy"]
RolloutDtype = Literal["float32", "bfloat16"]
# A quantile of log-probabilities is that of so many frames that were imagined last.
NUM_RECENT = 5000


@dataclass(frozen=True, kw_only=True)
class ImaginationSchedule:
    """When a world model is updated and when it is asked to imagine. Steps are those of the agent.

    Attributes:
        first_step: number of steps before the first update. An agent should not learn before, if it is to learn from
            imagined experience alone.
        warmup_updates: number of updates of the transformer at the first step.
        warmup_vq_updates: number of updates of the VQ model at the first step.
        transformer_every: number of steps from one update of the transformer to the next; None: none after the first
            step.
        vq_every: the same for the VQ model.
        imagine_every: number of steps from one round of rollouts to the next.
        num_starts: number of rollouts in a round.
        horizon: number of steps of a rollout.
        first_rounds: number of rounds at the first step.
        first_actions: actions of these: "random", uniform within the bounds, or those of the "policy".

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from ivideogpt_hf.rl.imagination.experience import ImaginationSchedule
        >>> schedule = ImaginationSchedule(first_step=500, vq_every=None, warmup_vq_updates=0)  # the VQ model stays
        >>> schedule.trains
        True
    """

    first_step: int = 2000
    warmup_updates: int = 1000
    warmup_vq_updates: int = 1000
    transformer_every: int | None = 5
    vq_every: int | None = 20
    imagine_every: int = 100
    num_starts: int = 32
    horizon: int = 10
    first_rounds: int = 20
    first_actions: FirstActions = "random"

    def __post_init__(self) -> None:
        check_choice("first_actions", self.first_actions, get_args(FirstActions))
        fewest = {"first_step": 1, "imagine_every": 1, "num_starts": 1, "horizon": 1, "first_rounds": 1}
        fewest |= {"warmup_updates": 0, "warmup_vq_updates": 0, "transformer_every": 1, "vq_every": 1}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in fewest and value is not None and value < fewest[item.name]:
                raise ValueError(f"{item.name} must be at least {fewest[item.name]}, got {value}")

    @property
    def trains(self) -> bool:
        """Whether the world model is updated at all."""
        return bool(self.warmup_updates or self.warmup_vq_updates or self.transformer_every or self.vq_every)


# "paper" has the numbers of iVideoGPT's experiments. "cpu" takes a few times as long as the agent alone, on one thread.
_PRESETS = {
    "paper": ImaginationSchedule(),
    "cpu": ImaginationSchedule(
        first_step=500,
        warmup_updates=100,
        warmup_vq_updates=0,
        transformer_every=25,
        vq_every=None,
        first_rounds=2,
        first_actions="policy",
    ),
}


def schedule_preset(name: str) -> ImaginationSchedule:
    """A schedule by name.

    Args:
        name: "paper", the schedule of iVideoGPT's experiments, for a GPU; or "cpu", whose VQ model is frozen and whose
            updates are rarer.

    Raises:
        ValueError: if there is no such preset.

    Example:
        >>> from ivideogpt_hf.rl.imagination.experience import schedule_preset
        >>> schedule_preset("cpu").transformer_every, schedule_preset("paper").transformer_every
        (25, 5)
    """
    check_choice("preset", name, tuple(_PRESETS))
    return _PRESETS[name]


class ImaginedPolicy:
    """An agent's stochastic policy, acting in imagined worlds on the same uint8 stacks as in the real one.

    Args:
        agent: agent, whose actions these are.
        observations: observations (B, 3 * S, H, W) uint8 at the starts.
        generator: generator of the actions' noise of a `DrQv2`; other agents draw from torch's own, as they always do.
        is_random: whether actions are uniform within the bounds instead.

    Attributes:
        observations: observations (B, 3 * S, H, W) uint8 that the policy saw last.
    """

    def __init__(
        self,
        agent: OffPolicyAlgorithm,
        observations: Tensor,
        generator: torch.Generator,
        *,
        is_random: bool = False,
    ) -> None:
        self.agent, self.observations, self.generator, self.is_random = agent, observations, generator, is_random
        assert isinstance(agent.action_space, spaces.Box)
        self._low, self._high = (
            torch.from_numpy(bound.ravel().astype(np.float32))
            for bound in (agent.action_space.low, agent.action_space.high)
        )
        # A noise with a memory begins anew in each rollout, and the agent's own is left alone.
        noise = agent.action_noise
        if isinstance(noise, VectorizedActionNoise):
            noise = noise.noises[0]
        self._noises = [] if noise is None else [copy.deepcopy(noise) for _ in range(len(observations))]
        for one in self._noises:
            one.reset()

    def __call__(self, observation: Observation) -> Tensor:
        """Actions (B, A) float32 in environment units, within the bounds."""
        if observation.step:  # the stack of a start ends with the frame that is seen first
            frames = observation.frame.to(self.observations.device)
            self.observations = torch.cat([self.observations[:, NUM_CHANNELS:], frames], dim=1)
        actions = self._actions().cpu()
        # What is scaled to the bounds may be rounded beyond them.
        return torch.minimum(torch.maximum(actions, self._low), self._high)

    def _actions(self) -> Tensor:
        if self.is_random:
            shape, device = (len(self.observations), len(self._low)), self.generator.device
            uniform = torch.rand(shape, generator=self.generator, device=device).cpu()
            return self._low + uniform * (self._high - self._low)
        if isinstance(self.agent, DrQv2):
            return self.agent.sample_actions(self.observations, generator=self.generator)
        actions, _ = self.agent.predict(self.observations.cpu().numpy(), deterministic=False)
        if self._noises:
            scaled = self.agent.policy.scale_action(actions)
            noise = np.stack([noise() for noise in self._noises])
            actions = self.agent.policy.unscale_action(np.clip(scaled + noise, -1, 1))
        return torch.from_numpy(np.asarray(actions, np.float32))


@dataclass(frozen=True)
class ImaginedRollouts:
    """A round of rollouts.

    Attributes:
        starts: real moments that they start from.
        rollout: what the world model predicted; fields (B, T, ...).
        lengths: number of steps (B,) int64 of each rollout that are kept.
    """

    starts: Starts
    rollout: Rollout
    lengths: Tensor


class ImaginedExperience(BaseCallback):
    """Lets a world model learn beside an off-policy agent, and fills the agent's buffer with imagined experience.

    It is a callback for ``learn`` of `DrQv2`, and of SAC, TD3, TQC and CrossQ of stable-baselines3 and sb3-contrib with
    a `MixedReplayBuffer` as buffer. On a schedule, the world model is updated on the buffer's real episodes, and the
    agent's current stochastic policy acts in it, from real starts, all in one batch. Nothing terminates in imagination:
    the value of the last frame follows the last reward.

    Args:
        learner: world model and its updates.
        schedule: times of updates and rollouts; None: that of the preset "paper".
        seed: seed of starts, actions and predictions.
        sampling: distribution that tokens are drawn from, without a seed; None: `Sampling()`.
        truncate_quantile: share of frames, in (0, 1), at which rollouts are cut: a rollout ends before the first frame
            whose log-probability lies below this quantile of the frames that were imagined last; None: rollouts are
            kept whole.
        dtype: precision of the rollouts. "bfloat16" takes a copy of the networks, whose reward head stays in
            float32.
        verbose: 1 shows a bar during the first updates, which take a while; 0 shows none.

    Attributes:
        num_imagined: number of imagined steps that were added so far.
        last: the last round of rollouts; None before the first.

    Raises:
        ValueError: if an argument does not fit. Where ``learn`` is called: if the agent's buffer, spaces or policy do
            not fit.

    Example:
        >>> import gymnasium
        >>> import numpy as np
        >>> from ivideogpt_hf import WorldModel
        >>> from ivideogpt_hf.rl.agents.drqv2 import DrQv2
        >>> from ivideogpt_hf.rl.imagination.experience import ImaginationSchedule, ImaginedExperience
        >>> from ivideogpt_hf.rl.imagination.learner import LearnerSettings, WorldModelLearner
        >>> from ivideogpt_hf.rl.agents.presets import preset
        >>> class Dark(gymnasium.Env):
        ...     observation_space = gymnasium.spaces.Box(0, 255, (9, 64, 64), np.uint8)
        ...     action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        ...     def reset(self, *, seed=None, options=None):
        ...         return np.zeros((9, 64, 64), np.uint8), {}
        ...     def step(self, action):
        ...         return np.zeros((9, 64, 64), np.uint8), float(action.sum()), False, False, {}
        >>> learner = WorldModelLearner(WorldModel.default(), LearnerSettings(num_future_frames=2, batch_size=1))
        >>> schedule = ImaginationSchedule(
        ...     first_step=8, warmup_updates=1, warmup_vq_updates=0, first_rounds=1, num_starts=2, horizon=2
        ... )
        >>> imagined = ImaginedExperience(learner, schedule)
        >>> agent = DrQv2("CnnPolicy", Dark(), **preset("cpu") | {"learning_starts": 8, "seed": 0, "device": "cpu"})
        >>> agent = agent.learn(10, callback=imagined)
        >>> agent.replay_buffer.num_real, agent.replay_buffer.num_imagined
        (10, 4)
    """

    def __init__(
        self,
        learner: WorldModelLearner,
        schedule: ImaginationSchedule | None = None,
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
        truncate_quantile: float | None = None,
        dtype: RolloutDtype = "float32",
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_choice("dtype", dtype, get_args(RolloutDtype))
        if truncate_quantile is not None and not 0 < truncate_quantile < 1:
            raise ValueError(f"truncate_quantile is a share of frames, in (0, 1), or None; got {truncate_quantile}")
        self.learner, self.schedule = learner, schedule or schedule_preset("paper")
        self.sampling = sampling or Sampling()
        if self.sampling.seed is not None:
            raise ValueError("sampling must come without a seed: seeds follow from that of ImaginedExperience")
        spec = learner.world.spec
        if self.schedule.horizon > spec.max_future_frames:
            raise ValueError(
                f"horizon is {self.schedule.horizon}, and the world model is good for {spec.max_future_frames} frames: "
                "lower it, since beyond that it would go on from its own predictions"
            )
        if self.schedule.horizon > learner.settings.num_future_frames and self.schedule.trains:
            raise ValueError(
                f"horizon is {self.schedule.horizon}, and the world model is updated on clips with "
                f"{learner.settings.num_future_frames} frames after the context: set num_future_frames to that at least"
            )
        self.truncate_quantile, self.dtype = truncate_quantile, dtype
        self.num_imagined, self.last = 0, None
        self._rng = np.random.default_rng(seed)
        self._generator_seed, self._generator = seed, torch.Generator().manual_seed(seed)
        self._is_warm, self._last_step = False, 0
        self._recent: deque[float] = deque(maxlen=NUM_RECENT)
        self._copy: WorldModel | None = None
        self._copied_updates = (-1, -1)

    last: ImaginedRollouts | None
    model: OffPolicyAlgorithm

    # -- when ---------------------------------------------------------------------------------------------------------

    @property
    def buffer(self) -> MixedReplayBuffer:
        """The agent's buffer."""
        buffer = self.model.replay_buffer
        assert isinstance(buffer, MixedReplayBuffer)
        return buffer

    def _init_callback(self) -> None:
        agent = self.model
        if not isinstance(agent, OffPolicyAlgorithm) or not isinstance(agent.replay_buffer, MixedReplayBuffer):
            raise ValueError(
                f"imagined experience needs an off-policy agent with replay_buffer_class=MixedReplayBuffer, got "
                f"{type(agent).__name__} with {type(getattr(agent, 'replay_buffer', None)).__name__}"
            )
        assert isinstance(agent.action_space, spaces.Box)
        height, width = agent.replay_buffer.obs_shape[1:]
        check_world(self.learner.world.spec, agent.action_space, (height, width), self.schedule.horizon)
        if self._generator.device.type != agent.device.type:
            self._generator = torch.Generator(agent.device).manual_seed(self._generator_seed)

    def _on_step(self) -> bool:
        return True  # the step is not yet in the buffer

    def _on_rollout_end(self) -> None:
        """After steps were added to the buffer, and before the agent is updated."""
        schedule, before, now = self.schedule, self._last_step, self.num_timesteps
        self._last_step = now
        if now < schedule.first_step:
            return
        if not self._is_warm:
            self._warm_up()
            self._is_warm = True
            return

        def times(every: int | None) -> int:
            return 0 if every is None else now // every - before // every

        for _ in range(times(schedule.vq_every)):
            self._log("vq_model", self.learner.update_vq_model(self.buffer))
        for _ in range(times(schedule.transformer_every)):
            self._update_transformer()
        for _ in range(times(schedule.imagine_every)):
            self.imagine()

    def _warm_up(self) -> None:
        """The first updates and rollouts."""
        schedule = self.schedule
        numbers = (schedule.warmup_vq_updates, schedule.warmup_updates)
        for name, metrics in self.learner.warm_up(self.buffer, *numbers, has_bar=self.verbose > 0):
            self._log(name, metrics)
            if name == "world_model":
                self.buffer.count_model_update()
        for _ in range(schedule.first_rounds):
            self.imagine(is_random=schedule.first_actions == "random")

    def _update_transformer(self) -> None:
        self._log("world_model", self.learner.update_transformer(self.buffer))
        self.buffer.count_model_update()

    def _log(self, name: str, metrics: dict[str, float]) -> None:
        for key, value in metrics.items():
            self.logger.record_mean(f"{name}/{key}", value)

    # -- what ---------------------------------------------------------------------------------------------------------

    def imagine(self, *, is_random: bool = False) -> ImaginedRollouts:
        """Do a round of rollouts, and add it to the agent's buffer.

        Args:
            is_random: whether actions are uniform within the bounds, instead of the policy's.
        """
        schedule, world = self.schedule, self._world()
        starts = self.buffer.sample_starts(schedule.num_starts, world.spec.num_context_frames, self._rng)
        policy = ImaginedPolicy(self.model, starts.observations, self._generator, is_random=is_random)
        seeds = [int(seed) for seed in self._rng.integers(2**62, size=schedule.num_starts)]
        rollout = world.rollout(
            starts.context_frames,
            policy,
            num_frames=schedule.horizon,
            sampling=replace(self.sampling, seed=seeds),
            outputs=("frames", "rewards"),
            horizon_policy="error",
        )
        lengths = self._lengths(rollout.log_probs.cpu())
        self.buffer.add_imagined(starts.stack_frames, rollout.frames, rollout.actions, rollout.rewards, lengths)
        self.num_imagined += int(lengths.sum())
        self.logger.record_mean("imagination/log_prob", float(rollout.log_probs.mean()))
        self.logger.record_mean("imagination/reward", float(rollout.rewards.mean()))
        self.logger.record_mean("imagination/length", float(lengths.float().mean()))
        self.last = ImaginedRollouts(starts, rollout, lengths)
        return self.last

    def _lengths(self, log_probs: Tensor) -> Tensor:
        """Number of steps (B,) of each rollout before its first frame below the quantile."""
        horizon = log_probs.shape[1]
        if self.truncate_quantile is None:
            return torch.full((len(log_probs),), horizon)
        self._recent.extend(log_probs.flatten().tolist())
        threshold = float(np.quantile(np.array(self._recent), self.truncate_quantile))
        return (log_probs >= threshold).long().cumprod(dim=1).sum(dim=1)

    def _world(self) -> WorldModel:
        """The world model that rollouts run in."""
        learner = self.learner
        if self.dtype == "float32":
            return learner.world
        updates = (learner.num_vq_updates, learner.num_transformer_updates)
        if self._copy is None:
            networks = (copy.deepcopy(learner.world.vq_model), copy.deepcopy(learner.world.transformer))
            self._copy = WorldModel(*networks, learner.world.processor).to(dtype=torch.bfloat16)
            # Else a reward of 20 would be off by a hundredth.
            self._copy.transformer.reward_linear.float()
        if updates != self._copied_updates:
            self._copy.vq_model.load_state_dict(learner.world.vq_model.state_dict())
            self._copy.transformer.load_state_dict(learner.world.transformer.state_dict())
        self._copied_updates = updates
        return self._copy

    # -- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that must be kept to go on, but for the learner and the agent with its buffer."""
        return {
            "num_imagined": self.num_imagined,
            "is_warm": self._is_warm,
            "last_step": self._last_step,
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "recent": torch.tensor(list(self._recent), dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another callback with the same arguments stood. Actions in imagination have the same random
        numbers if the agent is on the same kind of device."""
        self.num_imagined, self._is_warm = state["num_imagined"], state["is_warm"]
        self._last_step = state["last_step"]
        self._rng.bit_generator.state = state["rng"]
        if hasattr(self, "model"):
            self._generator = torch.Generator(self.model.device).manual_seed(self._generator_seed)
        set_generator_state(self._generator, state["generator"])
        self._recent = deque(state["recent"].tolist(), maxlen=NUM_RECENT)
        self._copied_updates = (-1, -1)
