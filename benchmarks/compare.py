"""Two commits: the short benchmarks of both in turn, and ratios of their medians.

    python benchmarks/compare.py main --output compare.json

The base is taken into a temporary worktree, and compared with the files as they are here. In each round both have a
process, base first. Both run the benchmarks of this folder, with the same weights, on the package that PYTHONPATH
names. So a benchmark fails at a base that lacks what it calls, and that is shown in place of a ratio. A ratio above 1
says that the base takes longer. Its spread is that of the rounds' own ratios.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEASURE = "--measure"


# -- the benchmarks: each prepares a function to time. What they need is imported there, since the base may lack it ----


@cache
def released_world():
    """Random weights, and a context."""
    import torch
    from rollout import build_world

    return build_world(), torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)


def importing():
    return lambda: subprocess.run([sys.executable, "-c", "import ivideogpt_hf"], check=True)


def coding():
    world, frames = released_world()
    return lambda: world.reset(frames)


def one_user():
    from rollout import Workload, ours

    return lambda: ours(*released_world(), Workload("one user", 1, 2, "all"))


def candidates():
    from rollout import Workload, ours

    return lambda: ours(*released_world(), Workload("8 candidates", 8, 2))


def frames():
    from decoding import decoder

    decode = decoder(released_world()[0].vq_model)
    return lambda: decode(8)


def update():
    import torch
    from training import PAIRS, Bench

    from ivideogpt_hf import WorldModel

    world = WorldModel.from_pretrained(ROOT / "src" / "ivideogpt_hf" / "embedded" / "default")
    PAIRS["embedded here"] = lambda: (world.vq_model, world.transformer)
    bench = Bench("embedded here", 2, torch.device("cpu"), torch.float32)
    return lambda: bench.step("cached")


BENCHMARKS = {
    "import": importing,
    "coding of a context": coding,
    "one user, 2 frames, decoded": one_user,
    "8 candidates, 2 frames": candidates,
    "decoding of 8 frames": frames,
    "one training update": update,
}


def measure(tree):
    """Print what each takes with the package of a tree, or why it cannot be timed, as JSON."""
    from timing import median_seconds

    found = importlib.util.find_spec("ivideogpt_hf")
    if found is None or not Path(found.origin).is_relative_to(tree):
        raise SystemExit(f"{tree}/src has no package ivideogpt_hf")
    measured = {}
    for name, prepare in BENCHMARKS.items():
        try:
            measured[name] = median_seconds(prepare())
        except Exception as error:  # whatever an older package does instead
            measured[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(measured))


# -- the comparison ---------------------------------------------------------------------------------------------------


def measured_in(tree):
    """What a process measures with the package of a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    command = [sys.executable, __file__, MEASURE, str(tree)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(root, base, num_rounds):
    """Each benchmark's seconds at the base and here, and their ratio; or why there is none."""
    git = ["git", "-C", str(root), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        if subprocess.run([*git, "add", "--detach", "--quiet", str(tree), base]).returncode:
            raise SystemExit(f"{base} is no commit of {root}: name one, such as main or HEAD")
        try:
            rounds = [(measured_in(tree), measured_in(root)) for _ in range(num_rounds)]
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    rows = {}
    for name in BENCHMARKS:
        pairs = [(of_base[name], of_here[name]) for of_base, of_here in rounds]
        failed = {
            side: value
            for pair in pairs
            for side, value in zip(("base", "here"), pair, strict=True)
            if isinstance(value, str)
        }
        if failed:
            rows[name] = {"failed": failed}
            continue
        medians = [statistics.median(values) for values in zip(*pairs, strict=True)]
        ratios = [of_base / of_here for of_base, of_here in pairs]
        rows[name] = {
            "base_seconds": medians[0],
            "seconds": medians[1],
            "ratio": medians[0] / medians[1],
            "spread": [min(ratios), max(ratios)],
        }
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    rows = compare(ROOT, args.base, args.rounds)
    print(f"{'':<30} {'base':>10} {'here':>10} {'ratio':>6} (of the rounds)")
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:<30} " + "; ".join(f"{side}: {error}" for side, error in row["failed"].items()))
        else:
            low, high = row["spread"]
            shown = f"{row['base_seconds']:>8.3f} s {row['seconds']:>8.3f} s"
            print(f"{name:<30} {shown} {row['ratio']:>6.2f} ({low:.2f} to {high:.2f})")
    if args.output is not None:
        from writing import write_results  # which needs the package

        write_results(args.output, {"machine": platform.machine(), "benchmarks": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        measure(sys.argv[2])
    else:
        main()
