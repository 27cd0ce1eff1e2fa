"""The replay buffer: what a batch holds is what a slow loop over whole episodes finds."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

pytest.importorskip("stable_baselines3")

from gymnasium.spaces import Box, Discrete
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
from tests.rl.square import SquareEnv

FRAME = (3, 2, 2)
ACTIONS = Box(-1, 3, (2,), np.float32)


def make_buffer(buffer_size=500, num_stack=3, **options):
    stacks = Box(0, 255, (3 * num_stack, *FRAME[1:]), np.uint8)
    return MixedReplayBuffer(buffer_size, stacks, ACTIONS, "cpu", **{"seed": 0} | options)


def picture(number):
    """A frame that shows a number."""
    frame = np.zeros(FRAME, np.uint8)
    frame[0], frame[1] = number % 256, number // 256
    return frame


def numbers(observations):
    """The numbers that stacks of pictures show (B, S)."""
    return (observations[:, ::3, 0, 0].int() + 256 * observations[:, 1::3, 0, 0].int()).numpy()


class Recorder:
    """Plays random episodes in several environments into a buffer, and keeps them whole.

    Each episode is (numbers of its frames, rewards, whether it terminated). Numbers of frames are never used twice.
    """

    def __init__(self, buffer, num_envs, seed):
        self.buffer, self.rng, self.number = buffer, np.random.default_rng(seed), 0
        self.open = [self.begin() for _ in range(num_envs)]
        self.episodes = list(self.open)

    def begin(self):
        return [[self.next_number()], [], False]

    def next_number(self):
        self.number += 1
        return self.number - 1

    def stack(self, episode, position):
        shown = [episode[0][max(position - back, 0)] for back in reversed(range(self.buffer.num_stack))]
        return np.concatenate([picture(number) for number in shown])

    def play(self, num_steps):
        for _ in range(num_steps):
            before = [self.stack(episode, len(episode[1])) for episode in self.open]
            ends = [self.rng.choice(["", "", "", "terminated", "truncated"]) for _ in self.open]
            rewards, infos, after = self.rng.normal(size=len(self.open)), [], []
            for episode, reward, end in zip(self.open, rewards, ends, strict=True):
                episode[0].append(self.next_number())
                episode[1].append(float(np.float32(reward)))
                episode[2] = end == "terminated"
                after.append(self.stack(episode, len(episode[1])))
                infos.append({"TimeLimit.truncated": end == "truncated"})
            actions = self.rng.uniform(-1, 1, (len(self.open), 2)).astype(np.float32)
            done = np.array([end != "" for end in ends])
            self.buffer.add(np.stack(before), np.stack(after), actions, rewards, done, infos)
            for env, end in enumerate(ends):
                if end:
                    self.open[env] = self.begin()
                    self.episodes.append(self.open[env])

    def expected(self, number, num_steps, gamma):
        """What a batch should hold for the transition from a frame: stack, return, discount, done, next stack."""
        episode = next(episode for episode in self.episodes if number in episode[0])
        shown, rewards, terminated = episode
        position = shown.index(number)
        total, discount, after = 0.0, 1.0, position
        while after < len(rewards) and after < position + num_steps:
            total += discount * rewards[after]
            discount *= gamma
            after += 1
        done = terminated and after == len(rewards)
        size = self.buffer.num_stack

        def stack(last):
            return [shown[max(last - back, 0)] for back in reversed(range(size))]

        return stack(position), total, discount, done, stack(after)


@given(
    num_envs=st.integers(1, 3),
    num_stack=st.integers(1, 4),
    n_steps=st.integers(1, 5),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    num_frames=st.sampled_from([60, 500]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_holds_what_a_slow_loop_finds(num_envs, num_stack, n_steps, gamma, num_frames, seed):
    """With several environments, any ends, and a buffer that may be too small for all of them."""
    buffer = make_buffer(num_frames, num_stack, n_envs=num_envs, n_steps=n_steps, gamma=gamma)
    recorder = Recorder(buffer, num_envs, seed)
    recorder.play(50)
    batch = buffer.sample(200)
    for row, shown in enumerate(numbers(batch.observations)):
        stack, total, discount, done, after = recorder.expected(shown[-1], n_steps, gamma)
        assert shown.tolist() == stack
        assert numbers(batch.next_observations)[row].tolist() == after
        assert batch.rewards[row].item() == pytest.approx(total, abs=1e-5)
        assert batch.discounts[row].item() == pytest.approx(discount, abs=1e-6)
        assert batch.dones[row].item() == done


def test_returns_are_those_of_stable_baselines3():
    """Its own buffer, with the same transitions drawn by their indices."""
    buffer = make_buffer(n_steps=3, gamma=0.9)
    other = NStepReplayBuffer(60, buffer.observation_space, ACTIONS, "cpu", n_steps=3, gamma=0.9)
    recorder = Recorder(buffer, 1, seed=0)
    add = buffer.add
    buffer.add = lambda *transition: (add(*transition), other.add(*transition))
    recorder.play(50)
    own = buffer._read([(buffer._real, buffer._real.steps)], None)
    theirs = other._get_samples(np.arange(50))
    for name, column in zip(theirs._fields, own, strict=True):
        # Both in the order in which the steps were taken: slots are handed out in order until the buffer is full.
        assert np.allclose(column.numpy(), getattr(theirs, name).numpy(), atol=1e-6), name


@pytest.mark.parametrize("num_frames", [60, 500])
def test_all_transitions_can_be_drawn(num_frames):
    """All that were stored and not forgotten, and with equal shares."""
    buffer = make_buffer(num_frames)
    Recorder(buffer, 1, seed=0).play(100)
    drawn = numbers(buffer.sample(20_000).observations)[:, -1]
    counts = np.bincount(drawn)[np.unique(drawn)]
    assert len(counts) == buffer.size() == (100 if num_frames == 500 else len(counts))
    assert counts.min() > 0.6 * counts.mean()


def test_a_full_buffer_forgets_the_oldest_frames():
    """And the transitions whose stacks need them, but no others."""
    buffer = make_buffer(60, num_stack=3)
    recorder = Recorder(buffer, 1, seed=0)
    recorder.play(200)
    stored = sorted(number for shown, rewards, _ in recorder.episodes if rewards for number in shown)[-60:]
    expected = {
        shown[position]
        for shown, rewards, _ in recorder.episodes
        for position in range(len(rewards))
        if all(shown[max(position - back, 0)] in stored for back in range(3))
    }
    assert set(numbers(buffer.sample(5000).observations)[:, -1].tolist()) == expected


def test_stacks_at_the_beginning_repeat_the_first_frame():
    buffer = make_buffer()
    buffer.add_episode(np.stack([picture(n) for n in range(3)]), np.zeros((2, 2)), np.zeros(2))
    assert {tuple(row) for row in numbers(buffer.sample(50).observations).tolist()} == {(0, 0, 0), (0, 0, 1)}


def test_an_episode_that_was_broken_off_ends_without_terminating():
    """A new run begins with a reset, in the midst of an episode that the buffer holds."""
    buffer = make_buffer(n_steps=3, gamma=0.5)
    for start in (0, 10):
        first, second = (
            np.concatenate([picture(start)] * 3),
            np.concatenate([picture(start)] * 2 + [picture(start + 1)]),
        )
        buffer.add(first[None], second[None], np.zeros((1, 2)), np.ones(1), np.array([False]), [{}])
    batch = buffer.sample(50)
    assert set(batch.rewards.flatten().tolist()) == {1.0}
    assert not batch.dones.any()
    assert {tuple(row) for row in numbers(batch.next_observations).tolist()} == {(0, 0, 1), (10, 10, 11)}


def test_stacks_that_begin_with_other_frames_are_kept_as_they_are():
    """Some environments fill the first stack with zeros."""
    buffer = make_buffer()
    first = np.concatenate([picture(0), picture(0), picture(7)])
    second = np.concatenate([picture(0), picture(7), picture(8)])
    buffer.add(first[None], second[None], np.zeros((1, 2)), np.ones(1), np.array([True]), [{}])
    batch = buffer.sample(1)
    assert torch.equal(batch.observations[0], torch.from_numpy(first))
    assert torch.equal(batch.next_observations[0], torch.from_numpy(second))


def test_an_episode_in_progress_goes_on_after_its_frames_were_forgotten():
    """A demonstration may displace them."""
    buffer = make_buffer(61, n_envs=2)
    recorder = Recorder(buffer, 2, seed=0)
    recorder.play(3)
    buffer.add_episode(np.stack([picture(1000 + n) for n in range(61)]), np.zeros((60, 2)), np.zeros(60))
    recorder.play(8)
    for shown in numbers(buffer.sample(500).observations):
        assert shown[-1] >= 1000 or shown.tolist() == recorder.expected(shown[-1], 3, 0.99)[0]


def test_the_terminal_observation_replaces_that_of_the_next_episode():
    buffer = make_buffer()
    first, last = (np.concatenate([picture(0), picture(0), picture(n)]) for n in (0, 1))
    other = np.concatenate([picture(5)] * 3)
    buffer.add(
        first[None], other[None], np.zeros((1, 2)), np.ones(1), np.array([True]), [{"terminal_observation": last}]
    )
    assert torch.equal(buffer.sample(1).next_observations[0], torch.from_numpy(last))


# -- imagined ---------------------------------------------------------------------------------------------------------


def imagine(buffer, *, size=4, horizon=5, first=100, context=3, lengths=None, reward=7.0):
    """Add rollouts; the frames of each are numbered from ``first`` on, its context before."""
    context_frames = np.stack([np.stack([picture(first - context + n) for n in range(context)])] * size)
    frames = torch.from_numpy(np.stack([np.stack([picture(first + n) for n in range(horizon)])] * size))
    actions = torch.ones(size, horizon, 2)
    buffer.add_imagined(context_frames, frames, actions, torch.full((size, horizon), reward), lengths)


def real_and_imagined(real_ratio, **options):
    buffer = make_buffer(real_ratio=real_ratio, **options)
    Recorder(buffer, 1, seed=0).play(20)
    imagine(buffer)
    return buffer


@pytest.mark.parametrize(("real_ratio", "num_imagined"), [(1, 0), (0.5, 32), (0.25, 48), (0, 64), (0.99, 1)])
def test_a_batch_has_the_stated_mixture(real_ratio, num_imagined):
    buffer = real_and_imagined(real_ratio, n_steps=1)
    assert (buffer.sample(64).rewards == 7).sum() == num_imagined


def test_the_mixture_can_be_changed():
    buffer = real_and_imagined(1, n_steps=1)
    buffer.real_ratio = 0
    assert (buffer.sample(10).rewards == 7).all()


def test_all_is_real_while_nothing_is_imagined():
    buffer = make_buffer(real_ratio=0)
    Recorder(buffer, 1, seed=0).play(20)
    assert len(buffer.sample(10).rewards) == 10


def test_imagined_experience_alone_is_enough():
    buffer = make_buffer(real_ratio=0)
    imagine(buffer)
    assert len(buffer.sample(10).rewards) == 10


def test_returns_end_with_an_imagined_rollout_and_go_on_from_its_last_frame():
    buffer = make_buffer(real_ratio=0, n_steps=3, gamma=0.5)
    imagine(buffer, horizon=5, reward=1.0)
    batch = buffer.sample(200)
    assert not batch.dones.any()
    for shown, after, total, discount in zip(
        numbers(batch.observations), numbers(batch.next_observations), batch.rewards, batch.discounts, strict=True
    ):
        steps = min(3, 104 - shown[-1])
        assert shown.tolist() == list(range(shown[-1] - 2, shown[-1] + 1))
        assert after.tolist() == (shown + steps).tolist()
        assert total == sum(0.5**step for step in range(steps))
        assert discount == 0.5**steps


def test_a_short_context_repeats_its_first_frame():
    buffer = make_buffer(real_ratio=0)
    imagine(buffer, context=2, horizon=1)
    assert numbers(buffer.sample(1).observations).tolist() == [[98, 98, 99]]


def test_rollouts_are_cut_to_their_lengths():
    buffer = make_buffer(real_ratio=0, n_steps=5, gamma=1)
    imagine(buffer, size=3, horizon=5, lengths=torch.tensor([0, 2, 5]))
    assert buffer.num_imagined == 7
    assert buffer.sample(200).next_observations.max() == 104


def test_imagined_rollouts_expire_by_number():
    """B10 of the original: they never did."""
    buffer = make_buffer(real_ratio=0, max_imagined=20, n_steps=1)
    for reward in range(10):
        imagine(buffer, size=1, horizon=4, reward=float(reward))
        assert buffer.num_imagined <= 20
    assert set(buffer.sample(300).rewards.flatten().tolist()) == {5.0, 6.0, 7.0, 8.0, 9.0}


def test_imagined_rollouts_of_one_step_fill_the_buffer():
    """They need the most frames for a transition."""
    buffer = make_buffer(real_ratio=0, max_imagined=20)
    imagine(buffer, size=50, horizon=1)
    assert buffer.num_imagined == 20


def test_imagined_rollouts_expire_by_age():
    buffer = make_buffer(real_ratio=0, max_imagined_age=2, n_steps=1)
    imagine(buffer, reward=1.0)
    buffer.count_model_update()
    imagine(buffer, reward=2.0)
    buffer.count_model_update()
    assert set(buffer.sample(100).rewards.flatten().tolist()) == {2.0}
    buffer.count_model_update()
    assert buffer.num_imagined == 0


def test_imagination_does_not_displace_real_experience():
    buffer = make_buffer(60)
    Recorder(buffer, 1, seed=0).play(20)
    imagine(buffer, size=200)
    assert (buffer.num_real, buffer.size()) == (20, 20)


def test_actions_are_stored_as_stable_baselines3_scales_them():
    buffer = make_buffer(real_ratio=0)
    imagine(buffer)  # with actions of 1, in the middle of [-1, 3]
    assert (buffer.sample(5).actions == 0).all()


# -- starts and segments ----------------------------------------------------------------------------------------------


def with_episodes(*lengths, **options):
    """A buffer with episodes of so many frames, numbered one after the other; actions and rewards tell the number."""
    buffer, first = make_buffer(**options), 0
    for length in lengths:
        shown = np.arange(first, first + length)
        actions = np.stack([shown[:-1] / 100, shown[:-1] / 100 - 1], axis=1)
        buffer.add_episode(np.stack([picture(n) for n in shown]), actions, shown[:-1].astype(float))
        first += length
    return buffer


def test_every_position_of_an_episode_is_in_the_segments():
    """B5 of the original: the last frames of an episode never reached the model."""
    segments = with_episodes(6, 9).sample_segments(500, 4)
    starts = segments.frames[:, 0, 0, 0, 0].tolist()
    assert set(starts) == {0, 1, 2, *range(6, 12)}
    assert set(segments.frames[:, -1, 0, 0, 0].tolist()) == {3, 4, 5, *range(9, 15)}
    assert min(map(starts.count, set(starts))) > 25


def test_segments_have_the_actions_and_rewards_between_their_frames():
    segments = with_episodes(6, 9).sample_segments(50, 4)
    shown = segments.frames[:, :, 0, 0, 0]
    assert torch.equal(shown, shown[:, :1] + torch.arange(4))
    assert torch.equal(segments.rewards, shown[:, :-1].float())
    assert torch.allclose(segments.actions, torch.stack([shown[:, :-1] / 100, shown[:, :-1] / 100 - 1], dim=-1))


def test_starts_are_real_frames_with_the_stack_that_ends_there():
    starts = with_episodes(5, 6).sample_starts(300, 2)
    context, stacks = starts.context_frames[:, :, 0, 0, 0], numbers(starts.observations)
    assert set(context[:, -1].tolist()) == {1, 2, 3, 6, 7, 8, 9}
    assert torch.equal(context[:, 0], context[:, 1] - 1)
    first = np.where(context[:, -1] < 5, 0, 5)
    assert np.array_equal(stacks, np.maximum(context[:, -1:].numpy() + np.arange(-2, 1), first[:, None]))
    assert torch.equal(starts.stack_frames.flatten(1, 2), starts.observations)


def test_what_is_imagined_from_a_start_begins_with_its_observation():
    buffer = with_episodes(5, real_ratio=0, n_steps=1)
    starts = buffer.sample_starts(1, 2)
    buffer.add_imagined(
        starts.stack_frames, torch.zeros(1, 1, *FRAME, dtype=torch.uint8), torch.zeros(1, 1, 2), torch.zeros(1, 1)
    )
    assert torch.equal(buffer.sample(1).observations, starts.observations)


def test_draws_follow_a_given_generator():
    buffer = with_episodes(50)
    one, two = (buffer.sample_starts(10, 2, np.random.default_rng(3)).observations for _ in range(2))
    assert torch.equal(one, two)
    one, two = (buffer.sample_segments(10, 4, np.random.default_rng(3)).frames for _ in range(2))
    assert torch.equal(one, two)


def test_frames_of_forgotten_beginnings_are_no_context():
    buffer = make_buffer(60)
    Recorder(buffer, 1, seed=1).play(300)
    context = numbers(buffer.sample_starts(500, 2).context_frames.flatten(1, 2))
    assert np.array_equal(context[:, 0] + 1, context[:, 1])


# -- demonstrations ---------------------------------------------------------------------------------------------------


def test_actions_of_demonstrations_outside_the_bounds_are_refused():
    """B6 of the original: it learned from actions that the environment never executed."""
    buffer = make_buffer()
    episode = (np.zeros((3, *FRAME), np.uint8), np.array([[0, 0], [0, 5.5]]), np.zeros(2))
    with pytest.raises(ValueError, match=r"the first, at index \(1, 1\), is 5.5 where -1 to 3 is allowed"):
        buffer.add_episode(*episode)
    buffer.add_episode(*episode, clip_actions=True)
    assert buffer.sample(50).actions.max() == 1


def test_demonstrations_are_copied_and_left_as_they_are(tmp_path):
    """B4 of the original: it deleted the files of demonstrations."""
    np.save(tmp_path / "frames.npy", np.stack([picture(n) for n in range(61)]))
    frames = np.load(tmp_path / "frames.npy", mmap_mode="r")
    before = (tmp_path / "frames.npy").read_bytes()
    buffer = make_buffer(61)
    for _ in range(3):  # more than it can keep
        buffer.add_episode(frames, np.zeros((60, 2)), np.zeros(60))
    assert (tmp_path / "frames.npy").read_bytes() == before


def test_a_terminated_demonstration_has_no_value_after_it():
    buffer = make_buffer(n_steps=1)
    buffer.add_episode(np.zeros((3, *FRAME), np.uint8), np.zeros((2, 2)), np.array([0.0, 1.0]), terminated=True)
    batch = buffer.sample(50)
    assert torch.equal(batch.dones, batch.rewards)


# -- saving -----------------------------------------------------------------------------------------------------------


def used_buffer(**options):
    buffer = make_buffer(60, max_imagined=20, max_imagined_age=3, **options)
    recorder = Recorder(buffer, 1, seed=0)
    recorder.play(100)
    for _ in range(8):
        imagine(buffer, size=1)
    buffer.count_model_update()
    return buffer, recorder


def go_on(buffer, recorder):
    """What is drawn after the same further experience."""
    recorder = copy.copy(recorder)
    recorder.buffer, recorder.rng, recorder.open = buffer, np.random.default_rng(5), copy.deepcopy(recorder.open)
    recorder.play(10)
    buffer.count_model_update()
    imagine(buffer, size=2)
    buffer.count_model_update()
    batch = buffer.sample(64)
    return [column.numpy() for column in batch] + [buffer.sample_segments(5, 3).frames.numpy()]


def restored_by_state(buffer, path):
    other, _ = used_buffer(seed=9)
    other.load_state_dict(buffer.state_dict())
    return other


def restored_by_file(buffer, path):
    buffer.save(path)
    other = make_buffer(60, max_imagined=20, max_imagined_age=3)
    other.load(path)
    return other


def restored_by_pickle(buffer, path):
    """As stable-baselines3's save_replay_buffer does."""
    return pickle.loads(pickle.dumps(buffer))


