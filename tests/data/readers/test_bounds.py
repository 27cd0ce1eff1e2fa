"""Episodes that ask for more memory than they may are bad episodes: named, left out by skip_bad, read with a higher
limit."""

import os
import zipfile

import h5py
import numpy as np
import pytest

from ivideogpt_hf import open_episodes
from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings
from ivideogpt_hf.data.readers import EpisodeError
from ivideogpt_hf.media.images import encode_png
from tests.data.files import make_actions, make_frames, write_npz


def write_demo(path, **cameras):
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = make_actions(6)
        for name, options in cameras.items():
            file.create_dataset(f"data/demo_0/obs/{name}", **options)
    return path


@pytest.mark.parametrize(
    "dataset",
    [
        {"shape": (200_000, 256, 256, 3), "dtype": "u1", "chunks": (1, 256, 256, 3)},
        {"shape": (6, 16, 16, 3), "dtype": "u1", "maxshape": (None,) * 4, "chunks": (3000, 1000, 500, 3)},
    ],
    ids=["an array", "a chunk"],
)
def test_arrays_of_hdf5_are_refused_by_what_they_state(tmp_path, dataset):
    write_demo(tmp_path / "a.hdf5", front_image=dataset)
    with pytest.raises(EpisodeError, match=r"a\.hdf5.*takes more than 4295 MB"):
        open_episodes(tmp_path)[0]


def test_rows_of_any_length_are_counted_as_they_are_read(tmp_path):
    images = [encode_png(frame) for frame in make_frames(6, 64)]
    write_demo(tmp_path / "a.hdf5", front_image={"shape": (6,), "dtype": h5py.vlen_dtype(np.uint8)})
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        for step, image in enumerate(images):
            file["data/demo_0/obs/front_image"][step] = np.frombuffer(image, np.uint8)
    assert open_episodes(tmp_path)[0].frames["front"] == images
    with pytest.raises(EpisodeError, match=r"front_image.*max_bytes"):
        open_episodes(tmp_path, max_bytes=sum(map(len, images[:5])))[0]


def bad_npz(folder):
    with zipfile.ZipFile(folder / "bad.npz", "w") as file, file.open("image.npy", "w") as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 9, 9, 3)})
    for number in range(3):
        write_npz(folder / f"{number}.npz")


def bad_name(folder):
    for number in range(3):
        write_npz(folder / f"{number}.npz")
    try:
        (folder / "0.npz").rename(folder / os.fsdecode(b"caf\xe9.npz"))
    except OSError:
        pytest.skip("this file system refuses such names")


@pytest.mark.parametrize("spoil", [bad_npz, bad_name])
def test_bad_episodes_are_named_or_left_out_and_listed(tmp_path, spoil):
    source = tmp_path / "source"
    source.mkdir()
    spoil(source)
    settings = {"test_fraction": 0, "max_skipped": 0.5}

    def convert(**more):
        return Conversion(open_episodes(source), tmp_path / "out", ConversionSettings(**settings, **more), {}).run()

    name = r"bad\.npz" if spoil is bad_npz else r"caf\\udce9\.npz"
    with pytest.raises(EpisodeError, match=name):
        convert()
    statistics = convert(skip_bad=True)
    assert (statistics.num_episodes, len(statistics.skipped)) == (3 if spoil is bad_npz else 2, 1)


def test_actions_are_no_wider_than_those_of_a_robot(tmp_path):
    """Each dimension becomes a number of a table, of statistics and of a report."""
    np.savez_compressed(tmp_path / "a.npz", image=make_frames(6), action=np.zeros((6, 10_001), np.float32))
    with pytest.raises(EpisodeError, match=r"'a\.npz'.*10001 columns; at most 10000"):
        open_episodes(tmp_path)[0]


def test_memory_that_does_not_suffice_is_told_of_the_episode(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz")
    reader = open_episodes(tmp_path)

    def read(index):
        raise MemoryError

    monkeypatch.setattr(reader, "_read", read)
    with pytest.raises(EpisodeError, match=r"'a\.npz'.*does not fit into the memory"):
        reader[0]


def test_a_higher_limit_reads_it_and_does_not_change_what_a_conversion_is(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_npz(source / "a.npz")
    with pytest.raises(EpisodeError, match="max_bytes"):
        open_episodes(source, max_bytes=100)[0]
    reader = open_episodes(source, max_bytes=10**6)
    assert len(reader[0].frames["image"]) == 12
    assert reader.options.to_json() == open_episodes(source).options.to_json()
