# /// script
# requires-python = ">=3.11"
# dependencies = ["ivideogpt-hf[data,metaworld,train]"]
# ///
"""Fine-tune the embedded checkpoint with LoRA on a task that it has never seen, and measure before and after.

    ivideogpt collect metaworld/window-close datasets/window-close --num-episodes 20 --num-frames 51 --action-repeat 2 \
        --noise 0.4 --noise-fraction 0.67 --test-fraction 0.2
    python examples/finetune.py datasets/window-close outputs/window-close

`make finetune-example` does both. The table is printed, and written as `finetune.json` beside the new checkpoint.
"""

import argparse
import json
from pathlib import Path

import torch

from ivideogpt_hf import Sampling, SegmentDataset, SegmentSpec, Source, WorldModel
from ivideogpt_hf.metrics.frames import psnr
from ivideogpt_hf.provenance import describe_command, describe_date
from ivideogpt_hf.spec import split_clip
from ivideogpt_hf.training.arguments import (
    DataArguments,
    OptimizationArguments,
    RunArguments,
    WorldModelArguments,
)
from ivideogpt_hf.training.train_world_model import train_world_model

LORA_RANK, BATCH_SIZE = 16, 4


@torch.inference_mode()
def measure(world, data, num_clips, num_samples=4):
    """How well a world model predicts the first held-out clips: the mean over `num_samples` futures of each."""
    num_context, num_future = world.spec.num_context_frames, world.spec.max_future_frames
    segment = SegmentSpec(num_context + num_future, num_context)
    dataset = SegmentDataset(data, segment, actions=True, rewards=True)
    clips = [dataset[index] for index in range(num_clips)]
    frames = torch.stack([clip["frames"] for clip in clips])
    actions = torch.stack([clip["actions"] for clip in clips])
    rewards = torch.stack([clip["rewards"] for clip in clips])[:, world.spec.first_action :]
    context, truth, actions = split_clip(frames, actions, num_context_frames=num_context)
    candidates = actions[:, None].expand(-1, num_samples, -1, -1)
    rollout = world.rollout(context, candidates, sampling=Sampling(seed=0))
    pairs = torch.stack([rollout.rewards.mean(1).flatten(), rewards.flatten()])
    return {
        "PSNR (dB)": psnr(rollout.frames, truth[:, None].expand_as(rollout.frames)).mean().item(),
        "PSNR of repeating the last frame (dB)": psnr(context[:, -1:].expand_as(truth), truth).mean().item(),
        "reward error": (pairs[0] - pairs[1]).abs().mean().item(),
        "reward correlation": torch.corrcoef(pairs)[0, 1].item(),
    }


def write_table(path, before, after, args):
    """The figures, with the command, the data and the versions that made them."""
    training = json.loads((path.parent / "training.json").read_text())
    content = {
        "command": f"python examples/{describe_command()}",
        "date": describe_date(),
        "checkpoint": args.checkpoint,
        "data": training["data"],
        "num_updates": args.num_updates,
        "batch_size": BATCH_SIZE,
        "lora_rank": LORA_RANK,
        "num_clips": args.num_clips,
        "before": before,
        "after": after,
        "versions": training["versions"],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a data set with actions as wide as the checkpoint's, rewards and a test split")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--num-updates", type=int, default=50)
    parser.add_argument("--num-clips", type=int, default=8, help="number of held-out clips to measure")
    args = parser.parse_args()
    held_out = Source(args.data, split="test")
    world = WorldModel.default() if args.checkpoint == "default" else WorldModel.from_pretrained(args.checkpoint)
    metrics_before = measure(world, held_out, args.num_clips)
    num_context, num_future = world.spec.num_context_frames, world.spec.max_future_frames
    train_world_model(
        RunArguments(
            output_dir=args.output,
            num_updates=args.num_updates,
            log_every=10,
            validate_every=args.num_updates,
            num_validation_batches=2,
            save_every=args.num_updates,
        ),
        DataArguments(
            data=args.data, num_frames=num_context + num_future, num_context_frames=num_context, augmentation="none"
        ),
        OptimizationArguments(batch_size=BATCH_SIZE, learning_rate=1e-3, schedule="cosine", warmup_updates=5),
        WorldModelArguments(
            vq_model=args.checkpoint, transformer=args.checkpoint, actions=True, rewards=True, lora_rank=LORA_RANK
        ),
    )
    metrics_after = measure(WorldModel.from_pretrained(args.output), held_out, args.num_clips)
    write_table(Path(args.output) / "finetune.json", metrics_before, metrics_after, args)
    print(f"\n{'held-out clips':40s}{'before':>10s}{'after':>10s}")
    for name, value in metrics_before.items():
        print(f"{name:40s}{value:10.3f}{metrics_after[name]:10.3f}")


if __name__ == "__main__":
    main()