@pytest.mark.parametrize("restore", [restored_by_state, restored_by_file, restored_by_pickle])
def test_a_restored_buffer_goes_on_as_the_other_would(restore, tmp_path):
    """B11 of the original: buffers were not restored."""
    buffer, recorder = used_buffer()
    other = restore(buffer, tmp_path / "buffer.safetensors")
    for one, two in zip(go_on(buffer, recorder), go_on(other, recorder), strict=True):
        assert np.array_equal(one, two)


def test_a_state_does_not_change_with_the_buffer():
    buffer, recorder = used_buffer()
    state = buffer.state_dict()
    before = copy.deepcopy(state)
    go_on(buffer, recorder)
    assert all(np.array_equal(state[name], before[name]) for name in state if name != "record")
    assert state["record"] == before["record"]


def test_a_saved_buffer_of_other_sizes_is_refused(tmp_path):
    buffer, _ = used_buffer()
    buffer.save(tmp_path / "buffer.safetensors")
    with pytest.raises(ValueError, match="do not fit a buffer"):
        make_buffer(60, num_stack=2, max_imagined=2).load(tmp_path / "buffer.safetensors")
    with pytest.raises(ValueError, match="is for 1 environments"):
        make_buffer(60, n_envs=2).load(tmp_path / "buffer.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real.frames": None}, "lacks frames"),
        ({"real.order": np.zeros(3, np.int64)}, "do not name each of"),
        ({"real.following": np.full(60, 60, np.int64)}, "name frames beyond the 60"),
        ({"real.rewards": np.zeros(60, np.float64)}, "do not fit a buffer"),
        ({"real.rewards": np.zeros(59, np.float32)}, "do not fit a buffer"),
        ({"imagined.num_put": np.zeros(1)}, "num_put must be a whole number"),
        ({"record": {}}, "lacks rng, newest, rollouts, num_updates"),
        ({"record": {"newest": 3}}, "newest of a saved buffer must be rows of 2 whole numbers"),
        ({"record": {"newest": [[1000, 0]]}}, "slots beyond the 60"),
        ({"record": {"rollouts": [[1, 2, "a"]]}}, "rollouts of a saved buffer must be rows of 3"),
        ({"record": {"rollouts": [[1, 2, 3]]}}, "the saved rollouts of 1 frames and 2 steps do not fit"),
        ({"record": {"num_updates": None}}, "num_updates of a saved buffer must be"),
        ({"record": {"rng": {"bit_generator": "none"}}}, "no state of random numbers"),
    ],
)
def test_a_state_that_no_buffer_had_is_refused(changes, message):
    buffer, _ = used_buffer()
    state = buffer.state_dict()
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = state[name] | value if name == "record" and value else value
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps({"record": 1})])
def test_a_file_that_is_no_buffer_is_refused(content, tmp_path):
    file = tmp_path / "buffer.safetensors"
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"buffer\.safetensors cannot be read as a safetensors file"):
        make_buffer(60).load(file)


