"""Training of the VQ model: reconstruct context and future frames through the codebooks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoints.layout import VQ_FOLDER
from ..checkpoints.loading import settings_of, weights_hash
from ..data.drawing import Strip
from ..metrics.frames import psnr_of_error
from ..metrics.lpips import LPIPS
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..spec import split_clip
from .arguments import DataArguments, OptimizationArguments, RunArguments, VQArguments
from .codebooks import Codebooks
from .launch import only_writer, start_run
from .loop import Batch, Loss
from .losses import (
    Discriminator,
    adaptive_weight,
    hinge_loss,
    motion_weights,
    perceptual_loss,
    weighted_absolute_error,
    weighted_squared_error,
)
from .networks import make_vq_model
from .open_data import TrainingData, make_loader, make_validation_loader, open_clips
from .record import describe_training
from .samples import sample_strips
from .trainer import MODEL, Task, check_run, in_eval_mode, make_phase, run_training

VQ_ARGUMENTS = (RunArguments, DataArguments, OptimizationArguments, VQArguments)


def train_vq(
    run: RunArguments, data: DataArguments, optimization: OptimizationArguments, vq: VQArguments
) -> int | None:
    """Train or fine-tune a VQ model. The output folder then holds it as ``tokenizer/``.

    Args:
        run: settings of the run: where it writes, how long it trains, what it reports.
        data: settings of the clips, and where they come from.
        optimization: settings of the optimiser.
        vq: settings of the VQ model and its losses.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        ValueError, OSError: if arguments, data or weights do not fit, or another process writes the output folder.

    Example:
        >>> from ivideogpt_hf import IVideoGPTVQModel
        >>> from ivideogpt_hf.training.arguments import DataArguments, OptimizationArguments, RunArguments, VQArguments
        >>> from ivideogpt_hf.training.train_vq import train_vq
        >>> train_vq(
        ...     RunArguments(output_dir="my-vq", num_updates=2),
        ...     DataArguments(data="dataset", num_frames=4, augmentation="none", validation_split=None),
        ...     OptimizationArguments(batch_size=2, warmup_updates=0),
        ...     VQArguments(
        ...         vq_config={
        ...             "resolution": 16,
        ...             "block_out_channels": [32, 32],
        ...             "layers_per_block": 1,
        ...             "latent_channels": 8,
        ...             "patch_size": 4,
        ...         },
        ...         perceptual_weight=0,  # LPIPS needs weights of its own
        ...     ),
        ... )
        >>> IVideoGPTVQModel.from_pretrained("my-vq", subfolder="tokenizer").config.frame_size
        (16, 16)
    """
    accelerator = start_run(run)
    with only_writer(accelerator, Path(run.output_dir)):
        return _train(accelerator, run, data, optimization, vq)


def _train(
    accelerator: Accelerator,
    run: RunArguments,
    data: DataArguments,
    optimization: OptimizationArguments,
    vq: VQArguments,
) -> int | None:
    batch_share = check_run(run, optimization, accelerator.num_processes)
    model = make_vq_model(vq, data.num_context_frames)
    # Data may take long to read: missing LPIPS weights show before.
    lpips = _load_lpips(vq, accelerator.device) if vq.perceptual_weight else None
    if run.gradient_checkpointing:
        model.activation_checkpointing_enable()
    training_data = open_clips(data, model.config.frame_size, run.seed, horizon=vq.horizon)
    loader = make_loader(training_data.training, batch_share, accelerator, data.num_workers)

    discriminator = Discriminator().to(accelerator.device) if vq.adversarial_start is not None else None
    losses = VQLosses(vq, lpips, discriminator, model)
    phases = [make_phase(accelerator, "vq", model, losses.generator, run, optimization)]
    codebooks = Codebooks(
        accelerator,
        model,
        phases[0].optimizer,
        seed=run.seed,
        log_every=run.log_every,
        restart_every=vq.restart_dead_codes,
        restart_until=int(vq.restart_until * run.num_updates),
    )
    losses.codebooks = codebooks
    source = shlex.quote(data.data) if isinstance(data.data, str) else "DATA"
    if discriminator is not None:
        phases.append(
            make_phase(
                accelerator,
                "discriminator",
                discriminator,
                losses.discriminate,
                run,
                optimization,
                learning_rate=vq.discriminator_learning_rate,
                first_update=vq.adversarial_start,
            )
        )
    task = VQTask(
        accelerator=accelerator,
        phases=phases,
        source_names=training_data.source_names,
        loader=loader,
        validation_loader=make_validation_loader(training_data, batch_share, accelerator),
        num_validation_batches=run.num_validation_batches,
        description=describe_training(
            (run, data, optimization, vq),
            training_data.description,
            model=settings_of(model.config),
            lpips_hash=None if lpips is None else weights_hash(lpips),
        ),
        next_steps=[
            f"ivideogpt tokenize --vq-model {MODEL} --data {source} --output-dir TOKENS",
            f"ivideogpt train --config CONFIG --vq-model {MODEL} --tokens TOKENS --output-dir WORLD",
        ],
        callbacks=[codebooks],
        model=model,
        losses=losses,
        data=training_data,
    )
    return run_training(accelerator, run, optimization, task)


def _load_lpips(vq: VQArguments, device: torch.device) -> LPIPS:
    try:
        return LPIPS.from_weights(vq.lpips_weights).to(device)
    except OSError as error:
        raise OSError(f"{error}. Use --perceptual-weight 0 to train without LPIPS") from error


# -- losses -----------------------------------------------------------------------------------------------------------


class VQLosses:
    """What the generator and the discriminator minimise (Wu et al., 2024, and Esser et al., 2021).

    Args:
        vq: settings of the VQ model, with the weights of the terms.
        lpips: perceptual distance; None: without it.
        discriminator: discriminator before Accelerate distributed it, which the generator's loss looks through; None:
            without it.
        model: VQ model before Accelerate distributed it.

    Attributes:
        codebooks: counts of the codes in use, which training batches are recorded in; None: nothing is recorded.
    """

    def __init__(
        self, vq: VQArguments, lpips: LPIPS | None, discriminator: Discriminator | None, model: IVideoGPTVQModel
    ) -> None:
        self.vq, self.lpips, self.discriminator = vq, lpips, discriminator
        self.num_context_frames = model.config.num_context_frames
        self.last_layers = [model.decoder.conv_out.weight, model.cond_decoder.conv_out.weight]
        self.codebooks: Codebooks | None = None

    def generator(self, model: nn.Module, batch: Batch, _carry: Any, update: int) -> Loss:
        """The VQ model's loss on frames (B, T, 3, H, W) uint8; carries real and reconstructed frames."""
        frames = batch["frames"].float() / 255
        total, reconstruction, metrics = self.reconstruct(model, frames, update)
        start = self.vq.adversarial_start
        if start is not None and update >= start:
            adversarial, metrics["adaptive_weight"] = self._adversarial(total, reconstruction, metrics["perceptual"])
            total = total + adversarial
            metrics["adversarial"] = adversarial
        metrics["loss"] = total
        detached_metrics = {name: value.detach() for name, value in metrics.items()}
        return Loss(total, detached_metrics, carry=(frames, reconstruction.detach()))

    def reconstruct(
        self, model: nn.Module, frames: Tensor, update: int = 0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss without the adversarial part, reconstruction (B, T, 3, H, W) float32, and the terms."""
        context, future, _ = split_clip(frames, num_context_frames=self.num_context_frames)
        output = model(context, future)
        if self.codebooks is not None and model.training:
            self.codebooks.record(output, update)
        weights = motion_weights(frames, self.vq.motion_weight)
        terms = {
            "context_l1": weighted_absolute_error(output.context_reconstruction.float(), context, weights),
            "future_l1": weighted_absolute_error(output.future_reconstruction.float(), future, weights),
            "context_commitment": output.context_commitment_loss,
            "future_commitment": output.future_commitment_loss,
        }
        commitment = terms["context_commitment"] + terms["future_commitment"]
        total = terms["context_l1"] + terms["future_l1"] + self.vq.commitment_weight * commitment
        if self.vq.squared_weight:
            terms["context_l2"] = weighted_squared_error(output.context_reconstruction.float(), context, weights)
            terms["future_l2"] = weighted_squared_error(output.future_reconstruction.float(), future, weights)
            total = total + self.vq.squared_weight * (terms["context_l2"] + terms["future_l2"])
        reconstruction = torch.cat([output.context_reconstruction, output.future_reconstruction], dim=1).float()
        if self.lpips is not None:
            num_frames = self.vq.perceptual_frames if model.training else None
            distance = perceptual_loss(self.lpips, reconstruction, frames, self.num_context_frames, num_frames)
            terms["perceptual"] = distance
            total = total + self.vq.perceptual_weight * distance
        return total, reconstruction, terms

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss on frames (B, T, 3, H, W) uint8 without the adversarial part, its terms, and the PSNR in dB."""
        frames = batch["frames"].float() / 255
        total, reconstruction, terms = self.reconstruct(model, frames)
        psnr = psnr_of_error((reconstruction.clamp(0, 1) - frames).square().mean((2, 3, 4)))
        return terms | {
            "loss": total,
            "context_psnr": psnr[:, : self.num_context_frames].mean(),
            "future_psnr": psnr[:, self.num_context_frames :].mean(),
        }

    def _adversarial(self, total: Tensor, reconstruction: Tensor, perceptual: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's adversarial term, weighted, and the adaptive weight."""
        with _frozen(self.discriminator):
            loss = -self.discriminator(reconstruction.flatten(0, 1)).mean()
        weight = adaptive_weight(perceptual, loss, self.last_layers)
        return self.vq.adversarial_weight * weight * loss, weight

    def discriminate(self, discriminator: nn.Module, _batch: Batch, carry: tuple[Tensor, Tensor], _update: int) -> Loss:
        """The discriminator's loss on the frames that the generator was just trained on."""
        real, fake = (frames.flatten(0, 1) for frames in carry)
        loss = hinge_loss(*discriminator(torch.cat([real, fake])).chunk(2))
        return Loss(loss, {"discriminator": loss.detach()})


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients go through a module, not into it."""
    module.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        module.requires_grad_(requires_grad=True)


# -- validation and output --------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class VQTask(Task):
    """A VQ model in training.

    Attributes:
        model: VQ model before Accelerate distributed it, which shares the weights of the phase's model.
        losses: losses of the VQ model.
        data: clips, one of which sample videos show.
    """

    model: IVideoGPTVQModel
    losses: VQLosses
    data: TrainingData

    def measure(self) -> dict[str, Tensor]:
        with in_eval_mode(self.model):
            return self.mean_over_validation(partial(self.losses.measure, self.model))

    @torch.no_grad()
    def draw(self) -> list[Strip]:
        """The first validation clip beside its reconstruction."""
        clip = self.data.first_validation_clip()
        frames = clip["frames"][None].to(self.accelerator.device).float() / 255
        context, future, _ = split_clip(frames, num_context_frames=self.model.config.num_context_frames)
        with in_eval_mode(self.model):
            output = self.model(context, future)
        reconstruction = torch.cat([output.context_reconstruction, output.future_reconstruction], dim=1)
        return sample_strips(frames[0], reconstruction[0], name="coded", num_context_frames=context.shape[1])

    def save(self, folder: Path) -> None:
        """Write the VQ model as a checkpoint holds it."""
        distributed_model = self.phases[0].model
        weights = self.accelerator.get_state_dict(distributed_model)
        if self.accelerator.is_main_process:
            unwrapped_model = self.accelerator.unwrap_model(distributed_model)
            unwrapped_model.save_pretrained(folder / VQ_FOLDER, state_dict=weights)
