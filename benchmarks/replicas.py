"""Replicas on one machine: their speed beside one process, and a replica that is killed under load.

    python benchmarks/replicas.py --output benchmarks/results/replicas.json

Many sessions step at once, on `ivideogpt serve`, and on `ivideogpt serve --replicas 2`, in rounds that take turns. Each
model computes with one thread. Then a replica gets SIGKILL while all sessions step. A session whose state was
not saved yet begins again; all others go on. Every token is compared with what the world alone predicts. The sizes are
those of the planning page: what a session keeps, and what a step sends.
"""

import argparse
import json
import os
import platform
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import httpx
import torch
from served import HEALTH, URL, serving, step_in_sessions, wait_for
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, RemoteWorldModel, Sampling, WorldModel, read_video
from ivideogpt_hf.serving.client import LostSessionError

REPLICAS, THREADS = 2, "1"
OUTPUTS = ("rewards",)
RETRY_SECONDS = 0.5


def replicas():
    """What the server says of its replicas; an empty list where it has none, None where it does not answer."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(HEALTH)
        return answer.json().get("replicas", []) if answer.is_success else None


def actors_of(process):
    """Process ids of a server's replicas."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()

    def is_below(pid):
        return pid == process or (pid in parents and is_below(parents[pid]))

    return [pid for pid, name in names.items() if name.startswith(b"ray::Replica") and is_below(pid)]


def live(seed, num_steps, frames, wanted, counts):
    """Steps of one session, over what a kill interrupts."""
    client, done = RemoteWorldModel(URL), 0
    while done < num_steps:
        try:
            if done == 0:
                state = client.reset(frames)
            action = actions_of(seed, num_steps, client.spec)[done]
            step, state = client.step(state, action, sampling=Sampling(seed=seed), outputs=OUTPUTS)
            counts["wrong"] += int(not step.tokens.equal(wanted[seed][done]))
            counts["steps"] += 1
            done += 1
        except LostSessionError:
            counts["sessions begun again"] += 1
            done = 0
        except OSError:  # 503, or the connection broke
            counts["calls sent again"] += 1
            time.sleep(RETRY_SECONDS)


def actions_of(seed, num_steps, spec):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(num_steps, 1, spec.action_dim, generator=generator) - 1


def killed_under_load(world, frames, sessions, num_steps, process):
    """What becomes of sessions when one of two replicas is killed."""
    wanted = {}
    for seed in range(sessions):
        state, wanted[seed] = world.reset(frames), []
        for action in actions_of(seed, num_steps, world.spec):
            step, state = world.step(state, action, sampling=Sampling(seed=seed), outputs=OUTPUTS)
            wanted[seed].append(step.tokens)
    counts = {"steps": 0, "wrong": 0, "calls sent again": 0, "sessions begun again": 0}
    threads = [
        threading.Thread(target=live, args=(seed, num_steps, frames, wanted, counts)) for seed in range(sessions)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: counts["steps"] >= sessions * num_steps // 4)
    os.kill(actors_of(process)[0], signal.SIGKILL)
    start = time.perf_counter()
    wait_for(lambda: "starting" in (replicas() or []))
    noticed = time.perf_counter() - start
    wait_for(lambda: replicas() == ["ok"] * REPLICAS)
    replaced = time.perf_counter() - start
    for thread in threads:
        thread.join()
    return counts | {"sessions": sessions, "seconds_to_notice": noticed, "seconds_to_replace": replaced}


def sizes(world, frames):
    """Bytes of a session with one world, and of a step's request and answer."""
    state = world.reset(frames)
    context = state.num_bytes
    per_position = state.contexts.prefix.nbytes // state.contexts.prefix.shape[-2]
    with RemoteWorldModel(URL) as client:
        number = client.reset(frames).number
        asked = {"state": number, "actions": actions_of(0, 1, world.spec)[0].tolist()}
        sent = {
            name: client._http.post(f"/v1/sessions/{client._session}/step", json=asked | {"outputs": outputs})
            for name, outputs in (("rewards", ["rewards"]), ("frames", ["frames", "rewards"]))
        }
    return {
        "context_bytes": context,
        "frame_bytes": per_position * (state.tokens.shape[2] + 1),
        "request_bytes": len(sent["rewards"].request.content),
        "answer_bytes": {name: len(answer.content) for name, answer in sent.items()},
        "tokens_per_frame": state.tokens.shape[2],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="of each session")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    world = WorldModel.default()
    frames = world.spec.resize_frames(read_video(EXAMPLE_EPISODE)[: world.spec.num_context_frames])[None]
    rows = {"one process": [], "two replicas": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for name, options in (
                ("one process", []),
                ("two replicas", ["--replicas", str(REPLICAS), "--state-dir", f"{folder}/{number}"]),
            ):
                with serving(*options, OMP_NUM_THREADS=THREADS) as process:
                    step_in_sessions(args.sessions, 1, frames, OUTPUTS)  # warms up
                    row, tokens = step_in_sessions(args.sessions, args.steps, frames, OUTPUTS)
                    rows[name].append(row | {"load_average": os.getloadavg()[0]})
                    print(json.dumps({name: row}), flush=True)
                    if not number and not options:
                        size, expected = sizes(world, frames), tokens
                    if any(not tokens[seed].equal(expected[seed]) for seed in expected):
                        raise SystemExit("replicas mix sessions up")
                    if number + 1 == args.rounds and options:
                        killed = killed_under_load(world, frames, args.sessions, args.steps, process)
    speed = {name: median(row["steps_per_second"] for row in own) for name, own in rows.items()}
    result = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "rounds": rows,
        "steps_per_second": speed,
        "ratio": speed["two replicas"] / speed["one process"],
        "killed_replica": killed,
        "sizes": size,
    }
    print(json.dumps(result, indent=2))
    write_results(args.output, result)
    if killed["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