@pytest.mark.parametrize("metadata", [None, {"record": "3"}, {"record": "{"}])
def test_arrays_without_a_record_are_no_buffer(metadata, tmp_path):
    save_file({"frames": np.zeros(3)}, tmp_path / "buffer.safetensors", metadata=metadata)
    with pytest.raises(OSError, match=r"buffer\.safetensors"):
        make_buffer(60).load(tmp_path / "buffer.safetensors")


# -- agents of stable-baselines3 --------------------------------------------------------------------------------------


class SmallFeatures(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9 * 24 * 24, 8))

    def forward(self, observations):
        return self.layers(observations)


def train_some_steps(algorithm):
    environments = DummyVecEnv([SquareEnv, SquareEnv])
    agent = algorithm(
        "MlpPolicy",  # CrossQ has no other
        environments,
        buffer_size=1000,
        learning_starts=10,
        batch_size=8,
        seed=0,
        device="cpu",
        replay_buffer_class=MixedReplayBuffer,
        replay_buffer_kwargs={"n_steps": 3, "gamma": 0.99, "seed": 0},
        policy_kwargs={"net_arch": [16], "features_extractor_class": SmallFeatures},
    )
    agent.learn(24)
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    frames = torch.zeros(2, 4, 3, 24, 24, dtype=torch.uint8)
    agent.replay_buffer.add_imagined(frames[:, :3], frames, torch.zeros(2, 4, 1), torch.zeros(2, 4))
    agent.learn(20, reset_num_timesteps=False)
    changed = [not torch.equal(*pair) for pair in zip(before, agent.policy.parameters(), strict=True)]
    assert any(changed)
    assert agent.replay_buffer.size() == 44


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_agents_of_stable_baselines3_train_with_it(algorithm):
    train_some_steps(algorithm)


