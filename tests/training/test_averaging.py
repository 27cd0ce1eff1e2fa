"""Averaged weights: what is validated and saved, while the last weights train on."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import nn

from ivideogpt_hf.training.averaging import AveragedWeights
from ivideogpt_hf.training.run_checkpoints import _seal
from tests.training.conftest import metrics_of, run

DECAY = 0.8


def trained(config, output, *options):
    assert run("train-vq", config, "--output_dir", output, "--save_every", 1, "--keep_checkpoints", 9, *options) == 0
    return output


def last_weights(output):
    """The trained weights after each update."""
    return [load_file(file) for file in sorted(output.glob("checkpoints/update-*/model.safetensors"))]


def test_the_saved_model_is_the_average_of_the_weights(vq_config, tmp_path):
    output = trained(vq_config, tmp_path / "out", "--average_decay", DECAY)
    history = last_weights(output)
    average = {name: value.clone() for name, value in history[0].items()}
    for number, weights in enumerate(history[1:], start=1):
        decay = min(DECAY, (1 + number) / (10 + number))
        for name, value in weights.items():
            average[name] = decay * average[name] + (1 - decay) * value
    saved = load_file(output / "tokenizer" / "model.safetensors")
    assert max((saved[name] - value).abs().max() for name, value in average.items()) < 1e-6
    assert any(not saved[name].equal(value) for name, value in history[-1].items())


def test_averaging_does_not_change_the_training(vq_config, tmp_path):
    options = ("--validate_every", 1)
    with_average = trained(vq_config, tmp_path / "with", "--average_decay", DECAY, *options)
    without = trained(vq_config, tmp_path / "without", *options)
    for averaged, plain in zip(last_weights(with_average), last_weights(without), strict=True):
        assert all(averaged[name].equal(plain[name]) for name in plain)


def test_the_average_is_what_is_validated(vq_config, tmp_path):
    losses = []
    for name, options in (("with", ("--average_decay", 0.99)), ("without", ())):
        output = trained(vq_config, tmp_path / name, "--validate_every", 1, *options)
        losses.append([e["validation/loss"] for e in metrics_of(output) if "validation/loss" in e][-1])
    assert losses[0] != losses[1]


def test_the_average_of_a_resumed_run_is_where_the_weights_are():
    """Accelerate reads it into the CPU's memory. Without a GPU, "meta" is another device."""
    registered = []
    processes = SimpleNamespace(distributed_type=DistributedType.NO, register_for_checkpointing=registered.append)
    AveragedWeights(processes, nn.Linear(2, 2), DECAY)
    average = AveragedWeights(processes, nn.Linear(2, 2, device="meta"), DECAY)
    saved, resumed = registered
    resumed.load_state_dict(saved.state_dict())
    average.on_start(None)
    average.on_update(None, {})
    assert {str(values.device) for values in resumed.shadow_params} == {"meta"}


class Evil:
    def __reduce__(self):
        return pytest.fail, ("it was executed",)


def test_an_average_that_holds_code_is_refused(vq_config, tmp_path, capsys):
    options = ("--average_decay", DECAY)
    (checkpoint,) = trained(vq_config, tmp_path / "out", *options, "--num_updates", 1).glob("checkpoints/update-*")
    torch.save(Evil(), checkpoint / "custom_checkpoint_0.pkl")
    (checkpoint / "manifest.json").unlink()
    _seal(checkpoint)
    assert run("train-vq", vq_config, *options, "--output_dir", tmp_path / "out", "--resume", "latest") == 2
    assert "custom_checkpoint_0.pkl cannot be read as tensors and plain values" in capsys.readouterr().err


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_forgets_nothing_or_is_negative_is_refused(vq_config, tmp_path, decay, capsys):
    assert run("train-vq", vq_config, "--average_decay", decay) != 0
    assert "average_decay must be in [0, 1)" in capsys.readouterr().err
