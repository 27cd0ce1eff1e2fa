"""What the options of rollouts are worth: guessed tokens, weights in fewer bits, compiled frames, memory layouts.

    python benchmarks/options.py --output benchmarks/results/options.json

Speed is measured at the released sizes with random weights, two context frames, 64 x 64 pixels; whether guesses are
right and tokens stay the same, on a trained checkpoint, the embedded one, and its example episode. Extra: quantize.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rollout import Workload as Rolled
from rollout import build_world, ours
from timing import median_seconds
from torchao.quantization import Int8WeightOnlyConfig
from transformers import TorchAoConfig
from writing import describe_cpu, write_results

from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_actions, read_video

GUESSES = (0, 1, 3, 7)
TEMPERATURES = (1.0, 0.5)
SEEDS = range(5)
USER, CANDIDATES = Rolled("one user", 1, 4), Rolled("8 candidates", 8, 4)
DECODED_FRAMES = 16


def guessing(world, frames, actions):
    """Seconds and share of right guesses of one user's rollout, by temperature and number of guesses."""
    rows = []
    for temperature in TEMPERATURES:
        for num_guesses in GUESSES:

            def rollouts(temperature=temperature, num_guesses=num_guesses):
                samplings = [Sampling(temperature, seed=seed, num_guesses=num_guesses) for seed in SEEDS]
                return [world.rollout(frames, actions, sampling=s, outputs=("tokens", "statistics")) for s in samplings]

            made = rollouts()
            if num_guesses == 0:
                plain, plain_seconds = [rollout.tokens for rollout in made], median_seconds(rollouts)
                seconds, right = plain_seconds, None
            else:
                if not all(rollout.tokens.equal(tokens) for rollout, tokens in zip(made, plain, strict=True)):
                    raise SystemExit("guessing changed the tokens")
                right = statistics.mean(rollout.statistics.acceptance for rollout in made)
                seconds = median_seconds(rollouts)
            rows.append(
                {
                    "temperature": temperature,
                    "guesses": num_guesses,
                    "right": right,
                    "times_as_fast": plain_seconds / seconds,
                }
            )
    return rows


@torch.inference_mode()
def next_tokens(world, frames, actions):
    """The likeliest token at each place of the real episode, (places,)."""
    tokens, labels = world.vq_model.tokenize(frames.float() / 255)
    first, count = world.layout.dynamics_offset, world.layout.num_dynamics_codes
    logits = world.transformer(tokens, actions=world.processor.normalize_actions(actions)).logits
    return logits[:, :-1, first : first + count].argmax(-1)[labels[:, 1:] >= 0]


def weights(world, folder, frames, episode):
    """Seconds per frame and bytes at the released sizes; tokens that stay the same in the trained model."""
    world.save_pretrained(folder)
    kinds = {
        "float32": {},
        "bfloat16": {"dtype": torch.bfloat16},
        "int8": {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())},
        "int8 and bfloat16": {
            "dtype": torch.bfloat16,
            "quantization_config": TorchAoConfig(Int8WeightOnlyConfig()),
        },
    }
    rows, exact = {}, next_tokens(WorldModel.default(), *episode)
    for name, options in kinds.items():
        loaded = WorldModel.from_pretrained(folder, **options)
        trained = WorldModel.from_pretrained("default", **options)
        trained.vq_model.float()
        sizes = (num_bytes(weight) for weight in loaded.transformer.state_dict().values())
        rows[name] = {
            "transformer_mb": sum(sizes) / 2**20,
            "one_user_seconds_per_frame": median_seconds(ours, loaded, frames, USER) / USER.frames,
            "8_candidates_seconds_per_frame": median_seconds(ours, loaded, frames, CANDIDATES) / CANDIDATES.frames,
            "same_tokens": (next_tokens(trained, *episode) == exact).float().mean().item(),
        }
    return rows


def num_bytes(weight):
    """Of a tensor, or of the values and scales that a quantised one is made of."""
    parts = [getattr(weight, name, None) for name in ("qdata", "scale")]
    return sum(part.nbytes for part in parts if part is not None) or weight.nbytes


@torch.inference_mode()
def layouts(world):
    """Seconds of decoding frames of one context, by memory layout and dtype."""
    pixels = torch.rand(1, 2, 3, 64, 64)
    rows = {}
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            vq_model = copy.deepcopy(world.vq_model).to(dtype=dtype, memory_format=layout)
            memory = vq_model.encode_context(pixels).decoder_memory
            codes = torch.zeros(1, DECODED_FRAMES, vq_model.config.layout.tokens_per_future_frame, dtype=torch.int64)
            name = f"{dtype}, {layout}".replace("torch.", "")
            rows[name] = median_seconds(vq_model.decode_future, memory, codes)
    return rows


def compiled(world, frames):
    """Seconds per frame of one user, as it is and compiled."""
    eager = median_seconds(ours, world, frames, USER) / USER.frames
    start = time.perf_counter()
    world.compile("default", shapes=[(1, 1)], sampling=Sampling(greedy=True))
    warm_up = time.perf_counter() - start
    return {
        "eager_seconds_per_frame": eager,
        "compiled_seconds_per_frame": median_seconds(ours, world, frames, USER) / USER.frames,
        "warm_up_seconds": warm_up,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    result = {"machine": describe_cpu()}
    trained, world = WorldModel.default(), build_world()
    video, actions = read_video(EXAMPLE_EPISODE)[None, :12], read_actions(EXAMPLE_EPISODE)[None, 1:11]
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)

    def keep(name, value):
        result[name] = value
        print(name, json.dumps(value, indent=1), flush=True)

    keep("guessing", guessing(trained, video[:, :2], actions))
    keep("vq_decoding_seconds", layouts(world))
    with tempfile.TemporaryDirectory() as folder:
        keep("weights", weights(world, folder, frames, (video, actions)))
    keep("compiled", compiled(world, frames))
    write_results(args.output, result)


if __name__ == "__main__":
    main()
