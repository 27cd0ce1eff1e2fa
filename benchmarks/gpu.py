"""What a GPU does with this package, in at most 8 minutes: for a machine that is borrowed.

    python benchmarks/gpu.py --output gpu.json

It needs a checkout (34 MB), torch with CUDA, and the extra dev. Nothing is downloaded. Each part is a process that is
ended when its time is over, so that one that fails or hangs takes nothing from the others. Results are written as they
come, to the JSON file and, as tables, beside it. A part for which too little time is left is named as left out.
Nobody has run this on a GPU yet.
"""

import argparse
import contextlib
import copy
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import rollout
import torch
import training
from timing import timed
from writing import write_results

from ivideogpt_hf import WorldModel
from ivideogpt_hf.cli.main import main as ivideogpt
from ivideogpt_hf.training.arguments import DataArguments, OptimizationArguments, RunArguments, WorldModelArguments
from ivideogpt_hf.training.train_world_model import train_world_model

MINUTES = 7.5  # half a minute of the 8 is for Python's start
TESTS = Path(__file__).parents[1] / "tests"
BATCH_SIZES = {"default": 64, "released": 16}
TRAINING_ROUNDS = 5
CHECKPOINT = "default"  # the one whose sizes are trained
NUM_EPISODES, EPISODE_FRAMES = 100, 21
TRAINING_SECONDS, TRAINING_BATCH, SPEED_UPDATES = 60, 32, 50


# -- the parts: generators of (name, value) ---------------------------------------------------------------------------


def machine(device):
    """What it is, and how fast it multiplies large matrices."""
    yield "device", device_name(device)
    yield "torch", torch.__version__
    yield "python", platform.python_version()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield "capability", f"{properties.major}.{properties.minor}"
        yield "memory GB", round(properties.total_memory / 1e9, 1)
        yield "CUDA", torch.version.cuda
    for dtype in (torch.float32, torch.bfloat16):
        yield f"TFLOP/s in {name_of(dtype)}", round(training.peak_flops(device, dtype) / 1e12, 2)


def tests(_device):
    """Those that need CUDA. They skip where there is none."""
    files = [str(file) for file in sorted(TESTS.rglob("test_*.py")) if "cuda.is_available()" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "cuda", *files]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    yield "exit status", done.returncode
    yield "summary", done.stdout.strip().splitlines()[-1]


def rollouts(device):
    """The table of `rollout.py`, eager: the second of two runs, of which the first one warms up."""
    worlds, frames = make_worlds(device), make_frames()
    for workload in rollout.WORKLOADS:
        try:
            rollout.compare(worlds, frames, workload)
            yield workload.name, rollout.compare(worlds, frames, workload)
        except SystemExit as error:  # other tokens than the original's algorithm
            yield workload.name, str(error)


def memory(device):
    """Bytes of keys and values, shared and tiled, and at most allocated during ours in bf16, with the weights."""
    world, half = make_worlds(device)
    yield "64 candidates' keys and values, shared and tiled", rollout.cache_bytes(world, make_frames(), 64, 2)
    del world
    for workload in rollout.WORKLOADS if device.type == "cuda" else ():
        torch.cuda.reset_peak_memory_stats(device)
        rollout.ours(half, make_frames(), workload)
        yield workload.name, torch.cuda.max_memory_allocated(device)


def training_steps(device):
    """Steps per second of each way of `training.py` in bf16, with the share of the machine's products that it uses."""
    for pair, batch_size in BATCH_SIZES.items():
        bench = training.Bench(pair, batch_size, device, torch.bfloat16)
        for way, seconds in bench.seconds(TRAINING_ROUNDS).items():
            yield (
                f"{pair}, {way}",
                {
                    "clips per step": batch_size,
                    "steps per second": 1 / seconds,
                    "model FLOPs utilisation": bench.utilisation(way, seconds),
                    "peak memory bytes": bench.peak_memory(way) if device.type == "cuda" else None,
                },
            )


