"""A replay buffer that holds real and imagined experience apart, for off-policy agents of stable-baselines3."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...extras import require_packages
from .checks import (
    NUM_CHANNELS,
    ActionScale,
    as_array,
    check_frames,
    check_rewards,
    check_scaled_actions,
    check_spaces,
)
from .file import RECORD, check_table, read_buffer, write_buffer
from .frame_store import NONE, FrameStore
from .rollout_store import RolloutStore

require_packages("stable_baselines3", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer  # noqa: E402
from stable_baselines3.common.type_aliases import ReplayBufferSamples  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402


@dataclass(frozen=True)
class Starts:
    """Real moments for n rollouts to start from.

    Attributes:
        context_frames: the last frames (n, C, 3, H, W) uint8, for a world model.
        observations: what the agent sees at the last of them (n, 3 * S, H, W) uint8.
    """

    context_frames: Tensor
    observations: Tensor

    @property
    def stack_frames(self) -> Tensor:
        """The observations as frames (n, S, 3, H, W) uint8, oldest first."""
        return self.observations.unflatten(1, (-1, NUM_CHANNELS))


@dataclass(frozen=True)
class Segments:
    """Clips of real episodes.

    Attributes:
        frames: frames (n, T, 3, H, W) uint8.
        actions: actions (n, T - 1, A) float32 in environment units; row t leads from frame t to frame t + 1.
        rewards: rewards (n, T - 1) float32 of these actions, as the environment gave them.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor


