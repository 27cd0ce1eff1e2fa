"""VP2's interface to the letter: numpy, height before width before colours, one context frame in front."""

import numpy as np
import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.planning.vp2 import VP2Predictor
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

GREEDY = Sampling(greedy=True)


def batch_of(frames, actions):
    """What VP2 passes: float64 video, one past action, and states that nobody reads."""
    video = frames.movedim(2, -1).double().numpy() / 255
    past = np.zeros((len(actions), 1, 3))
    return {"video": video, "actions": np.concatenate([past, actions.numpy()], axis=1), "state_obs": [None, None]}


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_candidates_of_one_context_are_rollouts(world, chunk_size):
    frames, actions = random_frames(1, 2), random_actions(5, 4, 3)
    predictor = VP2Predictor(world, GREEDY, chunk_size)
    predicted = predictor(batch_of(frames.expand(5, -1, -1, -1, -1), actions))["rgb"]
    assert (predicted.shape, predicted.dtype) == ((5, 1 + 4, 16, 16, 3), np.float32)
    expected = world.rollout(frames, actions[None], sampling=GREEDY).frames[0]
    pixels = torch.from_numpy(predicted * 255).round().to(torch.uint8).movedim(-1, 2)
    assert pixels[:, 0].equal(frames[:, 1].expand(5, -1, -1, -1))
    assert_same_frames(pixels[:, 1:], expected)


def test_contexts_may_differ(world):
    frames, actions = random_frames(3, 2), random_actions(3, 2, 3)
    predicted = VP2Predictor(world, GREEDY)(batch_of(frames, actions))["rgb"]
    expected = world.rollout(frames, actions, sampling=GREEDY).frames
    pixels = torch.from_numpy(predicted * 255).round().to(torch.uint8).movedim(-1, 2)
    assert_same_frames(pixels[:, 1:], expected)


def test_one_context_is_coded_once(world):
    sizes = []
    hook = world.vq_model.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    VP2Predictor(world)(batch_of(random_frames(1, 2).expand(6, -1, -1, -1, -1), random_actions(6, 1, 3)))
    hook.remove()
    assert sizes == [2]


def test_its_attributes(world):
    predictor = VP2Predictor(world)
    assert (predictor.num_context, predictor.base_prediction_modality) == (2, "rgb")
    assert predictor.close() is None


def test_what_is_refused(world, free_world):
    batch = batch_of(random_frames(2, 2), random_actions(2, 1, 3))
    with pytest.raises(ValueError, match="gradients do not pass"):
        VP2Predictor(world)(batch, grad_enabled=True)
    with pytest.raises(ValueError, match=r"video must be \(N, 2, H, W, 3\)"):
        VP2Predictor(world)(batch | {"video": batch["video"][:, :1]})
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        VP2Predictor(world)(batch | {"video": batch["video"] + 0.5})
    with pytest.raises(ValueError, match="action-free"):
        VP2Predictor(free_world)
    with pytest.raises(ValueError, match="VP2 gives predictors no goal"):
        VP2Predictor(build_world(action_dim=3, goal_conditioned=True))
