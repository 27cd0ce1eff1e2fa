"""The model's thread computes with many cores, and every other thread with one.

A thread's number of cores is settled when it first computes. So a thread that has one did not compute before the cores
were claimed, and has no helpers.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivideogpt_hf.cli.threads import count_cores
from ivideogpt_hf.serving.cores import call_aside

SPACE = Path(__file__).parents[2] / "spaces_demo"
THREADS = """
from concurrent.futures import ThreadPoolExecutor
threads = [ThreadPoolExecutor(1) for _ in range(3)]
threads[0].submit(claim_cores, MOST).result()
threads[1].submit(claim_cores).result()
print(json.dumps([thread.submit(torch.get_num_threads).result() for thread in threads]))
"""
APP = """
from ivideogpt_hf import WorldModel
from ivideogpt_hf.serving.batching import OtherJob
from ivideogpt_hf.serving.server import create_app
from ivideogpt_hf.world.slices import in_one_slice
batcher = create_app(call_aside(WorldModel.default), "default").state.service.batcher
others = torch.get_num_threads()
print(json.dumps([batcher.submit(OtherJob(in_one_slice(torch.get_num_threads))).result(), others]))
"""
# The main thread is asked by a signal, while it serves.
COMMAND = """
import os, signal, socket, tempfile, threading, time, urllib.request
from ivideogpt_hf.cli import main

def ask():
    while True:
        time.sleep(0.1)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
            break
        except OSError:
            pass
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
signal.signal(signal.SIGUSR1, lambda *_: print(json.dumps(torch.get_num_threads()), flush=True))
threading.Thread(target=ask, daemon=True).start()
main(["serve", "--port", str(port), "--state-dir", tempfile.mkdtemp()])
"""
PAGE = """
from app import build
from connection import MODEL
build()
print(json.dumps([MODEL.submit(torch.get_num_threads).result(), torch.get_num_threads()]))
"""


def run(code, **variables):
    """What code prints last as JSON, in a process where torch takes three cores."""
    begin = f"""
import json, sys
import torch
from ivideogpt_hf.serving.cores import call_aside, claim_cores
sys.path.append({str(SPACE)!r})
call_aside(lambda: torch.set_num_threads(3))
"""
    environment = {name: value for name, value in os.environ.items() if name != "SPACE_ID"} | variables
    command = [sys.executable, "-W", "ignore", "-c", begin + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line[:1] in "[0123456789"]
    assert lines, done.stderr
    return json.loads(lines[-1])


@pytest.mark.parametrize(("most", "of_first"), [(None, 3), (2, 2), (9, 3)])
def test_threads_that_claim_have_the_cores(most, of_first):
    assert run(THREADS.replace("MOST", str(most))) == [of_first, 3, 1]


def test_a_servers_model_has_the_cores():
    assert run(APP) == [3, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
def test_serve_computes_in_no_other_thread():
    assert run(COMMAND) == 1


@pytest.mark.parametrize("variables", [{}, {"SPACE_ID": "owner/name"}])
def test_the_page_leaves_a_core_to_the_browser_of_this_machine(variables):
    pytest.importorskip("gradio", reason="needs the extra demo")
    assert run(PAGE, **variables) == [3 if variables else max(1, min(3, count_cores() - 1)), 1]


def test_what_is_called_aside_raises_here():
    with pytest.raises(ZeroDivisionError):
        call_aside(lambda: 1 / 0)


def test_what_is_called_aside_does_not_hold_up_the_end_of_the_program():
    code = """
import threading, time
threading.Thread(target=call_aside, args=[lambda: time.sleep(60)], daemon=True).start()
print(0)
"""
    start = time.monotonic()
    run(code)
    assert time.monotonic() - start < 50
