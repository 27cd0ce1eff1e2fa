"""What a checkpoint is, and what a frame costs on this device."""

from __future__ import annotations

import time

import torch

from .checkpoints import EXAMPLE_EPISODE
from .media import read_video
from .models.resizing import resize_frames
from .passes import compute_dtype
from .sampling import Sampling
from .world_model import WorldModel

TIMED_FRAMES = 3
# Candidates and guesses of the rollouts that `benchmark` times.
WORKLOADS = ((1, 0), (1, 3), (8, 0), (64, 0))


def describe(world: WorldModel) -> str:
    """A table of sizes, layout, and measured memory and time per frame on the world model's device."""
    spec, layout, config = world.spec, world.layout, world.transformer.config
    height, width = spec.frame_size
    rows, columns = world.vq_model.config.context_grid
    dynamics_rows, dynamics_columns = world.vq_model.config.dynamics_grid
    element = compute_dtype(world.transformer).itemsize
    bytes_per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * element
    reset_seconds, step_seconds = _measure(world)
    lines = {
        "frames": f"{height} x {width} pixels",
        "context": f"{spec.num_context_frames} frames" + (", the first is the goal" if spec.goal_conditioned else ""),
        "actions": f"{spec.action_dim} wide" if spec.action_dim else "none (action-free)",
        "reward head": "yes" if spec.has_reward else "no",
        "tokens per context frame": f"{layout.tokens_per_context_frame} ({rows} x {columns})",
        "tokens per future frame": f"{layout.tokens_per_future_frame} ({dynamics_rows} x {dynamics_columns})",
        "vocabulary": f"{layout.vocab_size} = {layout.num_context_codes} context + {layout.num_dynamics_codes} "
        f"dynamics codes + 2",
        "future frames": f"up to {spec.max_future_frames}, then re-anchored"
        + ("" if spec.num_trained_frames is None else f" (trained on {spec.num_trained_frames})"),
        "VQ model": f"{_count(world.vq_model):,} parameters",
        "transformer": f"{_count(world.transformer):,} parameters, {config.num_hidden_layers} layers, "
        f"{config.hidden_size} wide, {config.num_attention_heads} heads",
        "weights": f"{_megabytes(world.vq_model) + _megabytes(world.transformer):.1f} MB as "
        f"{str(world.transformer.dtype).removeprefix('torch.')}",
        "cache per context": f"{bytes_per_position * (layout.prompt_length - 1) / 2**20:.1f} MB",
        "cache per frame and candidate": f"{bytes_per_position * layout.block_length / 2**20:.2f} MB",
        f"reset on {world.device}": f"{reset_seconds:.3f} s",
        f"frame on {world.device}": f"{step_seconds:.3f} s with decoding, one row",
    }
    indent = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{indent}}{value}" for name, value in lines.items())


def benchmark(world: WorldModel) -> str:
    """A table of what rollouts cost on the world model's device, from the frames of the embedded example."""
    spec = world.spec
    num_frames = min(10, spec.max_future_frames)
    context = resize_frames(read_video(EXAMPLE_EPISODE)[: spec.num_context_frames], spec.frame_size)[None]
    columns = ("candidates", "guesses", "right", "frames/s", "tokens/s", "prefill s", "decode s", "VQ s", "cache MB")
    lines = ["  ".join(columns)]
    for num_candidates, num_guesses in WORKLOADS:
        actions = torch.zeros(1, num_frames, spec.action_dim) if spec.action_dim else None
        for _ in range(2):  # the first one warms up
            measured = world.rollout(
                context,
                actions,
                num_frames=num_frames,
                num_samples=num_candidates,
                sampling=Sampling(seed=0, num_guesses=num_guesses),
                outputs=("frames", "rewards", "statistics"),
            ).statistics
        values = (
            *(f"{num_candidates}", f"{num_guesses}"),
            "-" if measured.acceptance is None else f"{measured.acceptance:.0%}",
            *(f"{rate:.1f}" for rate in (measured.frames_per_second, measured.tokens_per_second)),
            *(f"{part:.3f}" for part in (measured.prefill_seconds, measured.decode_seconds, measured.vq_seconds)),
            f"{measured.cache_bytes / 2**20:.1f}",
        )
        lines.append("  ".join(f"{value:>{len(name)}}" for name, value in zip(columns, values, strict=True)))
    return "\n".join([f"{num_frames} frames from one context, {world.device}, {world.transformer.dtype}:", *lines])


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _megabytes(network: torch.nn.Module) -> float:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters()) / 2**20


def _measure(world: WorldModel) -> tuple[float, float]:
    """Seconds for one reset and for one decoded step, after a first one that warms up."""
    spec = world.spec
    frames = torch.zeros(1, spec.num_context_frames, 3, *spec.frame_size, dtype=torch.uint8)
    action = torch.zeros(1, spec.action_dim) if spec.action_dim else None
    sampling = Sampling(greedy=True)
    world.step(world.reset(frames), action, sampling=sampling)
    start = _now(world.device)
    state = world.reset(frames)
    after_reset = _now(world.device)
    num_frames = min(TIMED_FRAMES, spec.max_future_frames)
    for _ in range(num_frames):
        _, state = world.step(state, action, sampling=sampling)
    return after_reset - start, (_now(world.device) - after_reset) / num_frames


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
