"""The README and the pages in docs are executed, in the order in which they are read.

Each page may use the files that those before it wrote. Its Python blocks share one namespace of their own, beside the
server that it starts. A command that several pages show is run once.

Not run: lines that set machines up (`SET_UP`), and blocks under a comment ``<!-- not run: reason -->``. The playground,
which serves until it is stopped, is tried in tests/spaces, and the tutorials in tests/test_tutorials.py.
"""

import os
import re
import shlex
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ivideogpt_hf.training.arguments import parse
from ivideogpt_hf.training.tokenizing import TOKENIZE_ARGUMENTS
from ivideogpt_hf.training.train_vq import VQ_ARGUMENTS
from ivideogpt_hf.training.train_world_model import WORLD_MODEL_ARGUMENTS
from scripts import tutorials
from scripts.site_pages.staging import pages_in_order
from scripts.tutorials import BLOCK
from tests.conftest import free_port
from tests.data.files import write_mp4
from tests.started import Started

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / page
        for page in pages_in_order()
        if (ROOT / "docs" / page).exists() and ROOT / "docs" / page not in tutorials.pages()
    ),
]
CONFIG = re.compile(r"```yaml\n# (?P<name>\S+\.yaml)\n(?P<content>.*?)```", re.DOTALL)
SET_UP = ("source ", "pip install", "git clone", "cd ", "make ")
SERVE = ("ivideogpt", "serve")
PORT = "8000"


def name_of(document):
    return str(document.relative_to(ROOT))


def blocks(document, language, mark=None):
    found = BLOCK.finditer(document.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language and match["mark"] == mark]


def commands(document, mark=None):
    text = "\n".join(blocks(document, "bash", mark)).replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(shlex.split(line, comments=True)) for line in lines if not line.startswith(SET_UP)]


def configs(document):
    return {match["name"]: match["content"] for match in CONFIG.finditer(document.read_text(encoding="utf-8"))}


ALL_CONFIGS = {name: content for document in DOCUMENTS for name, content in configs(document).items()}


def answers(port):
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True


class Reader:
    """Somebody who does what the pages say, one after the other, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.done = {}
        self.servers = {}

    def start(self, name, *words, code=None):
        return Started(*words, code=code, log=self.folder / f"{name}.log", folder=self.folder)

    def run_commands(self, document):
        """Run the commands of a page and of those before it, unless that is done; those of the page, which ended."""
        for earlier in DOCUMENTS[: DOCUMENTS.index(document) + 1]:
            for command in commands(earlier):
                if command not in self.done:
                    assert command[0] == "ivideogpt"
                    self.done[command] = self.start(f"command-{len(self.done)}", *command[1:])
                    self.done[command].wait(300)
        return {command: self.done[command] for command in commands(document)}

    def run_python(self, document):
        """Run the Python blocks of a page, in one process, which has ended."""
        code = "\n".join(blocks(document, "python"))
        for command in commands(document, "serves"):
            if command[:2] == SERVE and f":{PORT}" in code:
                code = code.replace(f":{PORT}", f":{self._serve(command)}")
        process = self.start(document.stem, code=code)
        process.wait(300)
        return process

    def _serve(self, command):
        """The port at which a command serves. A server is started once."""
        if command not in self.servers:
            port = free_port()
            words = [port if word == PORT else word for word in command[1:]]
            self.servers[command] = port, self.start("server", *words)
        port, process = self.servers[command]
        process.wait_for(lambda: answers(port))
        return port

    def close(self):
        for _, server in self.servers.values():
            server.send(signal.SIGTERM)
            server.wait()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder holds the clips that the pages talk of, and the config files that they show."""
    folder = tmp_path_factory.mktemp("documents")
    lines = ["clip,x,y"]
    for name in ("kitchen", "table", "yard"):
        write_mp4(folder / f"my-clips/{name}.mp4", 30, (180, 320), fps=30)
        lines += [f"{name}.mp4,{t / 30},{-t / 30}" for t in range(30)]
    (folder / "my-clips/actions.csv").write_text("\n".join(lines))
    for name, content in ALL_CONFIGS.items():
        (folder / name).write_text(content)
    reader = Reader(folder)
    yield reader
    reader.close()


def test_there_is_something_to_run():
    """Else an error in the patterns above would leave everything out."""
    assert commands(ROOT / "README.md")
    assert blocks(ROOT / "README.md", "python")
    assert ("ivideogpt", "info", "my-model") in commands(ROOT / "docs/guides/training.md")


def test_a_config_file_has_one_content():
    shown = [pair for document in DOCUMENTS for pair in configs(document).items()]
    assert len(set(shown)) == len(ALL_CONFIGS)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d)], ids=name_of)
def test_commands_run(reader, document):
    for command, process in reader.run_commands(document).items():
        assert process.wait() == 0, (command, process.output)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=name_of)
def test_python_blocks_run(reader, document):
    reader.run_commands(document)
    process = reader.run_python(document)
    assert process.wait() == 0, process.output


@pytest.mark.parametrize("name", [name for name, text in ALL_CONFIGS.items() if "output_dir" in yaml.safe_load(text)])
def test_files_of_trainings_that_are_shown_can_be_read(tmp_path, name):
    file = tmp_path / name
    file.write_text(ALL_CONFIGS[name])
    keys = yaml.safe_load(ALL_CONFIGS[name])
    if "transformer" in keys or "transformer_config" in keys:
        kinds = WORLD_MODEL_ARGUMENTS
    else:
        kinds = VQ_ARGUMENTS if "num_updates" in keys else TOKENIZE_ARGUMENTS
    assert parse(kinds, str(file), [], "ivideogpt")


@pytest.mark.parametrize("document", [*DOCUMENTS, *tutorials.pages()], ids=name_of)
def test_files_that_it_shows_are_there(document):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        generated = "docs/reference/" in os.path.normpath(document.parent / link)  # of code, for the site
        assert generated or (document.parent / link).exists(), link
