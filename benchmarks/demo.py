"""What a person and a lab wait for: from a key to the new picture in a browser, and steps of many served sessions.

    python benchmarks/demo.py --output benchmarks/results/demo.json

The browser is headless Chromium on the same machine. Sessions are threads of one client process; with one of them
nothing can be batched.
"""

import argparse
import json
import random
import shutil
import threading
import time
from pathlib import Path

import torch
from served import PORT, URL, quantile, resident, running, serving, step_in_a_session, step_in_sessions
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, RemoteWorldModel, Sampling, WorldModel, read_video

SPACE = Path(__file__).parents[1] / "spaces_demo"
PRESSES, HELD_FRAMES = 60, 60
# Seconds from a picture to the next key, evenly spread: people take longer, and press out of step with the screen.
PAUSE = (0.1, 0.15)
SESSIONS = (1, 8, 32)
PLAYED = Sampling(seed=0, num_guesses=3)  # as the playground samples


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
    with running(*app, address=URL), sync_playwright() as playwright:
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
    with serving(*checkpoint, "--max-sessions", "64") as pid:
        rows = []
        for outputs in (("frames", "rewards"), ("rewards",)):
            own = []
            for sessions in SESSIONS:
                row, tokens_of = step_in_sessions(sessions, args.steps, frames, outputs)
                own.append(row | {"times_one_by_one": row["steps_per_second"] / (own or [row])[0]["steps_per_second"]})
                print(json.dumps(own[-1]), flush=True)
            rows += own
        differ = []
        for seed, tokens in tokens_of.items():  # nobody got anybody else's
            alone = {}
            step_in_a_session(seed, args.steps, frames, outputs, [], alone, threading.Barrier(1))
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
