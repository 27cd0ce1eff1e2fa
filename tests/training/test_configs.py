"""The experiments that ship: each is a folder, whose run.sh runs its files in the order of their names."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ivideogpt_hf import IVideoGPTVQConfig, IVideoGPTVQModel
from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER
from ivideogpt_hf.cli.config import read_runs, subcommands
from ivideogpt_hf.cli.main import build_parser
from ivideogpt_hf.data.clips.mixture import load_mixture
from ivideogpt_hf.training.arguments import parse
from ivideogpt_hf.training.networks import make_transformer

pytest.importorskip("accelerate")

from ivideogpt_hf.training.tokenizing import TOKENIZE_ARGUMENTS
from ivideogpt_hf.training.train_vq import VQ_ARGUMENTS
from ivideogpt_hf.training.train_world_model import WORLD_MODEL_ARGUMENTS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(script.parent.name for script in CONFIGS.glob("*/run.sh"))
TRAININGS = {"train-vq": VQ_ARGUMENTS, "train": WORLD_MODEL_ARGUMENTS, "tokenize": TOKENIZE_ARGUMENTS}
# The embedded checkpoint's VQ model has the sizes of its first stage.
EMBEDDED_VQ = CONFIGS / "default/3_vq_l1.yaml"
DATA = re.compile(r"\d+_data(_\w+)?\.yaml")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Where run.sh goes before it runs anything."""
    monkeypatch.chdir(ROOT)


def commands(name):
    """The lines of an experiment's run.sh that run a program, as words; variables have their defaults."""
    text = (CONFIGS / name / "run.sh").read_text(encoding="utf-8")
    text = re.sub(r"\$\{PRECISION:-(\w+)\}", r"\1", text)
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("ivideogpt ", "python ", "cp "))]


def read(command, *argv):
    """What a command gets: the namespaces of its runs, or the dataclasses of a training."""
    if command not in TRAININGS:
        return read_runs(build_parser(), [command, *argv])
    (args,) = read_runs(build_parser(), [command, *argv])
    return [parse(TRAININGS[command], args.config, args.unparsed, command)]


def files_of(name):
    """Every yaml file of an experiment that a command reads, with that command, in the order of run.sh."""
    return [
        (Path(command[command.index("--config") + 1]), command[1])
        for command in commands(name)
        if command[1] in PARSERS and "--config" in command
    ]


PARSERS = subcommands(build_parser())
FILES = [(file, command) for name in EXPERIMENTS for file, command in files_of(name)]
TRAINED = [(file, command) for file, command in FILES if command in ("train-vq", "train")]


def ids(value):
    return str(value.relative_to("configs")) if isinstance(value, Path) else value


def vq_config_of(file):
    """The config of the VQ model that a training's file makes, or that of the one that it starts from."""
    settings = yaml.safe_load(file.read_text())
    if "vq_config" in settings:
        return IVideoGPTVQConfig(**settings["vq_config"])
    start = settings["vq_model"]
    if start == "default":
        return vq_config_of(EMBEDDED_VQ)
    (origin,) = (file for file, _ in TRAINED if yaml.safe_load(file.read_text())["output_dir"] == start)
    return vq_config_of(origin)


def test_every_folder_is_an_experiment():
    folders = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())
    assert [name for name in folders if name != "accelerate"] == EXPERIMENTS
    table = (CONFIGS / "README.md").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        assert (CONFIGS / name / "README.md").is_file()
        assert f"]({name}/README.md)" in table


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_files_sort_in_the_order_in_which_run_sh_reads_them(name):
    files = [file for file, _ in files_of(name)]
    assert files == sorted(files)
    files_in_folder = sorted(file.relative_to(ROOT) for file in (CONFIGS / name).glob("*.yaml"))
    assert [file for file in files_in_folder if not DATA.fullmatch(file.name)] == files
    numbers = sorted({int(file.name.split("_")[0]) for file in files_in_folder})  # mixtures of the same data have one
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_run_sh_is_a_program_that_stops_at_the_first_error(name):
    script = CONFIGS / name / "run.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_commands_of_run_sh_can_be_read(name):
    """Options as well as files; a training goes on where it stopped."""
    for program, *words in commands(name):
        if program == "ivideogpt":
            assert read(*words)
            assert words[0] not in ("train", "train-vq") or "--resume latest" in " ".join(words)
        elif program == "python":
            assert Path(words[0]).is_file()


