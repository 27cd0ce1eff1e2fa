"""Training of the transformer on tokens: what comes next, given actions, and how much reward it brings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ..cards.facts import facts_of
from ..cards.model_card import render_card
from ..checkpoints.layout import EPISODE_FILE
from ..checkpoints.loading import settings_of, weights_hash
from ..data.drawing import Strip
from ..decoding.sampling import Sampling
from ..extras import require_packages
from ..hub.upload import CARD_FILE
from ..media.pixels import clamp_to_uint8
from ..models.modeling_ivideogpt_vq import IGNORED_LABEL, IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.reward_bins import two_hot_loss
from ..models.token_layout import TokenLayout
from ..spec import first_action, split_clip
from ..world.world_model import WorldModel
from .arguments import DataArguments, OptimizationArguments, RunArguments, WorldModelArguments, require
from .export import ADAPTER_FOLDER, gather_transformer, has_adapters, save_adapters
from .launch import only_writer, start_run
from .loop import Batch, Loss
from .networks import add_lora, load_frozen_vq_model, make_transformer
from .open_data import TrainingData, make_loader, make_validation_loader, open_clips, open_tokens
from .record import describe_training
from .samples import sample_strips
from .trainer import MODEL, Task, check_run, in_eval_mode, make_phase, run_training

# Clips of the evaluation that a finished training proposes, which is then done in minutes.
USUAL_EVALUATION_CLIPS = 64
WORLD_MODEL_ARGUMENTS = (RunArguments, DataArguments, OptimizationArguments, WorldModelArguments)


def train_world_model(
    run: RunArguments, data: DataArguments, optimization: OptimizationArguments, model: WorldModelArguments
) -> int | None:
    """Train or fine-tune a transformer. The output folder is then a checkpoint for `WorldModel.from_pretrained`.

    Args:
        run: settings of the run: where it writes, how long it trains, what it reports.
        data: settings of the clips, and where they come from.
        optimization: settings of the optimiser.
        model: settings of the transformer and its losses.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        ImportError: without peft, if adapters are asked for; names the extra.
        ValueError, OSError: if arguments, data or weights do not fit, or another process writes the output folder.

    Example:
        The embedded checkpoint's VQ model makes the tokens; the transformer is a new one.

        >>> from ivideogpt_hf import WorldModel
        >>> from ivideogpt_hf.training.arguments import (
        ...     DataArguments,
        ...     OptimizationArguments,
        ...     RunArguments,
        ...     WorldModelArguments,
        ... )
        >>> from ivideogpt_hf.training.train_world_model import train_world_model
        >>> train_world_model(
        ...     RunArguments(output_dir="my-world", num_updates=2),
        ...     DataArguments(data="dataset", num_frames=4, augmentation="none", validation_split=None),
        ...     OptimizationArguments(batch_size=2, warmup_updates=0),
        ...     WorldModelArguments(
        ...         vq_model="default",
        ...         transformer_config={
        ...             "hidden_size": 32,
        ...             "intermediate_size": 48,
        ...             "num_hidden_layers": 2,
        ...             "num_attention_heads": 4,
        ...         },
        ...         actions=True,
        ...     ),
        ... )
        >>> WorldModel.from_pretrained("my-world").spec.action_dim
        3
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
    batch_share = check_run(run, optimization, accelerator.num_processes)
    part = optimization.micro_batch_size or batch_share
    require(
        not model.token_noise or part > 1,
        "token_noise takes tokens of the other clips that go through the model at a time, of which there are none: set "
        "micro_batch_size to 2 or more, or null, with 2 clips or more for each process",
    )
    vq_model = load_frozen_vq_model(model.vq_model, model.repeat_last_context).to(accelerator.device)
    training_data = _open_data(run, data, model, vq_model)
    processor = _make_processor(training_data, vq_model, model)
    transformer = make_transformer(
        model, vq_model.config.layout, training_data.action_dim, training_data.num_future_frames
    )
    if run.gradient_checkpointing:
        transformer.activation_checkpointing_enable()
    if model.lora_rank:
        require(
            accelerator.distributed_type != DistributedType.FSDP,
            "lora_rank and FSDP exclude each other: adapters are merged on one process; LoRA fits without sharding",
        )
        transformer = add_lora(transformer, model.lora_rank, model.lora_alpha)

    losses = WorldModelLosses(model, vq_model, processor, transformer.config.reward_range)
    phase = make_phase(accelerator, "transformer", transformer, losses.loss, run, optimization)
    task = WorldModelTask(
        accelerator=accelerator,
        phases=[phase],
        source_names=training_data.source_names,
        loader=make_loader(training_data.training, batch_share, accelerator, data.num_workers),
        validation_loader=make_validation_loader(training_data, batch_share, accelerator),
        num_validation_batches=run.num_validation_batches,
        description=describe_training(
            (run, *([] if model.tokens else [data]), optimization, model),
            training_data.description,
            model=settings_of(transformer.config),
            vq_model_hash=weights_hash(vq_model),
        ),
        next_steps=_next_steps(data, model, training_data, processor),
        transformer=transformer,
        losses=losses,
        data=training_data,
        num_sample_frames=model.sample_frames,
    )
    return run_training(accelerator, run, optimization, task)


