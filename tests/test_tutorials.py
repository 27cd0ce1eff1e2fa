"""The tutorials run as they are read, and their notebooks are the pages."""

import json

import pytest
from PIL import Image

from scripts import tutorials
from tests.started import Started

# Commands are forked, so that they need not import everything anew.
FORKS = r"""
import multiprocessing, shlex, socket, sys, time
from ivideogpt_hf.cli import main

def start(line, **options):
    words = shlex.split(line)
    assert words[0] == "ivideogpt", line
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=lambda: sys.exit(main(words[1:])), **options)
    process.start()
    return process

def run(code):
    for line in code.replace("\\\n", "").splitlines():
        process = start(line)
        process.join()
        assert process.exitcode == 0, line

def serve(code, port):
    server = start(code, daemon=True)  # so that it ends with the tutorial
    while server.is_alive():
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{code} ended")
"""


@pytest.mark.parametrize("page", tutorials.pages(), ids=lambda page: page.stem)
def test_a_tutorial_runs_and_makes_the_picture_that_it_shows(page, tmp_path):
    for package in ("accelerate", "datasets", "fastapi", "scipy", "stable_baselines3"):
        pytest.importorskip(package)
    process = Started(code=tutorials.program(page, FORKS), log=tmp_path / "log.txt", folder=tmp_path)
    assert process.wait(600) == 0, process.output
    picture = f"{page.stem}.png"
    assert f"]({picture})\n" in page.read_text(encoding="utf-8")
    assert Image.open(tmp_path / picture).size == Image.open(page.parent / picture).size


@pytest.mark.parametrize("name", tutorials.NOTEBOOKS)
def test_a_notebook_is_its_page_and_was_run(name):
    page = tutorials.FOLDER / f"{name}.md"
    cells = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    fences = {"code": ("```python\n", "\n```"), "markdown": ("", "")}
    text = "\n".join("".join(cell["source"]).join(fences[cell["cell_type"]]) for cell in cells)
    text = text.replace("```python\n%%bash\n", "```bash\n")
    assert text.split() == tutorials.text_of_notebook(page).split()
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
