"""A run that was stopped goes on as if nothing had happened: the same weights to the bit, the same metrics."""

import json
import shutil
import signal

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from ivideogpt_hf.training.run_checkpoints import STATE_FILE, _seal, checkpoints_in
from tests.conftest import build_vq_model
from tests.data.files import change_one_pixel, make_dataset
from tests.started import Started
from tests.training.conftest import assert_same_weights, metrics_of, run, weights_of, write_yaml

# Updates after whose entry in the metrics each kill comes: before, between and after checkpoints, in different epochs.
KILLS = (3, 6, 9)
RUN = {
    "num_updates": 12,
    "batch_size": 2,
    "save_every": 2,
    "validate_every": 2,
    "learning_rate": 3.0e-3,
    "warmup_updates": 3,
    "schedule": "cosine",
    "augmentation": "strong",
}


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """A data set of 12 clips to train on: six batches of two are an epoch."""
    return make_dataset(tmp_path_factory.mktemp("data") / "few", [8] * 4, test_fraction=0.3)


@pytest.fixture
def config_of(vq_config, world_config, few, tmp_path):
    """Configs of trainings that draw random numbers in every update."""

    def make(command):
        settings = yaml.safe_load({"train-vq": vq_config, "train": world_config}[command].read_text())
        settings |= RUN | {"data": str(few)}
        if command == "train-vq":
            settings["vq_config"]["attention_dropout"] = 0.1
            settings |= {"restart_dead_codes": 2, "restart_until": 1.0, "log_every": 1, "average_decay": 0.9}
        else:
            settings |= {"attention_dropout": 0.1, "token_noise": 0.1}
        return write_yaml(tmp_path / "run.yaml", settings)

    return make


def last_update(output):
    """Of the newest entry of the metrics: 0 where there is none."""
    file = output / "metrics.jsonl"
    lines = (
        [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []
    )
    return json.loads(lines[-1])["update"] if lines else 0


@pytest.mark.parametrize("command", ["train-vq", "train"])
def test_a_run_that_is_killed_three_times_ends_as_one_that_is_not(command, config_of, tmp_path):
    config, whole, killed = config_of(command), tmp_path / "whole", tmp_path / "killed"
    assert Started(command, "--config", config, "--output_dir", whole, log=tmp_path / "log").wait() == 0
    options = ["--output_dir", killed, "--resume", "latest"]
    for update in KILLS:
        process = Started(command, "--config", config, *options, log=tmp_path / "log")
        process.wait_for(lambda update=update: last_update(killed) >= update)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert last_update(killed) < RUN["num_updates"]
    assert Started(command, "--config", config, *options, log=tmp_path / "log").wait() == 0
    assert metrics_of(killed) == metrics_of(whole)
    assert_same_weights(killed, whole)


def test_a_kill_while_a_checkpoint_is_written_costs_only_that_one(config_of, tmp_path):
    config, whole, killed = config_of("train"), tmp_path / "whole", tmp_path / "killed"
    assert run("train", config, "--output_dir", whole) == 0
    process = Started("train", "--config", config, "--output_dir", killed, log=tmp_path / "log")
    process.wait_for(lambda: list(killed.glob("checkpoints/update-00000006*")))  # more likely than not the partial one
    process.send(signal.SIGKILL)
    process.wait()
    assert run("train", config, "--output_dir", killed, "--resume", "latest") == 0
    assert metrics_of(killed) == metrics_of(whole)
    assert_same_weights(killed, whole)


@pytest.mark.parametrize("command", ["train-vq", "train"])
def test_a_run_that_was_asked_to_stop_goes_on_as_one_that_was_not(command, config_of, tmp_path):
    config, whole, stopped = config_of(command), tmp_path / "whole", tmp_path / "stopped"
    assert run(command, config, "--output_dir", whole, "--log_every", 1) == 0
    process = Started(command, "--config", config, "--output_dir", stopped, "--log_every", 1, log=tmp_path / "log")
    process.wait_for(lambda: last_update(stopped) >= 3)
    process.send(signal.SIGTERM)
    assert process.wait() == 75
    assert run(command, config, "--output_dir", stopped, "--log_every", 1, "--resume", "latest") == 0
    assert metrics_of(stopped) == metrics_of(whole)
    assert_same_weights(stopped, whole)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_means_over_several_updates_include_those_before_the_stop(num_workers, config_of, tmp_path):
    """A checkpoint between two entries holds the sums for the next one; how clips are prepared does not matter."""
    config = config_of("train")
    options = ["--log_every", 5, "--num_updates", 10]
    assert run("train", config, "--output_dir", tmp_path / "whole", *options) == 0
    whole = metrics_of(tmp_path / "whole")
    folder = tmp_path / "whole" / "checkpoints"
    (before, _) = checkpoints_in(folder)[-2:]
    workers = ["--num_workers", num_workers]
    assert before.name == "update-00000008"
    assert run("train", config, "--output_dir", tmp_path / "whole", *options, "--resume", before, *workers) == 0
    assert metrics_of(tmp_path / "whole") == whole


def test_latest_with_nothing_there_starts_from_the_beginning(config_of, tmp_path):
    config = config_of("train")
    assert run("train", config, "--output_dir", tmp_path / "plain", "--num_updates", 2) == 0
    assert run("train", config, "--output_dir", tmp_path / "resumed", "--num_updates", 2, "--resume", "latest") == 0
    assert metrics_of(tmp_path / "plain") == metrics_of(tmp_path / "resumed")
    assert_same_weights(tmp_path / "plain", tmp_path / "resumed")


def test_a_finished_run_can_be_resumed_without_a_further_update(config_of, tmp_path):
    config = config_of("train")
    assert run("train", config, "--num_updates", 4) == 0
    metrics, weights = metrics_of(tmp_path / "out"), weights_of(tmp_path / "out")
    assert run("train", config, "--num_updates", 4, "--resume", "latest") == 0
    assert metrics_of(tmp_path / "out") == metrics
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(tmp_path / "out").items())


