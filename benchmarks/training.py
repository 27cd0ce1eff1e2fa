"""Training steps per second: ours, with tokens cached and made on the fly, against the original's way, in one run.

The original codes every clip again at every step, in float32 outside mixed precision, repeats context features for
each future frame, projects them to keys and values again for each, keeps the attention weights that nobody reads, and
computes logits at the context's positions, which carry no loss. Both sides use the same modules, weights and clips, and
the losses are checked to agree before anything is timed. Sizes: the released ones, and those of the embedded default.

    python benchmarks/training.py --output benchmarks/results/training.json
    python benchmarks/training.py --device cuda --dtype bfloat16 --batch 16
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import cache, cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import median_seconds
from torch.utils.flop_counter import FlopCounterMode
from writing import write_results

from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM, IVideoGPTVQConfig, IVideoGPTVQModel, WorldModel
from ivideogpt_hf.models.modeling_ivideogpt_vq import IGNORED_LABEL

NUM_FUTURE = 14
PRODUCT_SIZE = {"cuda": 8192, "cpu": 2048}  # of the square matrices whose product says what a machine can do


def released_pair():
    """114 M and 138 M parameters, random weights."""
    vq_model = IVideoGPTVQModel(IVideoGPTVQConfig(resolution=64, max_att_resolution=16))
    return vq_model, IVideoGPTForCausalLM(IVideoGPTConfig(action_dim=4, predict_reward=True))


def default_pair():
    """The embedded checkpoint."""
    world = WorldModel.default()
    return world.vq_model, world.transformer


PAIRS = {"default": default_pair, "released": released_pair}
WAYS = ("original", "on the fly", "cached")


# -- the original's way -----------------------------------------------------------------------------------------------


def attend_with_weights(block, x, context):
    """Cross-attention as `nn.MultiheadAttention` does it with need_weights=True: maps (N, channels, h, w) of future
    frames, to context maps (N, C, channels, h, w) that were repeated for each of them."""
    memory = block.remember(context)
    attention, channels = block.att, x.shape[1]
    queries = block.q_norm(x).flatten(2).transpose(1, 2) + block.q_pos_emb
    query = attention._heads(F.linear(queries, attention.in_proj_weight[:channels], attention.in_proj_bias[:channels]))
    weights = (query @ memory.key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    weights.mean(1)  # what is returned, and thrown away
    attended = attention.out_proj((weights @ memory.value).transpose(1, 2).flatten(2))
    return F.silu(x + attended.transpose(1, 2).unflatten(2, x.shape[2:]))


@torch.no_grad()
def original_tokens(vq_model, frames):
    """The tokens of clips (B, T, 3, H, W), the original's way."""
    num_context = vq_model.config.num_context_frames
    context, future = frames[:, :num_context], frames[:, num_context - vq_model.config.repeat_last_context :]
    latents, features = vq_model.encoder(context.flatten(0, 1))
    codes = vq_model.quantize(vq_model.quant_conv(latents).movedim(1, -1)).codes
    vq_model.decoder(vq_model.post_quant_conv(vq_model.quantize.lookup(codes).movedim(-1, 1)))
    num_future = future.shape[1]
    repeated = [f.unflatten(0, (len(frames), -1)).repeat_interleave(num_future, 0) for f in features]
    tower = vq_model.cond_encoder
    x = tower.conv_in(future.flatten(0, 1))
    for stage, block in enumerate(tower.down_blocks):
        x = block(x)
        if stage in tower.attention_after:
            x = attend_with_weights(tower.cross_att_blocks[tower.attention_after[stage]], x, repeated[stage])
    x = tower.conv_out(F.silu(tower.conv_norm_out(tower.mid_block(x))))
    size, (rows, columns) = vq_model.config.patch_size, vq_model.config.dynamics_grid
    patches = x.unflatten(3, (columns, size)).unflatten(2, (rows, size)).permute(0, 2, 4, 3, 5, 1)
    vectors = vq_model.quant_linear(patches.flatten(3).flatten(1, 2))
    layout = vq_model.config.layout
    dynamics = vq_model.dynamics_quantize(vectors.unflatten(0, (len(frames), num_future))).codes
    blocks = F.pad(dynamics + layout.dynamics_offset, (1, 0), value=layout.slot_id)
    codes = codes.flatten(1).unflatten(0, (len(frames), num_context))
    separated = F.pad(codes, (0, 1), value=layout.context_separator_id)
    return torch.cat([separated.flatten(1)[:, :-1], blocks.flatten(1)], dim=1)


def original_loss(pair, frames, actions, autocast):
    vq_model, transformer = pair
    tokens = original_tokens(vq_model, frames)
    labels = tokens.clone()
    labels[:, : transformer.config.layout.prompt_length + 1] = IGNORED_LABEL
    with autocast:
        return transformer(tokens, actions=actions, labels=labels, use_cache=False).loss


# -- ours -------------------------------------------------------------------------------------------------------------


def our_loss(pair, frames, actions, tokens, autocast):
    vq_model, transformer = pair
    with autocast:
        if tokens is None:
            tokens, _ = vq_model.tokenize(frames)
        num_predicted = tokens.shape[1] - transformer.config.layout.prompt_length
        labels = tokens[:, -num_predicted:].clone()
        labels[:, 0] = IGNORED_LABEL
        output = transformer(tokens, actions=actions, labels=labels, logits_to_keep=num_predicted, use_cache=False)
        return output.loss


