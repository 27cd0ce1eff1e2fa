"""Training of the VQ model: reconstruct context and future frames through the codebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoints.layout import VQ_FOLDER
from ..checkpoints.loading import fetch, load_vq_model
from ..data.clips.loader import ClipLoader
from ..media.pixels import clamp_to_uint8
from ..metrics.frames import psnr_of_error
from ..metrics.lpips import LPIPS
from ..models.configuration_ivideogpt_vq import IVideoGPTVQConfig
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..settings import check_keys
from ..spec import split_clip
from .arguments import DataArguments, OptimizationArguments, RunArguments, VQArguments
from .clips import load, load_validation, training_clips, validation_clips
from .codebooks import Codebooks
from .launch import only_writer, start_run
from .loop import Batch, Loss
from .losses import (
    Discriminator,
    absolute_error,
    adaptive_weight,
    hinge_loss,
    motion_weights,
    perceptual_loss,
    squared_error,
)
from .record import describe_training
from .trainer import Task, check_run, make_phase, mean_over_batches, run_training

VQ_ARGUMENTS = (RunArguments, DataArguments, OptimizationArguments, VQArguments)


def train_vq(
    run: RunArguments, data: DataArguments, optimization: OptimizationArguments, vq: VQArguments
) -> int | None:
    """Train or fine-tune a VQ model; the output folder then holds it as ``tokenizer/``.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        ValueError, OSError: if arguments, data or weights do not fit, or another process writes the output folder.
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
    share = check_run(run, optimization, accelerator.num_processes)
    model = _make_model(vq, data)
    # Before the data are read, which may take long: that there are no weights shows here.
    lpips = LPIPS.from_weights(vq.lpips_weights).to(accelerator.device) if vq.perceptual_weight else None
    if run.gradient_checkpointing:
        model.activation_checkpointing_enable()
    clips = training_clips(data, model.config.frame_size, run.seed, horizon=vq.horizon)
    loader = load(clips, share, accelerator, data.num_workers)

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
    if discriminator is not None:
        own = {"first_update": vq.adversarial_start, "learning_rate": vq.discriminator_learning_rate}
        phases.append(
            make_phase(accelerator, "discriminator", discriminator, losses.discriminate, run, optimization, **own)
        )

    measure = draw = None
    if data.validation_split is not None:
        held_out = validation_clips(data, model.config.frame_size, horizon=vq.horizon)
        validation = load_validation(held_out, share, accelerator)
        measure = partial(_validate, validation, run.num_validation_batches, accelerator, model, losses)
        draw = partial(_draw, validation, accelerator, model)
    task = Task(
        phases=phases,
        loader=loader,
        source_names=[source.name for source in clips.mixture.sources],
        measure=measure,
        draw=draw,
        save=partial(_save, accelerator, phases[0].model),
        training=describe_training((run, data, optimization, vq), clips.describe()),
        callbacks=[codebooks],
    )
    return run_training(accelerator, run, optimization, task)


def _make_model(vq: VQArguments, data: DataArguments) -> IVideoGPTVQModel:
    if vq.vq_model is not None:
        model = load_vq_model(fetch(vq.vq_model))
        if model.config.num_context_frames != data.num_context_frames:
            model.resize_context(data.num_context_frames)
    else:
        check_keys(vq.vq_config, [item.name for item in fields(IVideoGPTVQConfig)], "vq_config")
        model = IVideoGPTVQModel(IVideoGPTVQConfig(**vq.vq_config | {"num_context_frames": data.num_context_frames}))
    if vq.freeze_codebooks:
        model.quantize.requires_grad_(requires_grad=False)
        model.dynamics_quantize.requires_grad_(requires_grad=False)
    return model


# -- losses -----------------------------------------------------------------------------------------------------------


class VQLosses:
    """What the generator and the discriminator minimise (Wu et al., 2024, and Esser et al., 2021).

    Args:
        vq: the weights of the terms.
        lpips: the perceptual distance; None: without.
        discriminator: the bare one, which the generator's loss looks through; None: without.
        model: the bare VQ model.
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
            fooled, metrics["adaptive_weight"] = self._adversarial(total, reconstruction, metrics["perceptual"])
            total = total + fooled
            metrics["adversarial"] = fooled
        metrics["loss"] = total
        reported = {name: value.detach() for name, value in metrics.items()}
        return Loss(total, reported, carry=(frames, reconstruction.detach()))

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
            "context_l1": absolute_error(output.context_reconstruction.float(), context, weights),
            "future_l1": absolute_error(output.future_reconstruction.float(), future, weights),
            "context_commitment": output.context_commitment_loss,
            "future_commitment": output.future_commitment_loss,
        }
        commitment = terms["context_commitment"] + terms["future_commitment"]
        total = terms["context_l1"] + terms["future_l1"] + self.vq.commitment_weight * commitment
        if self.vq.squared_weight:
            terms["context_l2"] = squared_error(output.context_reconstruction.float(), context, weights)
            terms["future_l2"] = squared_error(output.future_reconstruction.float(), future, weights)
            total = total + self.vq.squared_weight * (terms["context_l2"] + terms["future_l2"])
        reconstruction = torch.cat([output.context_reconstruction, output.future_reconstruction], dim=1).float()
        if self.lpips is not None:
            chosen = self.vq.perceptual_frames if model.training else None
            distance = perceptual_loss(self.lpips, reconstruction, frames, self.num_context_frames, chosen)
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
            fooled = -self.discriminator(reconstruction.flatten(0, 1)).mean()
        adaptive = adaptive_weight(perceptual, fooled, self.last_layers)
        return self.vq.adversarial_weight * adaptive * fooled, adaptive

    def discriminate(self, discriminator: nn.Module, _batch: Batch, carry: tuple[Tensor, Tensor], _update: int) -> Loss:
        """The discriminator's loss on the frames that the generator was just trained on."""
        real, fake = (frames.flatten(0, 1) for frames in carry)
        loss = hinge_loss(*discriminator(torch.cat([real, fake])).chunk(2))
        return Loss(loss, {"discriminator": loss.detach()})


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Gradients go through a module, not into it."""
    module.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        module.requires_grad_(requires_grad=True)


# -- validation and output --------------------------------------------------------------------------------------------


def _validate(
    loader: ClipLoader, num_batches: int, accelerator: Accelerator, model: IVideoGPTVQModel, losses: VQLosses
) -> dict[str, Tensor]:
    model.eval()
    try:
        return mean_over_batches(loader, num_batches, accelerator, partial(losses.measure, model))
    finally:
        model.train()


@torch.no_grad()
def _draw(loader: ClipLoader, accelerator: Accelerator, model: IVideoGPTVQModel) -> Tensor:
    """The first validation clip above its reconstruction, (T, 3, 2H, W) uint8."""
    frames = loader.dataset[0]["frames"][None].to(accelerator.device).float() / 255
    context, future, _ = split_clip(frames, num_context_frames=model.config.num_context_frames)
    model.eval()
    try:
        output = model(context, future)
    finally:
        model.train()
    reconstruction = torch.cat([output.context_reconstruction, output.future_reconstruction], dim=1)
    return clamp_to_uint8(torch.cat([frames, reconstruction], dim=3)[0]).cpu()


def _save(accelerator: Accelerator, model: nn.Module, folder: Path) -> None:
    weights = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(folder / VQ_FOLDER, state_dict=weights)
