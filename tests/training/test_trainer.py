"""What a finished training says can be done with its model."""

import re
import shlex

import pytest
import yaml

from ivideogpt_hf.cli.config import read_runs
from ivideogpt_hf.cli.main import build_parser, main
from ivideogpt_hf.training.arguments import parse
from ivideogpt_hf.training.tokenizing import TOKENIZE_ARGUMENTS
from ivideogpt_hf.training.train_world_model import WORLD_MODEL_ARGUMENTS
from tests.conftest import TRANSFORMER_SETTINGS
from tests.training.conftest import run

KINDS = {"train": WORLD_MODEL_ARGUMENTS, "tokenize": TOKENIZE_ARGUMENTS}


def next_steps(printed):
    """The words of each command that a training printed, without ``ivideogpt``."""
    commands = [shlex.split(command) for command in re.findall("^next: (.*)$", printed, re.MULTILINE)]
    assert commands
    assert {command[0] for command in commands} == {"ivideogpt"}
    return [command[1:] for command in commands]


def settings_of(words):
    """What the real parser makes of a command."""
    (args,) = read_runs(build_parser(), words)
    if words[0] not in KINDS:
        return vars(args)
    filled = parse(KINDS[words[0]], args.config, args.unparsed, words[0])
    return {name: value for part in filled for name, value in vars(part).items()}


@pytest.mark.parametrize("conditioned", [True, False])
def test_every_next_step_of_a_world_model_is_a_command(world_config, tmp_path, capsys, conditioned):
    options = [] if conditioned else ["--actions", "false", "--goal_conditioned", "true"]
    assert run("train", world_config, "--num_updates", 1, *options) == 0
    predict, evaluate = map(settings_of, next_steps(capsys.readouterr().err))
    assert predict["checkpoint"] == evaluate["checkpoint"] == str(tmp_path / "out")
    episode = str(tmp_path / "out/episode.npz")
    assert (predict["actions"], predict["goal"]) == ((episode, None) if conditioned else (None, "IMAGE"))


@pytest.mark.parametrize("from_tokens", [False, True])
def test_the_next_steps_of_a_world_model_run_as_they_are_printed(
    world_config, tokens_config, tmp_path, capsys, monkeypatch, from_tokens
):
    monkeypatch.chdir(tmp_path)
    if from_tokens:
        assert run("tokenize", tokens_config) == 0
        settings = yaml.safe_load(world_config.read_text())
        for name in ("data", "num_frames", "augmentation"):
            del settings[name]
        world_config.write_text(yaml.safe_dump(settings | {"tokens": str(tmp_path / "tokens")}))
    assert run("train", world_config, "--num_updates", 1, "--output_dir", tmp_path / "my out") == 0
    for words in next_steps(capsys.readouterr().err):
        if "CLIP" not in words:
            assert main([*words, *(["--num-samples", "1"] if words[0] == "evaluate" else [])]) == 0


def test_every_next_step_of_a_vq_model_is_a_command(vq_config, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CONFIG").write_text(yaml.safe_dump({"num_updates": 1, "transformer_config": TRANSFORMER_SETTINGS}))
    out = tmp_path / "my {model}"
    assert run("train-vq", vq_config, "--num_updates", 1, "--output_dir", out) == 0
    tokenize, train = map(settings_of, next_steps(capsys.readouterr().err))
    assert tokenize["vq_model"] == train["vq_model"] == str(out)
    assert tokenize["data"] == str(folder)
    assert tokenize["output_dir"] == train["tokens"]
