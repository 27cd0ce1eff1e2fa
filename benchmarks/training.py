"""Training steps per second: ours, with tokens cached and made on the fly, against the original's way, in one run.

The original codes every clip again at every step, in float32 outside mixed precision, repeats context features for
each future frame, projects them to keys and values again for each, keeps the attention weights that nobody reads, and
computes logits at the context's positions, which carry no loss. Both sides use the same modules, weights and clips, and
the losses are checked to agree before anything is timed. Sizes: the released ones, and those of the embedded default.

    python benchmarks/training.py --output benchmarks/results/training.json
    python benchmarks/training.py --device cuda --dtype bfloat16 --batch 16
"""

import argparse
import json
import platform
import resource
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM, IVideoGPTVQConfig, IVideoGPTVQModel, WorldModel
from ivideogpt_hf.models.modeling_ivideogpt_vq import IGNORED_LABEL, prompt_tokens

NUM_FUTURE = 14
# Of the tensor cores in bf16, dense, by the name that torch gives.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def released_pair():
    """114 M and 138 M parameters, random weights."""
    vq_model = IVideoGPTVQModel(IVideoGPTVQConfig(resolution=64, max_att_resolution=16))
    return vq_model, IVideoGPTForCausalLM(IVideoGPTConfig(action_dim=4, predict_reward=True))


def default_pair():
    """The embedded checkpoint."""
    world = WorldModel.default()
    return world.vq_model, world.transformer


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
    context, future = frames[:, :num_context], frames[:, num_context:]
    latents, features = vq_model.encoder(context.flatten(0, 1))
    codes = vq_model.quantize(vq_model.quant_conv(latents).movedim(1, -1)).codes
    vq_model.decoder(vq_model.post_quant_conv(vq_model.quantize.embedding(codes).movedim(-1, 1)))
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
    prompt = prompt_tokens(vq_model.config, codes.flatten(1).unflatten(1, (num_context, -1)))
    return torch.cat([prompt, blocks.flatten(1)], dim=1)


def original_loss(pair, frames, actions, _tokens, autocast):
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


def peak_memory(device):
    """Bytes: of the device's allocations since the last reset, or of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def time_ways(ways, step, device, num_rounds):
    """Median seconds and peak memory of each way, taken in turn, so that noise falls on all alike."""
    seconds = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0)
    for round_number in range(num_rounds + 1):
        for name, way in ways.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            step(way)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - started)
            memory[name] = max(memory[name], peak_memory(device))
    return {name: statistics.median(values) for name, values in seconds.items()}, memory


def run(name, pair, batch_size, device, dtype, num_rounds):
    torch.manual_seed(0)
    vq_model, transformer = (part.to(device) for part in pair)
    vq_model.eval().requires_grad_(requires_grad=False)
    transformer.train()
    layout = transformer.config.layout
    num_future = min(NUM_FUTURE, layout.max_future_frames(transformer.config.max_position_embeddings))
    frames = torch.rand(
        batch_size, layout.num_context_frames + num_future, 3, *vq_model.config.frame_size, device=device
    )
    actions = torch.rand(batch_size, num_future, transformer.config.action_dim, device=device)
    cached, _ = vq_model.tokenize(frames)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4)

    def autocast():
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)

    ways = {
        "original": lambda: original_loss((vq_model, transformer), frames, actions, None, autocast()),
        "on the fly": lambda: our_loss((vq_model, transformer), frames, actions, None, autocast()),
        "cached": lambda: our_loss((vq_model, transformer), frames, actions, cached, autocast()),
    }
    if dtype == torch.float32:
        transformer.eval()
        losses = {key: way().item() for key, way in ways.items()}
        transformer.train()
        assert max(losses.values()) - min(losses.values()) < 1e-3, losses

    def step(way):
        way().backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds, memory = time_ways(ways, step, device, num_rounds)
    length = layout.sequence_length(num_future)
    result = {"batch_size": batch_size, "tokens_per_clip": length, "ways": {}}
    for way in ways:
        entry = {
            "steps_per_second": round(1 / seconds[way], 4),
            "times_the_original": round(seconds["original"] / seconds[way], 2),
            "peak_memory_gb": round(memory[way] / 1e9, 2),
        }
        if device.type == "cuda":
            peak = next((v for k, v in PEAK_FLOPS.items() if k in torch.cuda.get_device_name(device)), None)
            flops = 6 * transformer.num_parameters() * batch_size * length
            entry["model_flops_utilisation"] = peak and round(flops / seconds[way] / peak, 3)
        result["ways"][way] = entry
        print(f"{name:10s} batch {batch_size:3d}  {way:10s} {entry}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=2, help="clips per step of the released sizes")
    parser.add_argument("--default-batch", type=int, default=8, help="clips per step of the default's sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    results = {
        "default": run("default", default_pair(), args.default_batch, device, dtype, args.rounds),
        "released": run("released", released_pair(), args.batch, device, dtype, args.rounds),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    machine = {"device": name, "dtype": args.dtype, "threads": torch.get_num_threads(), "torch": torch.__version__}
    report = {"command": "python benchmarks/training.py", "arguments": {k: str(v) for k, v in vars(args).items()}}
    report |= {"machine": machine, "results": results}
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