@pytest.mark.parametrize(("file", "command"), FILES, ids=ids)
def test_every_file_names_the_mixture_of_its_experiment(file, command):
    for settings in yaml.safe_load_all(file.read_text()):
        for run in settings if isinstance(settings, list) else [settings]:
            data = run.get("data", "")
            if data.endswith(".yaml"):
                assert Path(data).parent == file.parent
                assert load_mixture(data, root=run.get("data_root") or run["root"]).sources


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_mixtures_hold_what_was_collected(name):
    datasets = {
        args.output
        for file, command in files_of(name)
        if command == "collect"
        for args in read(command, "--config", str(file))
    }
    mixtures = [yaml.safe_load(f.read_text()) for f in (CONFIGS / name).glob("*.yaml") if DATA.fullmatch(f.name)]
    mixed = {f"datasets/{source['path']}" for mixture in mixtures for source in mixture["sources"]}
    assert not mixtures or mixed == datasets


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_a_file_reads_an_earlier_one_writes(name):
    """Outputs lie in the experiment's own folder, so that no experiment needs another one's."""
    outputs = set()
    for file, _ in files_of(name):
        content = yaml.safe_load(file.read_text())
        for run in content if isinstance(content, list) else [content]:
            inputs = [run.get(key, "") for key in ("vq_model", "transformer", "tokens", "checkpoint")]
            assert {value for value in inputs if value.startswith("outputs/")} <= outputs
            output = run.get("output_dir") or run["output"]
            assert output.startswith((f"outputs/{name}/", "datasets/"))
            assert output not in outputs
            outputs.add(output)


def test_every_training_has_a_name_of_its_own_in_the_tracker():
    """The tracker goes on in the run of the same name."""
    names = [yaml.safe_load(file.read_text())["run_name"] for file, _ in TRAINED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("file", [file for file, _ in TRAINED if "vq_config" in file.read_text()], ids=ids)
def test_its_vq_model_can_be_built(file):
    with torch.device("meta"):
        IVideoGPTVQModel(vq_config_of(file))


@pytest.mark.parametrize("file", [file for file, _ in TRAINED if "transformer_config" in file.read_text()], ids=ids)
def test_its_transformer_continues_the_tokens_of_its_vq_model(file):
    ((_, data, _, world),) = read("train", "--config", str(file))
    repeat = bool(world.repeat_last_context)
    if world.tokens is not None:
        (tokens,) = (
            other
            for other, command in FILES
            if command == "tokenize" and f"output_dir: {world.tokens}\n" in other.read_text()
        )
        ((tokenizing, data),) = read("tokenize", "--config", str(tokens))
        assert bool(tokenizing.repeat_last_context) == repeat
    layout = replace(vq_config_of(file).layout, repeat_last_context=repeat)
    with torch.device("meta"):
        make_transformer(world, layout, 4 if world.actions else None, data.num_frames - data.num_context_frames)


@pytest.mark.parametrize(
    ("name", "words"), [("oxe_64", "convert the data sets"), ("bair_64_act_cond", "say which folder")]
)
def test_run_sh_says_which_data_it_lacks(name, words, tmp_path):
    """It is copied to where there are no data sets; whoever runs the tests may have them."""
    script = tmp_path / "configs" / name / "run.sh"
    script.parent.mkdir(parents=True)
    script.write_text((CONFIGS / name / "run.sh").read_text())
    process = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert process.returncode != 0
    assert words in process.stderr
    assert f"configs/{name}/README.md" in process.stderr


def test_the_embedded_checkpoint_names_files_that_are_there():
    metrics = json.loads((DEFAULT_FOLDER / "metrics.json").read_text())
    for command in (*metrics["commands"], metrics["evaluation"]["command"]):
        assert [Path(word).is_file() for word in shlex.split(command) if word.startswith("configs/")] == [True]
