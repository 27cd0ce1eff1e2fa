"""The client does what a world model does: same arguments, same results, same errors."""

import gc
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from ivideogpt_hf import CEM, PlannerPolicy, RemoteState, RemoteWorldModel, Sampling, World, imagine
from ivideogpt_hf.planning.objectives import RewardSum
from ivideogpt_hf.serving.client import LostSessionError
from tests.conftest import assert_same_frames, free_port, random_actions, random_frames
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


def test_numbers_may_be_those_of_numpy(remote, world):
    arguments = {"num_samples": np.int64(2), "decode_steps": np.array([1])}
    sampling = Sampling(np.float32(0.5), np.int64(20), seed=np.int64(5))
    args = (random_frames(1, 2), random_actions(1, 3, 3))
    ours, theirs = (w.rollout(*args, sampling=sampling, **arguments) for w in (world, remote))
    assert theirs.tokens.equal(ours.tokens)
    assert theirs.decoded_steps == ours.decoded_steps == (1,)


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
        outputs = ("frames", "rewards")
        watched = remote.rollout(
            frames, num_frames=2, outputs=outputs, decode_steps="last", on_step=lambda number, step: False
        )
        for call in (
            lambda: remote.rollout(frames, num_frames=2, outputs=("rewards",)),
            lambda: remote.step(remote.reset(frames), outputs=("rewards",)),
        ):
            with pytest.raises(ValueError, match="the model has no reward head"):
                call()
    assert watched.frames.shape[1] == 1
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
        (lambda r: r.reset(random_frames(2, 2)).index([False, True]), "rows must be whole numbers"),
        (lambda r: r.reset(random_frames(2, 2)).index(torch.tensor([False, True])), "rows must be whole numbers"),
        (lambda r: r.reset(random_frames(1, 2)).fork(2.0), "num_branches must be a whole number"),
    ],
)
def test_bad_input_raises_as_it_does_here(remote, call, message):
    with pytest.raises(ValueError, match=message):
        call(remote)


def test_a_server_that_is_not_there_is_an_error():
    with pytest.raises(OSError, match="cannot be reached"):
        RemoteWorldModel("http://127.0.0.1:9", timeout=2)


@pytest.mark.parametrize("content", [b"<html></html>", b"[]", b"{}", b'{"checkpoint": "x", "num_starts": 0}'])
def test_a_server_of_something_else_is_an_error(content):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(OSError, match="is the address right"):
            RemoteWorldModel(f"http://127.0.0.1:{server.server_port}")
        thread.join()


def test_a_token_is_asked_for(world, monkeypatch):
    with serving(world, token="secret") as (url, _):
        for wrong in (None, "guess"):
            with pytest.raises(OSError, match="401: a token is needed"):
                RemoteWorldModel(url, token=wrong)
        monkeypatch.setenv("IVIDEOGPT_SERVER_TOKEN", "secret")
        RemoteWorldModel(url).close()


# -- a world like any other -------------------------------------------------------------------------------------------


def test_both_are_worlds(remote, world):
    assert isinstance(remote, World)
    assert isinstance(world, World)
    assert not isinstance(world.vq_model, World)


def assert_same_rollout(rollout, expected):
    assert rollout.tokens.equal(expected.tokens)
    assert_same_frames(rollout.frames, expected.frames)
    torch.testing.assert_close(rollout.rewards, expected.rewards, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rollout.actions, expected.actions, atol=1e-4, rtol=1e-4)
    assert rollout.reanchored_at == expected.reanchored_at
    assert rollout.decoded_steps == expected.decoded_steps


def test_actions_are_kept_of_a_policy_that_returns_the_same_tensor_each_time(remote):
    actions = torch.zeros(1, 3)
    dream = remote.imagine(remote.reset(random_frames(1, 2)), lambda seen: actions.fill_(seen.step), 3)
    assert dream.actions[0, :, 0].tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:a rollout passed")
def test_a_policy_imagines_the_same(remote, world):
    """Beyond the horizon as well; the policy looks at frames and rewards."""

    def policy(seen):
        reward = 0 if seen.reward is None else seen.reward[:, None] / 100
        return seen.frame.float().mean(dim=(2, 3)) / 255 + reward

    frames, sampling = random_frames(2, 2), Sampling(seed=2)
    expected, dream = (imagine(w, w.reset(frames), policy, 8, sampling=sampling) for w in (world, remote))
    assert_same_rollout(dream, expected)
    assert dream.reanchored_at == (6,)
    assert_same_rollout(remote.imagine(remote.reset(frames), policy, 8, sampling=sampling), expected)


@pytest.mark.parametrize("seed", [4, [4, 9]])
def test_a_watched_rollout_is_the_same(remote, world, seed):
    frames, actions = random_frames(2, 2), random_actions(2, 3, 4, 3)
    options = {"sampling": Sampling(seed=seed), "decode_steps": (0, 2)}
    steps = []
    expected = world.rollout(frames, actions, **options)
    rollout = remote.rollout(frames, actions, on_step=lambda index, step: steps.append(step), **options)
    assert_same_rollout(rollout, expected)
    assert [step.frame is None for step in steps] == [False, True, False, True]
    stopped = remote.rollout(frames, actions, on_step=lambda index, step: True, **options)
    assert stopped.tokens.equal(expected.tokens[:, :, :1])


