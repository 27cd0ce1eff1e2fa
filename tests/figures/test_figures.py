"""Figures in the README, in docs/, in benchmarks/README.md and in configs/ are those of the files that they come from.

A sentence or a table row with figures is built from the JSON that a command wrote, by the module of the document beside
this one. It must be in the document, with the command and the day of the file. Sizes of an experiment are built from
its yaml files. What is left without these must hold no figure. Tables that are rendered from a file are not written
here: scripts/site_pages/results.py.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.figures.agents import AGENTS
from tests.figures.benchmarks import BENCHMARKS, candidates_in_the_readme
from tests.figures.embedded_model import EMBEDDED_MODEL, tasks_that_work
from tests.figures.experiments import EXPERIMENTS
from tests.figures.sources import NUMBERS, RESULTS, ROOT

UNITS = (
    "%|ms|s|seconds?|minutes?|hours?|days?|MB|GB|GiB|M|million|dB|times|clips? of|clips a|updates|episodes|held-out|"
    "of the (?:[a-z]+ )?tasks"
)
# Decimal numbers, thousands, factors, shares, times and rates, also in words: "26.0", "4,800", "x 2.7", "99 %", "3 ms",
# "23 minutes", "two times". A size such as "64 x 64" is none, and nor is "0 workers".
FIGURE = re.compile(
    rf"\d+\.\d+|\d{{1,3}}(?:,\d{{3}})+|(?<!\d )\bx \d+|\b(?:\d+|{'|'.join(NUMBERS[2:])}|[a-z]+ty) (?:{UNITS})(?!\w)"
)


# Numbers that are no result: they say what was done.
SETTINGS = (
    "temperature 1: right",
    "of 95 %",
    "The JSON calls it 0.1.0,",
    "the last 6 minutes",
    "four updates of the world model",
    "temperature 0.5: right",
    "the 138 M transformer",
    "by 600 updates of 2 clips",
    "Training clips of 16 frames",
    "clips of 16 frames",
    "correlate by less than 0.8.",
    "Each server had at most 4 GiB of states.",
    "is updated three times per step",
    "takes ten steps a second",
    "Weights are averaged over the last thousand updates",
)


# Pages without figures, and numbers in them that are no results.
OTHER_PAGES = [
    ROOT / "README.md",
    *(file for file in sorted((ROOT / "docs").rglob("*.md")) if file.name not in ("embedded_model.md", "agents.md")),
]
NO_RESULTS = (
    "138 million parameters",
    "114 million",
    "in ten minutes",
    "4 GiB",
    "every five seconds",
    "in five seconds",
    "within 60 seconds",
    "2,000 random steps",
    "(436 M transformer)",
    "1,000 updates of 16 clips at step 2,000",
    "100 updates of 4 clips at step 500",
    "500 updates by default",
    "Apache-2.0",
    "of 95 %",
    "two updates a step",
    "Before 1.0",
    "LeRobot v3.0",
    "Python 3.11, 3.12 and 3.13",
    "Python 3.11",
    "section 4.3",
    "temperature 0.5",
    "multiply the squared error by at least 1.3.",  # a gate
    "with the true ones by at least 0.8.",  # a gate
    "transformers 5.23",
    "transformers 5.24",
)


def words_of(text):
    """The text in one line: where lines break does not count."""
    return " ".join(text.split())


def section(document, heading):
    """The text below a heading, up to the next one of its kind, without code; heading None: the whole document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if heading is not None:
        text = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE).group(1)
    return words_of(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("document", "heading", "sources"),
    [
        ("docs/results/embedded_model.md", None, EMBEDDED_MODEL),
        ("docs/results/agents.md", None, AGENTS),
        ("benchmarks/README.md", "Results", BENCHMARKS),
    ],
    ids=["embedded model", "agents", "benchmarks"],
)
def test_a_page_holds_the_figures_of_its_json_and_no_other(document, heading, sources):
    text = section(document, heading)
    for words in (words for source in sources for words in source()):
        assert words in text
        text = text.replace(words, "", 1)  # two sections may say the same
    for words in SETTINGS:
        text = text.replace(words, "")
    assert not FIGURE.findall(text), text


