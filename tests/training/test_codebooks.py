"""How much of each codebook is used, and what happens to codes that are not."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator

from ivideogpt_hf.checkpoints.loading import load_vq_model
from ivideogpt_hf.models.modeling_ivideogpt_vq import IVideoGPTVQOutput
from ivideogpt_hf.training.codebooks import Codebooks
from ivideogpt_hf.training.loop import Loop
from tests.conftest import build_vq_model, random_frames
from tests.training.conftest import metrics_of, run, write_yaml

BOOKS = {"context": "quantize", "dynamics": "dynamics_quantize"}


class Training:
    """One update of a real VQ model, whose codes are on record."""

    def __init__(self, output_dir: Path, **settings):
        self.accelerator = Accelerator(cpu=True)
        model = build_vq_model(attention_dropout=0.0).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        defaults = {"log_every": 5, "restart_every": 10, "restart_until": 1000, "seed": 0}
        self.codebooks = Codebooks(self.accelerator, model, self.optimizer, **defaults | settings)
        self.loop = Loop(self.accelerator, [], None, ["arm"], 100, 1.0, output_dir)
        frames = random_frames(2, 4).float() / 255
        self.result = self.model(frames[:, :2], frames[:, 2:])
        self.accelerator.backward(self.result.context_commitment_loss + self.result.future_commitment_loss)
        self.optimizer.step()
        self.codebooks.record(self.result, 9)

    def after(self, update):
        """What the callback does after an update of that number."""
        self.loop.update = update
        self.codebooks.on_update(self.loop, {})

    def codes(self, name):
        return getattr(self.model, BOOKS[name]).embedding.weight

    def used(self, name):
        tokens = self.result.context_tokens if name == "context" else self.result.future_tokens
        return torch.zeros(len(self.codes(name)), dtype=torch.bool).index_fill(0, tokens.flatten(), value=True)


@pytest.mark.parametrize("name", BOOKS)
def test_dead_codes_move_onto_vectors_of_the_encoder(tmp_path, name):
    training = Training(tmp_path)
    before, used = training.codes(name).detach().clone(), training.used(name)
    assert 0 < used.sum() < len(used)
    training.after(10)
    after = training.codes(name)
    assert after[used].equal(before[used])
    latents = training.result.context_latents if name == "context" else training.result.future_latents
    vectors = latents.detach().flatten(0, -2)
    assert all((vectors == code).all(1).any() for code in after[~used])
    assert not any((before == code).all(1).any() for code in after[~used])


@pytest.mark.parametrize("name", BOOKS)
def test_moved_codes_have_no_momentum(tmp_path, name):
    training = Training(tmp_path)
    weight, used = training.codes(name), training.used(name)
    state = training.optimizer.state[weight]
    for moment in ("exp_avg", "exp_avg_sq"):
        state[moment].fill_(2.0)
    training.after(10)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert (training.optimizer.state[weight][moment][~used] == 0).all()
        assert (training.optimizer.state[weight][moment][used] == 2).all()
    assert training.optimizer.state[weight]["step"] == 1


@pytest.mark.parametrize("settings", [{"restart_every": 0}, {"restart_every": 3}, {"restart_until": 9}], ids=str)
def test_no_code_moves_when_it_should_not(tmp_path, settings):
    training = Training(tmp_path, **settings)
    before = {name: training.codes(name).detach().clone() for name in BOOKS}
    training.after(10)
    assert all(training.codes(name).equal(before[name]) for name in BOOKS)


def test_a_code_counts_as_used_until_the_next_restart(tmp_path):
    """Reports in between, which begin to count anew, do not change that."""
    training = Training(tmp_path)
    used, before = training.used("context"), training.codes("context").detach().clone()
    training.after(5)
    training.after(10)
    assert training.codes("context")[used].equal(before[used])
    first_only = {name: torch.zeros_like(training.result[name]) for name in ("context_tokens", "future_tokens")}
    training.codebooks.record(IVideoGPTVQOutput(**training.result | first_only), 19)
    training.after(20)
    used[0] = False
    moved = (training.codes("context") != before).any(1)
    assert moved[used].all()


def test_the_report_counts_what_was_used_since_the_last_one(tmp_path):
    training = Training(tmp_path)
    training.after(4)
    assert not (tmp_path / "metrics.jsonl").exists()
    training.after(5)
    training.codebooks.record(training.result, 0)
    training.codebooks.record(training.result, 0)
    training.after(10)
    first, second = metrics_of(tmp_path)
    for name in BOOKS:
        used = int(training.used(name).sum())
        for entry in (first, second):
            assert entry[f"codebook/{name}_dead"] == len(training.codes(name)) - used
            assert entry[f"codebook/{name}_usage"] == used / len(training.codes(name))
            assert 1 <= entry[f"codebook/{name}_perplexity"] <= used + 1e-6
    assert {**first, "update": 0} == {**second, "update": 0}


@pytest.mark.parametrize("name", BOOKS)
def test_a_collapse_is_a_warning_that_names_the_codebook(tmp_path, name, caplog):
    training = Training(tmp_path)
    training.after(5)
    caplog.clear()
    tokens = {book: torch.arange(len(training.codes(book))) for book in BOOKS} | {name: torch.tensor([3, 3, 3])}
    training.codebooks.record(
        IVideoGPTVQOutput(
            context_tokens=tokens["context"],
            future_tokens=tokens["dynamics"],
            context_latents=training.result.context_latents,
            future_latents=training.result.future_latents,
        ),
        0,
    )
    training.after(10)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"the {name} codebook has collapsed: 1 of {len(training.codes(name))} codes" in warning
    assert "restart_dead_codes" in warning


def test_counts_survive_a_checkpoint(tmp_path):
    first, second = Training(tmp_path), Training(tmp_path)
    first.codebooks.record(first.result, 0)
    second.codebooks.load_state_dict(json.loads(json.dumps(first.codebooks.state_dict())))
    for training in (first, second):
        training.after(5)
    one, other = metrics_of(tmp_path)
    assert one == other
    assert second.codebooks.state_dict() == first.codebooks.state_dict()


def test_restarts_revive_a_collapsed_codebook(vq_config, tmp_path):
    """In a whole training: more codes are in use than without."""
    for every in (0, 2):
        options = ["--restart_dead_codes", every, "--num_updates", 8, "--output_dir", tmp_path / f"every{every}"]
        assert run("train-vq", vq_config, *options, "--restart_until", 1.0) == 0
    used = [metrics_of(tmp_path / f"every{every}")[-1]["codebook/dynamics_usage"] for every in (0, 2)]
    assert used[1] > used[0]


def test_frozen_codebooks_stay_as_they_are(vq_config, vq_folder, tmp_path):
    settings = yaml.safe_load(vq_config.read_text()) | {"vq_model": str(vq_folder), "vq_config": None}
    config = write_yaml(tmp_path / "frozen.yaml", settings)
    assert run("train-vq", config, "--freeze_codebooks", "--num_updates", 2) == 0
    start, trained = load_vq_model(vq_folder), load_vq_model(tmp_path / "out")
    for name in BOOKS.values():
        assert getattr(trained, name).embedding.weight.equal(getattr(start, name).embedding.weight)
    assert not trained.encoder.conv_in.weight.equal(start.encoder.conv_in.weight)
