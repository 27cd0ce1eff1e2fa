"""The client does what a world model does: same arguments, same results, same errors."""

import gc

import pytest
import torch

from ivideogpt_hf import RemoteWorldModel, Sampling
from tests.conftest import assert_same_frames, random_actions, random_frames
from tests.serving.conftest import serving


@pytest.fixture(scope="module")
def remote(server):
    with RemoteWorldModel(server) as remote:
        yield remote


def test_it_has_the_spec(remote, world):
    assert remote.spec == world.spec
    assert remote.checkpoint == "tiny"


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 4, 3, 3)])
def test_rollouts_are_the_same(remote, world, shape):
    frames, actions, sampling = random_frames(2, 2), random_actions(*shape), Sampling(seed=5, temperature=0.7)
    ours, theirs = (w.rollout(frames, actions, sampling=sampling) for w in (world, remote))
    assert_same_frames(theirs.frames, ours.frames)
    assert theirs.tokens.equal(ours.tokens)
    assert theirs.actions.equal(ours.actions)
    torch.testing.assert_close(theirs.rewards, ours.rewards)
    torch.testing.assert_close(theirs.log_probs, ours.log_probs)
    assert theirs.decoded_steps == ours.decoded_steps


def test_steps_branches_and_observations_are_the_same(remote, world):
    results = []
    for w in (world, remote):
        state = w.reset(random_frames(2, 2))
        first, state = w.step(state, random_actions(2, 3), sampling=Sampling(seed=[4, 9]))
        state = state.fork(2).index([3, 0])
        second, state = w.step(state, random_actions(2, 3, seed=1), sampling=Sampling(seed=1))
        state = w.observe(state, random_actions(2, 3), random_frames(2, seed=3))
        third, _ = w.step(state, random_actions(2, 3, seed=2), sampling=Sampling(greedy=True))
        results.append((first, second, third))
    for ours, theirs in zip(*results, strict=True):
        assert theirs.tokens.equal(ours.tokens)
        assert_same_frames(theirs.frame, ours.frame)
        torch.testing.assert_close(theirs.reward, ours.reward)


def test_an_action_free_model_is_served(free_world):
    frames = random_frames(1, 2)
    ours = free_world.rollout(frames, num_frames=3, num_samples=2, sampling=Sampling(seed=0))
    with serving(free_world) as (url, _), RemoteWorldModel(url) as remote:
        theirs = remote.rollout(frames, num_frames=3, num_samples=2, sampling=Sampling(seed=0))
    assert_same_frames(theirs.frames, ours.frames)
    assert theirs.rewards is None
    assert theirs.actions is None


def test_states_that_nobody_holds_are_forgotten(world):
    with serving(world) as (url, service), RemoteWorldModel(url) as remote:
        state = remote.reset(random_frames(1, 2))
        for _ in range(5):
            _, state = remote.step(state, random_actions(1, 3))
        gc.collect()
        remote.step(state, random_actions(1, 3))
        assert service.sessions.num_states <= 3


def test_the_session_ends_with_the_client(world):
    with serving(world) as (url, service):
        with RemoteWorldModel(url) as remote:
            remote.reset(random_frames(1, 2))
            assert (len(service.sessions), service.sessions.num_states) == (1, 1)
        assert len(service.sessions) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.reset(random_frames(1, 3)), "got 3 context frames, more than the 2"),
        (lambda r: r.step(r.reset(random_frames(1, 2)), random_actions(1, 2)), "takes actions of width 3, got width 2"),
        (lambda r: r.step(r.reset(random_frames(1, 2)), torch.full((1, 3), torch.nan)), "contain NaN"),
        (lambda r: r.rollout(random_frames(1, 2), num_frames=2), "actions of width 3 are missing"),
        (lambda r: r.rollout(random_frames(1, 2), random_actions(1, 2, 3), outputs=("statistics",)), "outputs must be"),
        (
            lambda r: r.step(
                r.reset(random_frames(1, 2)), random_actions(1, 3), sampling=Sampling(restrict_to_codes=False)
            ),
            "takes no restrict_to_codes",
        ),
        (lambda r: r.reset(random_frames(1, 2)).index([1]), "rows must be a non-empty choice"),
    ],
)
def test_bad_input_raises_as_it_does_here(remote, call, message):
    with pytest.raises(ValueError, match=message):
        call(remote)


def test_a_server_that_is_not_there_is_an_error():
    with pytest.raises(OSError, match="cannot be reached"):
        RemoteWorldModel("http://127.0.0.1:9", timeout=2)


def test_a_token_is_asked_for(world, monkeypatch):
    with serving(world, token="secret") as (url, _):
        for wrong in (None, "guess"):
            with pytest.raises(OSError, match="401: a token is needed"):
                RemoteWorldModel(url, token=wrong)
        monkeypatch.setenv("IVIDEOGPT_SERVER_TOKEN", "secret")
        RemoteWorldModel(url).close()
