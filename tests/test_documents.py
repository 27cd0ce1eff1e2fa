"""The README and the pages in docs are executed: the Python blocks of each in one namespace, beside the server that it
starts, and its commands one after the other.

Not run: lines that set machines up (`SET_UP`), and blocks under a comment ``<!-- not run: reason -->``. The playground,
which serves until it is stopped, is tried in tests/spaces.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ivideogpt_hf.metrics.lpips import LPIPS, WEIGHTS_VARIABLE
from tests.data.files import write_mp4
from tests.serving.conftest import free_port

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIG = re.compile(r"```yaml\n# (?P<name>\S+\.yaml)\n(?P<content>.*?)```", re.DOTALL)
SET_UP = ("pip install", "git clone", "cd ", "make ")
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run|serves): [^\n]+ -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)```", re.DOTALL
)
SERVE = ("ivideogpt", "serve")
PORT = "8000"


def blocks(document, language, mark=None):
    found = BLOCK.finditer(document.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language and match["mark"] == mark]


def commands(document, mark=None):
    text = "\n".join(blocks(document, "bash", mark)).replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [shlex.split(line, comments=True) for line in lines if not line.startswith(SET_UP)]


def program(command):
    assert command[0] == "ivideogpt"
    return [sys.executable, "-m", "ivideogpt_hf.cli", *command[1:]]


@contextmanager
def server(document, folder):
    """Starts what a document serves, at a port that is free; that port. It may serve nothing."""
    served = [command for command in commands(document, "serves") if tuple(command[:2]) == SERVE]
    if not served:
        yield PORT
        return
    (command,) = served
    port = str(free_port())
    with subprocess.Popen(program([port if word == PORT else word for word in command]), cwd=folder) as process:
        try:
            while True:
                assert process.poll() is None
                try:
                    socket.create_connection(("127.0.0.1", int(port))).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=DOCUMENTS, ids=lambda path: path.name)
def document(request):
    return request.param


@pytest.fixture(scope="module")
def folder(document, tmp_path_factory):
    """Where everything runs: what one block writes, the next may read. It holds the clips that the documents talk
    of, and the config files that they show."""
    folder = tmp_path_factory.mktemp("documents")
    lines = ["clip,x,y"]
    for name in ("kitchen", "table", "yard"):
        write_mp4(folder / f"my-clips/{name}.mp4", 30, (180, 320), fps=30)
        lines += [f"{name}.mp4,{t / 30},{-t / 30}" for t in range(30)]
    (folder / "my-clips/actions.csv").write_text("\n".join(lines))
    torch.manual_seed(0)
    save_file(LPIPS().state_dict(), folder / "lpips.safetensors")  # of random weights: the README only has to run
    for match in CONFIG.finditer(document.read_text(encoding="utf-8")):
        (folder / match["name"]).write_text(match["content"])
    return folder


@pytest.fixture(scope="module")
def done(document, folder):
    """Every command, with how it ended; the Python blocks read what they write."""
    environment = os.environ | {WEIGHTS_VARIABLE: "lpips.safetensors"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    return [(command, subprocess.run(program(command), **options, check=False)) for command in commands(document)]


def test_commands_run(done):
    assert done
    for command, ended in done:
        assert ended.returncode == 0, (command, ended.stderr)


@pytest.mark.usefixtures("done")
def test_python_blocks_run(document, folder):
    code = "\n".join(blocks(document, "python"))
    assert code
    with server(document, folder) as port:
        argv = [sys.executable, "-c", code.replace(f":{PORT}", f":{port}")]
        ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_files_that_it_shows_are_there(document):
    for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / link).exists(), link
