"""RLDS: names of cameras, and what is no episode."""

import json
import shutil

import numpy as np
import pytest

from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.media.images import encode_png
from tests.data.files import convert

pytest.importorskip("tfrecord")
IMAGE, TENSOR = {"image": {"shape": {"dimensions": ["8", "8", "3"]}}}, {"tensor": {}}
DEPTH = {"image": {"shape": {"dimensions": ["8", "8", "1"]}, "dtype": "uint16"}}


def images(value, number=4):
    return [encode_png(np.full((8, 8, 3), value, np.uint8))] * number


def tree(paths):
    root = {"featuresDict": {"features": {}}}
    for path, feature in paths.items():
        *folders, name = path.split("/")
        node = root["featuresDict"]["features"]
        for folder in folders:
            node = node.setdefault(folder, {"featuresDict": {"features": {}}})["featuresDict"]["features"]
        node[name] = feature
    return root


def write(folder, features, values):
    from tfrecord import example_pb2
    from tfrecord.writer import TFRecordWriter

    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(tree(features)))
    example = example_pb2.Example()
    for key, value in values.items():
        feature = example.features.feature[key]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        else:
            feature.float_list.value.extend(value.ravel().tolist())
    data = example.SerializeToString()
    with (folder / "x-train.tfrecord-00000-of-00001").open("wb") as file:
        length = np.uint64(len(data)).tobytes()
        file.write(length + TFRecordWriter.masked_crc(length) + data + TFRecordWriter.masked_crc(data))
    return folder


ACTION = {"steps/action": TENSOR}, {"steps/action": np.arange(8, dtype=np.float32)}


def test_features_of_the_same_last_name_are_cameras_of_their_own(tmp_path):
    paths = ("steps/observation/image", "steps/observation/wrist/image")
    values = {paths[0]: images(10), paths[1]: images(200)}
    folder = write(tmp_path / "x", ACTION[0] | dict.fromkeys(paths, IMAGE), ACTION[1] | values)
    frames = open_episodes(folder)[0].frames
    assert frames == {"image": values[paths[0]], "wrist_image": values[paths[1]]}


def test_images_of_the_whole_episode_and_depth_are_no_cameras(tmp_path):
    features = {"steps/observation/image": IMAGE, "steps/observation/far": DEPTH, "episode_metadata/goal": IMAGE}
    values = {"steps/observation/image": images(10), "steps/observation/far": images(1)}
    folder = write(tmp_path / "x", ACTION[0] | features, ACTION[1] | values | {"episode_metadata/goal": images(7, 1)})
    episode = open_episodes(folder)[0]
    assert list(episode.frames) == ["image"]
    assert "not taken for cameras: far" in episode.notes


def test_a_file_is_converted_to_a_folder_beside_it(tmp_path):
    """And found again there: what was written is no part of the source."""
    values = ACTION[1] | {"steps/observation/image": images(10)}
    folder = write(tmp_path / "x", ACTION[0] | {"steps/observation/image": IMAGE}, values)
    for _ in range(2):
        convert(open_episodes(folder / "x-train.tfrecord-00000-of-00001"), folder / "out")
    assert len(open_episodes(folder / "out")) == 1


def test_a_file_depends_on_its_description(tmp_path):
    values = ACTION[1] | {"steps/observation/image": images(10)}
    folder = write(tmp_path / "x", ACTION[0] | {"steps/observation/image": IMAGE}, values)
    file = folder / "x-train.tfrecord-00000-of-00001"
    assert open_episodes(file).files_of(0) == [file, folder / "features.json"]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [([], "it has no steps"), ([*images(1, 3), b""], "no image in step 3")],
    ids=["empty", "padded"],
)
def test_empty_and_padded_episodes(tmp_path, frames, reason):
    values = {"steps/observation/image": frames, "steps/action": np.arange(2 * len(frames), dtype=np.float32)}
    folder = write(tmp_path / "x", ACTION[0] | {"steps/observation/image": IMAGE}, values)
    with pytest.raises(EpisodeError, match=reason):
        open_episodes(folder)[0]


def test_versions_of_a_data_set_are_not_mixed(tmp_path):
    values = ACTION[1] | {"steps/observation/image": images(10)}
    folder = write(tmp_path / "x/1.0.0", ACTION[0] | {"steps/observation/image": IMAGE}, values)
    shutil.copytree(folder, tmp_path / "x/0.1.0")
    with pytest.raises(ValueError, match=r"several data sets: .*0\.1\.0, .*1\.0\.0; name the folder of one"):
        open_episodes(tmp_path / "x")