def default_training(_device):
    """A minute of training a transformer of the default's sizes from nothing, on 2-D pushing: held-out loss."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        options = {"num-episodes": NUM_EPISODES, "num-frames": EPISODE_FRAMES, "test-fraction": 0.2, "seed": 0}
        options |= {"noise": 0.5, "noise-fraction": 0.8}
        options["size"] = WorldModel.from_pretrained(CHECKPOINT).spec.frame_size[0]
        started = time.perf_counter()
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        if ivideogpt(["collect", "push2d", data, *words]):
            raise RuntimeError("the data were not collected")
        yield "seconds of collecting", time.perf_counter() - started
        before, _ = train(data, f"{folder}/before", 1)  # at a fiftieth of the rate
        yield "held-out loss after 1 update", before
        _, speed = train(data, f"{folder}/speed", SPEED_UPDATES)
        yield "clips per second", speed
        num_updates = max(1, int(TRAINING_SECONDS * speed / TRAINING_BATCH))
        after, _ = train(data, f"{folder}/run", num_updates)
        yield f"held-out loss after {num_updates} updates", after


def compiled(device):
    """Ours in bf16 once more, compiled, on a GPU as CUDA graphs. The first call compiles."""
    _, eager = make_worlds(device)
    world = WorldModel(eager.vq_model, eager.transformer).compile("reduce-overhead")
    for workload in rollout.WORKLOADS:
        first, _ = timed(rollout.ours, world, make_frames(), workload)
        seconds, tokens = timed(rollout.ours, world, make_frames(), workload)
        expected = rollout.ours(eager, make_frames(), workload)
        same = (tokens == expected).float().mean().item()
        yield workload.name, {"seconds": seconds, "seconds of the first call": first, "same tokens as eager": same}


# Seconds that each may take, in the order in which they run: what takes long, and may not fit, is last.
PARTS = {
    machine: 20,
    tests: 40,
    rollouts: 90,
    memory: 30,
    training_steps: 70,
    default_training: 110,
    compiled: 150,
}


# -- what they share --------------------------------------------------------------------------------------------------


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def make_frames():
    return torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_worlds(device):
    """Released sizes, in float32 and in bf16."""
    world = rollout.build_world().to(device)
    return world, WorldModel(*map(copy.deepcopy, (world.vq_model, world.transformer))).to(dtype=torch.bfloat16)


def train(data, output, num_updates):
    """The held-out loss after some updates, and clips per second. Accelerate takes the GPU where there is one."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    config = WorldModel.from_pretrained(CHECKPOINT).transformer.config
    train_world_model(
        RunArguments(
            output_dir=output,
            num_updates=num_updates,
            log_every=min(num_updates, 10),
            validate_every=num_updates,
            mixed_precision="bf16",
        ),
        DataArguments(data=data, augmentation="none"),
        OptimizationArguments(batch_size=TRAINING_BATCH, learning_rate=6e-4, warmup_updates=50),
        WorldModelArguments(
            vq_model=CHECKPOINT, transformer_config={size: getattr(config, size) for size in sizes}, actions=True
        ),
    )
    entries = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    loss = next(entry["validation/loss"] for entry in entries if "validation/loss" in entry)
    return loss, max(entry["clips_per_second"] for entry in entries if "clips_per_second" in entry)


# -- running them -----------------------------------------------------------------------------------------------------


def run_part(part, device):
    """In a process of its own: a line of JSON for each result on standard output, which nothing else is written to."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(**entry):
        print(json.dumps(entry), file=output, flush=True)

    try:
        for name, value in part(device):
            tell(name=name, value=value)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        tell(failed=f"{type(error).__name__}: {error}")
    else:
        tell(done=True)


def start_part(part, device, seconds, keep):
    """Run a part; how it ended. Each result is given to ``keep`` as it comes."""
    command = [sys.executable, __file__, "--device", str(device), "--part", part.__name__]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    is_late = threading.Event()

    def stop():
        is_late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    end = None
    for line in process.stdout:
        entry = json.loads(line)
        if "name" in entry:
            keep(entry["name"], entry["value"])
        else:
            end = "done" if "done" in entry else f"failed: {entry['failed']}"
    process.wait()
    timer.cancel()
    return end or (f"stopped after {seconds:.0f} s" if is_late.is_set() else f"ended with status {process.returncode}")


def run_parts(parts, device, seconds, write):
    """Run parts one after the other; ``write`` gets all results whenever there are new ones."""
    stop = time.monotonic() + seconds
    results = {part.__name__: {"end": "not begun", "results": {}} for part in parts}
    for part, budget in parts.items():
        entry, left = results[part.__name__], stop - time.monotonic()
        if left < budget:
            entry["end"] = f"left out: {left:.0f} s were left, and it may take {budget}"
        else:

            def keep(name, value, entry=entry):
                entry["results"][name] = value
                write(results)

            entry["end"] = "running"
            started = time.monotonic()
            entry["end"] = start_part(part, device, budget, keep)
            entry["seconds"] = round(time.monotonic() - started, 1)
        print(f"{part.__name__}: {entry['end']}", flush=True)
        write(results)


def page(results):
    """The results as tables of Markdown."""
    lines = ["# A run on a GPU", ""]
    for name, part in results.items():
        took = f", {part['seconds']} s" if "seconds" in part else ""
        lines += [f"## {name}", "", f"{part['end']}{took}.", ""]
        rows = {row: flat(value) for row, value in part["results"].items()}
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if rows:
            lines += ["| | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
            lines += [
                f"| {row} | " + " | ".join(shown(values.get(column, "")) for column in columns) + " |"
                for row, values in rows.items()
            ]
            lines.append("")
    return "\n".join(lines)


def flat(value, prefix=""):
    """A table's row: figures by the names of their columns."""
    if not isinstance(value, dict):
        return {prefix or "value": value}
    cells = {}
    for name, inner in value.items():
        cells |= flat(inner, f"{prefix} {name}".strip())
    return cells


def shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json to write; the page is written beside it, as .md")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--part", choices=[part.__name__ for part in PARTS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        run_part(next(part for part in PARTS if part.__name__ == args.part), args.device)
        return
    if args.device.type == "cuda" and not torch.backends.cuda.is_built():
        parser.error(f"torch {torch.__version__} was built without CUDA; install a build with it, or try --device cpu")

    def write(results):
        if args.output is not None:
            write_results(args.output, {"parts": results})
            args.output.with_suffix(".md").write_text(page(results), encoding="utf-8")

    run_parts(PARTS, args.device, 60 * MINUTES, write)


if __name__ == "__main__":
    main()