class MixedReplayBuffer(ReplayBuffer):
    """Real and imagined experience from stacks of frames, with n-step returns.

    Any off-policy agent of stable-baselines3 or sb3-contrib takes it as ``replay_buffer_class``. Observations are
    stacks
    of frames, channels first: (3 * S, H, W) uint8, oldest frame first.

    A batch holds the stated share of real transitions, and is all real while nothing is imagined. Rewards are summed
    over up to ``n_steps`` steps. The sum ends early where the episode or the imagined rollout ends. It is followed by
    the value of the last observation, but after a termination. The factor of this value, gamma to the power of the
    number of steps, is in the batch as ``discounts``.

    Memory: each frame is stored once, a real one with H * W * 3 bytes; stacks are built when a batch is drawn. So a
    buffer of 100,000 frames of 64 x 64 pixels takes at most 1.2 GB, and 20,000 imagined transitions of 10 steps each
    with stacks of 3 take 0.32 GB.

    Args:
        buffer_size: number of real frames that are kept at most; the oldest are forgotten first. An episode of T steps
            has T + 1 frames.
        observation_space: space of the stacks.
        action_space: box of the actions.
        device: device of the batches.
        n_envs: number of environments that are stepped together.
        optimize_memory_usage: argument of stable-baselines3 that must be False, since frames are stored once anyway.
        n_steps: largest number of rewards that are summed.
        gamma: discount of the agent.
        real_ratio: share of real transitions in a batch, in [0, 1].
        max_imagined: number of imagined transitions that are kept at most; the oldest rollouts expire first.
        max_imagined_age: number of updates of the world model after which a rollout expires; None: never.
        seed: seed of the draws; None: another one each time.

    Raises:
        ValueError: if the spaces or numbers do not fit.

    Example:
        >>> import numpy as np
        >>> from gymnasium.spaces import Box
        >>> from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
        >>> stacks, actions = Box(0, 255, (9, 64, 64), np.uint8), Box(-1, 1, (4,), np.float32)
        >>> buffer = MixedReplayBuffer(1000, stacks, actions, n_steps=3, gamma=0.99, real_ratio=0.5, seed=0)
        >>> buffer.add_episode(np.zeros((11, 3, 64, 64), np.uint8), np.zeros((10, 4)), np.ones(10))
        >>> batch = buffer.sample(32)
        >>> batch.observations.shape, sorted({round(float(reward), 4) for reward in batch.rewards})
        (torch.Size([32, 9, 64, 64]), [1.0, 1.99, 2.9701])
    """

    action_space: spaces.Box
    observation_space: spaces.Box

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        n_steps: int = 3,
        gamma: float = 0.99,
        real_ratio: float = 0.5,
        max_imagined: int = 20_000,
        max_imagined_age: int | None = None,
        seed: int | None = None,
    ) -> None:
        num_stack = check_spaces(observation_space, action_space)
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage must be False: this buffer stores each frame once in any case")
        numbers = {"n_steps": n_steps, "max_imagined": max_imagined, "max_imagined_age": max_imagined_age}
        for name, number in numbers.items():
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
        # Room for what the environments are in the midst of.
        fewest = 2 * n_envs * (num_stack + n_steps)
        if buffer_size < fewest:
            raise ValueError(f"buffer_size must be at least {fewest} frames here, got {buffer_size}")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        # The parent's own __init__ would take memory for stacks.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.handle_timeout_termination, self.optimize_memory_usage = True, False
        self.n_steps, self.gamma, self.real_ratio = n_steps, gamma, real_ratio
        self.num_stack, self._scale = num_stack, ActionScale(self.action_space)
        self.rng = np.random.default_rng(seed)
        height, width = self.obs_shape[1:]
        frame_shape = (NUM_CHANNELS, height, width)
        self._real = FrameStore(buffer_size, frame_shape, self.action_dim, num_stack)
        self._imagined = RolloutStore(max_imagined, max_imagined_age, frame_shape, self.action_dim, num_stack)
        self.reset()

    # -- what is in it ------------------------------------------------------------------------------------------------

    @property
    def real_ratio(self) -> float:
        """Share of real transitions in a batch, in [0, 1]; it may be changed at any time."""
        return self._real_ratio

    @real_ratio.setter
    def real_ratio(self, ratio: float) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"real_ratio is the share of real transitions in a batch, in [0, 1]; got {ratio}")
        self._real_ratio = ratio

    @property
    def max_imagined(self) -> int:
        """Number of imagined transitions that are kept at most."""
        return self._imagined.max_steps

    @property
    def max_imagined_age(self) -> int | None:
        """Number of updates of the world model after which a rollout expires; None: never."""
        return self._imagined.max_age

    @property
    def num_real(self) -> int:
        """Number of real transitions that can be drawn."""
        return len(self._real.steps)

    @property
    def num_imagined(self) -> int:
        """Number of imagined transitions that can be drawn."""
        return len(self._imagined)

    def size(self) -> int:
        """Number of real transitions, as stable-baselines3 counts them."""
        return self.num_real

    def reset(self) -> None:
        """Forget everything, real and imagined."""
        super().reset()
        self._real.clear()
        # For each environment, the slot of its newest frame and the serial number of the frame there.
        self._newest = [(NONE, NONE)] * self.n_envs
        self._imagined.num_updates = 0
        self.clear_imagined()

    def clear_imagined(self) -> None:
        """Forget all that was imagined."""
        self._imagined.clear()

    # -- real experience ----------------------------------------------------------------------------------------------

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one step of each environment, as stable-baselines3 does.

        An episode is followed through calls: an observation that is not the one the last step led to begins another.

        Args:
            obs: observations (n_envs, 3 * S, H, W) uint8.
            next_obs: observations that the steps led to, in the same shape. Where an episode is done,
                "terminal_observation" in its infos takes their place if it is there.
            action: actions (n_envs, A), scaled to [-1, 1].
            reward: rewards (n_envs,).
            done: whether episodes are over (n_envs,).
            infos: infos of each environment; "TimeLimit.truncated" says that a done episode did not terminate.

        Raises:
            ValueError: if observations are not uint8 stacks of frames, next_obs is not obs moved on by a frame, or a
                reward is not finite.
        """
        obs, next_obs = self._check_observations(obs), self._check_observations(next_obs)
        if not len(obs) == len(next_obs) == len(infos) == self.n_envs:
            raise ValueError(f"the buffer was made for {self.n_envs} environments, and got steps of {len(obs)}")
        actions = np.asarray(action, np.float32).reshape(self.n_envs, self.action_dim)
        check_scaled_actions(actions)
        actions = actions.clip(-1, 1)
        rewards = check_rewards(reward, (self.n_envs,))
        for env, info in enumerate(infos):
            after = next_obs[env]
            if done[env] and info.get("terminal_observation") is not None:
                after = self._check_observations(np.asarray(info["terminal_observation"])[None])[0]
            if not np.array_equal(obs[env, 1:], after[:-1]):
                raise ValueError(
                    f"observations must be stacks of the last {self.num_stack} frames, oldest first, each a frame "
                    f"further than the one before; those of environment {env} are not; stack its frames by channels"
                )
            slot, serial = self._newest[env]
            if slot == NONE or self._real.serials[slot] != serial or not self._goes_on(slot, obs[env]):
                slot = self._real.begin(obs[env])
            terminated = bool(done[env]) and not info.get("TimeLimit.truncated", False)
            slot = self._real.append(slot, actions[env], float(rewards[env]), after[-1], terminated=terminated)
            self._newest[env] = (NONE, NONE) if done[env] else (slot, int(self._real.serials[slot]))
        self._count()

    def add_episode(
        self,
        frames: np.ndarray | Tensor,
        actions: np.ndarray | Tensor,
        rewards: np.ndarray | Tensor,
        *,
        terminated: bool = False,
        clip_actions: bool = False,
    ) -> None:
        """Add a whole real episode, such as a demonstration. It is copied, and may be forgotten as any other.

        Args:
            frames: frames (T + 1, 3, H, W) uint8; stacks at the beginning repeat the first one.
            actions: actions (T, A) in environment units; row t leads from frame t to frame t + 1.
            rewards: rewards (T,) of the actions.
            terminated: whether the episode terminated with its last step, so that nothing comes after it.
            clip_actions: whether actions outside the bounds are clipped instead of refused.

        Raises:
            ValueError: if a shape, dtype or action does not fit.
        """
        frames = as_array(frames)
        check_frames("frames", frames, 4, self._real.frame_shape)
        num_steps = len(frames) - 1
        if num_steps < 1 or len(frames) > self._real.num_slots:
            raise ValueError(f"an episode must have 2 to {self._real.num_slots} frames here, got {len(frames)}")
        scaled = self._scale.to_unit(actions, (num_steps,), clip=clip_actions)
        values = check_rewards(rewards, (num_steps,))
        slot = self._real.begin(np.repeat(frames[:1], self.num_stack, axis=0))
        for step in range(num_steps):
            ends = terminated and step == num_steps - 1
            slot = self._real.append(slot, scaled[step], float(values[step]), frames[step + 1], terminated=ends)
        self._count()

    def _goes_on(self, slot: int, stack: np.ndarray) -> bool:
        """Whether an observed stack is the one that ends at a slot."""
        return np.array_equal(self._real.stacks(np.array([slot]))[0], stack)

    def _count(self) -> None:
        # What stable-baselines3 shows of a buffer.
        self.pos, self.full = self.num_real, False

    # -- imagined experience ------------------------------------------------------------------------------------------

    def add_imagined(
        self,
        context_frames: np.ndarray | Tensor,
        frames: np.ndarray | Tensor,
        actions: np.ndarray | Tensor,
        rewards: np.ndarray | Tensor,
        lengths: np.ndarray | Tensor | None = None,
    ) -> None:
        """Add B imagined rollouts of T steps. Nothing terminates in them. The oldest rollouts make room.

        Args:
            context_frames: real frames (B, C, 3, H, W) uint8 up to the start. The last S of them are the start's stack,
                and the first is repeated where there are fewer; so give `Starts.stack_frames` for the agent to see what
                it acted on.
            frames: predicted frames (B, T, 3, H, W) uint8.
            actions: actions (B, T, A) in environment units; column 0 leads from the last context frame to the first
                predicted one.
            rewards: predicted rewards (B, T) of the actions.
            lengths: number of steps (B,) of each rollout that are kept, 0 to T; None: all.

        Raises:
            ValueError: if a shape, dtype or number does not fit.
        """
        context, frames = as_array(context_frames), as_array(frames)
        check_frames("context_frames", context, 5, self._real.frame_shape)
        check_frames("frames", frames, 5, self._real.frame_shape)
        size, horizon = frames.shape[:2]
        if len(context) != size or not context.shape[1] or not horizon:
            raise ValueError(
                f"frames must be (B, T, 3, H, W) and context_frames (B, C, 3, H, W) with T and C of at least 1; got "
                f"{frames.shape} and {context.shape}"
            )
        scaled = self._scale.to_unit(actions, (size, horizon))
        values = check_rewards(rewards, (size, horizon))
        counts = np.full(size, horizon) if lengths is None else as_array(lengths)
        if counts.shape != (size,) or counts.dtype.kind not in "iu" or counts.min() < 0 or counts.max() > horizon:
            raise ValueError(f"lengths must be {size} whole numbers of 0 to {horizon}, got {counts}")
        if counts.max() > self.max_imagined:
            raise ValueError(
                f"a rollout of {counts.max()} steps does not fit max_imagined={self.max_imagined} transitions; raise it"
            )
        missing = max(self.num_stack - context.shape[1], 0)
        stacks = np.concatenate([*[context[:, :1]] * missing, context], axis=1)[:, -self.num_stack :]
        for row in np.flatnonzero(counts):
            kept = slice(int(counts[row]))
            self._imagined.add(stacks[row], frames[row, kept], scaled[row, kept], values[row, kept])

    def count_model_update(self) -> None:
        """Note that the world model was updated: rollouts that are too old by ``max_imagined_age`` expire."""
        self._imagined.count_model_update()

    # -- draws --------------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw a batch: real transitions first, then imagined ones.

        Args:
            batch_size: number of transitions, B.
            env: normaliser of rewards, as in stable-baselines3.

        Returns:
            Observations and next observations (B, 3 * S, H, W) uint8, actions (B, A) float32 in [-1, 1], and (B, 1)
            float32
            each: rewards, whether the episode terminated, and discounts.

        Raises:
            ValueError: if there is nothing to draw from.
        """
        num_real = math.floor(batch_size * self.real_ratio + 0.5) if self.num_imagined else batch_size
        parts = [(self._real, num_real, "real"), (self._imagined.frames, batch_size - num_real, "imagined")]
        chosen = []
        for store, count, kind in parts:
            if count and not len(store.steps):
                raise ValueError(f"the buffer holds no {kind} transitions yet, and {count} of a batch were asked for")
            if count:
                chosen.append((store, store.steps[self.rng.integers(len(store.steps), size=count)]))
        return self._read(chosen, env)

    def _read(self, chosen: list[tuple[FrameStore, np.ndarray]], env: VecNormalize | None) -> ReplayBufferSamples:
        """The batch of the steps that lead from slots of stores."""
        size = sum(len(slots) for _, slots in chosen)
        # Both are filled part by part, since joining them afterwards would copy all frames again.
        before, after = (np.empty((size, self.num_stack, *self._real.frame_shape), np.uint8) for _ in range(2))
        columns, row = [], 0
        for store, slots in chosen:
            rewards, discounts, last, terminated = store.returns(
                slots, self.n_steps, self.gamma, lambda values: self._normalize_reward(values, env)
            )
            rows = slice(row, row + len(slots))
            store.stacks(slots, out=before[rows])
            store.stacks(last, out=after[rows])
            columns.append((store.actions[slots], terminated[:, None], rewards[:, None], discounts[:, None]))
            row += len(slots)
        actions, dones, sums, factors = (np.concatenate(column) for column in zip(*columns, strict=True))
        observations, next_observations = (self._normalize_obs(self._flat(stacks), env) for stacks in (before, after))
        assert isinstance(observations, np.ndarray)  # stable-baselines3 allows for dicts
        assert isinstance(next_observations, np.ndarray)
        arrays = (observations, actions, next_observations, dones.astype(np.float32), sums, factors)
        return ReplayBufferSamples(*(self.to_torch(array, copy=False) for array in arrays))

    def sample_starts(self, num_starts: int, num_context_frames: int, rng: np.random.Generator | None = None) -> Starts:
        """Draw real moments to start rollouts from: those at which an action was taken, after enough real frames.

        Args:
            num_starts: number of moments, n.
            num_context_frames: number of context frames of the world model, C.
            rng: generator of the draws; None: the buffer's own.

        Raises:
            ValueError: if there is no such moment yet.
        """
        histories, is_whole = self._real.histories(self._real.steps, num_context_frames)
        histories = histories[is_whole]
        if not len(histories):
            raise ValueError(
                f"the buffer holds no {num_context_frames} real frames in a row, with a step after them, yet"
            )
        chosen = histories[(self.rng if rng is None else rng).integers(len(histories), size=num_starts)]
        observations = self._flat(self._real.stacks(chosen[:, -1]))
        return Starts(torch.from_numpy(self._real.frames[chosen]), torch.from_numpy(observations))

    def sample_segments(self, num_segments: int, num_frames: int, rng: np.random.Generator | None = None) -> Segments:
        """Draw clips of real episodes. Each position at which a clip fits is as likely as any other.

        Args:
            num_segments: number of clips, n.
            num_frames: number of frames in a clip, T, at least 2.
            rng: generator of the draws; None: the buffer's own.

        Raises:
            ValueError: if there is no such clip yet.
        """
        if num_frames < 2:
            raise ValueError(f"num_frames must be at least 2, got {num_frames}")
        starts = self._real.segment_starts(num_frames)
        if not len(starts):
            raise ValueError(f"the buffer holds no real episode of {num_frames} frames yet; ask for fewer, or later")
        starts = starts[(self.rng if rng is None else rng).integers(len(starts), size=num_segments)]
        chosen = self._real.segments(starts, num_frames)
        steps = chosen[:, :-1]
        return Segments(
            torch.from_numpy(self._real.frames[chosen]),
            torch.from_numpy(self._scale.to_environment(self._real.actions[steps])),
            torch.from_numpy(self._real.rewards[steps]),
        )

    def _flat(self, stacks: np.ndarray) -> np.ndarray:
        """Stacks (N, S, 3, H, W) as observations (N, 3 * S, H, W)."""
        return stacks.reshape(len(stacks), *self.obs_shape)

    # -- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, and the state of the generator, for `load_state_dict`.

        Returns:
            Copied numpy arrays by name, and under "record" a dict of what JSON can hold.
        """
        arrays = {name: array.copy() for name, array in self._arrays().items()}
        return arrays | {RECORD: self._record()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a buffer of the same sizes: what is drawn next is what it would have drawn.

        Raises:
            ValueError: if the sizes differ.
        """
        record = state[RECORD]
        missing = [name for name in self._record() if name not in record]
        if missing:
            raise ValueError(f"the saved record of a buffer lacks {', '.join(missing)}")
        newest = [(slot, serial) for slot, serial in check_table("newest", record["newest"], width=2)]
        if len(newest) != self.n_envs:
            raise ValueError(f"the saved buffer is for {len(newest)} environments, this one for {self.n_envs}")
        rollouts = check_table("rollouts", record["rollouts"], width=3)
        ((num_updates,),) = check_table("num_updates", [[record["num_updates"]]], width=1)
        if any(slot >= self._real.num_slots for slot, _ in newest):
            raise ValueError(f"newest of a saved buffer names slots beyond the {self._real.num_slots} that there are")
        for kind, store in self._stores().items():
            prefix = f"{kind}."
            store.set_arrays({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
        self._imagined.set_rollouts(rollouts, num_updates)
        try:
            self.rng.bit_generator.state = record["rng"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"rng of a saved buffer is no state of random numbers: {error!r}") from error
        self._newest = newest
        self._count()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file. After a kill, the file is what it was before, or complete."""
        write_buffer(path, self._arrays(), self._record())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over the state that `save` of a buffer of the same sizes wrote. The file holds arrays and JSON, so that
        nothing in it is run. (``load_replay_buffer`` of stable-baselines3's agents reads pickles, which can be.)

        Raises:
            ValueError: if the sizes differ.
            OSError: if the file cannot be read, or holds something else.
        """
        self.load_state_dict(read_buffer(path))

    def _stores(self) -> dict[str, FrameStore]:
        return {"real": self._real, "imagined": self._imagined.frames}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            f"{kind}.{name}": array for kind, store in self._stores().items() for name, array in store.arrays().items()
        }

    def _record(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "newest": [list(place) for place in self._newest],
            "rollouts": self._imagined.rollouts,
            "num_updates": self._imagined.num_updates,
        }

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check_observations(self, observations: np.ndarray) -> np.ndarray:
        """Observations as frames (n, S, 3, H, W)."""
        observations = np.asarray(observations)
        if observations.dtype != np.uint8 or observations.shape[1:] != self.obs_shape:
            raise ValueError(
                f"observations must be uint8 stacks of frames of shape (n_envs, *{self.obs_shape}), got "
                f"{observations.dtype} {observations.shape}"
            )
        return observations.reshape(len(observations), self.num_stack, NUM_CHANNELS, *self.obs_shape[1:])