def _open_data(
    run: RunArguments, data: DataArguments, model: WorldModelArguments, vq_model: IVideoGPTVQModel
) -> TrainingData:
    require(
        (data.data is None) != (model.tokens is None),
        "give either data (clips, coded at every update) or tokens (a folder that `ivideogpt tokenize` wrote)",
    )
    if model.tokens is not None:
        return open_tokens(data, model, vq_model, run.seed)
    return open_clips(
        replace(data, num_context_frames=vq_model.config.num_context_frames),
        vq_model.config.frame_size,
        run.seed,
        goal_conditioned=model.goal_conditioned,
        actions=model.actions,
        rewards=model.rewards,
    )


def _make_processor(
    data: TrainingData, vq_model: IVideoGPTVQModel, model: WorldModelArguments
) -> IVideoGPTVideoProcessor:
    height, width = vq_model.config.frame_size
    settings = {"size": {"height": height, "width": width}, "reward_transform": model.reward_transform}
    return IVideoGPTVideoProcessor(**data.processor_settings | settings)


def _gives_episode(data: TrainingData, model: WorldModelArguments, processor: IVideoGPTVideoProcessor) -> bool:
    """Whether the checkpoint gets an episode of its own.

    There is none where nothing is held out, where the data are tokens, where clips begin with their goals, and where
    several embodiments have actions of their own.
    """
    has_clips = data.validation is not None and model.tokens is None
    return has_clips and not model.goal_conditioned and not processor.embodiments


def _next_steps(
    data: DataArguments, model: WorldModelArguments, training_data: TrainingData, processor: IVideoGPTVideoProcessor
) -> list[str]:
    """Commands for the finished model. They run as they are where the training's own data allow it."""
    clips = asdict(data) if model.tokens is None else training_data.description["arguments"]
    has_source = isinstance(clips["data"], str) and clips["validation_split"] is not None
    evaluate = f"ivideogpt evaluate {MODEL} {shlex.quote(clips['data']) if has_source else 'DATA'}"
    if has_source:
        root, split = clips["data_root"], clips["validation_split"]
        evaluate += f" --root {shlex.quote(root)}" if root else ""
        evaluate += f" --split {shlex.quote(split)}" if split != "test" else ""
    segment = training_data.training.segment
    evaluate += f" --num-context-frames {segment.num_context_frames} --num-future-frames {segment.num_future_frames}"
    if training_data.validation is not None:
        evaluate += f" --num-clips {min(USUAL_EVALUATION_CLIPS, len(training_data.validation.order(0)))}"
    episode = f"{MODEL}/{EPISODE_FILE}" if _gives_episode(training_data, model, processor) else None
    predict = (
        f"ivideogpt predict {episode or 'CLIP'} --checkpoint {MODEL}"
        + f" --actions {episode or 'FILE'}" * model.actions
        + " --goal IMAGE" * model.goal_conditioned
    )
    return [predict, f"{evaluate} --lpips-weights none"]