def test_a_command_that_found_nothing_left_to_do_leaves_the_record_alone(config_of, tmp_path, capsys):
    config = config_of("train")
    assert run("train", config, "--num_updates", 4) == 0
    record = (tmp_path / "out" / "training.json").read_text()
    assert run("train", config, "--num_updates", 4, "--resume", "latest", "--log_every", 3) == 0
    assert (tmp_path / "out" / "training.json").read_text() == record
    assert "nothing is left to do" in capsys.readouterr().out


# -- the best model ---------------------------------------------------------------------------------------------------


def best_of(output):
    return json.loads((output / "best" / "validation.json").read_text())


def test_the_best_loss_so_far_is_known_after_a_resume(config_of, tmp_path):
    """A worse model does not take the best one's place; here none can be better, whatever the processor's rounding."""
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    entries = tmp_path / "out" / "best" / "validation.json"
    entries.write_text(json.dumps(best_of(tmp_path / "out") | {"validation/loss": 0.0}))
    best, weights = best_of(tmp_path / "out"), weights_of(tmp_path / "out" / "best")
    assert best["update"] == 2
    assert run("train", config, "--num_updates", 6, "--resume", "latest") == 0
    assert best_of(tmp_path / "out") == best
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(tmp_path / "out" / "best").items())


def test_a_better_model_takes_the_best_ones_place_after_a_resume(config_of, tmp_path):
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    assert run("train", config, "--num_updates", 8, "--resume", "latest") == 0
    losses = {e["update"]: e["validation/loss"] for e in metrics_of(tmp_path / "out") if "validation/loss" in e}
    assert best_of(tmp_path / "out")["update"] == min(losses, key=losses.__getitem__) > 2


