"""The embedded checkpoint: small, trained, and what the README says of it."""

import json

import numpy as np
import pytest
import torch

from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_actions, read_video
from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER
from ivideogpt_hf.cli import main


@pytest.fixture(scope="module")
def predicted():
    """Greedy predictions (4, 10, 3, 64, 64) from four starts in the embedded episode, and the truth."""
    world = WorldModel.default()
    frames, actions = read_video(EXAMPLE_EPISODE), read_actions(EXAMPLE_EPISODE)
    starts = np.linspace(0, len(frames) - 12, 4).astype(int)
    contexts = torch.stack([frames[s : s + 2] for s in starts])
    true_future = torch.stack([frames[s + 2 : s + 12] for s in starts])
    given = torch.stack([actions[s + 1 : s + 11] for s in starts])
    return world.rollout(contexts, given, sampling=Sampling(greedy=True)), true_future


def error(frames, expected):
    return (frames.float() - expected.float()).square().mean().item()


def test_it_predicts_far_better_than_a_grey_image(predicted):
    rollout, true_future = predicted
    grey = torch.full_like(true_future, 128)
    assert error(rollout.frames, true_future) < 0.25 * error(grey, true_future)


def test_its_picture_is_that_of_the_episode_and_not_any_picture(predicted):
    """A picture that ignores the context could be the data's mean: each must fit its own truth better."""
    rollout, true_future = predicted
    own = error(rollout.frames, true_future)
    assert own < error(rollout.frames.flip(0), true_future)
    assert own < error(rollout.frames.float().mean(dim=(3, 4), keepdim=True).expand(true_future.shape), true_future)


def test_it_has_actions_bounds_and_rewards(predicted):
    spec = WorldModel.default().spec
    assert (spec.frame_size, spec.action_dim, spec.has_reward) == ((64, 64), 4, True)
    assert spec.action_low is not None
    assert predicted[0].rewards.isfinite().all()


def test_it_is_small():
    assert sum(file.stat().st_size for file in DEFAULT_FOLDER.rglob("*") if file.is_file()) < 40e6


def test_predict_without_arguments(tmp_path, capsys):
    assert main(["predict", "--output", str(tmp_path / "prediction.gif")]) == 0
    assert len(read_video(tmp_path / "prediction.gif")) == WorldModel.default().spec.max_future_frames
    assert "a grey image" in capsys.readouterr().out


def test_metrics_name_the_commands_that_made_them():
    metrics = json.loads((DEFAULT_FOLDER / "metrics.json").read_text())
    assert metrics["commands"] == ["configs/default/run.sh"]
    assert "ivideogpt evaluate" in metrics["evaluation"]["command"]
