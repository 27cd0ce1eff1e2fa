"""Loaders of training and validation clips, from what the arguments say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from ..checkpoints.loading import fetch, load_vq_model
from ..data.clips.dataset import SegmentDataset
from ..data.clips.loader import ClipBatches, ClipLoader
from ..data.clips.mixture import load_mixture
from ..data.clips.segments import SegmentSpec
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from .arguments import DataArguments, TokenizeArguments, WorldModelArguments, require


def load_tokenizer(settings: TokenizeArguments | WorldModelArguments) -> IVideoGPTVQModel:
    """The VQ model that makes the tokens, frozen.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    vq_model = load_vq_model(fetch(settings.vq_model)).requires_grad_(requires_grad=False)
    if settings.repeat_last_context is not None:
        vq_model.config.repeat_last_context = settings.repeat_last_context
    return vq_model


def training_clips(data: DataArguments, frame_size: tuple[int, int], seed: int, **options: Any) -> SegmentDataset:
    """Clips to train on.

    Args:
        data: what to cut from where.
        frame_size: (height, width) that the model takes.
        seed: of order and augmentation.
        options: "horizon" and "goal_conditioned" of `SegmentSpec`, and options of `SegmentDataset`.

    Raises:
        FileNotFoundError, ValueError: see `SegmentDataset`.
    """
    require(data.data is not None, "data is missing: which data set or mixture?")
    segment = SegmentSpec(
        data.num_frames,
        data.num_context_frames,
        horizon=options.pop("horizon", None),
        goal_conditioned=options.pop("goal_conditioned", False),
        short_episodes=data.short_episodes,
    )
    return SegmentDataset(
        load_mixture(data.data, root=data.data_root),
        segment,
        size=frame_size,
        augmentation=data.augmentation,
        crop_to_aspect=data.crop_to_aspect,
        seed=seed,
        streaming=data.streaming,
        **options,
    )


def validation_clips(data: DataArguments, frame_size: tuple[int, int], **options: Any) -> SegmentDataset:
    """Clips of the validation split of every source, without augmentation, always in the same order.

    Raises:
        FileNotFoundError, ValueError: if a source has no such split, or no clip in it.
    """
    mixture = load_mixture(data.data, root=data.data_root)
    sources = [replace(source, split=data.validation_split, num_episodes=None) for source in mixture.sources]
    held_out = replace(
        data, data=replace(mixture, sources=sources), data_root=None, augmentation="none", streaming=False
    )
    return training_clips(held_out, frame_size, 0, **options)


def load_validation(dataset: Any, batch_size: int, accelerator: Accelerator) -> ClipLoader:
    """`load` for few clips: smaller batches, where they are not enough for one."""
    share = len(dataset.order(0)) // accelerator.num_processes
    return load(dataset, max(1, min(batch_size, share)), accelerator)


def load(dataset: Any, batch_size: int, accelerator: Accelerator, num_workers: int = 0) -> ClipLoader:
    """This process's share of each batch of a `SegmentDataset` or a `TokenDataset`."""
    batches = ClipBatches(dataset, batch_size, rank=accelerator.process_index, world_size=accelerator.num_processes)
    return ClipLoader(batches, num_workers=num_workers, pin_memory=accelerator.device.type == "cuda")
