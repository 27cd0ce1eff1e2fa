"""What version 0.1.0 wrote is read, and means the same: a checkpoint, a snapshot of a state, and a data set.

The files in files_0_1_0/ were written by that version: a tiny world of random weights, its state after two of five
actions, and three episodes of random pixels; expected.safetensors holds what it predicted.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ivideogpt_hf import Sampling, SegmentDataset, SegmentSpec, WorldModel, WorldState
from tests.conftest import assert_same_frames

FILES = Path(__file__).parent / "files_0_1_0"


@pytest.fixture(scope="module")
def world():
    return WorldModel.from_pretrained(FILES / "checkpoint")


@pytest.fixture(scope="module")
def expected():
    return load_file(FILES / "expected.safetensors")


def test_a_checkpoint_predicts_what_it_did(world, expected):
    rollout = world.rollout(expected["context"], expected["actions"], sampling=Sampling(seed=0))
    assert rollout.tokens.equal(expected["tokens"])
    assert_same_frames(rollout.frames, expected["frames"])
    torch.testing.assert_close(rollout.rewards, expected["rewards"], atol=1e-4, rtol=1e-4)


def test_a_snapshot_goes_on_where_it_was_saved(world, expected):
    state = WorldState.load(FILES / "state.safetensors")
    rollout = world.rollout(state, expected["actions"][:, 2:], sampling=Sampling(seed=0))
    assert rollout.tokens.equal(expected["tokens"][:, 2:])


def test_a_data_set_gives_its_clips():
    pytest.importorskip("datasets")
    dataset = SegmentDataset(str(FILES / "dataset"), SegmentSpec(6, 2), actions=True, rewards=True)
    clips = [dataset[index] for index in range(len(dataset))]
    clips.sort(key=lambda clip: clip["episode"])
    generator = np.random.default_rng(0)
    for clip in clips:
        frames = generator.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
        assert np.array_equal(clip["frames"].movedim(1, -1).numpy(), frames)
        assert np.array_equal(clip["actions"].numpy(), generator.standard_normal((5, 3)).astype(np.float32))
        assert np.array_equal(clip["rewards"].numpy(), generator.standard_normal(5).astype(np.float32))
    assert len(clips) == 3
