"""Fine-tune the embedded checkpoint with LoRA on a task that it has never seen, and measure before and after.

    ivideogpt collect metaworld/drawer-close datasets/drawer-close --num-episodes 20 --num-frames 51 --action-repeat 2 \
        --noise 0.4 --noise-fraction 0.67 --test-fraction 0.2
    python examples/finetune.py datasets/drawer-close outputs/drawer-close

`make finetune-example` does both.
"""

import argparse

import torch

from ivideogpt_hf import Sampling, SegmentDataset, SegmentSpec, Source, WorldModel
from ivideogpt_hf.metrics.frames import psnr
from ivideogpt_hf.spec import split_clip
from ivideogpt_hf.training.arguments import (
    DataArguments,
    OptimizationArguments,
    RunArguments,
    WorldModelArguments,
)
from ivideogpt_hf.training.train_world_model import train_world_model


@torch.inference_mode()
def measure(world, data, num_clips=8, num_samples=4):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a data set with actions as wide as the checkpoint's, rewards and a test split")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--num-updates", type=int, default=50)
    args = parser.parse_args()
    held_out = Source(args.data, split="test")
    world = WorldModel.default() if args.checkpoint == "default" else WorldModel.from_pretrained(args.checkpoint)
    metrics_before = measure(world, held_out)
    num_context, num_future = world.spec.num_context_frames, world.spec.max_future_frames
    train_world_model(
        RunArguments(
            output_dir=args.output,
            num_updates=args.num_updates,
            log_every=10,
            validate_every=args.num_updates,
            num_validation_batches=2,
            save_every=args.num_updates,
            tracker="none",
        ),
        DataArguments(
            data=args.data, num_frames=num_context + num_future, num_context_frames=num_context, augmentation="none"
        ),
        OptimizationArguments(batch_size=4, learning_rate=1e-3, schedule="cosine", warmup_updates=5),
        WorldModelArguments(
            vq_model=args.checkpoint, transformer=args.checkpoint, actions=True, rewards=True, lora_rank=16
        ),
    )
    metrics_after = measure(WorldModel.from_pretrained(args.output), held_out)
    print(f"\n{'held-out clips':40s}{'before':>10s}{'after':>10s}")
    for name, value in metrics_before.items():
        print(f"{name:40s}{value:10.3f}{metrics_after[name]:10.3f}")


if __name__ == "__main__":
    main()
