"""How often a policy solves its task: fixed episodes of the real environment, with Wilson's interval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...decoding.sampling import Sampling
from ...media.video import side_by_side, write_video
from ...planning.trials import require_trial_packages, wilson_interval
from ...spec import first_action
from ...world.world_model import WorldModel
from .simulator import RealEpisode, SimulatorEnv, play_episode

DRAWN_PIXELS = 192  # smallest side of a video
FPS = 10
NUM_VIDEO_CHUNKS = 4  # number of rollouts, one after the other, in a video
DIGITS = 4


class Policy(Protocol):
    """What is evaluated: an algorithm of stable-baselines3 is one."""

    def predict(self, observation: np.ndarray, *, deterministic: bool = ...) -> tuple[np.ndarray, Any]:
        """The action (A,) in an observation (3 * num_stack, H, W) uint8, in the environment's units, and a state."""


@dataclass(frozen=True)
class PolicyEvaluation:
    """Outcomes of a policy in several episodes.

    Attributes:
        successes: whether each episode was solved; None if the simulator does not tell.
        returns: sum of the rewards of each episode, success bonus included.
        lengths: number of steps of each episode.

    Example:
        >>> from ivideogpt_hf.rl.environments.evaluation import PolicyEvaluation
        >>> evaluation = PolicyEvaluation(successes=(True, False), returns=(12.0, 3.0), lengths=(20, 100))
        >>> evaluation.record()["success"]
        0.5
    """

    successes: tuple[bool, ...] | None
    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        """The summary as JSON.

        Returns:
            "success": share of the episodes that were solved, with "low" and "high", Wilson's interval of 95 %; each is
            None if the simulator does not tell. "num_episodes". "return" and "length": means over the episodes.
        """
        num_episodes = len(self.returns)
        success = low = high = None
        if self.successes is not None:
            low, high = (round(bound, DIGITS) for bound in wilson_interval(sum(self.successes), num_episodes))
            success = round(sum(self.successes) / num_episodes, DIGITS)
        return {
            "success": success,
            "low": low,
            "high": high,
            "num_episodes": num_episodes,
            "return": round(float(np.mean(self.returns)), DIGITS),
            "length": round(float(np.mean(self.lengths)), DIGITS),
        }


def evaluate_policy(
    policy: Policy,
    environment: SimulatorEnv,
    seeds: Sequence[int] = range(10),
    *,
    video: str | os.PathLike[str] | None = None,
) -> PolicyEvaluation:
    """Let a policy play fixed episodes, without noise.

    Args:
        policy: policy, which acts by ``predict(observation, deterministic=True)``.
        environment: environment with the purpose "evaluation", whose episodes are never trained on.
        seeds: sequences whose episodes 0 are played, so that these are the same in every evaluation and every run.
        video: mp4 or gif file to write, with the first episode; None: none.

    Raises:
        ImportError: if scipy is missing, which the interval needs; names the extra.
        ValueError: if there are no seeds or a seed stands twice, the environment has another purpose, or an action does
            not fit.

    Example:
        >>> from ivideogpt_hf.rl.environments.simulator import SimulatorEnv
        >>> from ivideogpt_hf.rl.environments.evaluation import evaluate_policy
        >>> environment = SimulatorEnv("push2d", purpose="evaluation", max_steps=10)
        >>> class Still:
        ...     def predict(self, observation, deterministic=True):
        ...         return environment.action_space.low * 0, None
        >>> evaluation = evaluate_policy(Still(), environment, range(4))
        >>> evaluation.record()["success"], evaluation.record()["high"]
        (0.0, 0.4899)
    """
    require_trial_packages()
    if environment.purpose != "evaluation":
        raise ValueError(f"policies are evaluated with the purpose 'evaluation', got {environment.purpose!r}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"an evaluation needs seeds that all differ, got {list(seeds)}")
    successes, returns, lengths = [], [], []
    for seed in seeds:
        episode = play_episode(environment, lambda seen: policy.predict(seen, deterministic=True)[0], seed)
        if video is not None and seed == seeds[0]:
            write_episode(episode, video)
        successes.append(episode.success)
        returns.append(float(episode.rewards.sum(dtype=np.float64)))
        lengths.append(len(episode))
    told = [success for success in successes if success is not None]
    return PolicyEvaluation(tuple(told) if len(told) == len(successes) else None, tuple(returns), tuple(lengths))


def write_episode(episode: RealEpisode, path: str | os.PathLike[str]) -> Path:
    """Write the frames of an episode as mp4 or gif, by the suffix of the path, enlarged to at least 192 pixels."""
    frames = torch.from_numpy(episode.frames)
    return write_video(frames, path, fps=FPS, scale=_scale(frames))


def write_beside_imagined(
    policy: Policy, environment: SimulatorEnv, world: WorldModel, path: str | os.PathLike[str], *, horizon: int
) -> None:
    """Write an evaluation episode, beside what a world model makes of its actions, anew from real frames every few
    steps. Nothing is written if the simulator ends the episode before the first rollout.

    Args:
        policy: policy, which acts without noise.
        environment: environment with the purpose "evaluation".
        world: world model of frames of the same size.
        path: mp4 or gif file to write.
        horizon: number of steps of a rollout.
    """
    episode = play_episode(environment, lambda seen: policy.predict(seen, deterministic=True)[0], 0)
    frames, actions = torch.from_numpy(episode.frames), torch.from_numpy(episode.actions)
    num_context = world.spec.num_context_frames
    lasts = list(range(first_action(num_context), len(episode) - horizon + 1, horizon))[:NUM_VIDEO_CHUNKS]
    if not lasts:
        return
    contexts = torch.stack([frames[last - num_context + 1 : last + 1] for last in lasts])
    acts = torch.stack([actions[last : last + horizon] for last in lasts])
    imagined = world.rollout(contexts, acts, sampling=Sampling(seed=0), outputs=("frames",)).frames.cpu()
    real = torch.stack([frames[last + 1 : last + 1 + horizon] for last in lasts])
    write_video(side_by_side(real.flatten(0, 1), imagined.flatten(0, 1)), path, fps=FPS, scale=_scale(frames))


def _scale(frames: torch.Tensor) -> int:
    return -(-DRAWN_PIXELS // frames.shape[-1])
