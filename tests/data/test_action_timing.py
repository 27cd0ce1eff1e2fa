"""Whether actions go together with the motion that they cause."""

from dataclasses import replace

import numpy as np
import pytest

from ivideogpt_hf.data.action_timing import ActionTiming
from ivideogpt_hf.data.convert.dataset_report import render_report, summarize_episodes
from ivideogpt_hf.data.episodes import Episode
from ivideogpt_hf.data.readers import open_episodes
from ivideogpt_hf.data.statistics import EpisodeStatistics, merge_statistics
from tests.data.files import make_episode


def moving_square(seed, num_frames=40):
    """A square that each action moves to the left or to the right."""
    generator = np.random.default_rng(seed)
    frames, actions, place = np.zeros((num_frames, 32, 32, 3), np.uint8), [], 16
    for frame in frames:
        frame[12:20, place - 3 : place + 3] = 255
        target = np.clip(place + generator.choice([-2, 2]), 4, 28)
        actions.append([target - place])
        place = target
    return Episode({"image": frames}, f"episode_{seed}", "square", np.array(actions[:-1], np.float32))


def shifted(episode, step):
    """The episode with actions ``step`` rows late."""
    kept = slice(step, None) if step > 0 else slice(None, step)
    rows = slice(None, -step) if step > 0 else slice(-step, None)
    frames = {camera: frames[kept] for camera, frames in episode.frames.items()}
    return replace(episode, frames=frames, actions=episode.actions[rows], rewards=None)


def statistics_of(episodes):
    statistics = EpisodeStatistics()
    for episode in episodes:
        statistics.add(episode)
    return statistics


def report_of(episodes):
    return render_report(summarize_episodes(statistics_of(episodes)) | {"splits": {}, "source": None})


def test_actions_in_their_place_cause_no_remark():
    assert "motion" not in report_of([moving_square(seed) for seed in range(3)])


def test_actions_that_are_a_row_late_are_told():
    assert "check: motion goes together" in report_of([shifted(moving_square(seed), 1) for seed in range(3)])


def test_actions_that_are_a_row_early_are_told():
    assert "note: motion follows" in report_of([shifted(moving_square(seed), -1) for seed in range(3)])


def test_the_shift_of_real_random_actions_is_found(shared):
    episode = open_episodes(shared("data/bair_sample.npz"))[0]
    assert "check: motion" in report_of([shifted(episode, 1)])
    assert "note: motion" in report_of([shifted(episode, -1)])
    assert "motion" not in report_of([episode])


@pytest.mark.parametrize("source", ["data/metaworld", "data/rlds_bridge/1.0.0"])
def test_right_real_data_cause_no_warning(shared, source):
    """Robots move with a delay; that is told, and no fault."""
    assert "check: motion" not in report_of(open_episodes(shared(source)))


def test_noise_has_no_best_step():
    timing = ActionTiming()
    for seed in range(4):
        timing.add(make_episode(seed, 60))
    assert timing.best_step is None


def test_parts_add_up():
    episodes = [moving_square(seed) for seed in range(2)]
    together = statistics_of(episodes).timing
    merged = merge_statistics([statistics_of([episode]) for episode in episodes]).timing
    assert merged.products == pytest.approx(together.products)
    assert ActionTiming.from_json(merged.to_json()).best_step == together.best_step == 0
