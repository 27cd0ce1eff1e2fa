"""What a checkpoint is, and what its frames cost on this device."""

from __future__ import annotations

import time

import torch

from ..cards.facts import facts_of
from ..checkpoints.loading import EXAMPLE_EPISODE
from ..decoding.sampling import Sampling
from ..media.video import read_video
from ..models.resizing import resize_frames
from .world_model import WorldModel

TIMED_FRAMES = 3
# Candidates and guesses of the rollouts that `benchmark` times.
WORKLOADS = ((1, 0), (1, 3), (8, 0), (64, 0))


def describe(world: WorldModel) -> str:
    """A table of the facts, and of the time that a reset and a frame take on the world model's device."""
    reset_seconds, step_seconds = _measure(world)
    lines = facts_of(world.vq_model, world.transformer, world.spec).table | {
        f"reset on {world.device}": f"{reset_seconds:.3f} s",
        f"frame on {world.device}": f"{step_seconds:.3f} s with decoding, one row",
    }
    indent = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{indent}}{value}" for name, value in lines.items())


def benchmark(world: WorldModel) -> str:
    """A table of what rollouts cost on the world model's device, from the frames of the embedded example."""
    spec = world.spec
    num_frames = min(10, spec.max_future_frames)
    context = resize_frames(read_video(EXAMPLE_EPISODE, max_frames=spec.num_context_frames), spec.frame_size)[None]
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
