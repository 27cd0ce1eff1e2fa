"""Rollouts: `WorldModel.rollout` against the original's algorithm, in one run.

The original calls `generate` anew for every frame, over the whole sequence so far, with the context tiled for each
candidate. Both sides use the same transformer class and random weights of the released sizes (138 M transformer,
64 x 64 pixels, 2 context frames), float32, return tokens only, and are checked to return the same greedy tokens.

    python benchmarks/rollout.py --output benchmarks/results/rollout.json
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from ivideogpt_hf import (
    IVideoGPTConfig,
    IVideoGPTForCausalLM,
    IVideoGPTVQConfig,
    IVideoGPTVQModel,
    Sampling,
    WorldModel,
)

# Candidates and frames: fewer frames where the original takes minutes. Its cost per frame grows with the sequence and
# ours is one prefill plus a constant, so that fewer frames make the ratio smaller, not larger.
WORKLOADS = ((1, 14), (8, 6), (32, 2))
GREEDY = Sampling(greedy=True)


class DynamicsCodesOnly(LogitsProcessor):
    """Lets `generate` choose what `Sampling(restrict_to_codes=True)` chooses from."""

    def __init__(self, layout):
        self.codes = slice(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)

    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, self.codes] = scores[:, self.codes]
        return allowed


def build_world():
    """Released sizes, random weights."""
    torch.manual_seed(0)
    vq_config = IVideoGPTVQConfig(resolution=64, block_out_channels=(128, 256, 512), max_att_resolution=16)
    # Wider than the usual 0.02, so that logits are far enough from ties to compare tokens.
    transformer = IVideoGPTForCausalLM(IVideoGPTConfig(initializer_range=0.05))
    return WorldModel(IVideoGPTVQModel(vq_config).eval(), transformer.eval())


@torch.inference_mode()
def original(world, frames, num_candidates, num_frames):
    """The original's algorithm; returns tokens (num_candidates, num_frames, tokens_per_future_frame)."""
    layout = world.layout
    tokens, _ = world.vq_model.tokenize(frames.repeat(num_candidates, 1, 1, 1, 1).float() / 255)
    processors = LogitsProcessorList([DynamicsCodesOnly(layout)])
    for _ in range(num_frames):
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=layout.slot_id)
        tokens = world.transformer.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=layout.tokens_per_future_frame,
            do_sample=False,
            pad_token_id=0,
            logits_processor=processors,
        )
    return tokens[:, layout.prompt_length :].unflatten(1, (num_frames, -1))[:, :, 1:]


def ours(world, frames, num_candidates, num_frames):
    """The same through the world model."""
    rollout = world.rollout(
        frames, num_frames=num_frames, num_samples=num_candidates, sampling=GREEDY, outputs=("tokens",)
    )
    return rollout.tokens[0]


def timed(function, *args):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json to write")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    world = build_world().to(args.device)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    ours(world, frames, 1, 1)  # the first call allocates
    original(world, frames, 1, 1)
    machine = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": "float32",
    }
    print(machine)
    print(
        f"{'candidates':>10} {'frames':>6} {'original s/frame':>17} {'ours s/frame':>13} {'ratio':>6} "
        f"{'equal tokens':>13}"
    )
    rows = []
    for num_candidates, num_frames in WORKLOADS:
        our_seconds, our_tokens = timed(ours, world, frames, num_candidates, num_frames)
        seconds, tokens = timed(original, world, frames, num_candidates, num_frames)
        row = {
            "candidates": num_candidates,
            "frames": num_frames,
            "original_seconds_per_frame": seconds / num_frames,
            "our_seconds_per_frame": our_seconds / num_frames,
            "ratio": seconds / our_seconds,
            "equal_tokens": (tokens == our_tokens).float().mean().item(),
        }
        rows.append(row)
        print(
            f"{num_candidates:>10} {num_frames:>6} {row['original_seconds_per_frame']:>17.2f} "
            f"{row['our_seconds_per_frame']:>13.2f} {row['ratio']:>6.1f} {row['equal_tokens']:>13.1%}",
            flush=True,
        )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"machine": machine, "workloads": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