def test_what_a_kill_left_of_an_export_is_no_obstacle(config_of, tmp_path):
    """The best model is replaced by two renamings and a removal; a kill may come between any of them."""
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    for left in ("best.partial", "best.old.partial"):
        (tmp_path / "out" / left / "transformer").mkdir(parents=True)
        (tmp_path / "out" / left / "transformer" / "config.json").write_text("{}")
    assert run("train", config, "--num_updates", 8, "--resume", "latest") == 0
    assert best_of(tmp_path / "out")["update"] > 2
    assert not list((tmp_path / "out").glob("*.partial"))


# -- what may not change ----------------------------------------------------------------------------------------------


def test_other_data_are_refused(config_of, folder, tmp_path, capsys):
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    told = (tmp_path / "out" / "training.json").read_text()
    assert run("train", config, "--num_updates", 4, "--resume", "latest", "--data", folder) == 2
    assert "the data differ from those of the saved state" in capsys.readouterr().err
    assert (tmp_path / "out" / "training.json").read_text() == told  # of the model that is there


def test_data_that_changed_under_their_name_are_refused(config_of, tmp_path, capsys):
    lengths = [8] * 4
    data = make_dataset(tmp_path / "few", lengths, test_fraction=0.3)
    config = config_of("train")
    assert run("train", config, "--num_updates", 2, "--data", data) == 0
    shutil.copytree(data, tmp_path / "elsewhere/few")
    assert run("train", config, "--num_updates", 3, "--resume", "latest", "--data", tmp_path / "elsewhere/few") == 0
    change_one_pixel(data, lengths, test_fraction=0.3)
    assert run("train", config, "--num_updates", 4, "--resume", "latest", "--data", data) == 2
    assert "the data have changed since the state was saved: 1 changed (few/train" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train-vq", "train"])
def test_another_model_is_refused(command, config_of, capsys):
    config = config_of(command)
    name = {"train-vq": "vq_config", "train": "transformer_config"}[command]
    wider = {"train-vq": {"latent_channels": 16}, "train": {"hidden_size": 64}}[command]
    other = json.dumps(yaml.safe_load(config.read_text())[name] | wider)
    assert run(command, config, "--num_updates", 2) == 0
    assert run(command, config, "--num_updates", 4, "--resume", "latest", f"--{name}", other) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_another_batch_size_is_refused(config_of, capsys):
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    assert run("train", config, "--num_updates", 4, "--resume", "latest", "--batch_size", 4) == 2
    assert "of another run: batch_size is 2 there, 4 here" in capsys.readouterr().err


OTHERS = {
    "train": {
        "learning_rate": 0.01,
        "weight_decay": 0.5,
        "schedule": "constant",
        "warmup_updates": 1,
        "max_grad_norm": 2.0,
        "average_decay": 0.5,
        "seed": 1,
        "token_noise": 0.2,
        "reward_weight": 2.0,
        "num_validation_batches": 1,
        "augmentation": "weak",
        "mixed_precision": "bf16",
    },
    "train-vq": {"squared_weight": 1.0, "restart_dead_codes": 4, "freeze_codebooks": "true"},
}


@pytest.mark.parametrize("command", ["train-vq", "train"])
def test_arguments_that_shape_the_result_are_refused(command, config_of, tmp_path, capsys):
    config = config_of(command)
    assert run(command, config, "--num_updates", 2) == 0
    told = (tmp_path / "out/training.json").read_text()
    for name, value in OTHERS[command].items():
        options = ["--num_updates", 4, "--resume", "latest", f"--{name}", value]
        AcceleratorState._reset_state(reset_partial_state=True)
        if name == "freeze_codebooks":
            options += ["--restart_dead_codes", 0]
        assert run(command, config, *options) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{tmp_path / 'out/checkpoints/update-00000002'} is of another run: " in error
        assert f"{name} is " in error
    assert (tmp_path / "out/training.json").read_text() == told