# -- timing -----------------------------------------------------------------------------------------------------------


@cache
def peak_flops(device, dtype):
    """Floating-point operations per second of a large product of matrices."""
    size = PRODUCT_SIZE[device.type]
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / median_seconds(torch.mm, left, right, num_rounds=10)


class Bench:
    """A pair on a device with a batch of random clips, and a training step for each way."""

    def __init__(self, pair, batch_size, device, dtype):
        torch.manual_seed(0)
        self.pair = tuple(part.to(device) for part in PAIRS[pair]())
        vq_model, transformer = self.pair
        vq_model.eval().requires_grad_(requires_grad=False)
        transformer.train()
        self.device, self.dtype, self.batch_size = device, dtype, batch_size
        layout, size = transformer.config.layout, vq_model.config.frame_size
        num_future = min(NUM_FUTURE, layout.max_future_frames(transformer.config.max_position_embeddings))
        self.length = layout.sequence_length(num_future)
        self.frames = torch.rand(batch_size, layout.num_context_frames + num_future, 3, *size, device=device)
        self.actions = torch.rand(batch_size, num_future, transformer.config.action_dim, device=device)
        self.optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4, fused=True)

    @cached_property
    def cached(self):
        """(B, L) tokens of the clips."""
        return self.pair[0].tokenize(self.frames)[0]

    def loss(self, way):
        """Loss of the batch."""
        autocast = nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)
        if way == "original":
            return original_loss(self.pair, self.frames, self.actions, autocast)
        return our_loss(self.pair, self.frames, self.actions, self.cached if way == "cached" else None, autocast)

    def step(self, way):
        """One update."""
        self.loss(way).backward()
        torch.nn.utils.clip_grad_norm_(self.pair[1].parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flops(self, way):
        """Floating-point operations of a step's products. On a CPU, the counter knows no attention."""
        self.loss(way)  # the first time, it makes the tokens that are cached
        with FlopCounterMode(display=False) as counter:
            self.loss(way).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def utilisation(self, way, seconds):
        """Share of the machine's products that a step's work would take, which is that of our way, also for the
        original's."""
        flops = self.flops("on the fly" if way == "original" else way)
        return flops / seconds / peak_flops(self.device, self.dtype)

    def seconds(self, num_rounds):
        """Median seconds of a step for each way, taken in turn, so that noise falls on all alike."""
        seconds = {way: [] for way in WAYS}
        for round_number in range(num_rounds + 1):
            for way in WAYS:
                self._synchronize()
                started = time.perf_counter()
                self.step(way)
                self._synchronize()
                if round_number:  # the first is the warm-up
                    seconds[way].append(time.perf_counter() - started)
        return {way: statistics.median(values) for way, values in seconds.items()}

    def peak_memory(self, way):
        """Bytes that CUDA's allocator held at most during a step."""
        torch.cuda.reset_peak_memory_stats(self.device)
        self.step(way)
        return torch.cuda.max_memory_allocated(self.device)

    def _synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def memory_in_fresh_process(pair, way, batch_size):
    """Peak resident bytes of a process that takes two steps in one way, on the CPU."""
    argv = [sys.executable, __file__, "--memory-of", pair, way, str(batch_size)]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def run(pair, batch_size, device, dtype, num_rounds):
    """Time all ways of one pair; returns what is reported."""
    bench = Bench(pair, batch_size, device, dtype)
    transformer = bench.pair[1]
    if dtype == torch.float32:
        transformer.eval()
        losses = [bench.loss(way).item() for way in WAYS]
        assert max(losses) - min(losses) < 1e-3, losses
        transformer.train()
    seconds = bench.seconds(num_rounds)
    result = {"batch_size": batch_size, "tokens_per_clip": bench.length, "ways": {}}
    for way in WAYS:
        cuda = device.type == "cuda"
        memory = bench.peak_memory(way) if cuda else memory_in_fresh_process(pair, way, batch_size)
        entry = {
            "steps_per_second": round(1 / seconds[way], 4),
            "times_the_original": round(seconds["original"] / seconds[way], 2),
            "peak_memory_gb": round(memory / 1e9, 2),
        }
        if cuda:
            entry["model_flops_utilisation"] = round(bench.utilisation(way, seconds[way]), 3)
        result["ways"][way] = entry
        print(f"{pair:10s} batch {batch_size:3d}  {way:10s} {entry}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=2, help="clips per step of the released sizes")
    parser.add_argument("--default-batch", type=int, default=2, help="clips per step of the default's sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        pair, way, batch_size = args.memory_of
        bench = Bench(pair, int(batch_size), torch.device("cpu"), torch.float32)
        if way == "cached":  # tokens are read from a file then, and no VQ model runs
            bench.cached = torch.zeros(bench.batch_size, bench.length, dtype=torch.int64)
        for _ in range(2):
            bench.step(way)
        # Not getrusage: what it tells of a process begins with what the process that started it had.
        print(1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
        return
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    results = {
        "default": run("default", args.default_batch, device, dtype, args.rounds),
        "released": run("released", args.batch, device, dtype, args.rounds),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    machine = {"device": name, "dtype": args.dtype, "threads": torch.get_num_threads(), "torch": torch.__version__}
    arguments = {k: str(v) for k, v in vars(args).items()}
    report = {"arguments": arguments, "machine": machine, "results": results}
    write_results(args.output, report)


if __name__ == "__main__":
    main()