# -- losses -----------------------------------------------------------------------------------------------------------


class WorldModelLosses:
    """Cross-entropy of the future's tokens, error of rewards and of reconstructed actions (Wu et al., 2024, section 3).

    Args:
        model: settings of the world model, with the weights of the terms.
        vq_model: frozen VQ model, on the device, which codes clips of frames.
        processor: processor that turns rewards into the reward head's targets.
        reward_range: range of the transformer's reward bins, if it has any.
    """

    def __init__(
        self,
        model: WorldModelArguments,
        vq_model: IVideoGPTVQModel,
        processor: IVideoGPTVideoProcessor,
        reward_range: Sequence[float],
    ) -> None:
        self.model, self.vq_model, self.processor = model, vq_model, processor
        self.reward_range = reward_range
        self.layout: TokenLayout = vq_model.config.layout

    def tokens_of(self, batch: Batch) -> Tensor:
        """(B, L) int64 vocabulary ids of a batch's clips."""
        if "tokens" in batch:
            return batch["tokens"]
        tokens, _ = self.vq_model.tokenize(batch["frames"].float() / 255)
        return tokens

    def loss(self, transformer: nn.Module, batch: Batch, _carry: Any, _update: int) -> Loss:
        """The loss of a training batch; see `Phase`."""
        tokens = self.tokens_of(batch)
        inputs = _with_noise(tokens, self.layout, self.model.token_noise) if self.model.token_noise else tokens
        total, terms = self.terms(transformer, tokens, inputs, batch)
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def terms(
        self, transformer: nn.Module, tokens: Tensor, inputs: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the terms, and the terms with the sum among them as "loss".

        Row t of a clip's actions and rewards belongs to the step from its frame t to t + 1. The rows from the last
        context frame on condition, and reward, the future frames.

        Args:
            transformer: transformer to train or to measure.
            tokens: (B, L) int64 vocabulary ids to predict.
            inputs: (B, L) int64 vocabulary ids that the transformer sees, which may differ from the tokens.
            batch: batch of the clips, with their actions and rewards.
        """
        first = first_action(self.layout.num_context_frames)
        actions = batch["actions"][:, first:] if self.model.actions else None
        num_predicted = tokens.shape[1] - self.layout.prompt_length  # the prompt carries no loss
        labels = tokens[:, -num_predicted:].clone()
        labels[:, 0] = IGNORED_LABEL
        output = transformer(
            input_ids=inputs, actions=actions, labels=labels, logits_to_keep=num_predicted, use_cache=False
        )
        terms = {"cross_entropy": output.loss}
        total = output.loss
        if self.model.draft_head:  # which is trained alone
            terms["draft_cross_entropy"] = output.draft_loss
            return output.draft_loss, terms | {"loss": output.draft_loss}
        if self.model.rewards:
            targets = self.processor.rewards_to_head(batch["rewards"][:, first:])
            terms["reward_mse"] = F.mse_loss(output.rewards.float(), targets)
            error = terms["reward_mse"]
            if output.reward_logits is not None:
                error = two_hot_loss(output.reward_logits, targets, self.reward_range)
                terms["reward_cross_entropy"] = error
            total = total + self.model.reward_weight * error
        if self.model.reconstruct_actions:
            # A mean over each clip's own dimensions first, so that the mean over parts of a batch is that of the batch.
            mask = batch["action_mask"]
            error = (output.reconstructed_actions.float() - actions).square().mean(1)
            terms["action_mse"] = ((error * mask).sum(1) / mask.sum(1)).mean()
            total = total + self.model.action_reconstruction_weight * terms["action_mse"]
        return total, terms | {"loss": total}


def _with_noise(tokens: Tensor, layout: TokenLayout, share: float) -> Tensor:
    """Replace a share of the dynamics tokens by those that other clips of the batch have there."""
    mask = torch.rand(tokens.shape, device=tokens.device) < share
    mask[:, : layout.prompt_length] = False
    return torch.where(mask, tokens.roll(1, dims=0), tokens)


# -- validation and output --------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class WorldModelTask(Task):
    """A transformer in training.

    Attributes:
        transformer: transformer before Accelerate distributed it, which shares the weights of the phase's model.
        losses: losses of the transformer, with the VQ model and the processor that belong to it.
        data: clips, one of which sample videos show.
        num_sample_frames: number of future frames in a sample video; None: as many as a clip has.
    """

    transformer: nn.Module
    losses: WorldModelLosses
    data: TrainingData
    num_sample_frames: int | None

    def measure(self) -> dict[str, Tensor]:
        def measure_batch(batch: Batch) -> dict[str, Tensor]:
            tokens = self.losses.tokens_of(batch)
            return self.losses.terms(self.transformer, tokens, tokens, batch)[1]

        with in_eval_mode(self.transformer):
            return self.mean_over_validation(measure_batch)

    def draw(self) -> list[Strip] | None:
        """The first validation clip beside one sampled future of its context; None on other processes than the main
        one."""
        transformer = gather_transformer(self.accelerator, self.phases[0].model)
        if transformer is None:
            return None
        losses, clip = self.losses, self.data.first_validation_clip()
        frames, truth_name = clip.get("frames"), "truth"
        if frames is None:
            truth_name = "truth, coded"
            pixels = losses.vq_model.detokenize(clip["tokens"][None].to(self.accelerator.device))[0]
            frames = clamp_to_uint8(pixels).cpu()
        context, future, actions = split_clip(
            frames,
            clip["actions"] if losses.model.actions else None,
            num_context_frames=losses.layout.num_context_frames,
            num_future_frames=self.num_sample_frames,
        )
        world = WorldModel(losses.vq_model, transformer.to(self.accelerator.device), losses.processor)
        if actions is not None:
            actions = _in_environment_units(actions, losses.processor)[None]
        rollout = world.rollout(context[None], actions, num_frames=len(future), sampling=Sampling(seed=0))
        return sample_strips(
            torch.cat([context, future]),
            torch.cat([context, rollout.frames[0].cpu()]),
            name="predicted",
            num_context_frames=len(context),
            truth_name=truth_name,
            actions=None if actions is None else clip["actions"][: len(context) + len(future) - 1],
        )

    def save(self, folder: Path) -> None:
        """Write a complete checkpoint, with its card. Adapters are merged into it, and saved beside it as well."""
        distributed_model = self.phases[0].model
        transformer = gather_transformer(self.accelerator, distributed_model)
        if transformer is None:
            return
        unwrapped_model = self.accelerator.unwrap_model(distributed_model)
        if has_adapters(unwrapped_model):
            save_adapters(unwrapped_model, folder / ADAPTER_FOLDER, self.losses.model.transformer)
        world = WorldModel(self.losses.vq_model, transformer, self.losses.processor)
        world.save_pretrained(folder)
        arguments = self.description["arguments"]
        name = arguments["push_to_hub"] or Path(arguments["output_dir"]).name
        facts = facts_of(world.vq_model, world.transformer, world.spec)
        render_card(facts, name, None, {}, training=self.description).save(folder / CARD_FILE)
        self._write_episode(folder)

    def _write_episode(self, folder: Path) -> None:
        """Write the first validation clip as the checkpoint's own episode: its card shows it, and worlds begin in
        it."""
        losses = self.losses
        if not _gives_episode(self.data, losses.model, losses.processor):
            return
        clip = self.data.first_validation_clip()
        rows = {"rewards": clip["rewards"].numpy()} if losses.model.rewards else {}
        if losses.model.actions:
            rows["actions"] = _in_environment_units(clip["actions"], losses.processor).numpy()
        np.savez_compressed(folder / EPISODE_FILE, frames=clip["frames"].numpy(), **rows)


def _in_environment_units(actions: Tensor, processor: IVideoGPTVideoProcessor) -> Tensor:
    """Undo the processor's normalisation of (T, A), for a rollout that will do it again."""
    if processor.action_mean is None:
        return actions
    mean, std = actions.new_tensor(processor.action_mean), actions.new_tensor(processor.action_std)
    return actions * std + mean