def test_a_model_of_the_same_weights_and_another_shape_is_refused(config_of, capsys):
    """Four heads of eight have the weights of two of sixteen."""
    config = config_of("train")
    settings = yaml.safe_load(config.read_text())["transformer_config"]
    assert run("train", config, "--num_updates", 2) == 0
    other = json.dumps(settings | {"num_attention_heads": 2})
    assert run("train", config, "--num_updates", 4, "--resume", "latest", "--transformer_config", other) == 2
    assert "model: num_key_value_heads is 4 there, 2 here" in capsys.readouterr().err


def test_another_vq_model_of_the_same_shape_is_refused(config_of, tmp_path, capsys):
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    other = build_vq_model(attention_dropout=0.0)
    other.quant_conv.weight.data.neg_()
    other.save_pretrained(tmp_path / "vq/tokenizer")
    assert run("train", config, "--num_updates", 4, "--resume", "latest", "--vq_model", tmp_path / "vq") == 2
    assert "of another run: vq_model_hash is" in capsys.readouterr().err


def test_other_tokens_of_the_same_number_are_refused(config_of, tokens_config, few, tmp_path, capsys):
    options = {}
    for name, seed in (("one", 0), ("other", 1)):
        options[name] = ["--tokens", tmp_path / name, "--data", "null", "--augmentation", "strong"]
        arguments = ["--data", few, "--augmentation", "strong", "--seed", seed, "--output_dir", tmp_path / name]
        assert run("tokenize", tokens_config, *arguments) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
    config = config_of("train")
    assert run("train", config, "--num_updates", 2, *options["one"]) == 0
    (tmp_path / "one").rename(tmp_path / "moved")  # the same tokens may lie elsewhere
    options["one"][1] = tmp_path / "moved"
    assert run("train", config, "--num_updates", 3, "--resume", "latest", *options["one"]) == 0
    assert run("train", config, "--num_updates", 4, "--resume", "latest", *options["other"]) == 2
    assert "the data have changed since the state was saved" in capsys.readouterr().err


def test_what_may_change_is_applied_and_told(config_of, tmp_path):
    """The rate falls to the new end at once, and the record tells what was before."""
    config = config_of("train")
    assert run("train", config, "--num_updates", 4) == 0
    assert run("train", config, "--num_updates", 8, "--resume", "latest", "--log_every", 1) == 0
    made = json.loads((tmp_path / "out/training.json").read_text())
    assert made["arguments"]["num_updates"] == 8
    assert made["resumed"] == [{"update": 4, "arguments_before": {"num_updates": 4}, "versions_before": {}}]
    assert run("train", config, "--num_updates", 8, "--output_dir", tmp_path / "whole") == 0
    rates = [
        {
            entry["update"]: entry["transformer/learning_rate"]
            for entry in metrics_of(tmp_path / name)
            if "loss" in entry
        }
        for name in ("out", "whole")
    ]
    assert [rates[0][update] for update in range(5, 9)] == [rates[1][update] for update in range(5, 9)]


def test_a_checkpoint_without_arguments_goes_on(config_of, tmp_path, caplog):
    """Earlier versions did not note them."""
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    checkpoint = tmp_path / "out/checkpoints/update-00000002"
    state = json.loads((checkpoint / STATE_FILE).read_text())
    del state["training"]
    (checkpoint / STATE_FILE).write_text(json.dumps(state))
    (checkpoint / "manifest.json").unlink()
    _seal(checkpoint)
    assert run("train", config, "--num_updates", 3, "--resume", "latest") == 0
    assert "did not note the arguments" in caplog.text


def test_a_random_state_that_cannot_be_read_is_an_error(config_of, tmp_path, capsys):
    config = config_of("train")
    assert run("train", config, "--num_updates", 2) == 0
    checkpoint = tmp_path / "out/checkpoints/update-00000002"
    (checkpoint / "random_states_0.pkl").write_bytes(b"of another version")
    (checkpoint / "manifest.json").unlink()
    _seal(checkpoint)
    assert run("train", config, "--num_updates", 3, "--resume", "latest") == 2
    assert f"{checkpoint / 'random_states_0.pkl'} cannot be read" in capsys.readouterr().err
