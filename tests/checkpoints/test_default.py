"""The embedded checkpoint: small, trained, and what the README says of it."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_actions, read_video
from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER, METRICS_FILE
from ivideogpt_hf.checkpoints.loading import weights_hash
from ivideogpt_hf.cli import main
from ivideogpt_hf.cli.config import read_runs
from ivideogpt_hf.cli.main import build_parser

ROOT = Path(__file__).parents[2]
METRICS = json.loads((DEFAULT_FOLDER / METRICS_FILE).read_text())


@pytest.fixture(scope="module")
def predicted():
    """Greedy predictions (4, 10, 3, 64, 64) from four starts in the embedded episode, and the truth."""
    world = WorldModel.default()
    frames, actions = read_video(EXAMPLE_EPISODE), read_actions(EXAMPLE_EPISODE)
    starts = np.linspace(0, len(frames) - 12, 4).astype(int)
    contexts = torch.stack([frames[s : s + 2] for s in starts])
    true_future = torch.stack([frames[s + 2 : s + 12] for s in starts])
    given = torch.stack([actions[s + 1 : s + 11] for s in starts])
    return world.rollout(contexts, given, sampling=Sampling(greedy=True)), true_future, contexts


def error(frames, expected):
    return (frames.float() - expected.float()).square().mean().item()


def test_it_predicts_what_moves(predicted):
    """From the second step on it has less error than the last frame that it was shown, from each start: a model that
    repeats that frame, or blurs it, would not."""
    rollout, true_future, contexts = predicted
    repeated = contexts[:, -1:].expand_as(true_future)
    assert error(rollout.frames[:, 1:], true_future[:, 1:]) < 0.85 * error(repeated[:, 1:], true_future[:, 1:])
    for frames, truth, still in zip(rollout.frames, true_future, repeated, strict=True):
        assert error(frames[4:], truth[4:]) < error(still[4:], truth[4:])


def test_its_picture_is_that_of_the_episode_and_not_any_picture(predicted):
    """A picture that ignores the context could be the data's mean: each must fit its own truth better."""
    rollout, true_future, _ = predicted
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
    assert "the last frame repeated" in capsys.readouterr().out


def test_metrics_are_of_the_weights_that_lie_beside_them():
    world, evaluation = WorldModel.default(), METRICS["evaluation"]
    assert evaluation["weights"] == [weights_hash(world.vq_model), weights_hash(world.transformer)]
    protocol = evaluation["protocol"]
    assert protocol["num_context_frames"] == world.spec.num_context_frames
    assert protocol["num_future_frames"] <= world.spec.max_future_frames
    assert len(evaluation["per_step"]["model"]["psnr"]) == protocol["num_future_frames"]
    assert evaluation["num_clips"] == protocol["num_clips"]


def test_no_clip_that_was_measured_was_trained_on():
    trained, measured = METRICS["data"], METRICS["evaluation"]["data"]
    assert {source["name"] for source in measured} <= {source["name"] for source in trained}
    assert {source["split"] for source in trained} == {"train"}
    assert {source["split"] for source in measured} == {"test"}
    assert not {s["fingerprint"] for s in trained} & {s["fingerprint"] for s in measured}


def test_the_commands_of_the_metrics_are_there(monkeypatch):
    """The script that trains exists, and the options of the evaluation are still options of its command."""
    monkeypatch.chdir(ROOT)
    (script,) = METRICS["commands"]
    assert (ROOT / script).is_file()
    program, *argv = shlex.split(METRICS["evaluation"]["command"])
    assert program == "ivideogpt"
    assert argv[0] == "evaluate"
    (arguments,) = read_runs(build_parser(), argv)
    assert (arguments.num_clips, arguments.record) == (METRICS["evaluation"]["num_clips"], True)
