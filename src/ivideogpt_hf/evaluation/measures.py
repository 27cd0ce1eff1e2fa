"""Everything that is measured on one clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..decoding.sampling import Sampling
from ..media.pixels import clamp_to_uint8
from ..metrics.frames import lpips, psnr, squared_error, ssim
from ..spec import split_clip
from ..world.world_model import WorldModel
from .clips import HeldOutClip
from .features import VideoFeatures
from .protocols import Protocol

MODEL, REPEAT, CEILING = "model", "repeat the last frame", "VQ reconstruction (ceiling)"
SHUFFLED, ZERO = "model, actions of another clip", "model, zero actions"
FRAME_METRICS = ("mse", "psnr", "ssim", "lpips")
# The original counts the reconstructed context frames in all of its metrics; most others count predicted frames only.
PREDICTED_ONLY, WITH_CONTEXT = "predicted frames only", "with reconstructed context frames"


@dataclass(frozen=True)
class Networks:
    """What looks at frames: LPIPS, and a network of videos for a Frechet distance, where one is wanted."""

    lpips: Callable[[Tensor, Tensor], Tensor]
    features: VideoFeatures | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says of a clip.

    Attributes:
        reconstruction: (C + T, 3, H, W) uint8: all frames, coded and decoded with nothing predicted.
        frames: (N, T, 3, H, W) uint8: futures by the right actions.
        wrong: the same by wrong actions: name of the method -> (M, T, 3, H, W) uint8.
        tokens: (N, T, n) int64 of ``frames``, as vocabulary ids.
        rewards: (N, T) float32, or None.
    """

    reconstruction: Tensor
    frames: Tensor
    wrong: dict[str, Tensor]
    tokens: Tensor
    rewards: Tensor | None


def predict_clip(
    world: WorldModel, clip: HeldOutClip, other_actions: Tensor | None, protocol: Protocol, seed: int
) -> Prediction:
    """Let a world model predict a clip: by its actions, by those of another clip and by zeros, from one prefill.

    Args:
        other_actions: (T, A) of another clip; None for an action-free model.
        protocol: how many futures by the right actions; a quarter as many, and at least one, are by wrong ones.
        seed: of the sampling.
    """
    split = split_clip(clip.frames, num_context_frames=world.spec.num_context_frames)
    with torch.inference_mode():
        tokens, _ = world.vq_model.tokenize(clip.frames[None].to(world.device, world.vq_model.dtype) / 255)
        reconstruction = clamp_to_uint8(world.vq_model.detokenize(tokens)[0]).cpu()
    num_samples = protocol.num_samples
    counts = {MODEL: num_samples}
    actions = None
    if world.spec.action_dim:
        counts |= dict.fromkeys((SHUFFLED, ZERO), max(1, num_samples // 4))
        rows = {MODEL: clip.actions, SHUFFLED: other_actions, ZERO: torch.zeros_like(clip.actions)}
        actions = torch.cat([rows[name].expand(count, -1, -1) for name, count in counts.items()])[None]
    rollout = world.rollout(
        split.context[None],
        actions,
        num_frames=None if world.spec.action_dim else len(split.future),
        num_samples=None if world.spec.action_dim else num_samples,
        sampling=Sampling(temperature=protocol.temperature, seed=seed),
    )
    frames = dict(zip(counts, rollout.frames[0].cpu().split(list(counts.values())), strict=True))
    rewards = None if rollout.rewards is None else rollout.rewards[0, :num_samples].cpu()
    return Prediction(reconstruction, frames.pop(MODEL), frames, rollout.tokens[0, :num_samples].cpu(), rewards)


def measure_clip(clip: HeldOutClip, prediction: Prediction, networks: Networks) -> dict[str, np.ndarray]:
    """Compare a prediction with the truth.

    Returns:
        Arrays by name:

        - ``METHOD/METRIC``: of each method, `MODEL` and others above, and each of `FRAME_METRICS`, (N, T) float32,
          N = 1 where nothing is drawn at random;
        - ``context/METRIC``: (C,) of the reconstructed context frames;
        - ``tokens`` (N, T, n), and where there are rewards ``rewards/true`` (T,) and ``rewards/predicted`` (N, T);
        - with a network of videos, ``features/true/RULE`` (1, D) and ``features/predicted/RULE`` (N, D), by
          `PREDICTED_ONLY` and `WITH_CONTEXT`;
        - ``source`` and ``task``: names.
    """
    num_context = len(clip.frames) - prediction.frames.shape[1]
    context, truth, _ = split_clip(clip.frames, num_context_frames=num_context)
    reconstructed = prediction.reconstruction
    videos = {
        MODEL: prediction.frames,
        REPEAT: context[-1:].expand_as(truth)[None],
        CEILING: reconstructed[None, num_context:],
        **prediction.wrong,
    }
    arrays = {"source": np.array(clip.source), "task": np.array(clip.task), "tokens": prediction.tokens.numpy()}
    for name, predicted in videos.items():
        for metric, values in _frame_metrics(predicted, truth, networks).items():
            arrays[f"{name}/{metric}"] = values.numpy()
    for metric, values in _frame_metrics(reconstructed[None, :num_context], context, networks).items():
        arrays[f"context/{metric}"] = values[0].numpy()
    if prediction.rewards is not None and clip.rewards is not None:
        arrays |= {"rewards/true": clip.rewards.numpy(), "rewards/predicted": prediction.rewards.numpy()}
    if networks.features is not None:
        coded = reconstructed[None, :num_context].expand(len(prediction.frames), -1, -1, -1, -1)
        looked_at = {
            f"features/true/{PREDICTED_ONLY}": truth[None],
            f"features/predicted/{PREDICTED_ONLY}": prediction.frames,
            f"features/true/{WITH_CONTEXT}": clip.frames[None],
            f"features/predicted/{WITH_CONTEXT}": torch.cat([coded, prediction.frames], dim=1),
        }
        arrays |= {name: networks.features(frames).float().numpy() for name, frames in looked_at.items()}
    return arrays


def _frame_metrics(predicted: Tensor, truth: Tensor, networks: Networks) -> dict[str, Tensor]:
    """All `FRAME_METRICS` of (N, T, 3, H, W) uint8, each (N, T)."""
    return {
        "mse": squared_error(predicted, truth),
        "psnr": psnr(predicted, truth),
        "ssim": ssim(predicted, truth),
        "lpips": lpips(predicted, truth, networks.lpips),
    }
