"""Agents with imagined experience: where the time of a run goes, and a round of imagination against the original's way.

The run is a short one, in which everything happens as often as the schedule of the preset says. The original calls the
model anew over the whole sequence for every frame, and decodes every frame as it comes. It is given the actions that
our policy chose, so that its own policy costs nothing; greedy tokens are checked to be the same. `--checkpoint none`
measures DrQ-v2 alone.

    python benchmarks/rl.py --environment metaworld/reach-v3 --output benchmarks/results/rl.json
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from writing import write_results

from ivideogpt_hf import Sampling
from ivideogpt_hf.rl.imagination.experience import ImaginedPolicy
from ivideogpt_hf.rl.runs.agent_run import AgentRun
from ivideogpt_hf.rl.runs.entrance import AgentRunSettings

GREEDY = Sampling(greedy=True)
NO_WORLD = "none"
MAX_LOAD = 0.2  # processes of others, from which on seconds of the clock say little


def now():
    """Seconds (2,) of the clock, and of the processor: the second says what a part takes where others run beside it."""
    return np.array([time.perf_counter(), time.process_time()])


class Clocks:
    """Seconds that functions took, by name. Where one is called within another, its time is not the other's."""

    def __init__(self):
        self.seconds, self._running = defaultdict(lambda: np.zeros(2)), []

    def watch(self, owner, method, name):
        """Count the time of a method of an object, or of all objects of a class."""
        function = getattr(owner, method)

        def timed(*args, **options):
            start = now()
            self._running.append(np.zeros(2))
            try:
                return function(*args, **options)
            finally:
                taken = now() - start
                self.seconds[name] += taken - self._running.pop()
                if self._running:
                    self._running[-1] += taken

        setattr(owner, method, timed)


def measure_run(args, folder):
    """A run's seconds, by what they went into, and the run."""
    imagining = {
        "first_step": args.first_step,
        "horizon": args.horizon,
        "num_starts": args.num_starts,
        "warmup_updates": 1,
        "imagine_every": args.imagine_every,
        "dtype": args.dtype,
        "mixed_precision": "bf16" if args.dtype == "bfloat16" else "no",
    }
    settings = AgentRunSettings(
        environment=args.environment,
        output=Path(folder) / "run",
        world_model=args.checkpoint,
        preset="cpu",
        num_steps=args.num_steps,
        max_steps=args.max_steps,
        learning_starts=args.first_step,
        evaluate_every=args.num_steps,
        num_evaluation_episodes=1,
        save_minutes=1e6,
        videos=False,
        device=args.device,
        **({} if args.checkpoint == NO_WORLD else imagining),
    )
    run, clocks = AgentRun(settings), Clocks()
    clocks.watch(run.environment, "step", "environment")
    clocks.watch(run.environment, "reset", "environment")
    clocks.watch(run.environment, "_draw", "rendering")
    # An agent's own attributes are saved with it, so that its class is watched.
    clocks.watch(type(run.agent), "_sample_action", "acting")
    clocks.watch(type(run.agent), "train", "agent updates")
    clocks.watch(run.buffer, "sample", "drawing batches")
    clocks.watch(run, "evaluate", "evaluation")
    if run.learner is not None:
        clocks.watch(run.learner, "update_transformer", "model updates")
        clocks.watch(run.learner, "update_vq_model", "model updates")
        clocks.watch(run.imagined, "imagine", "imagination")
    start = now()
    run.run()
    total = now() - start
    parts = dict(clocks.seconds)
    parts["other"] = total - sum(parts.values())
    rows = {name: {"seconds": float(part[0]), "cpu_seconds": float(part[1])} for name, part in parts.items()}
    row = {"steps": args.num_steps, "steps_with_updates": args.num_steps - args.first_step}
    row |= {"rounds_of_imagination": run.num_imagined // (args.num_starts * args.horizon)}
    return row | {"seconds": float(total[0]), "cpu_seconds": float(total[1]), "parts": rows}, run


@torch.inference_mode()
def original(world, frames, actions, num_frames):
    """Tokens (B, num_frames, n) of rollouts from starts (B, C, 3, H, W) under actions (B, T, A), frames decoded."""
    layout, vq_model, transformer = world.layout, world.vq_model, world.transformer
    pixels = (frames.float() / 255).to(world.device)
    tokens, _ = vq_model.tokenize(pixels)
    context = vq_model.encode_context(pixels)
    actions = world.processor.normalize_actions(actions).to(world.device)
    modulates = transformer.config.action_conditioning == "scale_shift"
    codes = slice(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)
    generated = []
    for step in range(num_frames):
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=layout.slot_id)
        output = transformer(tokens, actions=actions[:, : step + 1], use_cache=True, logits_to_keep=1)
        frame = []
        for position in range(tokens.shape[1], tokens.shape[1] + layout.tokens_per_future_frame):
            acting = layout.acting_frames(position, position + 1) if modulates else ()
            frame.append(output.logits[:, -1, codes].argmax(-1) + layout.dynamics_offset)
            output = transformer(  # the last pass is for the reward
                frame[-1][:, None],
                actions=actions[:, list(acting)],
                past_key_values=output.past_key_values,
                use_cache=True,
                logits_to_keep=1,
            )
        generated.append(torch.stack(frame, dim=1))
        tokens = torch.cat([tokens, generated[-1]], dim=1)
        vq_model.decode_future(context.decoder_memory, (generated[-1] - layout.dynamics_offset)[:, None], pixels)
    return torch.stack(generated, dim=1)


