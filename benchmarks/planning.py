"""Plans: one round of costs for a planner, by `RolloutCost` and by the original's algorithm, in one run.

The original tiles the context for each candidate, calls the model anew over the whole sequence for every frame, and
decodes every frame with context features that are repeated and projected anew. Same checkpoint, same candidates, greedy
tokens, which are checked to be the same; the cost is the squared error of all frames to a goal image. The original runs
in float32, as it was published, and ours in float32 and in bf16, whose tokens are not all the same.

    python benchmarks/planning.py --output benchmarks/results/planning.json
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from timing import timed
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, RolloutCost, Sampling, WorldModel, read_video
from ivideogpt_hf.planning.objectives import PixelError, RewardSum

HORIZON = 10
CANDIDATES = (64, 200)
GREEDY = Sampling(greedy=True)


@torch.inference_mode()
def original(world, frames, actions, goal, num_frames):
    """Costs (N,) of candidates (N, H, A), and tokens (N, num_frames, n)."""
    layout, vq_model, transformer = world.layout, world.vq_model, world.transformer
    pixels = (frames.float() / 255).to(world.device)
    num_candidates = len(actions)
    tokens, _ = vq_model.tokenize(pixels.repeat(num_candidates, 1, 1, 1, 1))
    context = vq_model.encode_context(pixels)
    vectors = vq_model.quantize.lookup(context.tokens[0]).unflatten(1, vq_model.config.context_grid).movedim(-1, 1)
    _, kept = vq_model.decoder(vq_model.post_quant_conv(vectors))
    actions = world.processor.normalize_actions(actions).to(world.device)
    codes = slice(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)
    # Of a token that goes on with a frame, only a model whose layers the action modulates takes its frame's action.
    takes_action = transformer.config.action_conditioning == "scale_shift"
    costs, generated = torch.zeros(num_candidates), []
    for step in range(num_frames):
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=layout.slot_id)
        output = transformer(tokens, actions=actions[:, : step + 1], use_cache=True, logits_to_keep=1)
        frame = []
        for _ in range(layout.tokens_per_future_frame):
            frame.append(output.logits[:, -1, codes].argmax(-1) + layout.dynamics_offset)
            if len(frame) < layout.tokens_per_future_frame:
                output = transformer(
                    frame[-1][:, None],
                    actions=actions[:, step : step + takes_action],
                    past_key_values=output.past_key_values,
                    use_cache=True,
                    logits_to_keep=1,
                )
        generated.append(torch.stack(frame, dim=1))
        tokens = torch.cat([tokens, generated[-1]], dim=1)
        repeated = [feature[None].repeat_interleave(num_candidates, 0) for feature in kept]
        memory = vq_model.cond_decoder.remember(repeated)
        dynamics = (generated[-1] - layout.dynamics_offset)[:, None]
        decoded = vq_model.decode_future(memory, dynamics, pixels.expand(num_candidates, -1, -1, -1, -1))
        costs += (decoded[:, 0].clamp(0, 1) - goal.float() / 255).square().sum((1, 2, 3)).cpu()
    return costs, torch.stack(generated, dim=1)


def ours(world, frames, actions, objective):
    """Costs (1, N), the context's coding included."""
    return RolloutCost(world, world.reset(frames), objective, sampling=GREEDY)(actions[None])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measured-frames", type=int, default=3, help="of the original, whose seconds are then scaled")
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    world = WorldModel.from_pretrained(args.checkpoint).to(args.device)
    half = WorldModel.from_pretrained(args.checkpoint).to(args.device, torch.bfloat16)
    video = read_video(EXAMPLE_EPISODE)
    frames, goal = world.processor.resize_frames(video[:2])[None], world.processor.resize_frames(video[-1:])
    rows = []
    for count in CANDIDATES:
        actions = 2 * torch.rand(count, HORIZON, world.spec.action_dim, generator=torch.Generator().manual_seed(0)) - 1
        measured = args.measured_frames
        part, (_, tokens) = timed(original, world, frames, actions, goal[0], measured)
        baseline = part * HORIZON / measured
        row = {
            "candidates": count,
            "horizon": HORIZON,
            "original_seconds": baseline,
            "original_frames_measured": measured,
        }
        rollout = world.rollout(frames, actions[None], sampling=GREEDY, outputs=("tokens", "statistics"))
        if not rollout.tokens[0, :, :measured].equal(tokens):
            raise SystemExit("the tokens differ")
        objectives = {
            "pixels of all frames": PixelError(goal, "all", "sum"),
            "pixels of the last frame": PixelError(goal),
        }
        if world.spec.has_reward:
            objectives["rewards"] = RewardSum()
        for ours_world in (world, half):
            columns = row.setdefault("ours", {})[str(ours_world.transformer.dtype).removeprefix("torch.")] = {}
            for name, objective in objectives.items():
                taken = min(timed(ours, ours_world, frames, actions, objective)[0] for _ in range(2))
                columns[name] = {"seconds": taken, "plans_per_second": 1 / taken, "ratio": baseline / taken}
            shown = ours_world.rollout(
                frames, actions[None], sampling=GREEDY, outputs=("frames", "statistics")
            ).statistics
            parts = ("prefill", "decode", "vq")
            columns["where the time goes"] = {name: getattr(shown, f"{name}_seconds") for name in parts}
        rows.append(row)
        print(json.dumps(row, indent=1), flush=True)
    machine = {"device": args.device, "cpu": platform.machine(), "threads": torch.get_num_threads()}
    write_results(args.output, {"checkpoint": args.checkpoint, "machine": machine, "plans": rows})


if __name__ == "__main__":
    main()
