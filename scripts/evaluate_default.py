"""Measure a checkpoint on held-out clips: 2 context frames to 10 predicted ones, per step, against what is simple.

    python scripts/evaluate_default.py src/ivideogpt_hf/default --lpips-weights lpips_vgg16.safetensors

Prints tables, adds the figures to the checkpoint's metrics.json, and draws the curves. Needs the extras data and eval.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from ivideogpt_hf import Sampling, WorldModel
from ivideogpt_hf.data.dataset import SegmentDataset
from ivideogpt_hf.data.mixture import Mixture, Source, load_mixture
from ivideogpt_hf.data.segments import SegmentSpec
from ivideogpt_hf.evaluation.metrics import lpips, psnr, squared_error, ssim
from ivideogpt_hf.perceptual import LPIPS

NUM_CONTEXT, NUM_FUTURE, NUM_SAMPLES = 2, 10, 8
MODEL, REPEAT, CEILING = "model", "repeat the last frame", "VQ reconstruction (ceiling)"
SHUFFLED, ZERO = "model, actions of another clip", "model, zero actions"
CLIPS_PER_BATCH = 16


def held_out_clips(mixture, root, clips_per_source, seed=0):
    """Clips of the test split, evenly from all sources: frames (N, 12, 3, H, W) uint8, actions (N, 10, A), rewards
    (N, 10), and the name of each clip's source."""
    sources = [Source(source.path, source.name, split="test") for source in load_mixture(mixture, root=root).sources]
    clips, names = [], []
    for source in sources:
        segment = SegmentSpec(NUM_CONTEXT + NUM_FUTURE, NUM_CONTEXT)
        dataset = SegmentDataset(Mixture([source]), segment, actions=True, rewards=True, seed=seed)
        chosen = range(min(clips_per_source, len(dataset)))
        clips += [dataset[index] for index in chosen]
        names += [source.name for _ in chosen]
    first = NUM_CONTEXT - 1
    frames = torch.stack([clip["frames"] for clip in clips])
    actions = torch.stack([clip["actions"][first:] for clip in clips])
    rewards = torch.stack([clip["rewards"][first:] for clip in clips])
    return frames, actions, rewards, names


def measure(predicted, truth, network):
    """MSE, PSNR, SSIM and LPIPS of each frame: predicted and truth (B, T, 3, H, W) uint8 to dict of (B, T)."""
    return {
        "mse": squared_error(predicted, truth),
        "psnr": psnr(predicted, truth),
        "ssim": ssim(predicted, truth),
        "lpips": lpips(predicted, truth, network),
    }