@pytest.mark.parametrize("name", ["TQC", "CrossQ"])
def test_agents_of_sb3_contrib_train_with_it(name):
    train_some_steps(getattr(pytest.importorskip("sb3_contrib"), name))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be a whole number"),
        ({"max_imagined": 0}, "max_imagined must be a whole number"),
        ({"max_imagined_age": 0}, "max_imagined_age must be a whole number"),
        ({"real_ratio": 1.5}, "real_ratio is the share"),
        ({"gamma": 2}, "gamma must lie in"),
        ({"buffer_size": 5}, "buffer_size must be at least"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage must be False"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_buffer(**options)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (Box(0, 255, (4, 8, 8), np.uint8), ACTIONS, "stacks of colour frames"),
        (Box(0, 1, (3, 8, 8), np.float32), ACTIONS, "stacks of colour frames"),
        (Box(0, 255, (3, 8, 8), np.uint8), Discrete(3), "a Box with finite bounds"),
        (Box(0, 255, (3, 8, 8), np.uint8), Box(-np.inf, 1, (2,)), "a Box with finite bounds"),
    ],
)
def test_other_spaces_are_refused(observations, actions, message):
    with pytest.raises(ValueError, match=message):
        MixedReplayBuffer(500, observations, actions)


def test_frames_in_floats_are_refused():
    """B1 of the original: frames in [0, 1] and in [0, 255] met in one network."""
    buffer = make_buffer()
    floats = np.zeros((1, 9, 2, 2), np.float32)
    with pytest.raises(ValueError, match="must be uint8 stacks"):
        buffer.add(floats, floats, np.zeros((1, 2)), np.ones(1), np.array([False]), [{}])
    with pytest.raises(ValueError, match="context_frames must be uint8"):
        buffer.add_imagined(
            torch.zeros(1, 2, *FRAME), torch.zeros(1, 1, *FRAME), torch.zeros(1, 1, 2), torch.zeros(1, 1)
        )


