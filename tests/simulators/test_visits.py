"""The visits that are collected beside experts and random walks."""

import numpy as np
import pytest

from ivideogpt_hf.simulators import make_simulator
from ivideogpt_hf.simulators.metaworld import CAMERA
from ivideogpt_hf.simulators.visits import CAMERA_PLACE, GOAL, HAND, OBJECT, Visits

pytest.importorskip("metaworld")


@pytest.fixture(scope="module")
def way():
    """Object and goal (2, steps, 3), and from them to the hand (2, steps, 3), in metres."""
    simulator, generator, policy = make_simulator("metaworld/reach", 64), np.random.default_rng(0), Visits()
    simulator.reset(0)
    seen = []
    for _ in range(600):
        action = np.clip(policy(simulator.observation, generator), -1, 1).astype(np.float32)
        simulator.step_repeatedly(action, 2)
        seen.append(simulator.observation)
    simulator.close()
    things = np.stack([np.stack(seen)[:, part] for part in (OBJECT, GOAL)])
    assert np.linalg.norm(things[0] - things[1], axis=-1).mean() > 0.1  # two places, not one
    return things, np.stack(seen)[:, HAND] - things


def test_the_hand_comes_near_both_the_object_and_the_goal(way):
    distance = np.linalg.norm(way[1], axis=-1)
    assert (distance.min(axis=1) < 0.06).all()
    assert (distance.mean(axis=1) > 0.06).all()  # it does not stay at either


def test_the_hand_covers_both_in_the_picture_without_being_there(way):
    things, hands = way
    sight = (CAMERA_PLACE - things) / np.linalg.norm(CAMERA_PLACE - things, axis=-1, keepdims=True)
    before = (hands * sight).sum(axis=-1)
    beside = np.linalg.norm(hands - before[..., None] * sight, axis=-1)
    assert ((before > 0.1) & (beside < 0.05)).mean() > 0.06


def test_the_camera_is_where_pictures_are_taken_from():
    simulator = make_simulator("metaworld/reach", 64)
    simulator.reset(0)
    np.testing.assert_allclose(simulator._environment.model.camera(CAMERA).pos, CAMERA_PLACE)
    simulator.close()


@pytest.mark.parametrize("observation", [np.zeros(12), {"image": np.zeros(3)}])
def test_other_environments_are_refused(observation):
    with pytest.raises(ValueError, match="visits read places from Meta-world's observations"):
        Visits()(observation, np.random.default_rng(0))
