"""The loop: what an update does, and how a run ends before its time."""

import gc
import json
import math
import os
import re
import resource
import signal

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from ivideogpt_hf.training.arguments import DataArguments, VQArguments
from ivideogpt_hf.training.loop import Callback, Loop, NonFiniteLossError, Phase
from ivideogpt_hf.training.open_data import make_loader, open_clips
from ivideogpt_hf.training.optimizers import make_scheduler
from ivideogpt_hf.training.run_checkpoints import checkpoints_in, problem_of
from ivideogpt_hf.training.train_vq import VQLosses
from tests.conftest import TRANSFORMER_SETTINGS, VQ_SETTINGS, build_vq_model
from tests.data.files import MemoryReader, convert, make_episode
from tests.started import Started
from tests.training.conftest import metrics_of, run, weights_of

BOTH = pytest.mark.parametrize("command", ["train-vq", "train"])


@pytest.fixture
def config_of(vq_config, world_config):
    return {"train-vq": vq_config, "train": world_config}.__getitem__


@pytest.fixture
def make_loop(folder, tmp_path):
    """A loop over a real VQ model with plain gradient descent; ``loop.phases[0].model`` is the model."""

    def make(learning_rate=1.0, **settings):
        accelerator = Accelerator(cpu=True)
        model = build_vq_model(attention_dropout=0.0).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        scheduler = make_scheduler(optimizer, "constant", 0, 100)
        model, optimizer = accelerator.prepare(model, optimizer)
        losses = VQLosses(VQArguments(vq_config={}, perceptual_weight=0.0), None, None, model)
        phase = Phase("vq", model, optimizer, scheduler, lambda *inputs: losses.generator(model, *inputs))
        clips = open_clips(DataArguments(str(folder), num_frames=4, augmentation="none"), (16, 16), 0)
        defaults = {"num_updates": 3, "max_grad_norm": 1.0, "output_dir": tmp_path}
        return Loop(accelerator, [phase], make_loader(clips.training, 2, accelerator), ["arm"], **defaults | settings)

    return make


def error_in(output):
    """The message of a failing command."""
    return output.rpartition("ivideogpt: error: ")[2].splitlines()[0]


class Weights(Callback):
    """Keeps the weights after each update, and those before the first."""

    def on_start(self, loop):
        self.kept = [self._of(loop)]

    def on_update(self, loop, metrics):
        self.kept.append(self._of(loop))

    @staticmethod
    def _of(loop):
        return torch.cat([parameter.detach().flatten().clone() for parameter in loop.phases[0].model.parameters()])


class Signals(Callback):
    """Sends this process signals after an update."""

    def __init__(self, update, *numbers):
        self.update, self.numbers = update, numbers

    def on_update(self, loop, metrics):
        if loop.update == self.update:
            for number in self.numbers:
                os.kill(os.getpid(), number)