def timed(function, *args):
    """Seconds, and the result."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def measure_imagination(args, run):
    """One round of rollouts of the agent's policy, ours and the original's."""
    world, agent, schedule = run.learner.world, run.agent, run.imagined.schedule
    starts = run.buffer.sample_starts(schedule.num_starts, world.spec.num_context_frames)

    def ours():
        policy = ImaginedPolicy(agent, starts.observations, torch.Generator(agent.device).manual_seed(0))
        return world.rollout(
            starts.context_frames,
            policy,
            num_frames=schedule.horizon,
            sampling=replace(GREEDY, seed=0),
            outputs=("frames", "rewards", "tokens", "statistics"),
            horizon_policy="error",
        )

    seconds, rollout = min((timed(ours) for _ in range(2)), key=lambda pair: pair[0])
    measured = min(args.measured_frames, schedule.horizon)
    part, tokens = timed(original, world, starts.context_frames, rollout.actions, measured)
    if not rollout.tokens[:, :measured].equal(tokens):
        raise SystemExit("the tokens differ")
    baseline = part * schedule.horizon / measured
    statistics = rollout.statistics
    return {
        "starts": schedule.num_starts,
        "horizon": schedule.horizon,
        "seconds": seconds,
        "original_seconds": baseline,
        "original_frames_measured": measured,
        "ratio": baseline / seconds,
        "where the time goes": {
            "contexts in the transformer": statistics.prefill_seconds,
            "tokens": statistics.decode_seconds,
            "coding and decoding of frames": statistics.vq_seconds,
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="metaworld/reach-v3")
    parser.add_argument("--checkpoint", default="default", help="with the actions of the environment, or none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the run's model updates and rollouts; the round of imagination is in float32",
    )
    parser.add_argument("--num-steps", type=int, default=200)
    parser.add_argument("--max-steps", type=int, default=50, help="of an episode")
    parser.add_argument("--first-step", type=int, default=100, help="before anything is learnt")
    parser.add_argument("--imagine-every", type=int, default=100)
    parser.add_argument("--num-starts", type=int, default=32)
    parser.add_argument("--horizon", type=int, default=10)
    parser.add_argument("--measured-frames", type=int, default=3, help="of the original, whose seconds are then scaled")
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        row, run = measure_run(args, folder)
    content = {
        "environment": args.environment,
        "checkpoint": args.checkpoint,
        "dtype": args.dtype,
        "machine": {
            "device": args.device,
            "cpu": platform.machine(),
            "threads": torch.get_num_threads(),
            "processors": os.cpu_count(),
            "load_of_others": load,
            "shared": load > MAX_LOAD,
        },
        "run": row,
    }
    if run.learner is not None:
        content["imagination"] = measure_imagination(args, run)
    print(json.dumps(content, indent=1))
    write_results(args.output, content)


if __name__ == "__main__":
    main()
