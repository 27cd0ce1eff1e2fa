"""How long VQ models take to decode frames, and worlds to read a context, against those of the first version.

    python benchmarks/decoding.py --output benchmarks/results/decoding.json

The JSON calls that version 0.1.0. Its embedded model had the same towers, but attention to the context at 32 x 32 as
well, and it did not copy from the context. A model of its sizes with random weights takes as long. The released
models, here that of 64 x 64 pixels, are what they were. There, every map was doubled before it was convolved, and
products of many rows in float32 were columns, to which torch's attention has no fast kernel. The sides take turns.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from writing import describe_cpu, write_results

from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM, IVideoGPTVQConfig, IVideoGPTVQModel, WorldModel
from ivideogpt_hf.decoding import products
from ivideogpt_hf.decoding.frames import prefill
from ivideogpt_hf.models.vq_layers import DoublingConv

ROUNDS, REPEATS = 9, 4
NUM_FRAMES = (1, 8, 32)  # one user's frame, and the frames of many candidates of one context
NUM_CONTEXTS = (1, 8)
RELEASED_SIZES = {"resolution": 64, "block_out_channels": (128, 256, 512), "max_att_resolution": 16}
OLD_SIZES = {
    "resolution": 64,
    "block_out_channels": (16, 48, 96),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 16,
    "num_context_codes": 1024,
    "num_dynamics_codes": 512,
    "max_att_resolution": 32,
    "num_attention_heads": 1,
    "normalize_latents": True,
}

OLD_TRANSFORMER_SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_context_codes": 1024,
    "num_dynamics_codes": 512,
    "repeat_last_context": True,
    "action_dim": 4,
}


class Doubled(nn.Module):
    """The convolution of a map that is doubled first."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return F.conv2d(F.interpolate(x, scale_factor=2), self.conv.weight, self.conv.bias, padding=1)


def as_in_the_first_version(sizes):
    """A model of these sizes that decodes as the first version did."""
    model = IVideoGPTVQModel(IVideoGPTVQConfig(**sizes)).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, DoublingConv):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Doubled(module))
    return model


@torch.inference_mode()
def decoder(vq_model):
    """A function that decodes a number of frames of one context."""
    config = vq_model.config
    frames = torch.rand(1, config.num_context_frames, config.in_channels, *config.frame_size)
    memory = vq_model.encode_context(frames).decoder_memory

    @torch.inference_mode()
    def decode(num_frames):
        codes = torch.zeros(1, num_frames, config.layout.tokens_per_future_frame, dtype=torch.int64)
        return vq_model.decode_future(memory, codes, frames)

    return decode


def milliseconds(decode, num_frames, repeats):
    """Of one frame."""
    start = time.perf_counter()
    for _ in range(repeats):
        decode(num_frames)
    return 1000 * (time.perf_counter() - start) / (repeats * num_frames)


def compare(old, new, repeats):
    """Milliseconds of a frame, and how many times as fast the new model is, by the number of frames at a time."""
    decoders = {"0.1.0": decoder(old), "now": decoder(new)}
    result = {"milliseconds_per_frame": {}, "times_as_fast": {}}
    for num_frames in NUM_FRAMES:
        taken = {name: [] for name in decoders}
        for _ in range(ROUNDS + 1):  # the first one warms up
            for name, decode in decoders.items():
                taken[name].append(milliseconds(decode, num_frames, repeats))
        median = {name: statistics.median(values[1:]) for name, values in taken.items()}
        result["milliseconds_per_frame"][str(num_frames)] = median
        result["times_as_fast"][str(num_frames)] = median["0.1.0"] / median["now"]
        print(f"{num_frames} frames at a time: {median}, {result['times_as_fast'][str(num_frames)]:.2f}", flush=True)
    return result


def kernel_of_the_first_version(_num_rows, weight):
    return "columns" if weight.dtype == torch.float32 else "rows"


@torch.inference_mode()
def milliseconds_per_context(vq_model, transformer, num_contexts, kernel):
    """Of coding contexts, and of reading their tokens."""
    frames = torch.rand(num_contexts, 2, 3, 64, 64)
    usual, products.fastest_kernel = products.fastest_kernel, kernel
    try:
        start = time.perf_counter()
        prefill(transformer, vq_model.prompt_tokens(frames, vq_model.encode_context(frames)))
        return 1000 * (time.perf_counter() - start) / num_contexts
    finally:
        products.fastest_kernel = usual


def compare_contexts(dtype):
    """Milliseconds of a context, and how many times as fast the new model is, by the number of contexts at a time."""
    world = WorldModel.from_pretrained("default", dtype=dtype)
    old_vq_model = as_in_the_first_version(OLD_SIZES | {"repeat_last_context": True}).to(world.vq_model.dtype)
    old_transformer = IVideoGPTForCausalLM(IVideoGPTConfig(**OLD_TRANSFORMER_SIZES)).eval().to(dtype)
    sides = {
        "0.1.0": (old_vq_model, old_transformer, kernel_of_the_first_version),
        "now": (world.vq_model, world.transformer, products.fastest_kernel),
    }
    result = {"milliseconds_per_context": {}, "times_as_fast": {}}
    for count in NUM_CONTEXTS:
        taken = {name: [] for name in sides}
        for _ in range(ROUNDS + 1):  # the first one warms up
            for name, (vq_model, transformer, kernel) in sides.items():
                taken[name].append(milliseconds_per_context(vq_model, transformer, count, kernel))
        median = {name: statistics.median(values[1:]) for name, values in taken.items()}
        result["milliseconds_per_context"][str(count)] = median
        result["times_as_fast"][str(count)] = median["0.1.0"] / median["now"]
        print(f"{count} contexts at a time, {dtype}: {median}", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    released = IVideoGPTVQModel(IVideoGPTVQConfig(**RELEASED_SIZES)).eval()
    result = {
        "machine": describe_cpu(),
        "embedded": compare(as_in_the_first_version(OLD_SIZES), WorldModel.default().vq_model, REPEATS),
        "released": compare(as_in_the_first_version(RELEASED_SIZES), released, 1),
        "contexts": {name: compare_contexts(getattr(torch, name)) for name in ("float32", "bfloat16")},
    }
    write_results(args.output, result)


if __name__ == "__main__":
    main()
