"""Batches: by rank, whatever the workers, resumable to the clip, in flat memory; from disk and streamed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ivideogpt_hf.data.clips.dataset import SegmentDataset
from ivideogpt_hf.data.clips.loader import load_clips
from ivideogpt_hf.data.clips.segments import SegmentSpec
from tests.data.files import change_one_pixel, make_dataset

pytest.importorskip("datasets")

BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["arrow", "streaming"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_dataset(tmp_path_factory.mktemp("data") / "many", [8, 9, 10, 11] * 12, num_shards=12))


def load(folder, **options):
    return load_clips(folder, **{"batch_size": 4, "segment": SegmentSpec(6), **options})


def clips(batches):
    """(episode, first frame) of every clip, in order."""
    return [
        (episode, first)
        for batch in batches
        for episode, first in zip(batch["episode"].tolist(), batch["frame_indices"][:, 0].tolist(), strict=True)
    ]


@BOTH
def test_batches_are_stacked(folder, streaming):
    batch = next(iter(load(folder, streaming=streaming, actions=True)))
    assert batch["frames"].shape == (4, 6, 3, 16, 16)
    assert batch["frames"].dtype == torch.uint8
    assert batch["actions"].shape == (4, 5, 3)


@BOTH
@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_do_not_change_the_order(folder, streaming, num_workers):
    alone = load(folder, streaming=streaming)
    helped = load(folder, streaming=streaming, num_workers=num_workers)
    for _ in range(2):  # epochs
        assert clips(alone) == clips(helped)


@BOTH
def test_resuming_in_mid_epoch_gives_exactly_the_rest(folder, streaming):
    whole = load(folder, streaming=streaming, seed=3)
    first_epoch, second_epoch = clips(whole), clips(whole)
    loader = load(folder, streaming=streaming, seed=3, num_workers=2)
    taken = []
    for batch in loader:
        taken.append(batch)
        if len(taken) == 5:
            state = loader.state_dict()
            break
    resumed = load(folder, streaming=streaming, seed=3)
    resumed.load_state_dict(state)
    assert clips(taken) + clips(resumed) == first_epoch
    assert clips(resumed) == second_epoch


@BOTH
def test_ranks_never_see_the_same_clip(folder, streaming):
    seen = [clips(load(folder, streaming=streaming, rank=rank, world_size=3)) for rank in range(3)]
    together = [clip for of_rank in seen for clip in of_rank]
    assert len(set(together)) == len(together)
    assert len({len(of_rank) for of_rank in seen}) == 1


def test_global_batches_do_not_depend_on_the_number_of_ranks(folder):
    alone = list(load(folder, batch_size=8))
    ranks = [list(load(folder, rank=rank, world_size=2)) for rank in range(2)]
    for batch, *parts in zip(alone, *ranks, strict=True):
        assert sorted(clips([batch])) == sorted(clips(parts))


@BOTH
def test_seeds_and_epochs_differ(folder, streaming):
    loader = load(folder, streaming=streaming)
    first, second = clips(loader), clips(loader)
    assert first != second
    assert first == clips(load(folder, streaming=streaming))
    assert first != clips(load(folder, streaming=streaming, seed=1))


@BOTH
def test_streaming_and_arrow_give_the_same_evaluation_clips(folder, streaming):
    loader = load(folder, segment=SegmentSpec(6, starts="first"), streaming=streaming, batch_size=10, drop_last=False)
    assert clips(loader) == [(episode, 0) for episode in range(48)]


def test_a_state_of_other_data_is_refused(folder):
    state = load(folder).state_dict()
    with pytest.raises(ValueError, match=r"differ.*'seed'"):
        load(folder, seed=1).load_state_dict({**state})
    with pytest.raises(ValueError, match="global_batch_size"):
        load(folder, batch_size=5).load_state_dict(state)


@BOTH
def test_too_large_a_batch_is_refused(folder, streaming):
    with pytest.raises(ValueError, match="lower batch_size"):
        load(folder, streaming=streaming, batch_size=1000)


@BOTH
def test_a_data_set_can_be_sent_to_another_process(folder, streaming):
    import pickle

    dataset = load(folder, streaming=streaming, actions=True).dataset
    expected = dataset[2]
    sent = pickle.loads(pickle.dumps(dataset))
    assert sent[2]["frames"].equal(expected["frames"])


def test_a_rank_must_exist(folder):
    with pytest.raises(ValueError, match="rank"):
        load(folder, rank=2, world_size=2)


GLOO = """
import json, os, sys
import torch.distributed as dist
sys.path.insert(0, {root!r})
from ivideogpt_hf.data.clips.loader import load_clips
from ivideogpt_hf.data.clips.segments import SegmentSpec
from tests.data.clips.test_loader import clips

dist.init_process_group("gloo")
mine = [
    clips(load_clips({folder!r}, batch_size=4, segment=SegmentSpec(6), streaming=streaming, num_workers=1))
    for streaming in (False, True)
]
everyone = [None] * dist.get_world_size()
dist.all_gather_object(everyone, mine)
if dist.get_rank() == 0:
    json.dump(everyone, open({output!r}, "w"))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks_under_gloo(folder, tmp_path_factory):
    """The clips of each of two processes, of data that are memory-mapped and of data that are streamed."""
    root, here = Path(__file__).parents[3], tmp_path_factory.mktemp("gloo")
    script, output = here / "script.py", here / "clips.json"
    script.write_text(GLOO.format(root=str(root), folder=folder, output=str(output)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@BOTH
def test_two_processes_under_gloo_share_an_epoch(folder, ranks_under_gloo, streaming):
    ranks = [[tuple(clip) for clip in of_rank[streaming]] for of_rank in ranks_under_gloo]
    assert len(ranks[0]) == len(ranks[1]) > 0
    assert not set(ranks[0]) & set(ranks[1])
    if not streaming:
        expected = clips(load(folder, batch_size=8))
        assert sorted(ranks[0] + ranks[1]) == sorted(expected)


def resident_bytes():
    """Memory of this process that no file backs: mapped files come and go as the system likes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@BOTH
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_memory_stays_flat_over_an_epoch(tmp_path, streaming):
    """The data are 19 MB of noise, which no PNG makes smaller; what an epoch adds must be far less."""
    folder = str(make_dataset(tmp_path / "large", [8] * 800, num_shards=8, size=32))
    loader = load(folder, streaming=streaming, segment=SegmentSpec(8), batch_size=8)
    sizes = []
    for number, _ in enumerate(loader):
        if number % 10 == 5:
            sizes.append(resident_bytes())
    growth = max(sizes[len(sizes) // 2 :]) - min(sizes[len(sizes) // 4 : len(sizes) // 2])
    assert growth < 8e6


def test_a_state_of_an_earlier_version_is_read(folder):
    state = load(folder).state_dict()
    state.pop("contents")
    load(folder).load_state_dict(state)


def test_files_that_change_under_a_stream_are_an_error(tmp_path):
    folder = make_dataset(tmp_path / "arm", [8] * 4)
    dataset = SegmentDataset(str(folder), SegmentSpec(4), streaming=True)
    change_one_pixel(folder, [8] * 4)
    with pytest.raises(OSError, match=r"train-00000-of-00001.parquet has changed since it was opened"):
        dataset[0]
