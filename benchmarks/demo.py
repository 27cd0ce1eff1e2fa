"""What a person and a lab wait for: from a key to the new picture in a browser, and steps of many served sessions.

    python benchmarks/demo.py --output benchmarks/results/demo.json

The browser is headless Chromium on the same machine. Sessions are threads of one client process; with one of them
nothing can be batched.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import torch
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, RemoteWorldModel, Sampling, WorldModel, read_video

PORT = 7899
URL = f"http://127.0.0.1:{PORT}"
SPACE = Path(__file__).parents[1] / "spaces_demo"
PRESSES, HELD_FRAMES = 60, 60
# Seconds from a picture to the next key, evenly spread: people take longer, and press out of step with the screen.
PAUSE = (0.1, 0.15)
SESSIONS = (1, 8, 32)
PLAYED = Sampling(seed=0, num_guesses=3)  # as the playground samples


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def running(*command):
    """A server in a process of its own; its process id."""
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, *command], env=os.environ | quiet, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(URL if "app.py" in command[0] else f"{URL}/health")
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


# A key is pressed and let go at once; the milliseconds until the counter of frames has changed and is painted.
TAP = """key => new Promise(done => {
  const count = document.getElementById('wm-count'), start = performance.now();
  const watch = new MutationObserver(() => {
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - start));
  });
  watch.observe(count, { childList: true });
  for (const kind of ['keydown', 'keyup'])
    document.dispatchEvent(new KeyboardEvent(kind, { key, code: key, bubbles: true }));
})"""
# A key is held; the frames per second from the first new one to the last one.
HOLD = """([key, frames]) => new Promise(done => {
  const count = document.getElementById('wm-count'), last = +count.textContent + frames;
  const press = kind => document.dispatchEvent(new KeyboardEvent(kind, { key, code: key, bubbles: true }));
  let first = null;
  const watch = new MutationObserver(() => {
    first ??= performance.now();
    if (+count.textContent < last) return;
    watch.disconnect();
    press('keyup');
    done(1000 * (frames - 1) / (performance.now() - first));
  });
  watch.observe(count, { childList: true });
  press('keydown');
})"""


def play(checkpoint):
    """From a key to the picture, the same for a step back, which needs no model, and frames while a key is held."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    app = [str(SPACE / "app.py"), "--port", str(PORT), *checkpoint]
    with running(*app), sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.goto(URL)
        page.wait_for_selector(".wm-screen canvas")
        for key in "ad":
            page.evaluate(TAP, key)
        presses, hasty, backs, rates, draw = [], [], [], [], random.Random(0)
        for number in range(2 * PRESSES):
            is_hasty = number >= PRESSES
            time.sleep(0 if is_hasty else draw.uniform(*PAUSE))
            (hasty if is_hasty else presses).append(page.evaluate(TAP, "adws"[number % 4]))
            if number % 6 == 5:
                backs.append(page.evaluate(TAP, "Backspace"))
        for key in "adws":
            page.keyboard.press("Escape")
            page.wait_for_function("document.getElementById('wm-count').textContent === '0'")
            rates.append(page.evaluate(HOLD, [key, HELD_FRAMES]))
    return {
        "key_to_picture_ms": times(presses),
        "key_to_picture_without_a_pause_ms": times(hasty),
        "step_back_ms": times(backs),
        "held_frames_per_second": quantile(rates, 0.5),
    }


def times(milliseconds):
    """Their median, 95th percentile and number."""
    return {"p50": quantile(milliseconds, 0.5), "p95": quantile(milliseconds, 0.95), "presses": len(milliseconds)}


def model_ms(world, frames):
    """Milliseconds of one frame in the model alone: drawing its tokens, and decoding its picture as well."""
    shares = {}
    for outputs in (("rewards",), ("frames", "rewards")):
        state, taken = world.reset(frames), []
        for _ in range(PRESSES):
            start = time.perf_counter()
            _, state = world.step(state, torch.zeros(1, world.spec.action_dim), sampling=PLAYED, outputs=outputs)
            taken.append(1e3 * (time.perf_counter() - start))
        shares[", ".join(outputs)] = quantile(taken, 0.5)
    return shares


def drive(seed, num_steps, frames, outputs, latencies, results, ready):
    """One session, which takes its steps when all are ready."""
    with RemoteWorldModel(URL) as world:
        state = world.reset(frames)
        ready.wait()
        generator = torch.Generator().manual_seed(seed)
        tokens = []
        for _ in range(num_steps):
            action = 2 * torch.rand(1, world.spec.action_dim, generator=generator) - 1
            start = time.perf_counter()
            step, state = world.step(state, action, sampling=Sampling(seed=seed), outputs=outputs)
            latencies.append(time.perf_counter() - start)
            tokens.append(step.tokens)
        results[seed] = torch.cat(tokens)


def serve(sessions, num_steps, frames, outputs):
    """Steps per second and latency of so many sessions at once, and their tokens."""
    latencies, results, ready = [], {}, threading.Barrier(sessions + 1)
    threads = [
        threading.Thread(target=drive, args=(seed, num_steps, frames, outputs, latencies, results, ready))
        for seed in range(sessions)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    row = {
        "outputs": ", ".join(outputs),
        "sessions": sessions,
        "steps_per_second": sessions * num_steps / taken,
        "p50_ms": 1e3 * quantile(latencies, 0.5),
        "p95_ms": 1e3 * quantile(latencies, 0.95),
    }
    return row, results


def resident(pid):
    """Megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="that is played and served (default: the embedded one)")
    parser.add_argument("--steps", type=int, default=10, help="of each session")
    parser.add_argument("--many", type=int, default=2000, help="sessions one after the other, to watch memory")
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    checkpoint = [args.checkpoint] if args.checkpoint else []
    world = WorldModel.from_pretrained(args.checkpoint or "default")
    frames = world.processor.resize_frames(read_video(EXAMPLE_EPISODE)[:2])[None]
    result = play(checkpoint) | {"model_ms": model_ms(world, frames)}
    print(json.dumps(result), flush=True)
    with running("-m", "ivideogpt_hf.cli", "serve", *checkpoint, "--port", str(PORT), "--max-sessions", "64") as pid:
        rows = []
        for outputs in (("frames", "rewards"), ("rewards",)):
            own = []
            for sessions in SESSIONS:
                row, results = serve(sessions, args.steps, frames, outputs)
                own.append(row | {"times_one_by_one": row["steps_per_second"] / (own or [row])[0]["steps_per_second"]})
                print(json.dumps(own[-1]), flush=True)
            rows += own
        differ = []
        for seed, tokens in results.items():  # nobody got anybody else's
            alone = {}
            drive(seed, args.steps, frames, outputs, [], alone, threading.Barrier(1))
            if not alone[seed].equal(tokens):
                differ.append(seed)
        # Kernels round differently for other numbers of rows, so that a draw between two tokens may fall to the other
        # one, in thousands of draws hardly once. Sessions that are mixed up are two at least.
        if len(differ) > 1:
            raise SystemExit(f"the sessions {differ} were mixed up")
        result["sessions_with_a_draw_that_fell_otherwise"] = len(differ)
        memory = []
        for number in range(args.many):
            with RemoteWorldModel(URL) as remote:
                remote.step(remote.reset(frames), torch.zeros(1, remote.spec.action_dim), outputs=())
            if number in (args.many // 10, args.many - 1):
                memory.append(resident(pid))
        result["serve"] = rows
        result["memory_mb_after_a_tenth_and_all_sessions"] = memory
    print(json.dumps(result, indent=2))
    write_results(args.output, result)


if __name__ == "__main__":
    main()
