"""What a trained draft head is worth, against guessing the tokens of the frame before, and against no guesses.

    python benchmarks/drafts.py outputs/draft_head --output benchmarks/results/drafts.json

CHECKPOINT has a draft head (`ivideogpt train --draft-head`). Rollouts of ten frames of the example episode are
measured, with seeds of their own, for one user and for 32 rows. The sides take turns, and draw the same tokens.
"""

import argparse
import statistics
from contextlib import contextmanager
from pathlib import Path

from timing import timed
from writing import describe_cpu, write_results

from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_actions, read_video

ROWS, TEMPERATURES, NUM_GUESSES, ROUNDS = (1, 32), (1.0, 0.5), 3, 5


@contextmanager
def head_used(world, used):
    world.transformer.config.draft_head = used
    try:
        yield
    finally:
        world.transformer.config.draft_head = True


def measure(world, rows, temperature):
    frames = read_video(EXAMPLE_EPISODE)[None, :2].expand(rows, -1, -1, -1, -1)
    actions = read_actions(EXAMPLE_EPISODE)[None, 1:11].expand(rows, -1, -1)
    sides = {"none": (0, False), "the frame before": (NUM_GUESSES, False), "draft head": (NUM_GUESSES, True)}
    seconds, passes = {name: [] for name in sides}, {name: [] for name in sides}
    per_frame = world.layout.tokens_per_future_frame
    for number in range(1 + ROUNDS):  # the first one warms up
        seeds, tokens = [1000 * number + row for row in range(rows)], None
        for name, (num_guesses, used) in sides.items():
            sampling = Sampling(temperature, seed=seeds, num_guesses=num_guesses)
            with head_used(world, used):
                taken, rollout = timed(
                    lambda sampling=sampling: world.rollout(
                        frames, actions, sampling=sampling, outputs=("tokens", "statistics")
                    )
                )
            if tokens is not None and rows == 1 and not rollout.tokens.equal(tokens):
                raise SystemExit("guessing changed the tokens")
            tokens = rollout.tokens
            if number:
                seconds[name].append(taken)
                passes[name].append(per_frame - rollout.statistics.num_right * rows / rollout.statistics.num_frames)
    plain = statistics.median(seconds["none"])
    return {
        "rows": rows,
        "temperature": temperature,
        "passes_per_frame": {name: statistics.mean(values) for name, values in passes.items()},
        "times_as_fast": {name: plain / statistics.median(values) for name, values in seconds.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of a checkpoint with a draft head")
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    world = WorldModel.from_pretrained(args.checkpoint)
    if not world.transformer.config.draft_head:
        raise SystemExit(f"{args.checkpoint} has no draft head: `ivideogpt train --draft-head` adds one")
    result = {
        "machine": describe_cpu(),
        "num_guesses": NUM_GUESSES,
        "rollouts": [measure(world, rows, temperature) for rows in ROWS for temperature in TEMPERATURES],
    }
    for row in result["rollouts"]:
        print(row)
    write_results(args.output, result)


if __name__ == "__main__":
    main()
