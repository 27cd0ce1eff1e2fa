"""The networks of DrQ-v2 as a policy of stable-baselines3, random shifts of frames, and truncated noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ...extras import require_packages

require_packages("stable_baselines3", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common.policies import BasePolicy  # noqa: E402
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule  # noqa: E402

MixedPrecision = Literal["no", "bf16"]
KERNEL_SIZE = 3
# Actions stay this far inside of their bounds.
MARGIN = 1e-6


def random_shift(observations: Tensor, max_pixels: int, generator: torch.Generator) -> Tensor:
    """Move each observation by whole pixels, the same for all of its frames. Pixels at the edge are repeated.

    A shift by a fraction of a pixel would blur the frames, and needs floating-point numbers; a whole one copies uint8.

    Args:
        observations: observations (B, K, H, W) of any dtype.
        max_pixels: largest distance in each of the two directions; every whole distance up to it is equally likely.
        generator: generator of the distances, on the device of the observations.

    Returns:
        Moved observations (B, K, H, W). In memory, the channels of a pixel are neighbours.
    """
    size, num_channels, height, width = observations.shape
    device = observations.device
    distances = torch.randint(-max_pixels, max_pixels + 1, (2, size, 1), generator=generator, device=device)
    rows = (torch.arange(height, device=device) + distances[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) + distances[1]).clamp(0, width - 1)
    first = torch.arange(size, device=device)[:, None, None] * (height * width)
    chosen = first + rows[:, :, None] * width + columns[:, None, :]
    # Whole pixels are copied, with all their channels: several times faster on a CPU than single numbers.
    pixels = observations.permute(0, 2, 3, 1).reshape(-1, num_channels)
    return pixels.index_select(0, chosen.flatten()).view(size, height, width, num_channels).permute(0, 3, 1, 2)


def truncated_normal(mean: Tensor, std: float, generator: torch.Generator, *, clip: float | None = None) -> Tensor:
    """Add normal noise to actions. The result stays within (-1, 1); its gradient is that of the mean everywhere.

    Args:
        mean: actions (B, A) in [-1, 1].
        std: standard deviation of the noise.
        generator: generator of the noise, on the device of the actions.
        clip: largest absolute value of the noise; None: any.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype) * std
    if clip is not None:
        noise = noise.clamp(-clip, clip)
    actions = mean + noise
    # At the bounds, the gradient of a plain clamp would vanish, and the actor could not leave them.
    return actions + (actions.clamp(-1 + MARGIN, 1 - MARGIN) - actions).detach()


