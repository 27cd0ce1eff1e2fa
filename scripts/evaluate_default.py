"""Measure the embedded default checkpoint on held-out episodes, and put one of them beside it.

    python scripts/evaluate_default.py datasets/default src/ivideogpt_hf/default

Adds to metrics.json what it prints, and writes episode.npz.
"""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from train_default import NUM_CONTEXT, cut_clips, load_episodes

from ivideogpt_hf import Sampling, WorldModel

EPISODE_LENGTH = 25


def predictions_of(world, frames, actions, mean_image):
    """Name -> predicted future frames, 0 to 255, of any shape that broadcasts to those of ``frames``."""
    context = frames[:, :NUM_CONTEXT]
    tokens, _ = world.vq_model.tokenize(frames.float() / 255)
    wrong_actions = actions.roll(len(actions) // 2, 0)  # those of a clip of another task, most often
    sampled = world.rollout(context, actions, sampling=Sampling(seed=0))
    return sampled.rewards, {
        "model, sampled with seed 0": sampled.frames,
        "model, greedy": world.rollout(context, actions, sampling=Sampling(greedy=True)).frames,
        "model, sampled, actions of another clip": world.rollout(
            context, wrong_actions, sampling=Sampling(seed=0)
        ).frames,
        "VQ reconstruction (ceiling)": world.vq_model.detokenize(tokens)[:, NUM_CONTEXT:].clamp(0, 1) * 255,
        "repeat the last context frame": context[:, -1:],
        "mean image of the training set": mean_image,
        "constant grey": torch.tensor(127.5),
    }


def score(prediction, future):
    """MSE (pixels in [0, 1]) and PSNR of each predicted frame, then the mean over frames and clips."""
    mse = ((prediction.float() - future.float()) / 255).square().mean((2, 3, 4))
    return {"psnr": round((-10 * mse.log10()).mean().item(), 2), "mse": round(mse.mean().item(), 6)}


def perplexity(codes):
    share = codes.flatten().bincount().float() / codes.numel()
    return round(torch.exp(-(share * share.clamp_min(1e-9).log()).sum()).item(), 1)


@torch.inference_mode()
def evaluate(world, train_episodes, test_episodes):
    """Two context frames to ten predicted frames on two clips of every held-out episode."""
    starts = [(episode, start) for episode in range(len(test_episodes["frames"])) for start in (3, 25)]
    frames, actions, rewards = cut_clips(test_episodes, starts)
    mean_image = train_episodes["frames"][:, ::5].float().mean((0, 1))
    predicted_rewards, predictions = predictions_of(world, frames, actions, mean_image)
    future = frames[:, NUM_CONTEXT:]
    context = world.vq_model.encode_context(frames[:, :NUM_CONTEXT].float() / 255)
    codes = world.vq_model.encode_future(context.encoder_memory, future.float() / 255)
    mean_reward = train_episodes["rewards"].mean()
    return {
        "num_clips": len(starts),
        "predicted_frames": {name: score(prediction, future) for name, prediction in predictions.items()},
        "reward_mean_absolute_error": {
            "model": round((predicted_rewards - rewards).abs().mean().item(), 3),
            "mean reward of the training set": round((mean_reward - rewards).abs().mean().item(), 3),
        },
        "codebook_perplexity": {"context": perplexity(context.tokens), "dynamics": perplexity(codes)},
    }


def write_episode(path, episodes):
    """The first frames of the held-out episode in which most moves."""
    stops = {"frames": EPISODE_LENGTH, "actions": EPISODE_LENGTH - 1, "rewards": EPISODE_LENGTH - 1}
    motion = episodes["frames"][:, :EPISODE_LENGTH].float().diff(dim=1).abs().mean((1, 2, 3, 4))
    np.savez_compressed(path, **{key: episodes[key][motion.argmax(), :stop].numpy() for key, stop in stops.items()})


def main(data_folder, folder):
    world = WorldModel.from_pretrained(folder)
    train_episodes, test_episodes = (load_episodes(data_folder / split) for split in ("train", "test"))
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["evaluation_command"] = shlex.join(["python", *sys.argv])
    metrics["parameters"] = {
        "vq_model": world.vq_model.num_parameters(),
        "transformer": world.transformer.num_parameters(),
    }
    metrics["evaluation"] = evaluate(world, train_episodes, test_episodes)
    print(json.dumps(metrics, indent=2))
    path.write_text(json.dumps(metrics, indent=2) + "\n")
    write_episode(folder / "episode.npz", test_episodes)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
