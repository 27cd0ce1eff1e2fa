"""Writing a data set of tokens: every clip is coded once by the VQ model, for many trainings of a transformer."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..checkpoints.loading import weights_hash
from ..data.clips.dataset import Clip, ClipKey, SegmentDataset
from ..data.clips.tokens import COLUMNS, TOKENS_FILE, TOKENS_VERSION, write_tokens
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..run_folder import claim, write_json
from .arguments import DataArguments, TokenizeArguments
from .launch import only_writer, start_processes
from .networks import load_frozen_vq_model
from .open_data import TrainingData, open_clips
from .record import describe_training

logger = get_logger(__name__)

TOKENIZE_ARGUMENTS = (TokenizeArguments, DataArguments)
CLIPS_PER_SHARD = 1024
SETTINGS_FILE = "settings.partial.json"


def tokenize(
    settings: TokenizeArguments, data: DataArguments, *, pool: Executor | None = None, num_parts: int = 1
) -> None:
    """Code the clips of a data set or mixture, and write their tokens to a folder.

    What is written does not depend on the number of processes. After a kill, the same command goes on where it stopped.

    Args:
        settings: settings of what is written, and where.
        data: settings of the clips, and where they come from.
        pool: executor that does the work in parts, each by one call, in place of this process. Its processes may be on
            other machines that see the same files. A call that is made again goes on where it stopped.
        num_parts: number of parts for the executor.

    Raises:
        ValueError, OSError: if arguments, data or weights do not fit, the folder holds other tokens, or another process
            writes it.

    Example:
        The embedded checkpoint's VQ model makes the tokens.

        >>> from ivideogpt_hf.data.clips.tokens import TokenDataset
        >>> from ivideogpt_hf.training.arguments import DataArguments, TokenizeArguments
        >>> from ivideogpt_hf.training.tokenizing import tokenize
        >>> tokenize(
        ...     TokenizeArguments(output_dir="my-tokens", vq_model="default", actions=True),
        ...     DataArguments(data="dataset", num_frames=4, augmentation="none", validation_split=None),
        ... )
        >>> len(TokenDataset("my-tokens", "train"))
        9
    """
    accelerator = start_processes(settings.mixed_precision, settings.num_processes)
    with only_writer(accelerator, Path(settings.output_dir)):
        vq_model, data, clips = _open(settings, data)
        folder = Path(settings.output_dir)
        if accelerator.is_main_process:
            _claim(folder, _describe(settings, data, vq_model, clips))
        accelerator.wait_for_everyone()
        if pool is None:
            part = (accelerator.process_index, accelerator.num_processes)
            _code_part(accelerator, settings, data, vq_model, clips, part)
        else:
            del vq_model, clips
            parts = [pool.submit(_code_part_alone, settings, data, (part, num_parts)) for part in range(num_parts)]
            for future in parts:
                future.result()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            os.replace(folder / SETTINGS_FILE, folder / TOKENS_FILE)
        accelerator.end_training()


def _open(settings: TokenizeArguments, data: DataArguments) -> tuple[IVideoGPTVQModel, DataArguments, TrainingData]:
    """The VQ model, the settings of its clips, and the clips."""
    vq_model = load_frozen_vq_model(settings.vq_model, settings.repeat_last_context)
    data = replace(data, num_context_frames=vq_model.config.num_context_frames)
    clips = open_clips(
        data,
        vq_model.config.frame_size,
        settings.seed,
        goal_conditioned=settings.goal_conditioned,
        actions=settings.actions,
        rewards=settings.rewards,
    )
    return vq_model, data, clips


def _code_part_alone(settings: TokenizeArguments, data: DataArguments, part: tuple[int, int]) -> None:
    """Code a part in a process of an executor, on its GPU, or on one core."""
    torch.set_num_threads(1)
    vq_model, data, clips = _open(settings, data)
    _code_part(Accelerator(mixed_precision=settings.mixed_precision), settings, data, vq_model, clips, part)


def _code_part(
    accelerator: Accelerator,
    settings: TokenizeArguments,
    data: DataArguments,
    vq_model: IVideoGPTVQModel,
    clips: TrainingData,
    part: tuple[int, int],
) -> None:
    """Write the files i, i + n, i + 2 n, ... of a part (i, n), as far as they are not there."""
    vq_model.to(accelerator.device, memory_format=torch.channels_last)  # 1.3 times as fast on a CPU
    splits = {"train": (clips.training, settings.num_passes, settings.clips_per_pass)}
    if clips.validation is not None:
        splits["validation"] = (clips.validation, 1, settings.validation_clips)
    number, num_parts = part
    for split, (dataset, num_passes, clips_per_pass) in splits.items():
        shards = _plan(Path(settings.output_dir) / "data", split, dataset, num_passes, clips_per_pass)
        shards_left = [shard for shard in shards[number::num_parts] if not shard[0].exists()]
        num_clips = sum(len(keys) for _, keys in shards_left)
        with tqdm(total=num_clips, desc=split, unit="clip", disable=number > 0) as bar:
            for file, keys in shards_left:
                coded = _code(accelerator, vq_model, dataset, keys, settings.batch_size, data.num_workers, bar)
                write_tokens(file, coded)


def _describe(
    settings: TokenizeArguments, data: DataArguments, vq_model: IVideoGPTVQModel, clips: TrainingData
) -> dict[str, Any]:
    """What a data set of tokens says of its making."""
    return {
        "version": TOKENS_VERSION,
        "vq_model_hash": weights_hash(vq_model),
        "layout": asdict(vq_model.config.layout),
        "segment": asdict(clips.training.segment),
        "processor": clips.processor_settings,
        "action_dim": clips.action_dim,
        "sources": clips.source_names,
        "contents": clips.contents(),
        "training": describe_training((settings, data), clips.description),
    }


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Say in the folder what is written there. The file that says so has another name until all is written.

    Raises:
        FileExistsError: if the folder holds anything else.
    """
    tokens_file = folder / TOKENS_FILE
    file = TOKENS_FILE if tokens_file.is_file() else SETTINGS_FILE
    claim(folder, file, record, noun="data set of tokens", identity_of=_identity_of)
    write_json(folder / SETTINGS_FILE, record)
    tokens_file.unlink(missing_ok=True)
    (folder / "data").mkdir(exist_ok=True)


