"""The README is executed: its Python blocks in one namespace, its commands one after the other.

Not run: lines that set up a machine (`SET_UP`), and blocks under a comment ``<!-- not run: reason -->``.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ivideogpt_hf.perceptual import LPIPS, WEIGHTS_VARIABLE
from tests.data.files import write_mp4

README = Path(__file__).parents[1] / "README.md"
CONFIG = re.compile(r"```yaml\n# (?P<name>\S+\.yaml)\n(?P<content>.*?)```", re.DOTALL)
SET_UP = ("pip install", "git clone", "cd ", "make ")
BLOCK = re.compile(r"(?P<skip><!-- not run: [^\n]+ -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)```", re.DOTALL)


def blocks(language):
    found = BLOCK.finditer(README.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language and not match["skip"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything runs: what one block writes, the next may read. It holds the clips that the README talks
    of, and the config files that it shows."""
    folder = tmp_path_factory.mktemp("readme")
    lines = ["clip,x,y"]
    for name in ("kitchen", "table", "yard"):
        write_mp4(folder / f"my-clips/{name}.mp4", 30, (180, 320), fps=30)
        lines += [f"{name}.mp4,{t / 30},{-t / 30}" for t in range(30)]
    (folder / "my-clips/actions.csv").write_text("\n".join(lines))
    torch.manual_seed(0)
    save_file(LPIPS().state_dict(), folder / "lpips.safetensors")  # of random weights: the README only has to run
    for match in CONFIG.finditer(README.read_text(encoding="utf-8")):
        (folder / match["name"]).write_text(match["content"])
    return folder


def test_commands_run(folder):
    text = "\n".join(blocks("bash")).replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    commands = [shlex.split(line, comments=True) for line in lines if not line.startswith(SET_UP)]
    assert commands
    for command in commands:
        assert command[0] == "ivideogpt"
        argv = [sys.executable, "-m", "ivideogpt_hf.cli", *command[1:]]
        environment = os.environ | {WEIGHTS_VARIABLE: "lpips.safetensors"}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


def test_python_blocks_run(folder):
    code = "\n".join(blocks("python"))
    assert code
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_that_it_shows_are_there():
    text = README.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