@torch.inference_mode()
def evaluate(world, network, frames, actions, num_samples):
    """Name -> metric -> (N, T), means over samples; and the mean predicted rewards (N, T)."""
    results, rewards = {}, []
    others = actions.roll(len(actions) // 2 + 1, 0)
    for first in range(0, len(frames), CLIPS_PER_BATCH):
        part = slice(first, first + CLIPS_PER_BATCH)
        context, truth = frames[part, :NUM_CONTEXT], frames[part, NUM_CONTEXT:]
        tokens, _ = world.vq_model.tokenize(frames[part].float() / 255)
        ceiling = world.vq_model.detokenize(tokens)[:, NUM_CONTEXT:].clamp(0, 1).mul(255).round().to(torch.uint8)
        measured = {
            REPEAT: measure(context[:, -1:].expand_as(truth), truth, network),
            CEILING: measure(ceiling, truth, network),
        }
        for name, given in ((MODEL, actions[part]), (SHUFFLED, others[part]), (ZERO, torch.zeros_like(actions[part]))):
            count = num_samples if name == MODEL else max(1, num_samples // 4)
            repeated = given[:, None].expand(-1, count, -1, -1)
            rollout = world.rollout(context, repeated, sampling=Sampling(seed=first))
            samples = [measure(rollout.frames[:, n], truth, network) for n in range(count)]
            measured[name] = {key: torch.stack([s[key] for s in samples]).mean(0) for key in samples[0]}
            if name == MODEL:
                rewards.append(rollout.rewards.mean(1))
        for name, metrics in measured.items():
            for key, values in metrics.items():
                results.setdefault(name, {}).setdefault(key, []).append(values)
        print(f"{min(first + CLIPS_PER_BATCH, len(frames))} of {len(frames)} clips", file=sys.stderr)
    return {n: {k: torch.cat(v) for k, v in m.items()} for n, m in results.items()}, torch.cat(rewards)


def summarize(results, predicted_rewards, rewards, names):
    """Everything that goes into metrics.json."""
    moving = results[REPEAT]["mse"].mean(1) >= results[REPEAT]["mse"].mean(1).median()
    summary = {
        "num_clips": len(names),
        "num_moving_clips": int(moving.sum()),
        "per_step": {
            name: {key: [round(x, 5) for x in values.mean(0).tolist()] for key, values in metrics.items()}
            for name, metrics in results.items()
        },
        "mean": {
            name: {key: round(values.mean().item(), 5) for key, values in metrics.items()}
            for name, metrics in results.items()
        },
        "mean_of_moving_clips": {
            name: {key: round(values[moving].mean().item(), 5) for key, values in metrics.items()}
            for name, metrics in results.items()
        },
    }
    right = results[MODEL]["mse"][moving].mean()
    summary["error_with_wrong_over_right_actions_on_moving_clips"] = {
        "actions of another clip": round((results[SHUFFLED]["mse"][moving].mean() / right).item(), 3),
        "zero actions": round((results[ZERO]["mse"][moving].mean() / right).item(), 3),
    }
    correlations = {}
    for task in sorted({name.rsplit("-", 1)[0] for name in names}):
        rows = torch.tensor([name.startswith(f"{task}-") for name in names])
        both = torch.stack([predicted_rewards[rows].flatten(), rewards[rows].flatten()])
        correlations[task] = round(torch.corrcoef(both)[0, 1].item(), 3) if both[1].std() > 0.1 else None
    summary["reward_correlation"] = correlations
    summary["reward_mean_absolute_error"] = round((predicted_rewards - rewards).abs().mean().item(), 3)
    return summary


def gates(summary):
    """The three promises: name -> whether it is kept."""
    model, repeat = summary["per_step"][MODEL], summary["per_step"][REPEAT]
    ratio = summary["error_with_wrong_over_right_actions_on_moving_clips"]["actions of another clip"]
    correlations = [value for value in summary["reward_correlation"].values() if value is not None]
    return {
        "LPIPS below repeating the last frame from step 2 on": all(
            m < r for m, r in zip(model["lpips"][1:], repeat["lpips"][1:], strict=True)
        ),
        "mean PSNR above it": summary["mean"][MODEL]["psnr"] > summary["mean"][REPEAT]["psnr"],
        "error with wrong actions at least 1.3 times that with right ones, on moving clips": ratio >= 1.3,
        "reward correlation at least 0.8 in every task": min(correlations) >= 0.8,
    }


def print_tables(summary):
    for key in ("psnr", "ssim", "lpips"):
        print(
            f"\n{key.upper()} per step".ljust(42)
            + "".join(f"{step:8d}" for step in range(1, NUM_FUTURE + 1))
            + "    mean"
        )
        for name, metrics in summary["per_step"].items():
            digits = 2 if key == "psnr" else 4
            row = "".join(f"{value:8.{digits}f}" for value in metrics[key])
            print(name.ljust(41) + row + f"{summary['mean'][name][key]:8.{digits}f}")
    print("\nwrong actions:", summary["error_with_wrong_over_right_actions_on_moving_clips"])
    print("reward correlation:", summary["reward_correlation"])
    for name, kept in summary["gates"].items():
        print("yes" if kept else "NO ", name)


def draw_curves(summary, path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6))
    for axis, key in zip(axes, ("psnr", "ssim", "lpips"), strict=True):
        for name, metrics in summary["per_step"].items():
            axis.plot(range(1, NUM_FUTURE + 1), metrics[key], marker=".", label=name)
        axis.set(title=key.upper(), xlabel="predicted frame")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", default="configs/data/metaworld.yaml")
    parser.add_argument("--root", default="datasets")
    parser.add_argument("--clips-per-source", type=int, default=8)
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES)
    parser.add_argument("--lpips-weights")
    parser.add_argument("--plot", type=Path, help="where to draw the curves")
    args = parser.parse_args()
    world = WorldModel.from_pretrained(args.checkpoint)
    frames, actions, rewards, names = held_out_clips(args.data, args.root, args.clips_per_source)
    network = LPIPS.from_weights(args.lpips_weights)
    results, predicted_rewards = evaluate(world, network, frames, actions, args.samples)
    summary = {"command": shlex.join(["python", *sys.argv])} | summarize(results, predicted_rewards, rewards, names)
    summary["gates"] = gates(summary)
    print_tables(summary)
    path = args.checkpoint / "metrics.json"
    metrics = json.loads(path.read_text()) if path.exists() else {}
    metrics["evaluation"] = summary
    path.write_text(json.dumps(metrics, indent=2) + "\n")
    if args.plot is not None:
        draw_curves(summary, args.plot)


if __name__ == "__main__":
    main()
