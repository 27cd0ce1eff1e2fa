"""Rollouts: `WorldModel` against the original's algorithm, in one run.

The original calls `generate` anew for every frame, over the whole sequence so far, with the context tiled for each
candidate; it decodes a frame from context features that it keeps, but repeats and projects for every frame. Both sides
use the same modules and random weights of the released sizes (138 M + 114 M parameters, 64 x 64 pixels, 2 context
frames); the original's side is float32. Greedy tokens are checked to be the same before anything is timed.

    python benchmarks/rollout.py --output benchmarks/results/rollout.json
    python benchmarks/rollout.py --device cuda --compile --profile
"""

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import timed
from torch.profiler import ProfilerActivity, profile
from transformers import LogitsProcessor, LogitsProcessorList
from writing import describe_cpu, write_results

from ivideogpt_hf import (
    IVideoGPTConfig,
    IVideoGPTForCausalLM,
    IVideoGPTVQConfig,
    IVideoGPTVQModel,
    Sampling,
    WorldModel,
)

GREEDY = Sampling(greedy=True)


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        name: what for.
        candidates, frames: of one context.
        decoded: which frames ours decodes: none, "all" or "last". The original decodes all, if any.
        measured_frames: of the original, where all would take too long; its seconds are then scaled. Its cost per frame
            grows with the sequence, so that this is kind to it.
    """

    name: str
    candidates: int
    frames: int
    decoded: str | None = None
    measured_frames: int | None = None


WORKLOADS = (
    Workload("one user, tokens only", 1, 14),
    Workload("one user, every frame decoded", 1, 14, "all"),
    Workload("8 candidates, tokens only", 8, 10, measured_frames=4),
    Workload("64 candidates, tokens only", 64, 10, measured_frames=1),
    Workload("64 candidates, the last frame decoded", 64, 10, "last", measured_frames=1),
)


def build_world():
    """Released sizes, random weights."""
    torch.manual_seed(0)
    vq_config = IVideoGPTVQConfig(resolution=64, block_out_channels=(128, 256, 512), max_att_resolution=16)
    # Wider than the usual 0.02, so that logits are far enough from ties to compare tokens.
    transformer = IVideoGPTForCausalLM(IVideoGPTConfig(initializer_range=0.05))
    return WorldModel(IVideoGPTVQModel(vq_config).eval(), transformer.eval())


# -- the original's algorithm -----------------------------------------------------------------------------------------


class DynamicsCodesOnly(LogitsProcessor):
    """Lets `generate` choose what `Sampling(restrict_to_codes=True)` chooses from."""

    def __init__(self, layout):
        self.codes = slice(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)

    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, self.codes] = scores[:, self.codes]
        return allowed


@torch.inference_mode()
def original(world, frames, num_candidates, num_frames, decodes):
    """Returns tokens (num_candidates, num_frames, tokens_per_future_frame)."""
    layout, vq_model = world.layout, world.vq_model
    pixels = frames.to(world.device).float() / 255
    tokens, _ = vq_model.tokenize(pixels.repeat(num_candidates, 1, 1, 1, 1))
    processors = LogitsProcessorList([DynamicsCodesOnly(layout)])
    context = vq_model.encode_context(pixels) if decodes else None
    if decodes:
        _, kept = vq_model.decoder(vq_model.post_quant_conv(_vectors(vq_model, context.tokens)))
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
        if decodes:
            codes = tokens[:, None, -layout.tokens_per_future_frame :] - layout.dynamics_offset
            repeated = [feature[None].repeat_interleave(num_candidates, 0) for feature in kept]
            vq_model.decode_future(vq_model.cond_decoder.remember(repeated), codes)
    return tokens[:, layout.prompt_length :].unflatten(1, (num_frames, -1))[:, :, 1:]


def _vectors(vq_model, tokens):
    """Context codes (1, C, n) as a map (C, code_dim, h, w)."""
    return vq_model.quantize.lookup(tokens[0]).unflatten(1, vq_model.config.context_grid).movedim(-1, 1)


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(world, frames, workload):
    """One user is stepped, as somebody who plays would; candidates are rolled out."""
    outputs = ("frames",) if workload.decoded else ()
    if workload.candidates == 1:
        state = world.reset(frames)
        for _ in range(workload.frames):
            _, state = world.step(state, sampling=GREEDY, outputs=outputs)
        return state.tokens
    rollout = world.rollout(
        frames,
        num_frames=workload.frames,
        num_samples=workload.candidates,
        sampling=GREEDY,
        outputs=(*outputs, "tokens"),
        decode_steps=workload.decoded or "all",
    )
    return rollout.tokens[0]


# -- timing -----------------------------------------------------------------------------------------------------------


def compare(worlds, frames, workload):
    """Seconds of the original and of each of ours, in which the first is float32."""
    measured = workload.measured_frames or workload.frames
    seconds, tokens = timed(original, worlds[0], frames, workload.candidates, measured, workload.decoded is not None)
    row = {"workload": workload.name, "original_seconds": seconds * workload.frames / measured, "ours": {}}
    row["original_frames_measured"] = measured
    for world in worlds:
        dtype = str(world.transformer.dtype).removeprefix("torch.")
        our_seconds, our_tokens = timed(ours, world, frames, workload)
        if world is worlds[0] and not our_tokens[:, :measured].equal(tokens):
            raise SystemExit(f"{workload.name}: the tokens differ")
        row["ours"][dtype] = {"seconds": our_seconds, "ratio": row["original_seconds"] / our_seconds}
    return row


def seconds_per_pass(world, frames, num_frames=4):
    """Of one user's frames: seconds per pass, and of multiplying one vector with all the weights that it reads."""
    state = world.reset(frames)

    def step():
        current = state
        for _ in range(num_frames):
            _, current = world.step(current, sampling=GREEDY, outputs=())

    layout, transformer = world.layout, world.transformer
    first = layout.dynamics_offset
    weights = [m.weight for m in transformer.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    weights.append(transformer.lm_head.weight[first : first + layout.num_dynamics_codes])
    vectors = {weight.shape[1]: weight.new_ones(1, weight.shape[1]) for weight in weights}

    @torch.inference_mode()
    def read():
        for weight in weights:
            torch.nn.functional.linear(vectors[weight.shape[1]], weight)

    passes = num_frames * layout.tokens_per_future_frame
    return min(timed(step)[0] for _ in range(3)) / passes, min(timed(read)[0] for _ in range(10))


def cache_bytes(world, frames, num_candidates, num_frames):
    """Keys and values of the transformer: ours, and with the context tiled."""
    state = world.rollout(frames, num_frames=num_frames, num_samples=num_candidates, sampling=GREEDY, outputs=()).state
    prefix = state.contexts.prefix.nbytes
    with state.tail.buffer.reading() as storage:
        tail = storage.nbytes
    return prefix + tail, num_candidates * prefix + tail


def print_profiles(world, frames):
    """Where the time of decoding goes: four frames of one user, and one frame of 64 candidates."""
    for candidates, num_frames in ((1, 4), (64, 1)):
        state = world.reset(frames).fork(candidates)
        world.step(state, sampling=GREEDY, outputs=())  # the first call allocates
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(num_frames):
                _, state = world.step(state, sampling=GREEDY, outputs=())
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=8, max_name_column_width=40)
        print(f"{candidates} candidates, {num_frames} frames\n{table}")


