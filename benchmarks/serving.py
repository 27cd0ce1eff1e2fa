"""Whether clients of a server wait for one that asks for much: steps of many sessions, alone and beside rollouts.

    python benchmarks/serving.py --output benchmarks/results/serving.json

Each session does one step after the other, first with nobody else, then while another client asks for one rollout of 20
futures of 100 frames after the other. Rounds of both take turns on one server. The tokens must be the same.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from served import URL, serving, step_in_sessions
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video

OUTPUTS = ("frames", "rewards")
# Another process, which is killed in the middle of a call. It says when it begins.
HOG = """
import sys, torch
from ivideogpt_hf import EXAMPLE_EPISODE, RemoteWorldModel, read_video
world = RemoteWorldModel(sys.argv[1], timeout=1000)
state = world.reset(world.spec.resize_frames(read_video(EXAMPLE_EPISODE)[: world.spec.num_context_frames])[None])
print("begun", flush=True)
while True:
    world.rollout(state, torch.zeros(1, 100, world.spec.action_dim), num_samples=20)
"""


@contextmanager
def hog():
    """Large rollouts during the block."""
    process = subprocess.Popen([sys.executable, "-c", HOG, URL], stdout=subprocess.PIPE, env=os.environ)
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of each session, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    world = WorldModel.default()
    frames = world.spec.resize_frames(read_video(EXAMPLE_EPISODE)[: world.spec.num_context_frames])[None]
    alone, beside = [], []
    with serving():
        step_in_sessions(args.sessions, 1, frames, OUTPUTS)  # warms up
        for _ in range(args.rounds):
            row, expected = step_in_sessions(args.sessions, args.steps, frames, OUTPUTS)
            alone.append(row)
            with hog():
                row, tokens = step_in_sessions(args.sessions, args.steps, frames, OUTPUTS)
            beside.append(row)
            print(json.dumps({"alone": alone[-1], "beside rollouts": beside[-1]}), flush=True)
            if any(not tokens[seed].equal(expected[seed]) for seed in expected):
                raise SystemExit("steps have other tokens beside rollouts")
    p95 = {name: median(row["p95_ms"] for row in rows) for name, rows in (("alone", alone), ("beside", beside))}
    result = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "alone": alone,
        "beside_rollouts": beside,
        "p95_ms": p95,
        "p95_ratio": p95["beside"] / p95["alone"],
    }
    print(json.dumps(result, indent=2))
    write_results(args.output, result)


if __name__ == "__main__":
    main()
