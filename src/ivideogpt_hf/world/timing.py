"""Facts about a checkpoint, and the time and memory that its frames take on a device."""

from __future__ import annotations

import os
from statistics import median

import torch

from ..cards.facts import facts_of
from ..checkpoints.layout import EXAMPLE_EPISODE
from ..decoding.sampling import Sampling
from ..media.video import read_video
from .clock import now
from .world_model import WorldModel

WARM_UP_ROUNDS, TIMED_ROUNDS, TIMED_FRAMES = 2, 3, 3
# Numbers of candidates and of guesses of the rollouts that `benchmark` times.
WORKLOADS = ((1, 0), (1, 3), (8, 0), (64, 0))


def describe(world: WorldModel) -> str:
    """A table of the facts, and of the time that a reset and a frame take on the world model's device."""
    reset_seconds, step_seconds = _measure(world)
    lines = facts_of(world.vq_model, world.transformer, world.spec).table | {
        f"reset on {world.device}": f"{reset_seconds:.3f} s",
        f"frame on {world.device}": f"{step_seconds:.3f} s with decoding, one row",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors (OMP_NUM_THREADS sets their number)",
    }
    indent = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{indent}}{value}" for name, value in lines.items())


def benchmark(world: WorldModel) -> str:
    """A table of the time and memory that rollouts from the embedded example take, on the world model's device."""
    spec = world.spec
    num_frames = min(10, spec.max_future_frames)
    context = spec.resize_frames(read_video(EXAMPLE_EPISODE, max_frames=spec.num_context_frames))[None]
    lines: list[str] = []
    for num_candidates, num_guesses in WORKLOADS:
        actions = torch.zeros(1, num_frames, spec.action_dim) if spec.action_dim else None
        for _ in range(2):  # the first one warms up
            statistics = world.rollout(
                context,
                actions,
                num_frames=num_frames,
                num_samples=num_candidates,
                sampling=Sampling(seed=0, num_guesses=num_guesses),
                outputs=("frames", "rewards", "statistics"),
            ).statistics
        cells = {
            "candidates": f"{num_candidates}",
            "guesses": f"{num_guesses}",
            "right": "-" if statistics.acceptance is None else f"{statistics.acceptance:.0%}",
            "frames/s": f"{statistics.frames_per_second:.1f}",
            "tokens/s": f"{statistics.tokens_per_second:.1f}",
            "prefill s": f"{statistics.prefill_seconds:.3f}",
            "decode s": f"{statistics.decode_seconds:.3f}",
            "VQ s": f"{statistics.vq_seconds:.3f}",
            "cache MB": f"{statistics.cache_bytes / 2**20:.1f}",
        }
        lines = lines or ["  ".join(cells)]
        lines.append("  ".join(cell.rjust(len(heading)) for heading, cell in cells.items()))
    return "\n".join([f"{num_frames} frames from one context, {world.device}, {world.transformer.dtype}:", *lines])


def _measure(world: WorldModel) -> tuple[float, float]:
    """Seconds for one reset and for one decoded step: medians of some rounds, after others that warm up.

    The first round allocates memory and chooses kernels. A later one may share the machine with another program.
    """
    rounds = [_measure_round(world) for _ in range(WARM_UP_ROUNDS + TIMED_ROUNDS)][WARM_UP_ROUNDS:]
    reset_seconds, step_seconds = zip(*rounds, strict=True)
    return median(reset_seconds), median(step_seconds)


def _measure_round(world: WorldModel) -> tuple[float, float]:
    spec = world.spec
    frames = torch.zeros(1, spec.num_context_frames, 3, *spec.frame_size, dtype=torch.uint8)
    action = torch.zeros(1, spec.action_dim) if spec.action_dim else None
    num_frames = min(TIMED_FRAMES, spec.max_future_frames)
    start = now(world.device)
    state = world.reset(frames)
    after_reset = now(world.device)
    for _ in range(num_frames):
        _, state = world.step(state, action, sampling=Sampling(greedy=True))
    return after_reset - start, (now(world.device) - after_reset) / num_frames