READMES = sorted((ROOT / "configs").rglob("README.md"))
# What was decided and not measured: gates, sizes of released models, settings of agents, protocols of the paper.
DECIDED = (
    "after 1,000 updates, and at the end",
    "of 95 %",
    "(95 % interval)",
    "The VQ model (114 million parameters)",
    "(114 million parameters)",
    "(138 million)",
    "three updates a step",
    "10 or 20 episodes",
    "updated three times per step",
)


@pytest.mark.parametrize("document", READMES, ids=lambda path: path.parent.name)
def test_an_experiment_holds_the_figures_of_its_files_and_no_other(document):
    name = document.parent.name
    text = section(document, None)
    for words in (words for source in EXPERIMENTS.get(name, ()) for words in source()):
        assert words in text
        text = text.replace(words, "")
    for words in DECIDED:
        text = text.replace(words, "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    assert not FIGURE.findall(text), text


@pytest.mark.parametrize("words", [*candidates_in_the_readme()])
def test_the_readme_quotes_how_fast_candidates_are(words):
    assert words in section("README.md", "Checkpoints it reads")


def test_the_readme_says_in_how_many_tasks_planning_works():
    text = words_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert f"Planning works in push2d and in {NUMBERS[len(tasks_that_work())]} Meta-world tasks" in text


@pytest.mark.parametrize(
    "words",
    [
        "29.3 dB",
        "4,800 updates",
        "x 2.7",
        "99 %",
        "23 minutes",
        "two to three times",
        "fifteen held-out",
        "0.7 seconds",
    ],
)
def test_a_figure_is_seen(words):
    assert FIGURE.search(words)


@pytest.mark.parametrize("words", ["64 x 64 pixels", "16 x 16 tokens", "0 workers", "two CPU cores"])
def test_a_size_is_no_figure(words):
    assert not FIGURE.search(words)


@pytest.mark.parametrize("document", OTHER_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_page_holds_figures(document):
    """Success rates, for example, are no part of what a command left in this repository: the experiments' READMEs hold
    them."""
    text = section(document, None)
    versions = section("docs/install.md", "Tested versions")
    for words in (*NO_RESULTS, *candidates_in_the_readme(), versions):
        text = text.replace(words, "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    assert not FIGURE.findall(text), text


@pytest.mark.parametrize("file", sorted(RESULTS.glob("agents_*.json")), ids=lambda file: file.stem)
def test_agents_that_are_written_down_had_the_settings_of_the_experiment(file):
    """As they are now: a default that changed would say something else than what was run."""
    run_settings = pytest.importorskip("ivideogpt_hf.rl.runs.settings")
    content = json.loads(file.read_text(encoding="utf-8"))
    experiment = yaml.safe_load((ROOT / content["command"].split()[-1]).read_text(encoding="utf-8"))
    for entry in experiment:
        run = content["runs"].get(Path(entry["output"]).name)
        if run is not None:
            now = run_settings.AgentRunSettings(**entry).record()
            then = {name: value for name, value in run["settings"].items() if name != "world_model_hashes"}
            assert [item for item in now.items() if item[1] is not None and item not in then.items()] == []
            assert [item for item in then.items() if item[1] is not None and item not in now.items()] == []


RESULT = re.compile(r"\d+\.\d+ (?:dB|\(\d)")  # "26.8 dB", "0.50 (0.33"
MADE_BY = re.compile(r"`[^`]*(?:run\.sh|ivideogpt [^`]*)`, \d{4}-\d\d-\d\d")


def test_there_are_results_of_experiments():
    """Else an error in the pattern above would leave everything out."""
    assert any(RESULT.search(file.read_text(encoding="utf-8")) for file in READMES)


@pytest.mark.parametrize("document", READMES, ids=lambda path: path.parent.name)
def test_an_experiment_says_which_command_measured_it_and_when(document):
    text = words_of(document.read_text(encoding="utf-8"))
    assert MADE_BY.search(text) or not RESULT.search(text)
