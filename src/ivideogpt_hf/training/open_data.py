"""Data of a training: its data sets of clips or tokens, opened as the arguments say, and the loaders over them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from accelerate import Accelerator

from ..checkpoints.loading import weights_hash
from ..data.clips.dataset import Clip, ClipKey, SegmentDataset
from ..data.clips.loader import ClipBatches, ClipLoader
from ..data.clips.mixture import load_mixture
from ..data.clips.segments import SegmentSpec
from ..data.clips.tokens import TokenDataset
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from .arguments import DataArguments, WorldModelArguments, require

ClipDataset = SegmentDataset | TokenDataset


@dataclass(frozen=True)
class TrainingData:
    """Clips to train on and to validate on, of frames or of tokens.

    Attributes:
        training: data set of training clips.
        validation: data set of validation clips, without augmentation and always in the same order; None without any.
        processor_settings: arguments of `IVideoGPTVideoProcessor` that describe the clips' actions.
        action_dim: width of the clips' actions; None without actions.
        source_names: names of the sources, by their numbers under "source" in a batch.
        description: record of the data that a checkpoint holds, as JSON.
    """

    training: ClipDataset
    validation: ClipDataset | None
    processor_settings: dict[str, Any]
    action_dim: int | None
    source_names: list[str]
    description: Any

    @property
    def num_future_frames(self) -> int:
        """Number of future frames in a clip."""
        return self.training.segment.num_future_frames

    def contents(self) -> dict[str, str]:
        """What each file of the data is known by, under its path."""
        datasets = [self.training, *([] if self.validation is None else [self.validation])]
        return {name: digest for dataset in datasets for name, digest in dataset.contents().items()}

    def first_validation_clip(self) -> Clip:
        """The clip that sample videos show."""
        return self.validation[ClipKey(0, *self.validation.order(0).locate(0))]


def open_clips(
    data: DataArguments,
    frame_size: tuple[int, int],
    seed: int,
    *,
    horizon: int | None = None,
    goal_conditioned: bool = False,
    actions: bool = False,
    rewards: bool = False,
) -> TrainingData:
    """Open clips of frames.

    Args:
        data: settings of the clips, and where they come from.
        frame_size: (height, width) that the VQ model takes.
        seed: seed of the training clips' order and augmentation.
        horizon: strides within which future frames are chosen at random; None: consecutive frames.
        goal_conditioned: whether the last frame of a clip comes first, as goal.
        actions: whether clips have actions.
        rewards: whether clips have rewards.

    Raises:
        FileNotFoundError: if a data set is not there.
        ValueError: if no data are named, or a source lacks the validation split, actions or rewards, or gives no clip.
    """
    require(data.data is not None, "--data is missing: the data set or mixture")
    segment = SegmentSpec(
        data.num_frames,
        data.num_context_frames,
        horizon=horizon,
        goal_conditioned=goal_conditioned,
        short_episodes=data.short_episodes,
    )
    mixture = load_mixture(data.data, root=data.data_root)
    training = SegmentDataset(
        mixture,
        segment,
        size=frame_size,
        augmentation=data.augmentation,
        crop_to_aspect=data.crop_to_aspect,
        actions=actions,
        rewards=rewards,
        seed=seed,
        streaming=data.streaming,
    )
    validation = None
    if data.validation_split is not None:
        validation = SegmentDataset(
            replace(mixture, sources=training.sources_of_split(data.validation_split)),
            segment,
            size=frame_size,
            crop_to_aspect=data.crop_to_aspect,
            actions=actions,
            rewards=rewards,
        )
    return TrainingData(
        training=training,
        validation=validation,
        processor_settings=training.processor_settings(),
        action_dim=training.action_dim,
        source_names=[source.name for source in mixture.sources],
        description=training.describe(),
    )


def open_tokens(data: DataArguments, model: WorldModelArguments, vq_model: IVideoGPTVQModel, seed: int) -> TrainingData:
    """Open clips of tokens that `ivideogpt tokenize` wrote.

    Args:
        data: settings of the clips, which must not contradict those that the tokens were made with.
        model: settings of the world model, which name the folder.
        vq_model: VQ model that the transformer is trained for.
        seed: seed of the training clips' order.

    Raises:
        FileNotFoundError: if the folder holds no finished data set of tokens.
        ValueError: if the tokens are those of another VQ model or of other clips, or lack what the world model is
            trained on.
    """
    training = TokenDataset(model.tokens, "train", seed=seed)
    record = training.made
    _check_clips(record["training"]["arguments"], data, model)
    _check_tokens(record, model, vq_model)
    has_validation = record["training"]["arguments"]["validation_split"] is not None
    return TrainingData(
        training=training,
        validation=TokenDataset(model.tokens, "validation") if has_validation else None,
        processor_settings=record["processor"],
        action_dim=record["action_dim"] if model.actions else None,
        source_names=record["sources"],
        description=record["training"],
    )


def _check_clips(made_with: dict[str, Any], data: DataArguments, model: WorldModelArguments) -> None:
    """Refuse settings of clips that would be ignored, since the tokens were made with others."""
    for item in fields(data):
        value = getattr(data, item.name)
        was_given = value != item.default and item.name not in ("data", "data_root", "num_workers")
        require(
            not was_given or made_with.get(item.name, value) == value,
            f"{item.name} is {value}, but the tokens in {model.tokens} were written with {made_with.get(item.name)}: "
            f"leave it out, or write them again",
        )


def _check_tokens(record: dict[str, Any], model: WorldModelArguments, vq_model: IVideoGPTVQModel) -> None:
    arguments = record["training"]["arguments"]
    require(
        record["vq_model_hash"] == weights_hash(vq_model),
        f"the tokens in {model.tokens} were made by another VQ model than {model.vq_model}: they would mean nothing to "
        f"it. Name the one that made them ({arguments['vq_model']}), or write them again with `ivideogpt tokenize`",
    )
    repeats = vq_model.config.repeat_last_context
    require(
        record["layout"]["repeat_last_context"] == repeats,
        f"the tokens in {model.tokens} were written with repeat_last_context "
        f"{record['layout']['repeat_last_context']}, and {model.vq_model} has {repeats}: say so here as well",
    )
    for name in ("actions", "rewards"):
        require(
            not getattr(model, name) or arguments[name],
            f"the tokens in {model.tokens} were written without {name}: write them again with {name}",
        )
    require(
        record["segment"]["goal_conditioned"] == model.goal_conditioned,
        f"goal_conditioned is {model.goal_conditioned}, but the tokens in {model.tokens} were written with "
        f"{record['segment']['goal_conditioned']}",
    )


def make_loader(dataset: ClipDataset, batch_size: int, accelerator: Accelerator, num_workers: int = 0) -> ClipLoader:
    """A loader of this process's share of each batch.

    Args:
        dataset: data set of clips.
        batch_size: clips of a batch that this process gets.
        accelerator: processes that share the batches.
        num_workers: number of worker processes that prepare clips.

    Raises:
        ValueError: if there are fewer clips than a batch needs.
    """
    batches = ClipBatches(dataset, batch_size, rank=accelerator.process_index, world_size=accelerator.num_processes)
    return ClipLoader(batches, num_workers=num_workers, pin_memory=accelerator.device.type == "cuda")


def make_validation_loader(data: TrainingData, batch_size: int, accelerator: Accelerator) -> ClipLoader | None:
    """`make_loader` for the validation clips, with smaller batches where there are too few clips for one.

    Returns:
        The loader, or None without validation clips.
    """
    if data.validation is None:
        return None
    share = len(data.validation.order(0)) // accelerator.num_processes
    return make_loader(data.validation, max(1, min(batch_size, share)), accelerator)
