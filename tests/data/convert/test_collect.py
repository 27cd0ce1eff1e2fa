"""Collection from a tiny environment: episodes follow from seeds, whoever makes them."""

import sys

import numpy as np
import pytest

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.convert.collect import Behaviour, SimulatedEpisodes
from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings
from ivideogpt_hf.data.readers import open_episodes
from ivideogpt_hf.simulators import make_simulator

pytest.importorskip("gymnasium")

MODULE = "tests.data.counting_environment"
ENVIRONMENT = f"{MODULE}:Counting-v0"
PYTHON_POLICY = f"{MODULE}:to_the_right"


def collect(num_episodes=4, num_frames=8, policy="random", noise_fraction=0.0, noise=0.0, **options):
    behaviour = Behaviour(policy, noise_fraction, noise)
    return SimulatedEpisodes(ENVIRONMENT, num_episodes, num_frames, behaviour, **{"size": 12, **options})


def assert_same_episode(first, second):
    assert (first.frames["image"] == second.frames["image"]).all()
    assert (first.actions == second.actions).all()
    assert (first.rewards == second.rewards).all()


@pytest.mark.parametrize("policy", ["random", PYTHON_POLICY])
def test_an_episode_follows_from_its_seed(policy):
    first, second = collect(policy=policy), collect(policy=policy)
    expected = first[2]
    second[0], second[3]
    assert_same_episode(second[2], expected)
    assert not (first[1].actions == expected.actions).all()


def test_each_episode_has_a_policy_of_its_own():
    episodes = collect(
        policy=f"{MODULE}:ThereAndBack", num_frames=4
    )  # three actions: without a new one, the next turns
    assert [episode.actions[0, 0] for episode in episodes] == [1.0] * len(episodes)


def test_seeds_count_on():
    assert_same_episode(collect(seed=5)[2], collect(seed=7)[0])


def test_actions_lead_from_frame_to_frame():
    episode = collect()[0]
    places = [np.argwhere(frame[..., 0])[0][::-1] for frame in episode.frames["image"]]
    simulator = make_simulator(ENVIRONMENT, 12)
    simulator.reset(0)
    for t, action in enumerate(episode.actions):
        transition = simulator.step(action)
        assert (np.argwhere(simulator.render()[..., 0])[0][::-1] == places[t + 1]).all()
        assert transition.reward == pytest.approx(episode.rewards[t])


def test_repeated_actions_sum_their_rewards():
    once, twice = (
        collect(policy=PYTHON_POLICY, num_frames=3),
        collect(policy=PYTHON_POLICY, num_frames=2, action_repeat=2),
    )
    simulator = make_simulator(ENVIRONMENT, 12)
    simulator.reset(0)
    action = twice[0].actions[0]
    rewards = [simulator.step(action).reward for _ in range(2)]
    assert twice[0].rewards[0] == pytest.approx(sum(rewards))
    assert once[0].rewards[0] == pytest.approx(rewards[0])


def test_success_ends_an_episode_and_is_noted():
    episode = collect(policy=PYTHON_POLICY, num_frames=50)[0]
    assert episode.success
    assert episode.num_frames < 15
    assert collect(num_frames=3)[0].success is False


def test_noise_goes_into_a_fraction_of_the_episodes():
    plain = collect(40, policy=PYTHON_POLICY)
    noisy = collect(40, policy=PYTHON_POLICY, noise_fraction=0.3, noise=0.2)
    changed = [not (a.actions[:, 0] == b.actions[:, 0]).all() for a, b in zip(plain, noisy, strict=True)]
    assert 5 <= sum(changed) <= 20
    assert all(abs(episode.actions).max() <= 1 for episode in noisy)


def test_bounds_are_stored_and_kept():
    episode = collect(num_frames=40)[0]
    assert list(episode.action_low) == [-1, -1]
    assert abs(episode.actions).max() <= 1


def test_processes_and_jobs_change_nothing(tmp_path):
    for name, jobs, workers in (("one", 1, 1), ("two", 1, 2), ("jobs", 2, 1)):
        for job in range(jobs):
            conversion = Conversion(collect(8), tmp_path / name, ConversionSettings(0.0, num_shards=4), {})
            conversion.run(job=(job, jobs), num_workers=workers)
    files = [
        {file.name: file.read_bytes() for file in (tmp_path / name / "data").iterdir()}
        for name in ("one", "two", "jobs")
    ]
    assert files[0] == files[1] == files[2]


def test_the_command_goes_straight_into_the_schema(tmp_path):
    output = tmp_path / "out"
    arguments = ["collect", ENVIRONMENT, str(output), "--policy", "random", "--num-episodes", "3", "--num-frames", "5"]
    assert main([*arguments, "--size", "24", "--num-workers", "1", "--test-fraction", "0"]) == 0
    reader = open_episodes(output)
    assert len(reader) == 3
    assert reader.episode_ids[0] == f"{ENVIRONMENT}/seed-0"
    assert_same_episode_size(reader[0], 24)


def assert_same_episode_size(episode, size):
    from ivideogpt_hf.data.episodes import decode_frames

    assert decode_frames(episode.frames["image"]).shape == (5, size, size, 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"policy": "clever"}, "'random', 'scripted', 'python'"),
        ({"policy": "tests.data.nothing:here"}, "cannot be imported"),
        ({"policy": "math:pi"}, "no function or class, it is a float"),
        ({"policy": PYTHON_POLICY, "noise": 0.5}, "share of the episodes"),
        ({"noise": 0.5, "noise_fraction": 0.5}, "random policy takes no noise"),
        ({"policy": PYTHON_POLICY, "noise": 0.5, "noise_fraction": 2.0}, r"\[0, 1\]"),
        ({"num_frames": 1}, "at least 2"),
        ({"num_episodes": 0}, "at least 1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_mistakes_are_named(options, reason):
    with pytest.raises(ValueError, match=reason):
        collect(**options)


@pytest.mark.parametrize(
    ("environment", "policy", "reason"),
    [
        ("Nothing-v9", "random", "gymnasium cannot make 'Nothing-v9'"),
        (f"{MODULE}:Discrete-v0", "random", "one-dimensional Box"),
        (ENVIRONMENT, "scripted", "no scripted expert"),
        (ENVIRONMENT, f"{MODULE}:wrong_width", r"must return \(2,\) finite numbers"),
    ],
)
def test_what_an_environment_cannot_do(environment, policy, reason):
    with pytest.raises(ValueError, match=reason):
        SimulatedEpisodes(environment, 1, 4, Behaviour(policy), size=12)[0]


def test_a_policy_in_the_current_folder_is_found_by_all_processes(tmp_path, monkeypatch):
    (tmp_path / "my_policy.py").write_text("def act(observation, generator):\n    return generator.uniform(0, 1, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command puts the folder there
    arguments = ["collect", ENVIRONMENT, "out", "--policy", "my_policy:act", "--num-episodes", "2", "--num-frames", "4"]
    assert main([*arguments, "--num-shards", "2", "--num-workers", "2", "--test-fraction", "0"]) == 0
    assert len(open_episodes(tmp_path / "out")) == 2
