"""Run the tutorials of the site, and store what comes of it: the picture of each, and the notebooks.

python -m scripts.tutorials

A page in docs/tutorials is a program: its blocks of bash and Python in the order in which they are read. It writes a
picture of its own name, which the page shows. Some pages are notebooks as well, in jupytext's Markdown.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/tutorials"
NOTEBOOKS = ("own_videos", "plan_push2d")
# A block of code, and what stands above it where it is not run, or serves until it is stopped.
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run|serves): [^\n]+ -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)```", re.DOTALL
)
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n", re.MULTILINE)
PORT = "8000"
BEGINNING = """
import atexit, socket, subprocess, time

def run(code):
    subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)

def serve(code, port):
    server = subprocess.Popen(["bash", "-c", "exec " + code])
    atexit.register(server.wait)
    atexit.register(server.terminate)  # which comes first
    while server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{code} ended")
"""


def pages():
    """The tutorials."""
    return sorted(FOLDER.glob("*.md"))


def program(page, beginning=BEGINNING):
    """A tutorial as a program in Python. Servers listen at a port that is free.

    Args:
        page: the tutorial.
        beginning: code that defines `run(code)` for commands, and `serve(code, port)` for one that serves.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    parts = [beginning]
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        code = block["code"].replace(PORT, str(port))
        if block["mark"] == "serves":
            parts.append(f"serve({code!r}, {port})\n")
        elif block["mark"] is None:
            parts.append(code if block["language"] == "python" else f"run({code!r})\n")
    return "\n".join(parts)


def environment():
    """What a tutorial's commands see: the programs of this Python first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(page, folder):
    """Run a tutorial in an empty folder; how it ended."""
    argv = [sys.executable, "-c", program(page)]
    return subprocess.run(argv, cwd=folder, env=environment(), text=True, capture_output=True, check=False)


def text_of_notebook(page):
    """The page without stored pictures, which a notebook makes anew."""
    return PICTURE.sub("", page.read_text(encoding="utf-8"))


def write_notebook(page, folder):
    """Run a tutorial as a notebook in an empty folder, and write it beside the page."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.reads(text_of_notebook(page), fmt="md")
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    os.environ |= environment()
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:  # progress bars and when a cell ran differ from run to run
        cell.metadata.clear()
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, page.with_suffix(".ipynb"))


def main():
    for page in pages():
        with tempfile.TemporaryDirectory() as folder:
            if page.stem in NOTEBOOKS:
                write_notebook(page, Path(folder))
            else:
                run(page, folder).check_returncode()
            shutil.copyfile(Path(folder) / f"{page.stem}.png", page.with_suffix(".png"))
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
