"""DrQ-v2 (Yarats et al., 2021, arXiv 2107.09645) as an algorithm of stable-baselines3."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...extras import require_packages
from ...hub.upload import CARD_FILE, create_repository, upload_folder
from ..replay.buffer import MixedReplayBuffer
from .card import agent_card
from .networks import Actor, Critic, DrQv2Policy, Encoder, MixedPrecision, random_shift, truncated_normal

require_packages("stable_baselines3", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer  # noqa: E402
from stable_baselines3.common.noise import ActionNoise  # noqa: E402
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm  # noqa: E402
from stable_baselines3.common.policies import BasePolicy  # noqa: E402
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples, Schedule  # noqa: E402
from stable_baselines3.common.utils import polyak_update  # noqa: E402

AGENT_FILE = "agent.zip"


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Let a generator go on from a state.

    States of a CPU and of a GPU have nothing in common. A generator stays as it is where the state is that of another
    kind of device, so that what was trained on a GPU can be loaded without one.
    """
    if state.shape == generator.get_state().shape:
        generator.set_state(state.cpu())


class Generators:
    """The random numbers of an agent: those of its actions, and those of its updates."""

    def __init__(self, device: torch.device, seed: int | None) -> None:
        self.acting, self.training = torch.Generator(device), torch.Generator(device)
        if seed is None:
            self.acting.seed()
            self.training.seed()
        else:
            self.acting.manual_seed(seed)
            self.training.manual_seed(seed + 1)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the generators, as torch saves them."""
        return {"acting": self.acting.get_state(), "training": self.training.get_state()}

    def load_state_dict(self, state: dict[str, Tensor], strict: bool = True) -> None:
        """Take over the states of other generators, if these were on the same kind of device; see
        `set_generator_state`."""
        set_generator_state(self.acting, state["acting"])
        set_generator_state(self.training, state["training"])


class DrQv2(OffPolicyAlgorithm):
    """DrQ-v2: an agent that learns continuous actions from images.

    One convolutional encoder serves actor and critic, and only the critic's loss trains it. Images are shifted by a few
    pixels in each update. The noise of actions falls linearly. Learning, callbacks, logger, saving and loading are
    those of stable-baselines3. So a saved agent runs code when it is loaded: load only files whose author you trust.

    Observations are stacks of frames, channels first: (3 * S, H, W) uint8, oldest frame first. Nothing else is taken,
    so that real and imagined frames mean the same to the agent.

    Args:
        policy: "CnnPolicy", or a subclass of `DrQv2Policy`.
        env: environment, or the id of one; None for a loaded agent that only acts.
        learning_rate: learning rate of all networks, or a function of the remaining progress.
        buffer_size: number of frames in the replay buffer.
        learning_starts: number of steps with uniformly random actions before the first update.
        batch_size: number of transitions in a batch.
        tau: share of the critic in its target after each update.
        gamma: discount.
        train_freq: number of steps, or of episodes as (1, "episode"), from one round of updates to the next.
        gradient_steps: number of updates in a round; -1: as many as there were steps.
        n_steps: number of rewards that are summed before the critic takes over.
        std_start, std_end: standard deviation of the actions' noise, in units of actions scaled to [-1, 1], at step 0
            and from step ``std_steps`` on.
        std_steps: number of steps in which the deviation falls.
        std_clip: largest absolute value of the noise within updates.
        max_shift: largest number of pixels by which frames are shifted.
        reward_scale: factor of the rewards within updates.
        mixed_precision: "bf16" computes the convolutions in bfloat16.
        replay_buffer_class: class of the replay buffer; None: `MixedReplayBuffer`.
        replay_buffer_kwargs: further arguments of the buffer, but for ``n_steps`` and ``gamma``, which it is told.
        policy_kwargs: sizes of the networks; see `DrQv2Policy`.
        stats_window_size, tensorboard_log, verbose: arguments of `stable_baselines3.common.base_class.BaseAlgorithm`.
        seed: seed of the networks, actions, updates and of the buffer's draws.
        device: device of the networks; "auto": a GPU if there is one.

    Raises:
        ValueError: if an argument is out of its range, or the environment's spaces are not those above.

    Example:
        >>> import gymnasium
        >>> import numpy as np
        >>> from ivideogpt_hf.rl.agents.drqv2 import DrQv2
        >>> from ivideogpt_hf.rl.agents.presets import preset
        >>> class Dark(gymnasium.Env):
        ...     observation_space = gymnasium.spaces.Box(0, 255, (9, 64, 64), np.uint8)
        ...     action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        ...     def reset(self, *, seed=None, options=None):
        ...         return np.zeros((9, 64, 64), np.uint8), {}
        ...     def step(self, action):
        ...         return np.zeros((9, 64, 64), np.uint8), float(action.sum()), False, False, {}
        >>> agent = DrQv2("CnnPolicy", Dark(), **preset("cpu") | {"learning_starts": 10, "seed": 0, "device": "cpu"})
        >>> agent = agent.learn(12)
        >>> action, _ = agent.predict(np.zeros((9, 64, 64), np.uint8), deterministic=True)
        >>> action.shape
        (4,)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": DrQv2Policy}
    policy: DrQv2Policy
    action_space: spaces.Box
    actor: Actor
    critic: Critic
    encoder: Encoder
    generators: Generators

    def __init__(
        self,
        policy: str | type[DrQv2Policy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 200_000,
        learning_starts: int = 2000,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        n_steps: int = 3,
        std_start: float = 1.0,
        std_end: float = 0.1,
        std_steps: int = 100_000,
        std_clip: float = 0.3,
        max_shift: int = 4,
        reward_scale: float = 1.0,
        mixed_precision: MixedPrecision = "no",
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        numbers = {"std_start": std_start, "std_end": std_end, "std_clip": std_clip, "max_shift": max_shift}
        for name, number in numbers.items():
            if number < 0:
                raise ValueError(f"{name} must be at least 0, got {number}")
        if std_steps < 1:
            raise ValueError(f"std_steps must be at least 1, got {std_steps}")
        twice = {"n_steps", "gamma"} & set(replay_buffer_kwargs or {})
        if twice:
            raise ValueError(f"{min(twice)} is an argument of the agent, which tells the buffer; give it there")
        super().__init__(
            policy,
            env,  # type: ignore[arg-type] # None is for loading, as in stable-baselines3 itself
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            replay_buffer_class=replay_buffer_class or MixedReplayBuffer,
            replay_buffer_kwargs=dict(replay_buffer_kwargs or {}),
            n_steps=n_steps,
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.std_start, self.std_end, self.std_steps = std_start, std_end, std_steps
        self.std_clip, self.max_shift, self.reward_scale = std_clip, max_shift, reward_scale
        self.mixed_precision = mixed_precision
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self.policy_kwargs["mixed_precision"] = self.mixed_precision
        assert self.replay_buffer_class is not None
        own = {"n_steps": self.n_steps, "gamma": self.gamma}
        if issubclass(self.replay_buffer_class, MixedReplayBuffer):
            self.replay_buffer_kwargs = {"seed": self.seed} | self.replay_buffer_kwargs | own
        elif issubclass(self.replay_buffer_class, NStepReplayBuffer):
            self.replay_buffer_kwargs = self.replay_buffer_kwargs | own
        elif self.n_steps > 1:
            raise ValueError(
                f"{self.replay_buffer_class.__name__} has no returns of n_steps={self.n_steps}: use MixedReplayBuffer, "
                f"or n_steps=1"
            )
        with warnings.catch_warnings():
            # The buffer was told just above.
            warnings.filterwarnings("ignore", message="`n_steps=")
            super()._setup_model()
        self.encoder, self.actor, self.critic = self.policy.encoder, self.policy.actor, self.policy.critic
        self._seed_generators(self.seed)
        self._follow_schedule()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the environment, torch, numpy, the agent's own generators, and the draws of its buffer."""
        super().set_random_seed(seed)
        if hasattr(self, "generators"):  # not yet while the networks are made
            self._seed_generators(seed)
            if isinstance(self.replay_buffer, MixedReplayBuffer):
                self.replay_buffer.rng = np.random.default_rng(seed)

    def _seed_generators(self, seed: int | None) -> None:
        self.generators = Generators(self.device, seed)
        self.policy.generator = self.generators.acting

    # -- acting -------------------------------------------------------------------------------------------------------

    @property
    def action_std(self) -> float:
        """Standard deviation of the actions' noise now, by the number of steps that were taken."""
        share = min(self.num_timesteps / self.std_steps, 1.0)
        return self.std_start + share * (self.std_end - self.std_start)

    def _follow_schedule(self) -> None:
        self.policy.action_std = self.action_std

    def _on_step(self) -> None:
        self._follow_schedule()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        self._follow_schedule()  # the number of steps may begin at 0 again
        return result

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions, as in stable-baselines3.

        Args:
            observation: one observation (3 * S, H, W) uint8 or several (n, 3 * S, H, W).
            state, episode_start: not used.
            deterministic: whether to leave out the noise.

        Returns:
            Actions (A,) or (n, A) float32 in environment units, and ``state``.

        Raises:
            ValueError: if the observations are not uint8.
        """
        if not isinstance(observation, tuple):  # stable-baselines3 has a message for these
            _check_dtype(observation)
        return super().predict(observation, state, episode_start, deterministic)

    @torch.no_grad()
    def sample_actions(
        self,
        observations: Tensor | np.ndarray,
        std: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose actions for many observations, as the stochastic policy that is trained would.

        Args:
            observations: observations (B, 3 * S, H, W) uint8, on any device.
            std: standard deviation of the noise; None: that of now; 0: no noise.
            generator: generator of the noise, on the agent's device; None: the one that `predict` draws from.

        Returns:
            Actions (B, A) float32 in environment units, on the agent's device.

        Raises:
            ValueError: if the observations have another dtype or shape.
        """
        _check_dtype(observations)
        shape = self.observation_space.shape
        if observations.ndim != 4 or tuple(observations.shape[1:]) != shape:
            raise ValueError(f"observations must have shape (B, *{shape}), got {tuple(observations.shape)}")
        mean = self.actor(self.encoder(torch.as_tensor(observations, device=self.device)))
        std = self.action_std if std is None else std
        scaled = truncated_normal(mean, std, generator or self.generators.acting) if std else mean
        low, high = (
            torch.as_tensor(bound.ravel(), dtype=torch.float32, device=self.device)
            for bound in (self.action_space.low, self.action_space.high)
        )
        return low + (scaled + 1) * ((high - low) / 2)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions for the environment, and the same scaled to [-1, 1]."""
        if self.num_timesteps >= learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # Of the agent's own generator, so that a resumed run goes on with the same actions.
        uniform = torch.rand((n_envs, *self.action_space.shape), generator=self.generators.acting, device=self.device)
        scaled = (2 * uniform - 1).cpu().numpy()
        return self.policy.unscale_action(scaled), scaled

    # -- learning -----------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Update the networks with batches of the replay buffer, and log the means of what they gave."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        records: list[dict[str, float]] = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            records.append(self._update(batch))
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/action_std", self.action_std)
        for name in records[0]:
            self.logger.record(f"train/{name}", float(np.mean([record[name] for record in records])))

    def _update(self, batch: ReplayBufferSamples) -> dict[str, float]:
        """Update critic, encoder, actor and target with one batch."""
        features = self.encoder(self._shift(batch.observations))
        targets = self._targets(batch)
        values = self.critic(features, batch.actions)
        critic_loss = F.mse_loss(values[0], targets) + F.mse_loss(values[1], targets)
        self.critic.optimizer.zero_grad()
        critic_loss.backward()
        self.critic.optimizer.step()
        # The actor takes the features as they are: its loss must not change the encoder.
        features = features.detach()
        actions = self._noisy(self.actor(features))
        actor_loss = -self.critic(features, actions).min(dim=0).values.mean()
        self.actor.optimizer.zero_grad()
        actor_loss.backward(inputs=list(self.actor.parameters()))
        self.actor.optimizer.step()
        polyak_update(self.critic.parameters(), self.policy.critic_target.parameters(), self.tau)
        return {
            "critic_loss": critic_loss.item(),
            "actor_loss": actor_loss.item(),
            "value": values.mean().item(),
            "reward": batch.rewards.mean().item(),
        }

    @torch.no_grad()
    def _targets(self, batch: ReplayBufferSamples) -> Tensor:
        """What the critic should say (B, 1)."""
        features = self.encoder(self._shift(batch.next_observations))
        actions = self._noisy(self.actor(features))
        values = self.policy.critic_target(features, actions).min(dim=0).values
        discounts = self.gamma if batch.discounts is None else batch.discounts
        return self.reward_scale * batch.rewards + (1 - batch.dones) * discounts * values

    def _shift(self, observations: Tensor) -> Tensor:
        return random_shift(observations, self.max_shift, self.generators.training)

    def _noisy(self, actions: Tensor) -> Tensor:
        return truncated_normal(actions, self.action_std, self.generators.training, clip=self.std_clip)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DrQv2",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> DrQv2:
        """Act and learn, as in stable-baselines3.

        Args:
            total_timesteps: number of steps in the environment.
            callback: callback, or several, called at each step.
            log_interval: number of episodes from one log entry to the next.
            tb_log_name: name of the run in tensorboard.
            reset_num_timesteps: whether to count steps, and so the noise, from 0 again.
            progress_bar: whether to show a progress bar.

        Returns:
            The agent itself.
        """
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # -- saving -------------------------------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "critic", "encoder"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer", "generators"], []

    @classmethod
    def load(cls, path: str | Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> Self:
        """Load an agent that `save` wrote. Its actions and updates go on with the random numbers of the file.

        Args:
            path: file.
            args: as for stable-baselines3.
            kwargs: as for stable-baselines3. ``seed`` begins other random numbers.

        Raises:
            OSError: if there is no such file.
        """
        agent = super().load(path, *args, **kwargs)
        if kwargs.get("seed") is not None:  # the file's generators were set after the seed
            agent.set_random_seed(kwargs["seed"])
        return agent

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload DrQv2",
    ) -> str:
        """Upload the agent as ``agent.zip``, with a card. A card that is already in the repository stays.

        Args:
            repo_id: Hub id of the repository, which is created if there is none.
            private: whether a new repository is private.
            token: token for the Hub; None: the one that the user is logged in with.
            revision: branch to commit to.
            create_pr: whether to open a pull request instead.
            commit_message: message of the commit.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            OSError: if the Hub refuses, or cannot be reached.
        """
        repo_id, _ = create_repository(repo_id, "model", private=private, token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save(os.path.join(folder, AGENT_FILE))
            agent_card(self, repo_id, AGENT_FILE).save(Path(folder) / CARD_FILE)
            return upload_folder(
                folder,
                repo_id,
                "model",
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                token=token,
                keep_card=True,
            )


def _check_dtype(observations: Any) -> None:
    dtype = getattr(observations, "dtype", None)
    if dtype not in (np.uint8, torch.uint8):
        raise ValueError(
            f"observations must be uint8 with values 0 ... 255, got {dtype}; frames in [0, 1] would look black"
        )