# -- updates ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_give_the_weights_of_the_whole_batch(command, size, config_of, tmp_path):
    for micro in (size, 4):
        # With this seed no latent lies so near the middle of two codes that rounding decides.
        options = ["--num_updates", 2, "--seed", 2, "--micro_batch_size", micro]
        options += ["--output_dir", tmp_path / f"micro{micro}"]
        assert run(command, config_of(command), *options) == 0
    ours, whole = metrics_of(tmp_path / f"micro{size}"), metrics_of(tmp_path / "micro4")
    for one, other in zip(ours, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    ours, whole = weights_of(tmp_path / f"micro{size}"), weights_of(tmp_path / "micro4")
    errors = torch.cat([(ours[name] - value).abs().flatten() for name, value in whole.items()])
    # An update moves weights by up to 1e-3. AdamW does so even where the gradient is nothing but rounding: in biases
    # before a norm.
    assert (errors > 1e-5).float().mean() < 0.01


def test_the_gradient_is_clipped(make_loop):
    weights = Weights()
    norms = []

    class Norms(Callback):
        def on_update(self, loop, metrics):
            norms.append(metrics["vq/grad_norm"].item())

    make_loop(max_grad_norm=1e-3, callbacks=[weights, Norms()]).run()
    for before, after in zip(weights.kept[:-1], weights.kept[1:], strict=True):
        assert (after - before).double().norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert min(norms) > 1e-2  # what is reported is the norm before


def test_a_small_gradient_is_left_as_it_is(make_loop):
    free, clipped = Weights(), Weights()
    make_loop(learning_rate=1e-3, max_grad_norm=1e3, callbacks=[free]).run()
    make_loop(learning_rate=1e-3, max_grad_norm=1e6, callbacks=[clipped]).run()
    assert free.kept[-1].equal(clipped.kept[-1])


def test_the_rate_follows_its_schedule(vq_config, tmp_path):
    assert run("train-vq", vq_config, "--warmup_updates", 2, "--schedule", "cosine", "--learning_rate", 1e-3) == 0
    rates = [entry["vq/learning_rate"] for entry in metrics_of(tmp_path / "out") if "vq/learning_rate" in entry]
    expected = [0.0, 5e-4, *(1e-3 * (1 + math.cos(math.pi * done / 4)) / 2 for done in range(4))]
    assert rates == pytest.approx(expected, rel=1e-4)


# -- losses that are not finite ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(make_loop):
    """A rate so high that the first update spoils the model: the second must not spoil it further."""
    weights = Weights()
    loop = make_loop(learning_rate=1e30, callbacks=[weights])
    with pytest.raises(NonFiniteLossError, match="the loss of update 2 is not finite"):
        loop.run()
    assert len(weights.kept) == 2
    assert Weights._of(loop).equal(weights.kept[1])
    assert loop.update == 1


@pytest.fixture(scope="module")
def absurd(tmp_path_factory):
    """A data set with rewards whose square is more than float32 holds."""
    episodes = [make_episode(index, 12) for index in range(3)]
    episodes[1].rewards[:] = 1e25
    return convert(MemoryReader(episodes), tmp_path_factory.mktemp("data") / "absurd")


def test_the_batch_behind_it_is_kept_and_its_sources_are_named(world_config, absurd, tmp_path, capsys):
    options = ["--data", absurd, "--validation_split", "null", "--reward_transform", "identity", "--num_updates", 50]
    assert run("train", world_config, *options, "--micro_batch_size", 1) == 2
    message = error_in(capsys.readouterr().err)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    assert f"its batch, from absurd, is in {file}" in message
    assert "learning_rate" in message
    with safe_open(file, "pt") as kept:
        assert json.loads(kept.metadata()["sources"]) == ["absurd"]
        assert kept.get_tensor("episode").tolist() == [1]  # with one clip at a time, it is the one to blame
        assert kept.get_tensor("rewards").max() == 1e25
        assert kept.get_tensor("frames").shape == (1, 5, 3, 16, 16)
    assert not (tmp_path / "out" / "transformer").exists()


def test_an_error_stands_on_a_line_of_its_own(world_config, absurd, capsys):
    """Not behind the progress bar, and the bar is not drawn once more below it."""
    options = ["--data", absurd, "--validation_split", "null", "--reward_transform", "identity", "--num_updates", 50]
    assert run("train", world_config, *options) == 2
    gc.collect()
    assert re.match("ivideogpt: error: .* is not finite", capsys.readouterr().err.splitlines()[-1])


# -- signals ----------------------------------------------------------------------------------------------------------


def assert_stopped_after_an_update(code, output):
    """With a sound checkpoint of the last update whose metrics are there, and no finished model."""
    assert code == 75
    (checkpoint,) = checkpoints_in(output / "checkpoints")
    assert problem_of(checkpoint) is None
    assert int(checkpoint.name.removeprefix("update-")) == metrics_of(output)[-1]["update"]
    assert not (output / "tokenizer").exists()


@pytest.mark.parametrize(
    ("command", "number"), [("train-vq", signal.SIGTERM), ("train-vq", signal.SIGINT), ("train", signal.SIGINT)]
)
def test_a_signal_ends_a_training_after_a_checkpoint(command, number, config_of, tmp_path):
    process = Started(command, "--config", config_of(command), "--num_updates", 100_000, log=tmp_path / "log")
    process.wait_for((tmp_path / "out" / "metrics.jsonl").exists)
    process.send(number)
    assert_stopped_after_an_update(process.wait(), tmp_path / "out")
    assert "go on with --resume latest" in process.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_last_update_changes_nothing(make_loop, number):
    before = signal.getsignal(number)
    loop = make_loop(callbacks=[Signals(2, number)], num_updates=2)
    loop.run()
    assert (loop.update, loop.interrupted) == (2, False)
    assert signal.getsignal(number) is before


def test_the_update_that_a_signal_comes_in_is_finished(make_loop):
    weights = Weights()
    loop = make_loop(callbacks=[weights, Signals(1, signal.SIGTERM, signal.SIGTERM)], num_updates=9)
    loop.run()
    assert (loop.update, loop.interrupted) == (2, True)  # the signal came after the first was counted
    assert len(weights.kept) == 3


def test_a_second_interrupt_does_not_wait(make_loop):
    loop = make_loop(callbacks=[Signals(1, signal.SIGINT, signal.SIGINT)])
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert loop.update == 1


# -- what cannot go on ------------------------------------------------------------------------------------------------


@BOTH
def test_a_batch_that_exceeds_the_memory_is_an_error_that_says_what_to_lower(command, config_of, tmp_path):
    wide = {"train-vq": ["--vq_config", json.dumps(VQ_SETTINGS | {"block_out_channels": [128, 128]})]}
    wide["train"] = ["--transformer_config", json.dumps(TRANSFORMER_SETTINGS | {"intermediate_size": 131072})]
    options = ["--batch_size", 64, "--validation_split", "null", *wide[command]]
    limit = {resource.RLIMIT_AS: {"train-vq": 3 * 2**29, "train": 3 * 2**30}[command]}
    process = Started(command, "--config", config_of(command), *options, log=tmp_path / "log", limits=limit)
    assert process.wait() == 2, process.output
    message = error_in(process.output)
    assert message.startswith("64 clips at a time do not fit into memory: set micro_batch_size below")
    assert "gradient_checkpointing" in message


@BOTH
def test_a_folder_that_holds_a_run_is_not_trained_into(command, config_of, tmp_path, capsys):
    assert run(command, config_of(command), "--num_updates", 1) == 0
    before = weights_of(tmp_path / "out")
    capsys.readouterr()
    assert run(command, config_of(command), "--num_updates", 2) == 2
    message = error_in(capsys.readouterr().err)
    assert re.search(r"out already holds a run: go on with --resume latest, or choose another output_dir", message)
    after = weights_of(tmp_path / "out")
    assert all(value.equal(after[name]) for name, value in before.items())


def test_a_small_validation_split_does_not_limit_the_batch(world_config, tmp_path):
    """There are 72 clips to train on, and 18 held out."""
    options = ["--batch_size", 32, "--num_updates", 1, "--validate_every", 1, "--save_every", 1]
    assert run("train", world_config, *options) == 0
    assert metrics_of(tmp_path / "out")[-1]["validation/loss"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", 4, "--micro_batch_size", 3], "micro_batch_size 3 must divide the 4 clips of a process"),
        (["--save_every", 3, "--validate_every", 2], "save_every (3) must be a multiple of validate_every (2)"),
        (["--num_processes", 2], "num_processes is 2, but 1 run"),
        (["--data", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(options, message, vq_config, tmp_path, capsys):
    assert run("train-vq", vq_config, *options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