@pytest.mark.parametrize("acts", ["actions", "policy"])
def test_the_last_frame_is_that_of_the_step_where_the_watcher_ends(remote, world, acts):
    frames, actions = random_frames(1, 2), random_actions(1, 4, 3)
    given = actions if acts == "actions" else lambda seen: actions[:, seen.step]
    settings = {"sampling": Sampling(seed=0), "decode_steps": "last", "on_step": lambda index, step: index == 1}
    ours, theirs = (w.rollout(frames, given, num_frames=4, **settings) for w in (world, remote))
    assert theirs.decoded_steps == ours.decoded_steps == (1,)
    assert_same_frames(theirs.frames, ours.frames)


def test_a_watcher_answers_for_all_rows(remote):
    with pytest.raises(ValueError, match="on_step must return one flag for all rows"):
        remote.rollout(random_frames(2, 2), random_actions(2, 2, 3), on_step=lambda index, step: step.reward > 0)


def test_plans_are_the_same(remote, world):
    planner = CEM(low=[-1.0] * 3, high=[1.0] * 3, horizon=3, num_candidates=12, num_iterations=2, num_elites=4)
    policies = [PlannerPolicy(w, planner, RewardSum(), seed=7) for w in (world, remote)]
    for seed in range(2):
        expected, action = (policy.select_action(random_frames(1, seed=seed, size=20)) for policy in policies)
        torch.testing.assert_close(action, expected, atol=1e-4, rtol=1e-4)


def test_environments_are_the_same(remote, world):
    pytest.importorskip("gymnasium")
    from ivideogpt_hf import WorldModelVectorEnv

    starts = random_frames(3, 2)
    bounds = {"action_low": -3.0, "action_high": 3.0, "horizon": 2}
    environments = [WorldModelVectorEnv(w, starts, **bounds) for w in (world, remote)]
    for environment in environments:
        environment.reset(seed=1)
        environment.reset(options={"reset_mask": np.array([True, False, False])})
    for seed in range(3):
        actions = random_actions(3, 3, seed=seed).clamp(-3, 3).numpy()
        expected, found = (environment.step(actions) for environment in environments)
        assert np.abs(found[0].astype(int) - expected[0].astype(int)).max() <= 1
        np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
        assert np.array_equal(found[3], expected[3])


def test_states_are_joined_and_shown(remote, world):
    shown = []
    for w in (world, remote):
        one, other = w.reset(random_frames(1, 2)), w.reset(random_frames(2, 2, seed=1))
        _, one = w.step(one, random_actions(1, 3), sampling=Sampling(greedy=True))
        joined = type(one).cat([one, other])
        assert joined.batch_size == 3
        shown.append(w.last_frame(joined))
    assert_same_frames(shown[1], shown[0])
    with pytest.raises(ValueError, match="at least one state"):
        RemoteState.cat([])


def test_a_restarted_server_gets_a_new_session(world):
    port = free_port()
    with serving(world, port=port) as (url, _):
        remote = RemoteWorldModel(url)
        lost = remote.reset(random_frames(1, 2))
    with serving(world, port=port):
        with pytest.raises(LostSessionError, match="the state was lost"):
            remote.step(lost, random_actions(1, 3))
        state = remote.reset(random_frames(1, 2, seed=1))
        assert state.number == lost.number  # so that a state of before could be taken for one of now
        with pytest.raises(LostSessionError, match="the state was lost"):
            remote.step(lost, random_actions(1, 3))
        with pytest.raises(LostSessionError, match="the state was lost"):
            lost.fork(2)
        del lost
        gc.collect()
        step, _ = remote.step(state, random_actions(1, 3), sampling=Sampling(greedy=True))
        expected, _ = world.step(
            world.reset(random_frames(1, 2, seed=1)), random_actions(1, 3), sampling=Sampling(greedy=True)
        )
        assert_same_frames(step.frame, expected.frame)
        remote.close()


def test_a_world_whose_server_was_restarted_can_be_closed(world):
    port = free_port()
    with serving(world, port=port) as (url, _):
        remote = RemoteWorldModel(url)
    with serving(world, port=port), pytest.raises(ValueError, match="of mine"), remote:
        raise ValueError("an error of mine, which closing does not hide")


def test_a_restarted_server_must_serve_the_same_checkpoint(world, free_world):
    port = free_port()
    with serving(world, port=port) as (url, _):
        remote = RemoteWorldModel(url)
    with serving(free_world, port=port), pytest.raises(OSError, match="restarted with another checkpoint"):
        remote.reset(random_frames(1, 2))


def test_a_world_whose_server_is_gone_can_be_closed(world):
    with serving(world) as (url, _):
        remote = RemoteWorldModel(url)
    with pytest.raises(ValueError, match="of mine"), remote:
        raise ValueError("an error of mine, which closing does not hide")


def test_states_go_on_where_the_server_was_restarted_with_its_folder(world, tmp_path):
    port, results = free_port(), []
    actions, sampling = random_actions(1, 3), Sampling(seed=3)
    with serving(world, port=port, folder=tmp_path) as (url, _):
        remote = RemoteWorldModel(url)
        states = [w.step(w.reset(random_frames(1, 2)), actions, sampling=sampling)[1] for w in (remote, world)]
    with serving(world, port=port, folder=tmp_path):
        for w, state in zip((remote, world), states, strict=True):
            results.append(w.step(state, actions, sampling=sampling)[0])
        remote.close()
    assert results[0].tokens.equal(results[1].tokens)
    assert_same_frames(results[0].frame, results[1].frame)
