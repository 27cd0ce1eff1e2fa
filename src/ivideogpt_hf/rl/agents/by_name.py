"""Agents by name: DrQ-v2 of this package, and those of stable-baselines3 and sb3-contrib on the same frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data.clips.segments import check_choice
from ...extras import require_packages
from ..replay.buffer import MixedReplayBuffer
from .drqv2 import DrQv2
from .networks import Encoder, MixedPrecision
from .presets import preset

require_packages("stable_baselines3", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3 import SAC, TD3  # noqa: E402
from stable_baselines3.common.noise import NormalActionNoise  # noqa: E402
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm  # noqa: E402
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor  # noqa: E402
from stable_baselines3.common.vec_env import VecEnv  # noqa: E402

OFF_POLICY = ("drqv2", "sac", "td3", "crossq", "tqc")
CONTRIBUTED = {"crossq": "CrossQ", "tqc": "TQC"}
# Standard deviation of the exploration of TD3, in units of actions scaled to [-1, 1].
TD3_NOISE = 0.2
# What DrQ-v2 has where its presets say nothing.
GAMMA, NUM_RETURN_STEPS = 0.99, 3


class FrameFeatures(BaseFeaturesExtractor):
    """The encoder and the trunk of DrQ-v2 as features of other agents, so that agents are compared on the same eyes.

    Policies that use it need ``normalize_images=False``, since the encoder scales pixels itself.

    Args:
        observation_space: space of stacks (3 * S, H, W) uint8.
        num_channels: number of channels of each convolution.
        strides: stride of each convolution.
        trunk_dim: number of features.
        mixed_precision: precision of the convolutions, "no" or "bf16".

    Example:
        >>> import torch
        >>> from gymnasium import spaces
        >>> from ivideogpt_hf.rl.agents.by_name import FrameFeatures
        >>> features = FrameFeatures(spaces.Box(0, 255, (9, 64, 64), "uint8"))
        >>> features(torch.zeros(2, 9, 64, 64, dtype=torch.uint8)).shape
        torch.Size([2, 50])
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        num_channels: int = 32,
        strides: tuple[int, ...] = (2, 1, 1, 1),
        trunk_dim: int = 50,
        mixed_precision: MixedPrecision = "no",
    ) -> None:
        super().__init__(observation_space, trunk_dim)
        self.encoder = Encoder(observation_space.shape, num_channels, strides, mixed_precision)
        self.trunk = nn.Sequential(nn.Linear(self.encoder.num_features, trunk_dim), nn.LayerNorm(trunk_dim), nn.Tanh())

    def forward(self, observations: Tensor) -> Tensor:
        """Features (B, trunk_dim) of observations (B, 3 * S, H, W) in 0 ... 255."""
        # Policies of stable-baselines3 have made floats of them.
        features: Tensor = self.trunk(self.encoder(observations.to(torch.uint8)))
        return features


def check_agent(name: str) -> None:
    """Check that an agent is known, and its package there.

    Raises:
        ImportError: if its package is missing; names the extra.
        ValueError: if there is no such agent.
    """
    check_choice("agent", name, OFF_POLICY)
    if name in CONTRIBUTED:
        require_packages("sb3_contrib", purpose=f"the agent {name}")


def make_agent(
    name: str,
    environment: VecEnv,
    preset_name: str,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    buffer: dict[str, Any] | None = None,
    **overrides: Any,
) -> OffPolicyAlgorithm:
    """Make an off-policy agent with a `MixedReplayBuffer`.

    All agents have the convolutions, batches, rates and returns of DrQ-v2's preset.

    Args:
        name: name of the agent, one of `OFF_POLICY`.
        environment: environments that it acts in, whose observations are stacks of frames.
        preset_name: name of a preset, see `presets.preset`.
        seed: seed of the agent, its buffer and its environments.
        device: device of its networks.
        buffer: further arguments of `MixedReplayBuffer`.
        overrides: arguments of the agent instead of the preset's, such as ``learning_starts``.

    Raises:
        ImportError: if its package is missing; names the extra.
        ValueError: if there is no such agent or preset, or an argument is out of range.

    Example:
        >>> from stable_baselines3.common.vec_env import DummyVecEnv
        >>> from ivideogpt_hf.rl.agents.by_name import make_agent
        >>> from ivideogpt_hf.rl.environments.simulator import SimulatorEnv
        >>> environment = DummyVecEnv([lambda: SimulatorEnv("push2d/goal-shown")])
        >>> agent = make_agent("sac", environment, "cpu", buffer={"real_ratio": 0.5})
        >>> type(agent).__name__, type(agent.replay_buffer).__name__
        ('SAC', 'MixedReplayBuffer')
    """
    check_agent(name)
    settings = preset(preset_name)
    kwargs = {"seed": seed} | (buffer or {})
    common = {"replay_buffer_class": MixedReplayBuffer, "seed": seed, "device": device}
    if name == "drqv2":
        return DrQv2("CnnPolicy", environment, **settings | common | {"replay_buffer_kwargs": kwargs} | overrides)
    gamma = settings.get("gamma", GAMMA)
    common["replay_buffer_kwargs"] = {"n_steps": settings.get("n_steps", NUM_RETURN_STEPS), "gamma": gamma} | kwargs
    sizes = settings["policy_kwargs"]
    eyes = {size: sizes[size] for size in ("num_channels", "strides", "trunk_dim")}
    shared = ("learning_rate", "buffer_size", "learning_starts", "batch_size", "gradient_steps")
    arguments = {argument: settings[argument] for argument in shared} | {
        "gamma": gamma,
        "train_freq": 1,
        "policy_kwargs": {
            "features_extractor_class": FrameFeatures,
            "features_extractor_kwargs": eyes | {"mixed_precision": settings.get("mixed_precision", "no")},
            "normalize_images": False,
            "net_arch": [sizes["hidden_dim"]] * 2,
        },
    }
    if name == "td3":
        width = int(np.prod(environment.action_space.shape or ()))
        arguments["action_noise"] = NormalActionNoise(np.zeros(width), np.full(width, TD3_NOISE))
    agent: OffPolicyAlgorithm = _kind(name)("MlpPolicy", environment, **arguments | common | overrides)
    return agent


def _kind(name: str) -> Any:
    if name in CONTRIBUTED:
        import sb3_contrib

        return getattr(sb3_contrib, CONTRIBUTED[name])
    return {"sac": SAC, "td3": TD3}[name]
