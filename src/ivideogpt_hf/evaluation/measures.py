"""All measurements of one clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..decoding.sampling import Sampling
from ..media.pixels import clamp_to_uint8
from ..metrics import REPEAT
from ..metrics.frames import lpips, psnr, squared_error, ssim
from ..metrics.lpips import LPIPS
from ..spec import split_clip
from ..world.world_model import WorldModel
from .features import VideoFeatures
from .held_out import HeldOutClip
from .protocols import EvaluationProtocol

MODEL, RECONSTRUCTION = "model", "VQ reconstruction (ceiling)"
SHUFFLED, ZERO = "model, actions of another clip", "model, zero actions"
FRAME_METRICS = ("mse", "psnr", "ssim", "lpips")
# The original code counts the reconstructed context frames in all of its metrics. Most other work counts predicted
# frames only.
PREDICTED_ONLY, WITH_CONTEXT = "predicted frames only", "with reconstructed context frames"


@dataclass(frozen=True)
class Networks:
    """Networks that compare frames.

    Attributes:
        lpips: LPIPS with its weights, on any device; None: without LPIPS.
        features: features of whole videos, for a Frechet distance; None: no such distance.
    """

    lpips: LPIPS | None = None
    features: VideoFeatures | None = None


@dataclass(frozen=True)
class Prediction:
    """Predictions of a model for a clip.

    Attributes:
        reconstruction: frames (C + T, 3, H, W) uint8 of the clip, coded and decoded, with nothing predicted.
        frames: futures (N, T, 3, H, W) uint8 under the clip's actions.
        controls: futures (M, T, 3, H, W) uint8 under other actions, by the name of the method.
        tokens: vocabulary ids (N, T, n) int64 of ``frames``.
        rewards: rewards (N, T) float32 of ``frames``, or None.
    """

    reconstruction: Tensor
    frames: Tensor
    controls: dict[str, Tensor]
    tokens: Tensor
    rewards: Tensor | None


def predict_clip(
    world: WorldModel, clip: HeldOutClip, other_actions: Tensor | None, protocol: EvaluationProtocol, seed: int
) -> Prediction:
    """Let a world model predict a clip: under its actions, under those of another clip, and under zeros.

    The context is coded once for all three.

    Args:
        world: world model that predicts.
        clip: clip to predict.
        other_actions: actions (T, A) of another clip; None for an action-free model.
        protocol: protocol with the number of futures under the clip's actions. A quarter as many, and at least one,
            are predicted under each kind of other actions.
        seed: seed of the sampling.
    """
    split = split_clip(clip.frames, num_context_frames=world.spec.num_context_frames)
    with torch.inference_mode():
        pixels = clip.frames[None].to(world.device).float() / 255
        context, future, _ = split_clip(pixels, num_context_frames=world.vq_model.config.num_context_frames)
        output = world.vq_model(context, future)
        coded = torch.cat([output.context_reconstruction, output.future_reconstruction], dim=1)
        reconstruction = clamp_to_uint8(coded[0]).cpu()
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

        - ``METHOD/METRIC``: values (N, T) float32 of each method (`MODEL` and the others above) and each of
          `FRAME_METRICS`; N is 1 where nothing is drawn at random;
        - ``context/METRIC``: values (C,) of the reconstructed context frames;
        - ``tokens``: vocabulary ids (N, T, n);
        - ``rewards/true`` (T,) and ``rewards/predicted`` (N, T), if there are rewards;
        - ``features/true/RULE`` (1, D) and ``features/predicted/RULE`` (N, D), if there is a network of videos; the
          rules are `PREDICTED_ONLY` and `WITH_CONTEXT`;
        - ``source`` and ``task``: names.
    """
    num_context = len(clip.frames) - prediction.frames.shape[1]
    context, truth, _ = split_clip(clip.frames, num_context_frames=num_context)
    reconstruction = prediction.reconstruction
    videos = {
        MODEL: prediction.frames,
        REPEAT: context[-1:].expand_as(truth)[None],
        RECONSTRUCTION: reconstruction[None, num_context:],
        **prediction.controls,
    }
    arrays = {"source": np.array(clip.source), "task": np.array(clip.task), "tokens": prediction.tokens.numpy()}
    for name, predicted in videos.items():
        for metric, values in _frame_metrics(predicted, truth, networks).items():
            arrays[f"{name}/{metric}"] = values.numpy()
    for metric, values in _frame_metrics(reconstruction[None, :num_context], context, networks).items():
        arrays[f"context/{metric}"] = values[0].numpy()
    if prediction.rewards is not None and clip.rewards is not None:
        arrays |= {"rewards/true": clip.rewards.numpy(), "rewards/predicted": prediction.rewards.numpy()}
    if networks.features is not None:
        start = reconstruction[None, :num_context].expand(len(prediction.frames), -1, -1, -1, -1)
        videos_by_rule = {
            f"features/true/{PREDICTED_ONLY}": truth[None],
            f"features/predicted/{PREDICTED_ONLY}": prediction.frames,
            f"features/true/{WITH_CONTEXT}": clip.frames[None],
            f"features/predicted/{WITH_CONTEXT}": torch.cat([start, prediction.frames], dim=1),
        }
        arrays |= {name: networks.features(frames).float().numpy() for name, frames in videos_by_rule.items()}
    return arrays


def _frame_metrics(predicted: Tensor, truth: Tensor, networks: Networks) -> dict[str, Tensor]:
    """The `FRAME_METRICS` (N, T) of videos (N, T, 3, H, W) uint8, LPIPS only with its network."""
    values = {
        "mse": squared_error(predicted, truth),
        "psnr": psnr(predicted, truth),
        "ssim": ssim(predicted, truth),
    }
    if networks.lpips is None:
        return values
    device = next(networks.lpips.parameters()).device
    return values | {"lpips": lpips(predicted.to(device), truth.to(device), networks.lpips)}