def _identity_of(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that the tokens depend on."""
    ignored_names = {"output_dir", "batch_size", "num_processes", "num_workers", "vq_model", "ray"}
    arguments = record["training"]["arguments"]
    settings = {name: value for name, value in arguments.items() if name not in ignored_names}
    content = {name: record[name] for name in ("vq_model_hash", "segment", "processor")}
    return settings | content | {"data": record["training"]["data"], "contents": record.get("contents")}


def _plan(
    folder: Path, split: str, dataset: SegmentDataset, num_passes: int, clips_per_pass: int | None
) -> list[tuple[Path, list[ClipKey]]]:
    """The files to write, each with the clips in it. A pass over the data is the beginning of an epoch."""
    shards = []
    for epoch in range(num_passes):
        order = dataset.order(epoch)
        count = len(order) if clips_per_pass is None else min(clips_per_pass, len(order))
        for first in range(0, count, CLIPS_PER_SHARD):
            keys = [ClipKey(epoch, *order.locate(index)) for index in range(first, min(first + CLIPS_PER_SHARD, count))]
            shards.append((folder / f"{split}-{len(shards):05d}.parquet", keys))
    return shards


@torch.no_grad()
def _code(
    accelerator: Accelerator,
    vq_model: IVideoGPTVQModel,
    dataset: SegmentDataset,
    keys: list[ClipKey],
    batch_size: int,
    num_workers: int,
    bar: tqdm,
) -> list[Clip]:
    """The clips of some keys, with tokens in place of frames."""
    chunks = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    clips = []
    for batch in DataLoader(dataset, batch_sampler=chunks, num_workers=num_workers):
        frames = batch["frames"].to(accelerator.device, non_blocking=True)
        with accelerator.autocast():
            batch["tokens"], _ = vq_model.tokenize(frames.float() / 255)
        batch["tokens"] = batch["tokens"].cpu()
        columns = [name for name in COLUMNS if name in batch]
        clips += [{name: batch[name][row] for name in columns} for row in range(len(frames))]
        bar.update(len(frames))
    return clips
