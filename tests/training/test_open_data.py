"""The data of a training: what is opened for training, what for validation, and how little of it there may be."""

import dataclasses

import pytest
import torch

from ivideogpt_hf import Mixture, Source
from ivideogpt_hf.checkpoints.loading import load_vq_model
from ivideogpt_hf.training.arguments import DataArguments, TokenizeArguments, WorldModelArguments
from ivideogpt_hf.training.open_data import make_validation_loader, open_clips, open_tokens
from ivideogpt_hf.training.tokenizing import tokenize

accelerate = pytest.importorskip("accelerate")

SIZE = (16, 16)


@pytest.fixture
def data(folder):
    return DataArguments(data=str(folder), num_frames=5, augmentation="strong")


def test_validation_clips_do_not_depend_on_the_seed_and_are_not_augmented(data):
    first, second = (open_clips(data, SIZE, seed) for seed in (1, 2))
    plain = open_clips(dataclasses.replace(data, augmentation="none"), SIZE, 3)
    assert not first.training[0]["frames"].equal(second.training[0]["frames"])
    for opened in (second, plain):
        assert opened.validation[3]["frames"].equal(first.validation[3]["frames"])
        assert opened.first_validation_clip()["frames"].equal(first.validation[0]["frames"])


def test_validation_clips_are_normalised_as_training_clips_are(data, folder):
    """Not by the statistics of their own split, which no checkpoint knows of."""
    mixture = Mixture([Source(str(folder), action_normalization="standardize")])
    opened = open_clips(dataclasses.replace(data, data=mixture), SIZE, 0, actions=True)
    plain = open_clips(data, SIZE, 0, actions=True).first_validation_clip()["actions"]
    mean, std = (torch.tensor(opened.processor_settings[f"action_{name}"]) for name in ("mean", "std"))
    torch.testing.assert_close(opened.first_validation_clip()["actions"], (plain - mean) / std)


def test_without_a_validation_split_there_is_nothing_to_validate_on(data):
    opened = open_clips(dataclasses.replace(data, validation_split=None), SIZE, 0)
    assert opened.validation is None
    assert make_validation_loader(opened, 4, accelerate.Accelerator(cpu=True)) is None


def test_fewer_validation_clips_than_a_batch_are_one_batch(data):
    opened = open_clips(data, SIZE, 0)
    (batch,) = make_validation_loader(opened, 10_000, accelerate.Accelerator(cpu=True))
    assert len(batch["frames"]) == len(opened.validation) == 2 * 9


def test_a_choice_of_future_frames_reaches_to_the_horizon(data):
    opened = open_clips(data, SIZE, 0, horizon=12)
    assert opened.num_future_frames == 3
    indices = [opened.training[number]["frame_indices"] for number in range(8)]
    assert 4 < max(int(row[-1] - row[0]) for row in indices) < 12


def test_tokens_are_described_as_their_clips_are(data, vq_folder, tmp_path):
    options = {"vq_model": str(vq_folder), "actions": True, "rewards": True}
    tokenize(TokenizeArguments(output_dir=str(tmp_path / "tokens"), validation_clips=4, **options), data)
    model = WorldModelArguments(transformer="unused", tokens=str(tmp_path / "tokens"), **options)
    tokens = open_tokens(DataArguments(), model, load_vq_model(vq_folder), 0)
    clips = open_clips(data, SIZE, 0, actions=True, rewards=True)
    for name in ("processor_settings", "action_dim", "source_names", "num_future_frames"):
        assert getattr(tokens, name) == getattr(clips, name)
    assert len(tokens.validation) == 4
    assert tokens.first_validation_clip()["tokens"].ndim == 1
    without = dataclasses.replace(model, actions=False)
    assert open_tokens(DataArguments(), without, load_vq_model(vq_folder), 0).action_dim is None