def test_another_number_of_environments_is_refused():
    stacks = np.zeros((2, 9, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="made for 1 environments, and got steps of 2"):
        make_buffer().add(stacks, stacks, np.zeros((2, 2)), np.ones(2), np.array([False] * 2), [{}, {}])


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_rewards_that_are_not_finite_are_refused(reward):
    """Else the first update makes every weight of the agent NaN, and the next action is what fails."""
    stack = np.zeros((1, 9, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=f"rewards must be finite, got {reward}"):
        make_buffer().add(stack, stack, np.zeros((1, 2)), np.array([reward]), np.array([False]), [{}])


def test_actions_in_environment_units_are_refused_by_add():
    stack = np.zeros((1, 9, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="add takes actions that are scaled"):
        make_buffer().add(stack, stack, np.full((1, 2), 3.0), np.ones(1), np.array([False]), [{}])


def test_observations_that_are_no_stacks_are_refused():
    buffer, observations = make_buffer(), np.random.default_rng(0).integers(0, 255, (2, 1, 9, 2, 2)).astype(np.uint8)
    with pytest.raises(ValueError, match="stack its frames by channels"):
        buffer.add(*observations, np.zeros((1, 2)), np.ones(1), np.array([False]), [{}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": torch.zeros(2, 4, 3, 3, 2, dtype=torch.uint8)}, "frames must be uint8"),
        ({"context_frames": torch.zeros(1, 2, *FRAME, dtype=torch.uint8)}, "frames must be"),
        ({"actions": torch.zeros(2, 4, 3)}, "actions must have shape"),
        ({"actions": torch.full((2, 4, 2), 3.1)}, "lie outside the bounds"),
        ({"actions": torch.full((2, 4, 2), torch.nan)}, "lie outside the bounds"),
        ({"rewards": torch.full((2, 4), torch.nan)}, "rewards must be finite"),
        ({"lengths": torch.tensor([0, 5])}, "lengths must be 2 whole numbers"),
    ],
)
def test_rollouts_that_do_not_fit_are_refused(changes, message):
    rollouts = {
        "context_frames": torch.zeros(2, 2, *FRAME, dtype=torch.uint8),
        "frames": torch.zeros(2, 4, *FRAME, dtype=torch.uint8),
        "actions": torch.zeros(2, 4, 2),
        "rewards": torch.zeros(2, 4),
    }
    with pytest.raises(ValueError, match=message):
        make_buffer().add_imagined(**rollouts | changes)


def test_an_empty_buffer_says_so():
    buffer = make_buffer()
    for draw in (lambda: buffer.sample(4), lambda: buffer.sample_starts(4, 2), lambda: buffer.sample_segments(4, 5)):
        with pytest.raises(ValueError, match="yet"):
            draw()
