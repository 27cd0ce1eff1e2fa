"""Clips as a pure function of (seed, epoch, index); what they hold."""

import numpy as np
import pytest
import torch

from ivideogpt_hf import IVideoGPTVideoProcessor
from ivideogpt_hf.data.clips.augment import AUGMENTATIONS
from ivideogpt_hf.data.clips.dataset import ClipKey, ClipSettings, SegmentDataset, SourceClips, SourceEpisodes
from ivideogpt_hf.data.clips.mixture import Mixture, Source
from ivideogpt_hf.data.clips.segments import SegmentSpec
from ivideogpt_hf.data.clips.store import open_store
from tests.data.files import MemoryReader, convert, make_dataset, make_episode

pytest.importorskip("datasets")

LENGTHS = [12, 9, 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_dataset(tmp_path_factory.mktemp("data") / "arm", LENGTHS))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Another robot, with wider actions."""
    return str(make_dataset(tmp_path_factory.mktemp("data") / "hand", [15, 15], width=5))


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]


@pytest.mark.parametrize("streaming", [False, True], ids=["arrow", "streaming"])
def test_a_clip_is_a_pure_function(folder, streaming):
    def build():
        return SegmentDataset(
            folder, SegmentSpec(6), augmentation="strong", actions=True, rewards=True, seed=4, streaming=streaming
        )

    first, second = build(), build()
    second[0, 5], second[7, 1]
    assert_same(first[3, 2], second[3, 2])
    assert not torch.equal(first[3, 2]["frames"], first[4, 2]["frames"])


def open_source(spec, segment, **options):
    return SourceEpisodes(spec, open_store(spec.path, spec.split), segment, **{"stride": 1, **options})


def test_a_source_gives_its_clips_without_a_data_set(folder):
    settings = ClipSettings(augmentation=AUGMENTATIONS["strong"], with_actions=True, with_rewards=True, seed=4)
    clips = SourceClips(open_source(Source(folder), SegmentSpec(6)), settings)
    dataset = SegmentDataset(folder, SegmentSpec(6), augmentation="strong", actions=True, rewards=True, seed=4)
    key = ClipKey(3, *dataset.order(3).locate(2))
    assert_same(clips.clip(key) | {"action_mask": torch.ones(3, dtype=torch.bool)}, dataset[3, 2])


def test_windows_of_a_source_are_starts_in_its_episodes(folder):
    source = open_source(Source(folder), SegmentSpec(6), stride=2)
    assert source.starts.tolist() == [1, 4, 9]  # 12 = 2 * 6; the stride shrinks to 1 for 9 frames; 20 - 12 + 1
    places = [source.locate(window) for window in range(source.windows.num_windows)]
    expected = [(episode, "image", start) for episode, starts in enumerate([1, 4, 9]) for start in range(starts)]
    assert places == expected


def test_actions_and_rewards_are_there_if_every_source_has_them(tmp_path, folder):
    without = str(make_dataset(tmp_path / "without", [8], width=None))
    alone = SegmentDataset(folder, SegmentSpec(4), actions=None, rewards=None)
    together = SegmentDataset(Mixture([Source(folder), Source(without)]), SegmentSpec(4), actions=None, rewards=None)
    assert (alone.settings.with_actions, alone.settings.with_rewards) == (True, True)
    assert (together.settings.with_actions, together.settings.with_rewards) == (False, True)


def test_without_actions_their_width_does_not_matter(tmp_path, folder):
    """Concatenated actions of a stride that shrinks are refused, but not where there are none to concatenate."""
    without = str(make_dataset(tmp_path / "without", [8], width=None))
    sources = [Source(folder, stride=3, action_aggregation="concatenate"), Source(without)]
    assert "actions" not in SegmentDataset(Mixture(sources), SegmentSpec(4), actions=None)[0]


@pytest.mark.parametrize("name", ["actions", "rewards"])
def test_a_random_choice_of_frames_has_no_actions(folder, name):
    segment = SegmentSpec(4, horizon=6)
    assert name not in SegmentDataset(folder, segment, **{name: None})[0]
    with pytest.raises(ValueError, match="horizon"):
        SegmentDataset(folder, segment, **{name: True})


def test_an_epoch_is_every_start_once(folder):
    dataset = SegmentDataset(folder, SegmentSpec(6))
    clips = [
        (clip["episode"], clip["frame_indices"][0].item()) for clip in map(dataset.__getitem__, range(len(dataset)))
    ]
    assert sorted(clips) == [(episode, start) for episode, n in enumerate(LENGTHS) for start in range(n - 5)]


def test_frames_actions_and_rewards_belong_together(folder):
    dataset = SegmentDataset(folder, SegmentSpec(6), actions=True, rewards=True)
    for index in range(len(dataset)):
        clip = dataset[index]
        indices = clip["frame_indices"]
        assert clip["frames"][:, 0, 0, 0].equal(indices.to(torch.uint8))
        assert (clip["frames"][:, 1, 0, 0] == clip["episode"]).all()
        assert clip["actions"][:, 0].equal(indices[:-1].float())
        assert clip["rewards"].equal(indices[:-1].float())
        assert clip["action_mask"].all()


def test_with_a_stride_rewards_are_summed(folder):
    dataset = SegmentDataset(Source(folder, stride=2), SegmentSpec(4), actions=True, rewards=True)
    clip = dataset[0]
    first = clip["frame_indices"][:-1].float()
    assert clip["rewards"].equal(2 * first + 1)
    assert clip["actions"][:, 0].equal(2 * first + 1)


def test_a_goal_has_no_action(folder):
    clip = SegmentDataset(folder, SegmentSpec(5, goal_conditioned=True), actions=True)[0]
    indices = clip["frame_indices"]
    assert indices[0] == indices[-1] + 1
    assert not clip["actions"][0].any()
    assert clip["actions"][1:, 0].equal(indices[1:-1].float())


def test_first_clips_for_evaluation(folder):
    dataset = SegmentDataset(folder, SegmentSpec(6, starts="first"))
    assert len(dataset) == 3
    assert [(dataset[i]["episode"], dataset[i]["frame_indices"].tolist()) for i in range(3)] == [
        (episode, list(range(6))) for episode in range(3)
    ]


def test_subsets_are_drawn_without_replacement(tmp_path):
    folder = str(make_dataset(tmp_path / "many", [4] * 40))

    def subset(seed):
        mixture = Mixture([Source(folder, num_episodes=10)], seed=seed)
        dataset = SegmentDataset(mixture, SegmentSpec(4))
        return sorted(dataset[index]["episode"] for index in range(len(dataset)))

    assert len(set(subset(0))) == 10
    assert subset(0) == subset(0)
    assert subset(0) != subset(1)


def test_actions_are_standardized_per_source(folder):
    dataset = SegmentDataset(Source(folder, action_normalization="standardize", stride=2), SegmentSpec(4), actions=True)
    mean, std = SourceClips(dataset.sources[0], dataset.settings).normalization
    sums = []
    for index, length in enumerate(LENGTHS):
        rows = make_episode(index, length).actions
        sums += [rows[t : t + 2].sum(axis=0) for t in range(0, length - 2, 2)]
    sums = np.array(sums)
    assert mean == pytest.approx(sums.mean(axis=0), rel=1e-4)
    assert std == pytest.approx(sums.std(axis=0), rel=1e-4)
    clip = dataset[0]
    raw = SegmentDataset(Source(folder, stride=2), SegmentSpec(4), actions=True)[0]
    expected = (raw["actions"] - torch.from_numpy(mean)) / torch.from_numpy(std)
    torch.testing.assert_close(clip["actions"], expected)


def test_narrow_actions_are_padded_with_a_mask(folder, wide):
    dataset = SegmentDataset(Mixture([Source(folder), Source(wide)]), SegmentSpec(6), actions=True)
    seen = set()
    for index in range(len(dataset)):
        clip = dataset[index]
        seen.add(clip["source"])
        assert clip["actions"].shape == (5, 5)
        assert clip["action_mask"].tolist() == [True] * (3 if clip["source"] == 0 else 5) + [False] * (
            2 if clip["source"] == 0 else 0
        )
        assert not clip["actions"][:, ~clip["action_mask"]].any()
    assert seen == {0, 1}


def test_the_processor_prepares_actions_as_training_did(folder, wide):
    sources = [Source(folder, action_normalization="standardize"), Source(wide, action_normalization="standardize")]
    dataset = SegmentDataset(Mixture(sources), SegmentSpec(6), size=(16, 16), actions=True)
    processor = IVideoGPTVideoProcessor(**dataset.processor_settings())
    clip = next(clip for clip in map(dataset.__getitem__, range(20)) if clip["source"] == 0)
    raw = make_episode(clip["episode"], LENGTHS[clip["episode"]]).actions[clip["frame_indices"][:-1]]
    prepared = processor.for_embodiment("arm").normalize_actions(torch.from_numpy(raw))
    torch.testing.assert_close(prepared, clip["actions"])


def test_one_sources_settings_go_straight_into_the_processor(folder):
    dataset = SegmentDataset(Source(folder, action_normalization="standardize"), SegmentSpec(6), actions=True)
    processor = IVideoGPTVideoProcessor(**dataset.processor_settings())
    assert processor.action_dim == 3
    assert processor.embodiments is None


def test_cameras_share_the_clips(tmp_path):
    from dataclasses import replace

    episode = make_episode(0, 8)
    episode = replace(episode, frames={"front": episode.frames["image"], "wrist": make_episode(1, 8).frames["image"]})
    folder = str(convert(MemoryReader([episode]), tmp_path / "out"))
    dataset = SegmentDataset(Source(folder, cameras=["front", "wrist"]), SegmentSpec(6))
    seen = [
        (dataset[i]["frames"][0, 1, 0, 0].item(), dataset[i]["frame_indices"][0].item()) for i in range(len(dataset))
    ]
    assert sorted(seen) == [(camera, start) for camera in (0, 1) for start in range(3)]
    with pytest.raises(ValueError, match=r"name those to use"):
        SegmentDataset(folder, SegmentSpec(6))


def test_concatenated_actions_widen(folder):
    source = Source(folder, stride=3, action_aggregation="concatenate")
    dataset = SegmentDataset(source, SegmentSpec(3, short_episodes="drop"), actions=True)
    assert dataset.action_dim == 9
    assert dataset[0]["actions"].shape == (2, 9)
    with pytest.raises(ValueError, match="short_episodes='drop'"):
        SegmentDataset(source, SegmentSpec(3), actions=True)


@pytest.mark.parametrize("streaming", [False, True], ids=["arrow", "streaming"])
def test_what_is_missing_is_named(tmp_path, folder, streaming):
    without = str(make_dataset(tmp_path / "without", [8], width=None))
    options = {"streaming": streaming}
    with pytest.raises(ValueError, match="has no actions"):
        SegmentDataset(without, SegmentSpec(4), actions=True, **options)
    with pytest.raises(ValueError, match=r"no camera 'wrist'; it has \['image'\]"):
        SegmentDataset(Source(folder, cameras=["wrist"]), SegmentSpec(4), **options)
    with pytest.raises(ValueError, match="gives no clip of 40 frames"):
        SegmentDataset(folder, SegmentSpec(40, short_episodes="drop"), **options)
    with pytest.raises(ValueError, match="has 3 episodes, 4 were asked for"):
        SegmentDataset(Source(folder, num_episodes=4), SegmentSpec(4), **options)
    with pytest.raises((FileNotFoundError, ValueError), match="validation"):
        SegmentDataset(Source(folder, split="validation"), SegmentSpec(4), **options)


@pytest.mark.parametrize("streaming", [False, True], ids=["arrow", "streaming"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [({"schema_version": 2}, "update the package"), ({"num_frames": None}, "convert-data")],
    ids=["version", "columns"],
)
def test_other_schemas_are_refused(tmp_path, change, reason, streaming):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = make_dataset(tmp_path / "data", [8])
    file = next((folder / "data").glob("*.parquet"))
    table = pq.read_table(file)
    for name, value in change.items():
        place = table.schema.get_field_index(name)
        if value is None:
            table = table.remove_column(place)
        else:
            table = table.set_column(place, table.schema.field(name), pa.array([value], pa.int32()))
    pq.write_table(table, file)
    with pytest.raises(ValueError, match=reason):
        SegmentDataset(str(folder), SegmentSpec(4), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["arrow", "streaming"])
def test_an_episode_of_a_single_frame_that_others_wrote_gives_no_clip(tmp_path, streaming):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = make_dataset(tmp_path / "data", [5, 8])
    file = next((folder / "data").glob("*.parquet"))
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0] |= {"num_frames": 1, "actions": [], "rewards": [], "frames.image": rows[0]["frames.image"][:1]}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    dataset = SegmentDataset(str(folder), SegmentSpec(8), actions=True, rewards=True, streaming=streaming)
    assert [clip["num_windows"] for clip in dataset.describe()] == [1]
    assert dataset[0]["episode"] == 1


@pytest.mark.parametrize("mean", [np.nan, np.inf])
def test_means_that_are_no_numbers_are_refused(folder, mean):
    source = Source(folder, action_normalization={"mean": [mean, 0.0, 0.0], "std": [1.0] * 3})
    with pytest.raises(ValueError, match="needs 3 finite means and positive stds"):
        SegmentDataset(source, SegmentSpec(4), actions=True)


def test_streamed_files_of_several_data_sets_are_refused(tmp_path):
    import pyarrow.parquet as pq

    folder = make_dataset(tmp_path / "data", [5, 6], num_shards=2)
    file = folder / "data/train-00001-of-00002.parquet"
    table = pq.read_table(file)
    names = [name.replace("frames.image", "frames.wrist") for name in table.column_names]
    pq.write_table(table.rename_columns(names), file)
    with pytest.raises(ValueError, match=r"00001-of-00002\.parquet has the cameras \['wrist'\], files before it have"):
        SegmentDataset(str(folder), SegmentSpec(4), streaming=True)


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
        SegmentDataset(str(tmp_path), SegmentSpec(4))
