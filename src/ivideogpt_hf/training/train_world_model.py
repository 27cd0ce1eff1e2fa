"""Training of the transformer on tokens: what comes next, given actions, and how much reward it brings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ..checkpoints.loading import weights_hash
from ..data.clips.dataset import ClipKey, SegmentDataset
from ..data.clips.loader import ClipLoader
from ..data.clips.tokens import TokenDataset
from ..decoding.sampling import Sampling
from ..extras import require_packages
from ..media.pixels import clamp_to_uint8
from ..models.modeling_ivideogpt_vq import IGNORED_LABEL, IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.token_layout import TokenLayout
from ..spec import first_action, split_clip
from ..world.world_model import WorldModel
from .arguments import DataArguments, OptimizationArguments, RunArguments, WorldModelArguments, require
from .clips import load, load_tokenizer, load_validation, training_clips, validation_clips
from .launch import only_writer, start_run
from .loop import Batch, Loss
from .record import describe_training
from .trainer import Task, check_run, make_phase, mean_over_batches, run_training
from .transformer import add_lora, is_adapted, make_transformer, whole_transformer

WORLD_MODEL_ARGUMENTS = (RunArguments, DataArguments, OptimizationArguments, WorldModelArguments)


def train_world_model(
    run: RunArguments, data: DataArguments, optimization: OptimizationArguments, model: WorldModelArguments
) -> int | None:
    """Train or fine-tune a transformer; the output folder is then a checkpoint that `WorldModel.from_pretrained` reads.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        ImportError: without peft, if adapters are asked for; names the extra.
        ValueError, OSError: if arguments, data or weights do not fit, or another process writes the output folder.
    """
    if model.lora_rank:
        require_packages("peft", purpose="LoRA")
    accelerator = start_run(run)
    with only_writer(accelerator, Path(run.output_dir)):
        return _train(accelerator, run, data, optimization, model)


def _train(
    accelerator: Accelerator,
    run: RunArguments,
    data: DataArguments,
    optimization: OptimizationArguments,
    model: WorldModelArguments,
) -> int | None:
    share = check_run(run, optimization, accelerator.num_processes)
    vq_model = load_tokenizer(model).to(accelerator.device)
    clips, held_out, described = _open_data(run, data, model, vq_model)
    processor = IVideoGPTVideoProcessor(
        **clips.processor | {"size": _size(vq_model), "reward_transform": model.reward_transform}
    )
    transformer = make_transformer(model, vq_model.config.layout, clips.action_dim, clips.num_future_frames)
    if run.gradient_checkpointing:
        transformer.activation_checkpointing_enable()
    if model.lora_rank:
        require(
            accelerator.distributed_type != DistributedType.FSDP,
            "lora_rank and FSDP exclude each other: adapters are merged on one process; LoRA fits without sharding",
        )
        transformer = add_lora(transformer, model.lora_rank, model.lora_alpha)

    losses = WorldModelLosses(model, vq_model, processor)
    phase = make_phase(accelerator, "transformer", transformer, losses.loss, run, optimization)
    measure = draw = None
    if held_out is not None:
        validation = load_validation(held_out.dataset, share, accelerator)
        measure = partial(_validate, validation, run.num_validation_batches, accelerator, transformer, losses)
        draw = partial(_draw, held_out.dataset, accelerator, phase.model, losses, model.sample_frames)
    task = Task(
        phases=[phase],
        loader=load(clips.dataset, share, accelerator, data.num_workers),
        source_names=clips.source_names,
        measure=measure,
        draw=draw,
        save=partial(_save, accelerator, phase.model, vq_model, processor),
        training=describe_training((run, data, optimization, model), described)
        | {"vq_model_hash": weights_hash(vq_model)},
    )
    return run_training(accelerator, run, optimization, task)


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clips:
    """Clips to train or validate on, coded or not.

    Attributes:
        dataset: of frames or of tokens.
        processor: settings that describe their actions.
        action_dim: their width; None without.
        num_future_frames: of each clip.
        source_names: of the numbers under "source".
    """

    dataset: SegmentDataset | TokenDataset
    processor: dict[str, Any]
    action_dim: int | None
    num_future_frames: int
    source_names: list[str]


def _open_data(
    run: RunArguments, data: DataArguments, model: WorldModelArguments, vq_model: IVideoGPTVQModel
) -> tuple[Clips, Clips | None, Any]:
    """Training clips, validation clips if there are any, and a description of the data."""
    require(
        (data.data is None) != (model.tokens is None),
        "give either data (clips, coded at every update) or tokens (a folder that `ivideogpt tokenize` wrote)",
    )
    if model.tokens is not None:
        dataset = TokenDataset(model.tokens, "train", seed=run.seed)
        _check_tokens(dataset, model, vq_model)
        clips = partial(
            Clips,
            processor=dataset.made["processor"],
            action_dim=dataset.made["action_dim"] if model.actions else None,
            num_future_frames=dataset.segment.num_future_frames,
            source_names=dataset.made["sources"],
        )
        has_validation = dataset.made["training"]["arguments"]["validation_split"] is not None
        held_out = clips(TokenDataset(model.tokens, "validation")) if has_validation else None
        return clips(dataset), held_out, dataset.made["training"]

    data = replace(data, num_context_frames=vq_model.config.num_context_frames)
    options = {"goal_conditioned": model.goal_conditioned, "actions": model.actions, "rewards": model.rewards}
    size = vq_model.config.frame_size
    dataset = training_clips(data, size, run.seed, **options)
    clips = partial(
        Clips,
        processor=dataset.processor_settings(),
        action_dim=dataset.action_dim,
        num_future_frames=dataset.segment.num_future_frames,
        source_names=[source.name for source in dataset.mixture.sources],
    )
    held_out = None if data.validation_split is None else clips(validation_clips(data, size, **options))
    return clips(dataset), held_out, dataset.describe()


def _check_tokens(dataset: TokenDataset, model: WorldModelArguments, vq_model: IVideoGPTVQModel) -> None:
    made = dataset.made
    require(
        made["vq_model_hash"] == weights_hash(vq_model),
        f"the tokens in {model.tokens} were made by another VQ model than {model.vq_model}: they would mean nothing to "
        f"it. Name the one that made them ({made['training']['arguments']['vq_model']}), or write them anew with "
        f"`ivideogpt tokenize`",
    )
    repeats = vq_model.config.repeat_last_context
    require(
        made["layout"]["repeat_last_context"] == repeats,
        f"the tokens in {model.tokens} were written with repeat_last_context "
        f"{made['layout']['repeat_last_context']}, and {model.vq_model} has {repeats}: say so here as well",
    )
    for name in ("actions", "rewards"):
        require(
            not getattr(model, name) or made["training"]["arguments"][name],
            f"the tokens in {model.tokens} were written without {name}: write them anew with {name}",
        )
    require(
        made["segment"]["goal_conditioned"] == model.goal_conditioned,
        f"goal_conditioned is {model.goal_conditioned}, but the tokens in {model.tokens} were written with "
        f"{made['segment']['goal_conditioned']}",
    )


def _size(vq_model: IVideoGPTVQModel) -> dict[str, int]:
    height, width = vq_model.config.frame_size
    return {"height": height, "width": width}


# -- losses -----------------------------------------------------------------------------------------------------------


class WorldModelLosses:
    """Cross-entropy of the future's tokens, error of rewards and of reconstructed actions (Wu et al., 2024, section 3).

    Args:
        model: the weights of the terms.
        vq_model: makes tokens of clips that are not coded yet; frozen, on the device.
        processor: turns rewards into the reward head's targets.
    """

    def __init__(
        self, model: WorldModelArguments, vq_model: IVideoGPTVQModel, processor: IVideoGPTVideoProcessor
    ) -> None:
        self.model, self.vq_model, self.processor = model, vq_model, processor
        self.layout: TokenLayout = vq_model.config.layout

    def tokens_of(self, batch: Batch) -> Tensor:
        """(B, L) int64 vocabulary ids of a batch's clips."""
        if "tokens" in batch:
            return batch["tokens"]
        tokens, _ = self.vq_model.tokenize(batch["frames"].float() / 255)
        return tokens

    def loss(self, transformer: nn.Module, batch: Batch, _carry: Any, _update: int) -> Loss:
        """The loss of a training batch."""
        tokens = self.tokens_of(batch)
        inputs = _with_noise(tokens, self.layout, self.model.token_noise) if self.model.token_noise else tokens
        total, terms = self.terms(transformer, tokens, inputs, batch)
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def terms(
        self, transformer: nn.Module, tokens: Tensor, inputs: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its terms, for inputs (B, L) that may differ from the tokens (B, L) to predict.

        Row t of a clip's actions and rewards belongs to the step from its frame t to t + 1: those from the last context
        frame on condition, and reward, the future frames.
        """
        first = first_action(self.layout.num_context_frames)
        actions = batch["actions"][:, first:] if self.model.actions else None
        num_predicted = tokens.shape[1] - self.layout.prompt_length  # what stands before carries no loss
        labels = tokens[:, -num_predicted:].clone()
        labels[:, 0] = IGNORED_LABEL
        output = transformer(
            input_ids=inputs, actions=actions, labels=labels, logits_to_keep=num_predicted, use_cache=False
        )
        terms = {"cross_entropy": output.loss}
        total = output.loss
        if self.model.rewards:
            wanted = self.processor.rewards_to_head(batch["rewards"][:, first:])
            terms["reward_mse"] = F.mse_loss(output.rewards.float(), wanted)
            total = total + self.model.reward_weight * terms["reward_mse"]
        if self.model.reconstruct_actions:
            mask = batch["action_mask"][:, None].expand_as(actions)
            error = (output.reconstructed_actions.float() - actions).square()
            terms["action_mse"] = error[mask].mean()
            total = total + self.model.action_reconstruction_weight * terms["action_mse"]
        return total, terms | {"loss": total}


def _with_noise(tokens: Tensor, layout: TokenLayout, share: float) -> Tensor:
    """Replace a share of the dynamics tokens by those that other clips of the batch have there."""
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    wrong[:, : layout.prompt_length] = False
    return torch.where(wrong, tokens.roll(1, dims=0), tokens)


# -- validation and output --------------------------------------------------------------------------------------------


def _validate(
    loader: ClipLoader, num_batches: int, accelerator: Accelerator, transformer: nn.Module, losses: WorldModelLosses
) -> dict[str, Tensor]:
    def measure(batch: Batch) -> dict[str, Tensor]:
        tokens = losses.tokens_of(batch)
        return losses.terms(transformer, tokens, tokens, batch)[1]

    transformer.eval()
    try:
        return mean_over_batches(loader, num_batches, accelerator, measure)
    finally:
        transformer.train()


def _draw(
    dataset: SegmentDataset | TokenDataset,
    accelerator: Accelerator,
    transformer: nn.Module,
    losses: WorldModelLosses,
    num_frames: int | None,
) -> Tensor | None:
    """The first validation clip above one sampled future of its context, (T, 3, 2H, W) uint8; on the main process."""
    whole = whole_transformer(accelerator, transformer)
    if whole is None:
        return None
    clip = dataset[ClipKey(0, *dataset.order(0).locate(0))]
    frames = clip.get("frames")
    if frames is None:
        decoded = losses.vq_model.detokenize(clip["tokens"][None].to(accelerator.device))[0]
        frames = clamp_to_uint8(decoded).cpu()
    context, truth, actions = split_clip(
        frames,
        clip["actions"] if losses.model.actions else None,
        num_context_frames=losses.layout.num_context_frames,
        num_future_frames=num_frames,
    )
    world = WorldModel(losses.vq_model, whole.to(accelerator.device), losses.processor)
    if actions is not None:
        actions = _in_environment_units(actions, losses.processor)[None]
    rollout = world.rollout(context[None], actions, num_frames=len(truth), sampling=Sampling(seed=0))
    return torch.cat([truth, rollout.frames[0].cpu()], dim=2)


def _in_environment_units(actions: Tensor, processor: IVideoGPTVideoProcessor) -> Tensor:
    """Undo the processor's normalisation of (T, A), for a rollout that will do it again."""
    if processor.action_mean is None:
        return actions
    mean, std = actions.new_tensor(processor.action_mean), actions.new_tensor(processor.action_std)
    return actions * std + mean


def _save(
    accelerator: Accelerator,
    transformer: nn.Module,
    vq_model: IVideoGPTVQModel,
    processor: IVideoGPTVideoProcessor,
    folder: Path,
) -> None:
    """A complete checkpoint; adapters are merged into it, and saved beside it as well."""
    whole = whole_transformer(accelerator, transformer)
    if whole is None:
        return
    bare = accelerator.unwrap_model(transformer)
    if is_adapted(bare):
        bare.save_pretrained(folder / "adapter")
    WorldModel(vq_model, whole, processor).save_pretrained(folder)