def report(rows, passes, memory):
    print(f"\n{'workload':<40} {'original':>10}", end="")
    names = list(rows[0]["ours"])
    print("".join(f" {name:>10} {'ratio':>6}" for name in names))
    for row in rows:
        print(f"{row['workload']:<40} {row['original_seconds']:>9.1f}s", end="")
        print("".join(f" {row['ours'][name]['seconds']:>9.1f}s {row['ours'][name]['ratio']:>6.1f}" for name in names))
    for name, (ours_, reading) in passes.items():
        print(f"one user, a pass in {name}: {ours_ * 1e3:.1f} ms, {ours_ / reading:.2f} of reading all weights once")
    print(f"cache of 64 candidates: {memory[0] / 2**20:.0f} MB, tiled {memory[1] / 2**20:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json to write")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile our side")
    parser.add_argument("--profile", action="store_true", help="print where the time of decoding goes")
    args = parser.parse_args()
    world = build_world().to(args.device)
    half = WorldModel(*map(copy.deepcopy, (world.vq_model, world.transformer))).to(dtype=torch.bfloat16)
    worlds = (world, half)
    if args.compile:
        for one in worlds:
            one.compile("reduce-overhead", shapes=[(1, w.candidates) for w in WORKLOADS], sampling=GREEDY)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    device = {"device": torch.cuda.get_device_name()} if args.device.startswith("cuda") else {}
    machine = {
        **describe_cpu(),
        **device,
        "compiled": args.compile,
        "tokens_per_frame": world.layout.tokens_per_future_frame,
    }
    print(machine)
    if args.profile:
        print_profiles(world, frames)
    for one in worlds:
        ours(one, frames, Workload("", 1, 1, "all"))  # the first call allocates
    original(world, frames, 1, 1, decodes=True)
    rows = []
    for workload in WORKLOADS:
        rows.append(compare(worlds, frames, workload))
        print(json.dumps(rows[-1]), flush=True)
    passes = {str(one.transformer.dtype).removeprefix("torch."): seconds_per_pass(one, frames) for one in worlds}
    memory = cache_bytes(world, frames, 64, 2)
    report(rows, passes, memory)
    content = {"machine": machine, "workloads": rows, "seconds_per_pass_and_read": passes, "cache_bytes": memory}
    write_results(args.output, content)


if __name__ == "__main__":
    main()
