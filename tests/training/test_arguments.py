"""What a yaml file and the command line set, and how they say what is wrong."""

import ast
import collections
import dataclasses
import inspect
import re
from typing import get_args, get_type_hints

import pytest
import yaml

from ivideogpt_hf.cli.train import ABOUT
from ivideogpt_hf.training import arguments
from ivideogpt_hf.training.arguments import (
    DataArguments,
    OptimizationArguments,
    RunArguments,
    Settings,
    TokenizeArguments,
    VQArguments,
    WorldModelArguments,
    parse,
)
from tests.training.conftest import run, write_yaml

pytest.importorskip("transformers")

KINDS = (RunArguments, DataArguments, OptimizationArguments, VQArguments)
COMMANDS = {
    "train-vq": KINDS,
    "train": (RunArguments, DataArguments, OptimizationArguments, WorldModelArguments),
    "tokenize": (TokenizeArguments, DataArguments),
}
# The least that each of them accepts.
MINIMAL = {
    RunArguments: {"output_dir": "out", "num_updates": 1},
    DataArguments: {},
    OptimizationArguments: {},
    VQArguments: {"vq_model": "vq"},
    WorldModelArguments: {"vq_model": "vq", "transformer": "start"},
    TokenizeArguments: {"output_dir": "out", "vq_model": "vq"},
}
# What describes a field in the source.
CALLS = ("described", "required")
REQUIRED = MINIMAL[RunArguments] | MINIMAL[VQArguments]
CONTRADICTIONS = [
    (RunArguments, {"output_dir": ""}, "--output-dir is missing: the folder for checkpoints"),
    (RunArguments, {"num_updates": None}, "--num-updates is missing: the number of optimiser updates"),
    (RunArguments, {"num_updates": 0}, "num_updates must be at least 1, got 0"),
    (RunArguments, {"num_processes": 0}, "num_processes must be at least 1, got 0"),
    (RunArguments, {"seed": -1}, "seed must be from 0 to 2147483647, got -1"),
    (RunArguments, {"log_every": 0}, "log_every must be at least 1, got 0"),
    (RunArguments, {"save_every": 0}, "save_every must be at least 1, got 0"),
    (RunArguments, {"num_validation_batches": 0}, "num_validation_batches must be at least 1, got 0"),
    (RunArguments, {"keep_checkpoints": 0}, "keep_checkpoints must be at least 1, got 0"),
    (RunArguments, {"validate_every": -1}, "validate_every must be 0 (never) or more, got -1"),
    (RunArguments, {"sample_every": -1}, "sample_every must be 0 (never) or more, got -1"),
    (RunArguments, {"hub_private": True}, "hub_private needs push_to_hub"),
    (DataArguments, {"num_frames": 2}, "num_context_frames < num_frames, got 2 and 2"),
    (DataArguments, {"num_context_frames": 0}, "num_context_frames < num_frames, got 0 and 16"),
    (DataArguments, {"num_workers": -1}, "num_workers must be 0 or more, got -1"),
    (OptimizationArguments, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    (OptimizationArguments, {"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
    (OptimizationArguments, {"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
    (OptimizationArguments, {"warmup_updates": -1}, "warmup_updates must be 0 or more, got -1"),
    (OptimizationArguments, {"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
    (OptimizationArguments, {"max_grad_norm": 0.0}, "max_grad_norm must be positive, got 0.0"),
    (VQArguments, {"vq_model": None}, "give either vq_model (a checkpoint to fine-tune) or vq_config (a new model)"),
    (VQArguments, {"vq_config": {"resolution": 16}}, "give either vq_model"),
    (VQArguments, {"freeze_codebooks": True, "restart_dead_codes": 5}, "contradict each other"),
    (VQArguments, {"adversarial_start": 0, "perceptual_weight": 0.0}, "it needs perceptual_weight above 0"),
    (VQArguments, {"commitment_weight": -1.0}, "commitment_weight must be 0 or more, got -1.0"),
    (VQArguments, {"perceptual_weight": -1.0}, "perceptual_weight must be 0 or more, got -1.0"),
    (VQArguments, {"motion_weight": -1.0}, "motion_weight must be 0 or more, got -1.0"),
    (VQArguments, {"squared_weight": -1.0}, "squared_weight must be 0 or more, got -1.0"),
    (VQArguments, {"adversarial_weight": -1.0}, "adversarial_weight must be 0 or more, got -1.0"),
    (VQArguments, {"adversarial_start": -1}, "adversarial_start must be 0 or more, got -1"),
    (VQArguments, {"discriminator_learning_rate": 0.0}, "discriminator_learning_rate must be positive, got 0.0"),
    (VQArguments, {"horizon": 0}, "horizon must be at least 1, got 0"),
    (VQArguments, {"restart_until": 1.5}, "restart_until must be in [0, 1], got 1.5"),
    (VQArguments, {"restart_dead_codes": -1}, "restart_dead_codes must be 0 or more, got -1"),
    (VQArguments, {"perceptual_frames": 0}, "perceptual_frames must be at least 1, got 0"),
    (WorldModelArguments, {"vq_model": None}, "--vq-model is missing: the folder or Hub id"),
    (WorldModelArguments, {"transformer": None}, "give either transformer"),
    (WorldModelArguments, {"transformer_config": {"hidden_size": 8}}, "give either transformer"),
    (WorldModelArguments, {"reconstruct_actions": True}, "reconstruct_actions needs actions"),
    (WorldModelArguments, {"action_conditioning": "add"}, "action_conditioning needs actions"),
    (WorldModelArguments, {"transformer": None, "transformer_config": {}, "lora_rank": 2}, "lora_rank needs a check"),
    (WorldModelArguments, {"lora_alpha": 2.0}, "lora_alpha needs lora_rank"),
    (WorldModelArguments, {"lora_alpha": 0.0, "lora_rank": 2}, "lora_alpha must be positive, got 0.0"),
    (WorldModelArguments, {"num_reward_bins": 0, "rewards": True}, "num_reward_bins must be at least 1, got 0"),
    (WorldModelArguments, {"sample_frames": 0}, "sample_frames must be at least 1, got 0"),
    (WorldModelArguments, {"attention_dropout": 1.0}, "attention_dropout must be in [0, 1), got 1.0"),
    (WorldModelArguments, {"token_noise": 1.0}, "token_noise must be in [0, 1), got 1.0"),
    (WorldModelArguments, {"token_noise": -0.1}, "token_noise must be in [0, 1), got -0.1"),
    (WorldModelArguments, {"reward_weight": -1.0}, "reward_weight must be 0 or more, got -1.0"),
    (WorldModelArguments, {"action_reconstruction_weight": -1.0}, "action_reconstruction_weight must be 0 or more"),
    (WorldModelArguments, {"lora_rank": -1}, "lora_rank must be 0 or more, got -1"),
    (TokenizeArguments, {"output_dir": ""}, "--output-dir is missing: the folder for the tokens"),
    (TokenizeArguments, {"vq_model": None}, "--vq-model is missing"),
    (TokenizeArguments, {"num_passes": 0}, "num_passes must be at least 1, got 0"),
    (TokenizeArguments, {"num_processes": 0}, "num_processes must be at least 1, got 0"),
    (TokenizeArguments, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    (TokenizeArguments, {"clips_per_pass": 0}, "clips_per_pass must be at least 1, got 0"),
    (TokenizeArguments, {"validation_clips": 0}, "validation_clips must be at least 1, got 0"),
]


@pytest.fixture
def parsed(tmp_path):
    """What a yaml file (content, or its text) and options on the command line come to, as one mapping."""

    def read(content, *overrides):
        file = tmp_path / "run.yaml"
        if isinstance(content, str):
            file.write_text("".join(f"{name}: {value}\n" for name, value in REQUIRED.items()) + content)
        else:
            write_yaml(file, {name: value for name, value in (REQUIRED | content).items() if value is not ...})
        settings = {}
        for part in parse(KINDS, str(file), overrides, "ivideogpt train-vq"):
            settings |= dataclasses.asdict(part)
        return settings

    return read


def test_an_unknown_key_is_an_error_that_names_the_file_and_the_near_key(parsed, tmp_path):
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}/run.yaml .*'learing_rate'.*'learning_rate'"):
        parsed({"learing_rate": 1})


@pytest.mark.parametrize("words", [["--adversarial-start", "null"], ["--adversarial-start=null"]])
def test_null_is_no_value_in_either_way_of_writing(parsed, words):
    assert parsed({"adversarial_start": 3}, *words)["adversarial_start"] is None


@pytest.mark.parametrize("text", ["{a", "3", "[]"])
def test_a_mapping_of_the_command_line_that_is_none_is_told(parsed, text):
    with pytest.raises(ValueError, match=r"argument --vq-config: must be a mapping in JSON, such as '\{"):
        parsed({}, "--vq-config", text)


def test_an_unknown_key_that_resembles_none_lists_all(parsed):
    with pytest.raises(ValueError, match=r"unknown key 'xyzzy'; allowed are output_dir, .*batch_size"):
        parsed({"xyzzy": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": "many"},
        {"batch_size": 1.5},
        {"batch_size": [1, 2]},
        {"learning_rate": "fast"},
        {"compile": "perhaps"},
        {"schedule": "linear"},
        {"mixed_precision": "fp8"},
        {"vq_config": 16},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_an_error_that_names_the_option(parsed, wrong):
    changes = {"vq_model": ...} if "vq_config" in wrong else {}
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))}".replace("_", "-")):
        parsed(wrong | changes)


def test_the_command_line_wins(parsed):
    settings = parsed({"batch_size": 8, "seed": 3}, "--batch_size", "4")
    assert (settings["batch_size"], settings["seed"]) == (4, 3)


def value_of(hint):
    """A value that an option of this type takes, as text."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    choices = get_args(kinds[0]) or (kinds if isinstance(kinds[0], str) else ())
    return choices[-1] if choices else {bool: "true", Settings: "{}"}.get(kinds[0], "7")


@pytest.mark.parametrize(
    ("kinds", "option"),
    [
        pytest.param(kinds, option.name, id=f"{command} {option.name}")
        for command, kinds in COMMANDS.items()
        for kind in kinds
        for option in dataclasses.fields(kind)
    ],
)
def test_options_and_keys_are_read_in_both_spellings(kinds, option, tmp_path):
    """Also where the value contradicts what else is set: then both spellings say the same."""
    (hint,) = (hints[option] for hints in map(get_type_hints, kinds) if option in hints)
    needed = {name: value for kind in kinds for name, value in MINIMAL[kind].items() if name != option}

    def outcome(key, *argv):
        content = needed if argv else needed | {key: yaml.safe_load(value_of(hint))}
        file = write_yaml(tmp_path / "run.yaml", content)
        try:
            return [dataclasses.asdict(part) for part in parse(kinds, str(file), argv, "test")]
        except ValueError as error:
            return str(error)

    outcomes = []
    for key in (option, option.replace("_", "-")):
        outcomes += [outcome(key), outcome(key, f"--{key}", value_of(hint)), outcome(key, f"--{key}={value_of(hint)}")]
    assert outcomes == outcomes[:1] * 6
    assert "--" not in outcomes[0] if isinstance(outcomes[0], str) else True


def test_abbreviations_are_not_guessed(parsed):
    with pytest.raises(ValueError, match="--batch"):
        parsed({}, "--batch", "4")


def test_what_is_set_nowhere_has_its_default(parsed):
    settings = parsed({})
    for kind in KINDS:
        for item in dataclasses.fields(kind):
            assert item.name in {*REQUIRED, "save_every"} or settings[item.name] == item.default


@pytest.mark.parametrize(("validate_every", "save_every"), [(500, 500), (40, 520), (700, 700), (0, 500)])
def test_checkpoints_follow_validations(parsed, validate_every, save_every):
    assert parsed(f"validate_every: {validate_every}\n")["save_every"] == save_every


def test_an_option_that_does_not_exist_is_an_error_with_the_one_that_was_meant(parsed):
    with pytest.raises(ValueError, match=r"has no option --lerning-rate; did you mean --learning-rate\?"):
        parsed({}, "--lerning-rate", "1e-4")


def test_numbers_that_yaml_reads_as_text_arrive_as_numbers(parsed):
    """PyYAML takes 1e-4 for a string: YAML 1.1 wants a point in it."""
    assert parsed("learning_rate: 1e-4\n")["learning_rate"] == 1e-4


def test_null_is_none(parsed):
    assert parsed("validation_split: null\n")["validation_split"] is None
    assert parsed("validation_split: null\n", "--validation_split", "test")["validation_split"] == "test"


def test_null_where_a_number_is_needed_is_an_error_that_names_the_key(parsed):
    with pytest.raises(ValueError, match="num_updates"):
        parsed("num_updates: null\n")


def test_no_validation_can_be_asked_for_on_the_command_line(parsed):
    assert parsed({}, "--validation_split", "null")["validation_split"] is None


@pytest.mark.parametrize("in_file", [True, False])
def test_booleans_can_be_set_both_ways(parsed, in_file):
    assert parsed({"compile": in_file})["compile"] is in_file
    assert parsed({"compile": in_file}, "--compile")["compile"] is True
    assert parsed({"compile": in_file}, "--compile", "false")["compile"] is False
    assert parsed({"compile": in_file}, "--compile", "true")["compile"] is True


@pytest.mark.parametrize("written", ["no", "'no'"])
def test_no_mixed_precision_can_be_written_with_and_without_quotes(parsed, written):
    """YAML takes a bare no for false."""
    assert parsed(f"mixed_precision: {written}\n")["mixed_precision"] == "no"


def test_mappings_come_from_yaml_and_as_json(parsed):
    expected = {"resolution": 16, "block_out_channels": [32, 32], "attention_dropout": 0.0}
    assert parsed({"vq_model": ..., "vq_config": expected})["vq_config"] == expected
    text = '{"resolution": 16, "block_out_channels": [32, 32], "attention_dropout": 0.0}'
    assert parsed({"vq_model": ...}, "--vq_config", text)["vq_config"] == expected


def test_text_that_begins_with_a_dash_is_no_option(parsed):
    assert parsed({"run_name": "-5 degrees"})["run_name"] == "-5 degrees"
    assert parsed({"run_name": "--fast"})["run_name"] == "--fast"


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no yaml file .*nowhere\.yaml"):
        parse(KINDS, str(tmp_path / "nowhere.yaml"), [], "ivideogpt train-vq")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not valid YAML"), ("- a\n- b\n", "must be a mapping"), ("", "must be a mapping")]
)
def test_a_file_that_holds_no_mapping_is_named(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"run\.yaml.* {message}"):
        parse(KINDS, str(tmp_path / "run.yaml"), [], "ivideogpt train-vq")


@pytest.mark.parametrize(("kind", "changes", "message"), CONTRADICTIONS, ids=lambda value: str(value)[:60])
def test_contradictory_options_are_refused(kind, changes, message):
    kind(**MINIMAL[kind])
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**MINIMAL[kind] | changes)


@pytest.mark.parametrize("command", ["train-vq", "train", "tokenize"])
def test_an_unknown_option_is_an_error_of_one_line(command, capsys, tmp_path):
    needed = ["--output_dir", tmp_path / "out", "--vq_model", "vq"]
    needed += {"train": ["--transformer", "start", "--num_updates", 1], "train-vq": ["--num_updates", 1]}.get(
        command, []
    )
    assert run(command, None, *needed, "--learing_rate", 1) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ivideogpt: error: ")
    assert "--learing_rate" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train-vq", "train", "tokenize"])
def test_an_unknown_option_is_told_before_what_is_missing(command, capsys):
    assert run(command, None, "--output-dri", "out") == 2
    assert "has no option --output-dri; did you mean --output-dir?" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "key"), [("train-vq", "vq_config"), ("train", "transformer_config")])
def test_an_unknown_field_of_a_model_is_an_error_that_names_it(command, key, request, tmp_path, capsys):
    """A config of Transformers takes any field: a model of other sizes than those asked for would train for days."""
    config = request.getfixturevalue({"train-vq": "vq_config", "train": "world_config"}[command])
    settings = yaml.safe_load(config.read_text())
    settings[key]["hiden_sise"] = 8
    assert run(command, write_yaml(tmp_path / "wrong.yaml", settings), "--num_updates", 1) == 2
    assert "hiden_sise" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_listed_in_one_spelling(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(command, None, "--help")
    assert stopped.value.code == 0
    listed = capsys.readouterr().out
    for kind in COMMANDS[command]:
        for item in dataclasses.fields(kind):
            assert f"--{item.name.replace('_', '-')}" in listed
    assert not re.findall(r"--\w+_\w+", listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_begins_with_what_the_command_does(command, capsys):
    with pytest.raises(SystemExit):
        run(command, None, "--help")
    words = " ".join(capsys.readouterr().out.split())
    assert ABOUT[command] in words


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_required_has_no_default_in_the_help(command, capsys):
    with pytest.raises(SystemExit):
        run(command, None, "--help")
    words = " ".join(capsys.readouterr().out.split())
    assert "; required" in words
    assert "required (default" not in words


def test_no_help_text_is_written_twice():
    """What two commands can set is described once, in the source: otherwise one of the texts would be forgotten."""
    tree = ast.parse(inspect.getsource(arguments))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS]
    texts = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    assert len(texts) > 60
    assert [text for text, count in collections.Counter(texts).items() if count > 1] == []


def test_options_that_tokenize_shares_with_training_are_those_of_training():
    shared = {
        "vq_model": WorldModelArguments,
        "repeat_last_context": WorldModelArguments,
        "goal_conditioned": WorldModelArguments,
        "mixed_precision": RunArguments,
        "num_processes": RunArguments,
    }
    fields = {kind: {item.name: item for item in dataclasses.fields(kind)} for kind in MINIMAL}
    for name, kind in shared.items():
        ours, theirs = fields[TokenizeArguments][name], fields[kind][name]
        assert (ours.metadata, ours.default, ours.type) == (theirs.metadata, theirs.default, theirs.type)
