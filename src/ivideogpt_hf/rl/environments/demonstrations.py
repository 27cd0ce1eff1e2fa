"""Demonstrations by the simulators' scripted experts, and policies that are cloned from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...cards.text import counted
from .simulator import RealEpisode, SimulatorEnv, play_episode, stack_frames

ATTEMPTS = 10  # number of episodes that are played, at most, for each demonstration


@dataclass(frozen=True)
class Demonstrations:
    """Episodes in which an expert solved its task.

    Attributes:
        episodes: solved episodes, in the order in which they were played.
        failed_seeds: simulator's seeds of the episodes that the expert did not solve, which were left out.
    """

    episodes: tuple[RealEpisode, ...]
    failed_seeds: tuple[int, ...]

    def __str__(self) -> str:
        """One line: how many demonstrations there are, and how many episodes were left out."""
        steps = counted(sum(map(len, self.episodes)), "step")
        text = f"{counted(len(self.episodes), 'demonstration')} of {steps} in all"
        if not self.failed_seeds:
            return text
        failed = counted(len(self.failed_seeds), "episode")
        return f"{text}; left out: {failed} that the expert did not solve"


def demonstrate(environment: SimulatorEnv, num_episodes: int, *, seed: int = 0) -> Demonstrations:
    """Let the scripted expert of a simulator demonstrate its task.

    Its actions are clipped to the bounds before they are taken and kept. An episode that it does not solve is left out,
    and the next one of the sequence takes its place.

    Args:
        environment: environment with the purpose "demonstration", whose episodes are neither trained nor evaluated on.
        num_episodes: number of demonstrations.
        seed: sequence of the episodes.

    Raises:
        ValueError: if the environment has another purpose, the simulator has no expert or does not tell success, or the
            expert solves too few episodes.

    Example:
        >>> from ivideogpt_hf.rl.environments.demonstrations import demonstrate
        >>> from ivideogpt_hf.rl.environments.simulator import SimulatorEnv
        >>> environment = SimulatorEnv("push2d", purpose="demonstration", action_repeat=1, max_steps=30)
        >>> demonstrations = demonstrate(environment, 2)
        >>> [(episode.frames.shape, episode.actions.shape) for episode in demonstrations.episodes]
        [((31, 3, 64, 64), (30, 2)), ((31, 3, 64, 64), (30, 2))]
    """
    if environment.purpose != "demonstration":
        raise ValueError(
            f"demonstrations need an environment with the purpose 'demonstration', got {environment.purpose!r}"
        )
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, got {num_episodes}")
    simulator = environment.simulator

    def act(observation: np.ndarray) -> np.ndarray:
        return np.clip(simulator.expert_action(), simulator.action_low, simulator.action_high)

    solved: list[RealEpisode] = []
    failed: list[int] = []
    while len(solved) < num_episodes:
        is_first = not solved and not failed
        episode = play_episode(environment, act, seed if is_first else None)
        if episode.success is None:
            raise ValueError(
                f"{environment.environment} does not tell whether its task is solved, so that demonstrations cannot be "
                "checked"
            )
        if episode.success:
            solved.append(episode)
        else:
            failed.append(episode.episode_seed)
        if len(solved) + len(failed) == ATTEMPTS * num_episodes and len(solved) < num_episodes:
            raise ValueError(
                f"the expert of {environment.environment} solved {len(solved)} of {ATTEMPTS * num_episodes} episodes "
                f"of {environment.max_steps} steps, and {num_episodes} are needed: ask for fewer, or give it more steps"
            )
    return Demonstrations(tuple(solved), tuple(failed))


class MeanActionPolicy:
    """A network that acts, for whatever takes a policy of stable-baselines3.

    Args:
        network: module from observations (B, 3 * num_stack, H, W) uint8 to mean actions (B, A) in [-1, 1].
        action_low, action_high: bounds (A,) of the environment's actions, to which -1 and 1 are scaled.
    """

    def __init__(self, network: nn.Module, action_low: np.ndarray, action_high: np.ndarray) -> None:
        self.network = network
        self.action_low, self.action_high = action_low, action_high

    @torch.inference_mode()
    def predict(self, observation: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """The action (A,) in an observation (3 * num_stack, H, W) uint8, in the environment's units, and None.

        Raises:
            ValueError: unless ``deterministic``, since there is no distribution to draw from.
        """
        if not deterministic:
            raise ValueError("this policy has a mean action only: pass deterministic=True")
        was_training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device
        mean = self.network(torch.from_numpy(observation)[None].to(device))[0].float().clamp(-1, 1).cpu().numpy()
        self.network.train(was_training)
        return self.action_low + (mean + 1) / 2 * (self.action_high - self.action_low), None


def clone(
    policy: MeanActionPolicy,
    optimizer: torch.optim.Optimizer,
    demonstrations: Demonstrations,
    *,
    num_updates: int,
    batch_size: int = 64,
    num_stack: int = 3,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> list[float]:
    """Train a policy to act as in demonstrations: its mean actions are fitted by least squares.

    Args:
        policy: policy whose network is trained, in place.
        optimizer: optimizer of the network's parameters.
        demonstrations: episodes to learn from.
        num_updates: number of updates.
        batch_size: number of steps in a batch, drawn from all steps of all demonstrations.
        num_stack: number of frames in an observation.
        augment: function from observations (B, 3 * num_stack, H, W) uint8 to such that are seen instead, for instance
            shifted by some pixels; None: none.
        seed: seed of the draws.

    Returns:
        The loss of each update: the mean squared error of actions that are scaled to [-1, 1].

    Raises:
        ValueError: if a number is not positive, or the network's actions have another width.
    """
    for name, number in {"num_updates": num_updates, "batch_size": batch_size, "num_stack": num_stack}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    network, device = policy.network, next(policy.network.parameters()).device
    steps = [(episode, step) for episode in demonstrations.episodes for step in range(len(episode))]
    generator = np.random.default_rng(seed)
    losses = []
    network.train()
    for _ in range(num_updates):
        batch = [steps[number] for number in generator.integers(len(steps), size=batch_size)]
        observations = torch.from_numpy(np.stack([stack_frames(e.frames, t, num_stack) for e, t in batch])).to(device)
        means = network(observations if augment is None else augment(observations))
        actions = np.stack([episode.actions[step] for episode, step in batch])
        scaled = 2 * (actions - policy.action_low) / (policy.action_high - policy.action_low) - 1
        targets = torch.from_numpy(scaled).to(device, means.dtype)
        if means.shape != targets.shape:
            raise ValueError(f"the network gives actions {tuple(means.shape)}, the batch has {tuple(targets.shape)}")
        loss = F.mse_loss(means, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses
