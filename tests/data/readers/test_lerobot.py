"""LeRobot: time stamps bind frames to rows, and depth is no camera."""

import json
from fractions import Fraction

import numpy as np
import pytest

from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.media.images import encode_png
from tests.data.files import write_lerobot

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")
TABLE = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


def edit_rows(folder, edit, file=TABLE):
    rows = pq.read_table(folder / file).to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / file)


def edit_features(folder, **features):
    file = folder / "meta/info.json"
    info = json.loads(file.read_text())
    info["features"] |= features
    file.write_text(json.dumps(info))


def write_counting_video(folder, num_frames, lost=(), first=0, fps=10):
    """Frame k has the brightness 10 k."""
    import av

    with av.open(str(folder / VIDEO), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for k in range(num_frames):
            if k not in lost:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * k, np.uint8), format="rgb24")
                frame.pts, frame.time_base = k + first, Fraction(1, fps)
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbers(episode):
    return [round(int(frame[0, 0, 0]) / 10) for frame in episode.frames["front"]]


def test_frames_are_those_of_their_times(tmp_path):
    write_lerobot(tmp_path, [6, 6])
    write_counting_video(tmp_path, 12)
    assert [numbers(episode) for episode in open_episodes(tmp_path)] == [[*range(6)], [*range(6, 12)]]


def test_a_lost_frame_costs_its_episode_and_no_other(tmp_path):
    write_lerobot(tmp_path, [6, 6])
    write_counting_video(tmp_path, 12, lost=(2,))
    reader = open_episodes(tmp_path)
    with pytest.raises(EpisodeError, match=r"episode_0.* no frame for row 2: it is wanted at 0\.2000 s"):
        reader[0]
    assert numbers(reader[1]) == [*range(6, 12)]


@pytest.mark.parametrize("video", [{"first": 3}, {"fps": 20}, {"fps": 12}, {"fps": 5}], ids=str)
def test_another_clock_or_rate_is_refused(tmp_path, video):
    write_lerobot(tmp_path, [6, 6])
    write_counting_video(tmp_path, 12, **video)
    with pytest.raises(EpisodeError, match=r"no frame for row|frames between|one frame for"):
        open_episodes(tmp_path)[0]


@pytest.mark.parametrize(("column", "value"), [("frame_index", 7), ("index", 7), ("timestamp", 0.05)])
def test_rows_that_contradict_their_numbers_are_refused(tmp_path, column, value):
    write_lerobot(tmp_path, [6])
    edit_features(tmp_path, frame_index={"dtype": "int64", "shape": [1]}, index={"dtype": "int64", "shape": [1]})
    edit_rows(tmp_path, lambda rows: rows[2].update({column: value}))
    with pytest.raises(EpisodeError, match=f"row 2 has the {column}"):
        open_episodes(tmp_path)[0]


def test_scalar_actions_are_one_wide(tmp_path):
    actions = write_lerobot(tmp_path, [6])
    edit_features(tmp_path, action={"dtype": "float32", "shape": [1], "names": ["x"]})
    edit_rows(tmp_path, lambda rows: [row.update(action=row["action"][0]) for row in rows])
    episode = open_episodes(tmp_path)[0]
    assert (episode.actions == actions[0][:-1, :1]).all()
    assert episode.action_names == ["x"]


@pytest.mark.parametrize("names", [("actions",), ("action.arm", "action.hand")], ids=str)
def test_other_usual_names_of_actions(tmp_path, names):
    actions = write_lerobot(tmp_path, [6])
    file = tmp_path / "meta/info.json"
    info = json.loads(file.read_text())
    feature = info["features"].pop("action")
    info["features"] |= {name: feature | {"names": None} for name in names}
    file.write_text(json.dumps(info))
    edit_rows(tmp_path, lambda rows: [row.update(dict.fromkeys(names, row.pop("action"))) for row in rows])
    assert (open_episodes(tmp_path)[0].actions == np.tile(actions[0][:-1], len(names))).all()


@pytest.mark.parametrize(
    "feature",
    [{"shape": [8, 8, 3], "info": {"video.is_depth_map": True}}, {"shape": [8, 8, 1]}],
    ids=["flag", "channels"],
)
def test_depth_is_no_camera(tmp_path, feature):
    write_lerobot(tmp_path, [4])
    edit_features(tmp_path, **{"observation.images.far": {"dtype": "video"} | feature})
    episode = open_episodes(tmp_path)[0]
    assert sorted(episode.frames) == ["front", "wrist"]
    assert "not taken for cameras: far" in episode.notes
    with pytest.raises(EpisodeError, match="'far' holds no RGB pictures"):
        open_episodes(tmp_path, cameras=["far"])[0]


def test_an_image_that_is_missing_is_named(tmp_path):
    write_lerobot(tmp_path, [4])
    blank = {"bytes": encode_png(np.zeros((8, 8, 3), np.uint8)), "path": None}
    edit_rows(tmp_path, lambda rows: [row.update({"observation.images.wrist": blank}) for row in rows[:3]])
    edit_rows(tmp_path, lambda rows: rows[3].update({"observation.images.wrist": None}))
    with pytest.raises(EpisodeError, match="row 3 has no image"):
        open_episodes(tmp_path, cameras=["wrist"])[0]


def test_episodes_that_were_deleted_leave_a_gap(tmp_path):
    write_lerobot(tmp_path, [4, 5, 6])
    edit_rows(tmp_path, lambda rows: rows.pop(1), "meta/episodes/chunk-000/file-000.parquet")
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["episode_0", "episode_2"]
    assert reader[1].num_frames == 6


def test_tasks_of_the_table_of_tasks(tmp_path):
    write_lerobot(tmp_path, [4])
    edit_features(tmp_path, task_index={"dtype": "int64", "shape": [1]})
    edit_rows(tmp_path, lambda rows: rows[0].pop("tasks"), "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["lift"]}), tmp_path / "meta/tasks.parquet")
    assert open_episodes(tmp_path)[0].task == "lift"


def test_several_data_sets_in_one_folder_are_named(tmp_path):
    for name in ("a", "b"):
        write_lerobot(tmp_path / name, [4])
    with pytest.raises(ValueError, match=r"LeRobot data sets in folders: .*a, .*b; name the folder of one"):
        open_episodes(tmp_path)


def test_cameras_whose_names_would_be_one_are_refused(tmp_path):
    write_lerobot(tmp_path, [6])
    info = json.loads((tmp_path / "meta/info.json").read_text())
    info["features"]["wrist"] = info["features"]["observation.images.wrist"]
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(EpisodeError, match="two cameras have the name 'wrist'"):
        open_episodes(tmp_path)[0]


def test_a_description_that_is_no_object_is_named(tmp_path):
    write_lerobot(tmp_path, [6])
    (tmp_path / "meta/info.json").write_text("[]")
    with pytest.raises(OSError, match=r"info\.json is no JSON object"):
        open_episodes(tmp_path)


@pytest.mark.parametrize("features", [None, [1], {"action": "float32"}], ids=["null", "list", "text"])
def test_features_that_are_no_descriptions_are_named(tmp_path, features):
    write_lerobot(tmp_path, [6])
    file = tmp_path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"features": features}))
    with pytest.raises(ValueError, match=r"info\.json: features must be an object with a description of each"):
        open_episodes(tmp_path)