class Encoder(nn.Module):
    """Convolutions over a stack of frames.

    Args:
        observation_shape: shape (3 * S, H, W) of observations.
        num_channels: number of channels of each layer.
        strides: stride of each layer.
        mixed_precision: "bf16" computes the layers in bfloat16; parameters and features are float32 in any case.

    Attributes:
        num_features: number of features.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_channels: int,
        strides: Sequence[int],
        mixed_precision: MixedPrecision,
    ) -> None:
        super().__init__()
        num_inputs, *size = observation_shape
        layers: list[nn.Module] = []
        for stride in strides:
            layers += [nn.Conv2d(num_inputs, num_channels, KERNEL_SIZE, stride), nn.ReLU(inplace=True)]
            size = [(pixels - KERNEL_SIZE) // stride + 1 for pixels in size]
            num_inputs = num_channels
        if min(size) < 1:
            raise ValueError(f"frames of {observation_shape[1:]} pixels are too small for strides {tuple(strides)}")
        self.layers = nn.Sequential(*layers)
        self.num_features = num_channels * math.prod(size)
        self.mixed_precision = mixed_precision

    def forward(self, observations: Tensor) -> Tensor:
        """Features (B, num_features) float32 of observations (B, 3 * S, H, W) uint8."""
        is_bf16 = self.mixed_precision == "bf16"
        # In place, since on a CPU new memory costs more than the arithmetic; the first operation has made a copy.
        inputs = observations.to(torch.bfloat16 if is_bf16 else torch.float32).div_(255).sub_(0.5)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=is_bf16):
            features = self.layers(inputs)
        return features.flatten(1).float()


class Actor(nn.Module):
    """From features to the mean of the actions.

    Args:
        num_features: number of features of the encoder.
        trunk_dim: width to which the features are reduced first.
        hidden_dim: width of the hidden layers.
        action_dim: width of an action, A.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, num_features: int, trunk_dim: int, hidden_dim: int, action_dim: int) -> None:
        super().__init__()
        self.trunk = _trunk(num_features, trunk_dim)
        self.head = _perceptron(trunk_dim, hidden_dim, action_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Actions (B, A) in [-1, 1]."""
        return torch.tanh(self.head(self.trunk(features)))


class Critic(nn.Module):
    """From features and an action to two estimates of its value. The arguments are those of `Actor`."""

    optimizer: torch.optim.Optimizer

    def __init__(self, num_features: int, trunk_dim: int, hidden_dim: int, action_dim: int) -> None:
        super().__init__()
        self.trunk = _trunk(num_features, trunk_dim)
        self.heads = nn.ModuleList(_perceptron(trunk_dim + action_dim, hidden_dim, 1) for _ in range(2))

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Values (2, B, 1)."""
        inputs = torch.cat([self.trunk(features), actions], dim=1)
        return torch.stack([head(inputs) for head in self.heads])


class DrQv2Policy(BasePolicy):
    """Encoder, actor, critic and target critic of DrQ-v2. The encoder is trained by the critic's loss alone.

    Args:
        observation_space: space of stacks (3 * S, H, W) uint8.
        action_space: box of the actions.
        lr_schedule: learning rate as a function of the remaining progress.
        num_channels: number of channels of each convolution.
        strides: stride of each convolution.
        trunk_dim: width to which actor and critic reduce the features.
        hidden_dim: width of the hidden layers of actor and critic.
        mixed_precision: "bf16" computes the convolutions, where nearly all the work is, in bfloat16.
        optimizer_class: optimiser of the actor, and of encoder and critic together.
        optimizer_kwargs: arguments of the optimisers, but for the learning rate.

    Attributes:
        action_std: standard deviation of the noise of actions that are not deterministic, in [-1, 1]-scaled units.
        generator: generator of this noise; None: torch's own.

    Raises:
        ValueError: if the frames are too small for the strides, or the precision is unknown.
    """

    action_space: spaces.Box

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        num_channels: int = 32,
        strides: Sequence[int] = (2, 1, 1, 1),
        trunk_dim: int = 50,
        hidden_dim: int = 1024,
        mixed_precision: MixedPrecision = "no",
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if mixed_precision not in get_args(MixedPrecision):
            raise ValueError(f"mixed_precision must be 'no' or 'bf16', got {mixed_precision!r}")
        super().__init__(
            observation_space,
            action_space,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        assert observation_space.shape is not None
        self.sizes = {"num_channels": num_channels, "strides": tuple(strides), "mixed_precision": mixed_precision}
        self.widths = {"trunk_dim": trunk_dim, "hidden_dim": hidden_dim}
        self.encoder = Encoder(observation_space.shape, num_channels, strides, mixed_precision)
        widths = (self.encoder.num_features, trunk_dim, hidden_dim, int(np.prod(action_space.shape)))
        self.actor, self.critic, self.critic_target = Actor(*widths), Critic(*widths), Critic(*widths)
        self.apply(_initialise)
        # With the channels of a pixel as neighbours, convolutions in bfloat16 take about half the time on a CPU.
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's types
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(requires_grad=False)
        rate = lr_schedule(1)
        self.actor.optimizer = self._optimizer(list(self.actor.parameters()), rate)
        self.critic.optimizer = self._optimizer([*self.encoder.parameters(), *self.critic.parameters()], rate)
        self.action_std, self.generator = 0.0, None

    action_std: float
    generator: torch.Generator | None

    def _optimizer(self, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return self.optimizer_class(parameters, lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg] # of the base class

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions (B, A), scaled to [-1, 1], for observations (B, 3 * S, H, W) uint8."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, Tensor)
        mean: Tensor = self.actor(self.encoder(observation))
        if deterministic or not self.action_std:
            return mean
        generator = self.generator or (
            torch.default_generator if mean.device.type == "cpu" else torch.cuda.default_generators[mean.device.index]
        )
        return truncated_normal(mean, self.action_std, generator)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self.sizes,
            **self.widths,
        }


def _trunk(num_features: int, trunk_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_features, trunk_dim), nn.LayerNorm(trunk_dim), nn.Tanh())


def _perceptron(num_inputs: int, hidden_dim: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, num_outputs),
    )


def _initialise(module: nn.Module) -> None:
    """Orthogonal weights, and biases of zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        gain = nn.init.calculate_gain("relu") if isinstance(module, nn.Conv2d) else 1
        nn.init.orthogonal_(module.weight, gain)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
