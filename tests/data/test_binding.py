"""Actions and frames stay bound, whatever is lost, skipped or stopped: each of them carries its number."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivideogpt_hf import SegmentSpec, load_clips
from ivideogpt_hf.data.clips.mixture import Source
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from tests.data.files import make_dataset, write_lerobot
from tests.data.readers.test_lerobot import edit_rows, numbers, write_counting_video

EPISODES = [6, 5, 7]
slowly = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@slowly
@given(lost=st.sets(st.integers(0, sum(EPISODES) - 1), max_size=3), lost_rows=st.booleans())
def test_frames_that_a_video_lost_are_never_replaced_by_others(tmp_path_factory, lost, lost_rows):
    folder = tmp_path_factory.mktemp("lerobot")
    actions = write_lerobot(folder, EPISODES)
    write_counting_video(folder, sum(EPISODES), lost=lost)
    if lost_rows:
        edit_rows(folder, lambda rows: rows.__setitem__(slice(None), [row for row in rows if row["index"] not in lost]))
    reader, first = open_episodes(folder), 0
    for index, length in enumerate(EPISODES):
        if lost & set(range(first, first + length)):
            with pytest.raises(EpisodeError):
                reader[index]
        else:
            episode = reader[index]
            assert numbers(episode) == [*range(first, first + length)]
            assert np.array_equal(episode.actions, actions[index][:-1])
        first += length


@slowly
@given(
    lengths=st.lists(st.integers(10, 14), min_size=2, max_size=3),
    stride=st.integers(1, 3),
    num_shards=st.integers(1, 3),
    seed=st.integers(0, 100),
    stop=st.integers(0, 4),
    streaming=st.booleans(),
)
def test_actions_between_the_frames_of_a_clip_are_those_between_them(
    tmp_path_factory, lengths, stride, num_shards, seed, stop, streaming
):
    folder = make_dataset(tmp_path_factory.mktemp("clips") / "data", lengths, num_shards=num_shards)
    options = {"batch_size": 1, "segment": SegmentSpec(num_frames=3), "actions": True, "rewards": True, "seed": seed}
    source = Source(str(folder), stride=stride)
    loader = load_clips(source, streaming=streaming, **options)
    clips = []
    for number, clip in enumerate(loader, start=1):
        clips.append(clip)
        if number == stop:
            break
    resumed = load_clips(source, streaming=streaming, **options)
    resumed.load_state_dict(loader.state_dict())
    clips += list(resumed)
    whole = list(load_clips(source, streaming=streaming, **options))
    assert len(clips) >= len(whole)
    for clip in clips:
        frames = clip["frames"][0, :, 0, 0, 0].tolist()
        assert np.diff(frames).tolist() == [stride, stride]
        sums = [sum(range(first, last)) for first, last in itertools.pairwise(frames)]
        assert clip["actions"][0, :, 0].tolist() == sums
        assert clip["rewards"][0].tolist() == sums
