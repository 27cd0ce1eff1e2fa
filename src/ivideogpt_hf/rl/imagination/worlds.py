"""The world model that a run begins with: a checkpoint, a checkpoint that gets what it lacks, or new networks."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...checkpoints.loading import settings_hash, weights_hash
from ...extras import require_packages
from ...models.processing_ivideogpt import IVideoGPTVideoProcessor
from ...settings import fill, read_yaml
from ...spec import WorldModelSpec
from ...world.world_model import WorldModel

require_packages("accelerate", "gymnasium", purpose="updates of a world model")

from gymnasium import spaces  # noqa: E402

from ...training.arguments import Settings, VQArguments, WorldModelArguments  # noqa: E402
from ...training.networks import make_transformer, make_vq_model  # noqa: E402

YAML_SUFFIXES = (".yaml", ".yml")
# By how much the bounds of an environment's actions may exceed those of a checkpoint: rounding.
TOLERANCE = 1e-5


@dataclass
class NewWorld:
    """The yaml file of new networks.

    Attributes:
        vq_config: fields of `IVideoGPTVQConfig`.
        transformer_config: fields of `IVideoGPTConfig`.
        num_context_frames: number of context frames.
    """

    vq_config: dict[str, Any]
    transformer_config: dict[str, Any]
    num_context_frames: int = 2


@dataclass(frozen=True)
class StartingWorld:
    """A world model to begin with.

    Attributes:
        world: the world model, in float32 on the CPU.
        is_new: whether its networks are new, so that its VQ model must be trained before its transformer.
        grown: names of the parts that the checkpoint lacked, which begin untrained.
        hashes: what it was made of, as hashes: the weights of a checkpoint, or the configs of new networks. New weights
            are no part of it, since they follow from the seed: runs that differ in nothing else have the same hashes.
    """

    world: WorldModel
    hashes: tuple[str, str]
    is_new: bool = False
    grown: tuple[str, ...] = ()


def open_world(
    name: str | os.PathLike[str],
    action_space: spaces.Box,
    *,
    num_future_frames: int,
    seed: int = 0,
    revision: str | None = None,
    token: str | None = None,
) -> StartingWorld:
    """Load or make a world model for an environment's actions, with a reward head.

    Args:
        name: folder, Hub id or embedded name of a checkpoint; or yaml file of new networks, see `NewWorld`.
        action_space: box of the environment's actions.
        num_future_frames: number of frames after the context in the clips that it will be trained on.
        seed: seed of new weights.
        revision: branch, tag or commit of a Hub id.
        token: token of the Hub.

    Raises:
        OSError: if it cannot be found or read.
        ValueError: if it does not fit the actions, or a yaml file has wrong keys.
    """
    low, high = action_space.low.ravel(), action_space.high.ravel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if Path(name).suffix in YAML_SUFFIXES:
            new = _new_world(Path(name), low, high, num_future_frames)
            hashes = (settings_hash(new.vq_model.config), settings_hash(new.transformer.config))
            return StartingWorld(new, hashes, is_new=True)
        world = WorldModel.from_pretrained(name, revision=revision, token=token)
        if world.spec.goal_conditioned:
            raise ValueError(f"{name} is goal-conditioned, which an agent's world cannot be; take another checkpoint")
        missing = {"actions": not world.spec.action_dim, "rewards": not world.spec.has_reward}
        grown = tuple(part for part, is_missing in missing.items() if is_missing)
        hashes = (weights_hash(world.vq_model), weights_hash(world.transformer))
        if grown:
            world = _grow(world, os.fspath(name), low, high, num_future_frames)
        return StartingWorld(world, hashes, grown=grown)


def _new_world(file: Path, low: np.ndarray, high: np.ndarray, num_future_frames: int) -> WorldModel:
    new = fill(NewWorld, read_yaml(file), str(file))
    vq_model = make_vq_model(VQArguments(vq_config=_settings(new.vq_config)), new.num_context_frames)
    arguments = WorldModelArguments(
        vq_model=str(file), transformer_config=_settings(new.transformer_config), actions=True, rewards=True
    )
    transformer = make_transformer(arguments, vq_model.config.layout, len(low), num_future_frames)
    processor = _processor(vq_model.config.frame_size, low, high)
    return WorldModel(vq_model, transformer, processor)


def _grow(world: WorldModel, name: str, low: np.ndarray, high: np.ndarray, num_future_frames: int) -> WorldModel:
    """The world with an action input and a reward head, where it lacks them."""
    arguments = WorldModelArguments(
        vq_model=name,
        transformer=name,
        actions=True,
        rewards=True,
        reconstruct_actions=world.transformer.config.reconstruct_actions,
    )
    # The width of a checkpoint that has actions is compared with the environment's later, with a message of its own.
    action_dim = world.transformer.config.action_dim or len(low)
    transformer = make_transformer(arguments, world.layout, action_dim, num_future_frames)
    processor = _processor(world.spec.frame_size, low, high)
    if world.spec.action_dim:
        processor = copy.deepcopy(world.processor)
        processor.reward_transform = "symlog"
    return WorldModel(world.vq_model, transformer, processor)


def _processor(frame_size: tuple[int, int], low: np.ndarray, high: np.ndarray) -> IVideoGPTVideoProcessor:
    """A processor that scales actions from their bounds to [-1, 1]."""
    height, width = frame_size
    return IVideoGPTVideoProcessor(
        size={"height": height, "width": width},
        action_low=low.tolist(),
        action_high=high.tolist(),
        action_mean=((low + high) / 2).tolist(),
        action_std=((high - low) / 2).tolist(),
        reward_transform="symlog",  # rewards of success are many times larger than the others
    )


def _settings(content: dict[str, Any]) -> Settings:
    return Settings(content.items())


def check_world(
    spec: WorldModelSpec, action_space: spaces.Box, frame_size: tuple[int, int], horizon: int, name: str = "the world"
) -> None:
    """Check that a world fits the environment that an agent acts in.

    Args:
        spec: sizes of the world.
        action_space: box of the environment's actions.
        frame_size: height and width of the environment's frames.
        horizon: number of steps that will be imagined.
        name: name of the world, for errors.

    Raises:
        ValueError: if frames, actions, rewards or the horizon do not fit.
    """
    if not spec.has_reward:
        raise ValueError(
            f"{name} has no reward head, which imagined experience needs: let it be trained, which adds one, or take "
            "another checkpoint"
        )
    if spec.goal_conditioned:
        raise ValueError(f"{name} is goal-conditioned, which an agent's world cannot be; take another checkpoint")
    if tuple(frame_size) != spec.frame_size:
        height, width = spec.frame_size
        raise ValueError(
            f"the environment's frames are {frame_size[0]} x {frame_size[1]} pixels, {name} takes {height} x {width}: "
            "give the environment that frame size"
        )
    low, high = action_space.low.ravel(), action_space.high.ravel()
    if spec.action_dim != len(low):
        raise ValueError(
            f"actions of the environment are {len(low)} wide, {name} takes {spec.action_dim or 'none'}: take a "
            "checkpoint of this environment, an action-free one, or new networks"
        )
    if spec.action_low is not None and spec.action_high is not None:
        slack = TOLERANCE * (high - low)
        if (low < np.array(spec.action_low) - slack).any() or (high > np.array(spec.action_high) + slack).any():
            raise ValueError(
                f"actions of the environment lie between {low} and {high}, {name} was trained with actions between "
                f"{list(spec.action_low)} and {list(spec.action_high)}: take a checkpoint of this environment"
            )
    if not 1 <= horizon <= spec.max_future_frames:
        raise ValueError(
            f"the horizon must be 1 to {spec.max_future_frames} steps, which {name} was trained for or has room for, "
            f"got {horizon}"
        )
