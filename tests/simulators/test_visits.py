"""The visits that are collected beside experts and random walks."""

import numpy as np
import pytest

from ivideogpt_hf.simulators import make_simulator
from ivideogpt_hf.simulators.visits import GOAL, HAND, OBJECT, Visits

pytest.importorskip("metaworld")


def test_the_hand_comes_near_both_the_object_and_the_goal():
    simulator, generator, policy = make_simulator("metaworld/reach", 64), np.random.default_rng(0), Visits()
    simulator.reset(0)
    assert np.linalg.norm(simulator.observation[OBJECT] - simulator.observation[GOAL]) > 0.1  # two places, not one
    distances = []
    for _ in range(300):
        action = np.clip(policy(simulator.observation, generator), -1, 1).astype(np.float32)
        simulator.step_repeatedly(action, 2)
        hand = simulator.observation[HAND]
        distances.append([np.linalg.norm(hand - simulator.observation[place]) for place in (OBJECT, GOAL)])
    simulator.close()
    nearest, mean = np.min(distances, axis=0), np.mean(distances, axis=0)
    assert (nearest < 0.06).all()
    assert (mean > 0.06).all()  # it does not stay at either
