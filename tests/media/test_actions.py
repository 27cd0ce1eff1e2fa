"""Actions of every kind are read exactly, or refused with the place."""

import io
import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivideogpt_hf import read_actions
from ivideogpt_hf.media.action_files import read_action_table
from ivideogpt_hf.media.actions import read_future_actions
from ivideogpt_hf.media.video import write_video
from tests.conftest import random_frames

ROWS = [[0.5, -1.0], [2.0, 3.25], [0.0, 1.0]]


@pytest.mark.parametrize(
    "kind", ["npy", "npz", "csv", "csv with header", "tsv", "json", "jsonl", "list", "tensor", "policy output"]
)
def test_actions_of_every_kind(tmp_path, kind):
    policy_output = torch.tensor(ROWS, dtype=torch.bfloat16, requires_grad=True)
    source = {"list": ROWS, "tensor": torch.tensor(ROWS), "policy output": policy_output}.get(kind)
    if source is None:
        source = tmp_path / f"actions.{kind.split()[0]}"
        lines = [",".join(map(str, row)) for row in ROWS]
        if kind == "npy":
            np.save(source, np.array(ROWS))
        elif kind == "npz":
            np.savez(source, action=np.array(ROWS))
        elif kind == "json":
            source.write_text(json.dumps(ROWS))
        elif kind == "jsonl":
            source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        elif kind == "tsv":
            source.write_text("\n".join(lines).replace(",", "\t"))
        else:
            source.write_text("\n".join(["x,y", *lines] if "header" in kind else lines) + "\n")
    actions = read_actions(source)
    assert actions.dtype == torch.float32
    assert actions.tolist() == ROWS


def table_of(tmp_path, content, name="a.csv", encoding="utf-8"):
    file = tmp_path / name
    file.write_bytes(content.encode(encoding))
    return read_action_table(file)


@pytest.mark.parametrize(
    "content",
    [
        "x,y\n0.5,1.25\n-1,2\n",
        "x,y\r\n0.5,1.25\r\n-1,2\r\n\r\n",
        "x;y\n0,5;1,25\n-1;2\n",
        "x\ty\n0,5\t1,25\n-1\t2\n",
        'x,y\n"0,5","1,25"\n-1,2\n',
        ",x,y\n0,0.5,1.25\n1,-1,2\n",
        "Unnamed: 0,x,y\n0,0.5,1.25\n1,-1,2\n",
        "x,y,\n0.5,1.25,\n-1,2,\n,,\n",
        "# written by a robot\nx,y\n 0.5, 1.25\n-1,2\n",
        "\ufeffx,y\n5e-1,1.25\n-1e0,+2\n",
        '[{"x": 0.5, "y": 1.25}, {"y": 2, "x": -1}]',
    ],
)
def test_tables_that_are_read(tmp_path, content):
    table = table_of(tmp_path, content, "a.json" if content.startswith("[") else "a.csv")
    assert table.actions.tolist() == [[0.5, 1.25], [-1, 2]]
    assert table.names == ("x", "y")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_hides_nothing(tmp_path, encoding):
    assert table_of(tmp_path, "größe,y\n3,4\n", encoding=encoding).names == ("größe", "y")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clip,x,y\na.mp4,0,5,1,5\n", "line 2: 5 cells, but the first line has 3.*decimal commas"),
        ("x,y\n1,2\n1\n", "line 3, column 'y': '' is empty"),
        ("x,y\n1,2,\n", "line 2: 3 cells"),
        ("0,1\n0.5,1.5\n", "line 1 holds 0, 1: names of columns"),
        ("-0,5\n1,5\n", "decimal commas"),
        ("0,0.5\n1,0.6\n", "first column counts rows"),
        ("x,x\n1,2\n", "2 columns 'x'"),
        ("x,,y\n1,2,3\n", "column 2 has no name"),
        (",x\n0,1\n5,1\n", "column 1 has no name"),
        ("x,0.5\n1,2\n", "mixes numbers and text"),
        ("a.mp4,0.5,1\na.mp4,1,1\n", "mixes numbers and text"),
        ("nan,nan\n1,2\n", "neither a number nor the name"),
        ("x;y\n1,500;2,250\n", "line 2, column 'x': '1,500' may have a decimal comma, or one for thousands"),
        ("x;y\n1,5;2.5\n", "a comma where other numbers have a point"),
        ("x,y\n1,2\n\n3,4\n", "line 3 is empty"),
        ("x,y\n1,2\n1,NaN\n", "line 3, column 'y': 'NaN'"),
        ("x,y\n1,inf\n", "'inf' is not a finite number"),
        ("x,y\n1,0x10\n", "'0x10'"),
        ("x,y\n1,1_000\n", "'1_000'"),
        ("x,y\nTrue,1\n", "'True'.*1 and 0 for true and false"),
        ("x y\n1 2\n", "'1 2'"),
        ("x\n16777217\n", "float32 cannot hold"),
        ("x\n1e39\n", "float32 cannot hold"),
        ("step,x\n0,1\n", "'step' counts rows or time"),
        ("Time (s),x\n0,1\n", "counts rows or time"),
        ("x,Reward\n0,1\n", "'Reward' counts rows or time, or is a reward"),
        ("clip\na\n", "no column of actions"),
        ("clip,x\n,1\n", "line 2: 'clip' is empty"),
        ("frame,x\n-1,1\n", "line 2: '-1' is no frame"),
        ("frame,Frame,x\n0,0,1\n", "several columns 'frame'"),
        ("x,y\n", "has no rows"),
    ],
)
def test_tables_that_are_refused_with_the_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        table_of(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1, 2], [3]]", "row 1: rows of one width"),
        ('[{"x": 1}, {"y": 2}]', "row 1"),
        ("[[true, 1]]", "row 0, column 0: 'true'"),
        ("[[NaN, 1]]", "'NaN'"),
        ("[[null, 1]]", "'null'"),
        ("[1, 2]", "list of rows"),
        ('{"x": {"0": 1}}', "orient='records'"),
    ],
)
def test_json_that_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        table_of(tmp_path, content, "a.json")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([[0.0, float("nan")]], "NaN or infinite values, first in row 0, column 1"),
        ([[0.0], [0.0, 1.0]], "rows of one width"),
        ([["left"]], "table of numbers"),
        ([["0.5"]], "table of numbers"),
        ([0.0, 1.0], r"shape \(T, A\)"),
        ([], r"shape \(T, A\)"),
        (np.array([[2**24 + 1]]), "float32 cannot"),
        (np.array([[1e39]]), "stored as float32"),
    ],
)
def test_what_is_no_table_of_actions_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_actions(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.tensor([[2**24 + 1]]), "float32 cannot hold exactly"),
        (torch.tensor([[1 + 2j]]), "must hold a table of numbers"),
        (torch.tensor([[True]]), "must hold a table of numbers"),
    ],
    ids=["large integer", "complex", "bool"],
)
def test_tensors_are_refused_as_arrays_are(source, message):
    for actions in (source, source.numpy()):
        with pytest.raises(ValueError, match=message):
            read_actions(actions)


def test_action_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_actions(tmp_path / "none.csv")
    for name, content, message in (
        ("actions.json", b"{", "not valid JSON"),
        ("twice.json", b'[{"x": 1, "x": 2}]', "'x' twice"),
        ("actions.csv", b"\xff\xfe", r"actions\.csv is not valid CSV"),
        ("quote.csv", b'x,y\n1,"2\n', "not valid CSV"),
        ("latin.csv", "größe\n1\n".encode("latin-1"), "not text in UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=message):
            read_actions(tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([[1, "x"]], dtype=object), allow_pickle=True)
    with pytest.raises(OSError, match="pickled objects"):
        read_actions(tmp_path / "objects.npy")
    (tmp_path / "actions.txt").write_text("1")
    with pytest.raises(ValueError, match="npy, npz, csv, tsv, json or jsonl"):
        read_actions(tmp_path / "actions.txt")


def test_an_npz_with_two_different_arrays_of_actions_is_refused(tmp_path):
    np.savez(tmp_path / "same.npz", action=np.array(ROWS), actions=np.array(ROWS))
    assert read_actions(tmp_path / "same.npz").tolist() == ROWS
    np.savez(tmp_path / "two.npz", action=np.array(ROWS), actions=np.array(ROWS) + 1)
    with pytest.raises(ValueError, match="'actions' and 'action', which differ"):
        read_actions(tmp_path / "two.npz")


# -- clips and frames -------------------------------------------------------------------------------------------------


def test_clips_are_named_as_they_are_written(tmp_path):
    table = table_of(tmp_path, "clip,x\n007.mp4,7\n.\\s\\a.mp4,1\nb,2\n", "actions.csv")
    assert table.rows_of(tmp_path / "007.mp4").actions.tolist() == [[7]]
    assert table.rows_of(tmp_path / "s/a.mp4").actions.tolist() == [[1]]
    assert table.rows_of(tmp_path / "b.mov").actions.tolist() == [[2]]
    for absent in ("7.mp4", "a.mp4", "B.mp4"):
        assert table.rows_of(tmp_path / absent) is None


def test_a_name_that_may_mean_two_clips_is_refused(tmp_path):
    for name in ("a.mp4", "a.mov"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"'a' in .* may be a\.mp4 or a\.mov"):
        table_of(tmp_path, "clip,x\na,1\n").rows_of(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"both 'a\.mp4' and 'a'"):
        table_of(tmp_path, "clip,x\na,1\na.mp4,1\n").rows_of(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([0, 1, 3], "no row for frame 2"),
        ([1, 2, 3, 4], "no row for frame 0"),
        ([0, 1, 2, 2], "several rows for frame 2"),
        ([0, 1, 2, 3, 4, 5], "a row for frame 5 of a.mp4, whose last frame is 4"),
    ],
)
def test_frames_without_a_row_of_their_own_are_refused(tmp_path, frames, message):
    table = table_of(tmp_path, "frame,x\n" + "".join(f"{frame},1\n" for frame in frames))
    with pytest.raises(ValueError, match=message):
        table.in_order(5, "a.mp4")


def test_a_frame_far_behind_the_others_costs_no_memory(tmp_path):
    table = table_of(tmp_path, "frame,x\n0,1.5\n1000000,2.5\n")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"no row for frame 1, 2, 3, 4, 5, \.\.\. of clip"):
            table.of_frames(range(1_000_001), "clip")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_column_of_frames_binds_the_rows_to_the_future(tmp_path):
    """Also beyond the end of the video, and from the last frame of the context on."""
    (tmp_path / "a.csv").write_text("frame,x\n4,40\n2,20\n3,30\n1,10\n")
    future = read_future_actions(tmp_path / "a.csv", random_frames(2), first_row=1, num_frames=4)
    assert future.actions.tolist() == [[10], [20], [30], [40]]
    assert read_actions(tmp_path / "a.csv").equal(future.actions)
    with pytest.raises(ValueError, match="no row for frame 5"):
        read_future_actions(tmp_path / "a.csv", random_frames(2), first_row=1, num_frames=5)


@pytest.mark.parametrize("num_rows", [6, 5])
def test_a_clips_file_is_read_from_the_last_context_frame_on(tmp_path, num_rows):
    video = write_video(random_frames(6), tmp_path / "clip.mp4")
    np.save(tmp_path / "a.npy", np.arange(num_rows)[:, None])
    future = read_future_actions(tmp_path / "a.npy", video, first_row=1)
    assert (future.actions[:, 0].tolist(), future.first_row) == ([1, 2, 3, 4], 1)


def test_rows_that_led_to_their_frames_are_read_so(tmp_path):
    video = write_video(random_frames(6), tmp_path / "clip.mp4")
    np.save(tmp_path / "a.npy", np.arange(6)[:, None])
    future = read_future_actions(tmp_path / "a.npy", video, first_row=1, alignment="before")
    assert (future.actions[:, 0].tolist(), future.first_row) == ([2, 3, 4, 5], 2)


def test_dreamers_flag_tells_that_rows_led_to_their_frames(tmp_path):
    video = write_video(random_frames(6), tmp_path / "clip.mp4")
    np.savez(tmp_path / "a.npz", action=np.arange(6)[:, None], is_first=np.arange(6) == 0)
    future = read_future_actions(tmp_path / "a.npz", video, first_row=1)
    assert future.actions[:, 0].tolist() == [2, 3, 4, 5]
    assert read_actions(tmp_path / "a.npz")[:, 0].tolist() == [1, 2, 3, 4, 5]
    told = read_future_actions(tmp_path / "a.npz", video, first_row=1, alignment="after")
    assert told.actions[:, 0].tolist() == [1, 2, 3, 4]


def test_a_column_of_frames_and_another_alignment_contradict_each_other(tmp_path):
    (tmp_path / "a.csv").write_text("frame,x\n0,1\n1,2\n")
    with pytest.raises(ValueError, match="leave action_alignment out"):
        read_future_actions(tmp_path / "a.csv", random_frames(3), first_row=1, alignment="before")


def test_a_table_of_several_clips_needs_the_videos_name(tmp_path):
    (tmp_path / "actions.csv").write_text("clip,x\na.mp4,1\nb.mp4,1\n")
    with pytest.raises(ValueError, match=r"several clips, a\.mp4, b\.mp4"):
        read_future_actions(tmp_path / "actions.csv", random_frames(2), first_row=0)
    video = write_video(random_frames(2), tmp_path / "c.mp4")
    with pytest.raises(ValueError, match=r"no rows whose 'clip' is c\.mp4, it names a\.mp4, b\.mp4"):
        read_future_actions(tmp_path / "actions.csv", video, first_row=0)


# -- properties -------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-2000, 2000).map(float),
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([0.5, 1.5, 1.125, -0.25, 1234.5, 1e-7]),
)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=6)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    values=TABLES,
    separator=st.sampled_from(",;\t"),
    decimal=st.sampled_from(".,"),
    names=st.sampled_from([("x", "y", "z", "w"), (0, 1, 2, 3), ("x", "x", "y", ""), ("clip", "x", "y", "z")]),
    index=st.booleans(),
    header=st.booleans(),
    precision=st.sampled_from([None, "%.3f"]),
    quoting=st.sampled_from([0, 1]),
    with_integers=st.booleans(),
)
def test_what_pandas_writes_is_read_exactly_or_refused(
    tmp_path_factory, values, separator, decimal, names, index, header, precision, quoting, with_integers
):
    frame = pd.DataFrame(values, columns=list(names[: len(values[0])]))
    if with_integers and (frame == frame.round()).to_numpy().all():
        frame = frame.astype(int)
    file = tmp_path_factory.mktemp("tables") / "a.csv"
    frame.to_csv(
        file, sep=separator, decimal=decimal, index=index, header=header, float_format=precision, quoting=quoting
    )
    try:
        table = read_action_table(file)
    except ValueError:
        return
    expected = frame.to_numpy().astype(float)
    if precision is not None:
        expected = np.array([[float(precision % number) for number in row] for row in expected])
    if table.clips is not None:
        expected = expected[:, 1:]
    assert table.actions.tolist() == expected.astype(np.float32).tolist()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=TABLES, data=st.data())
def test_rows_in_any_order_are_bound_to_their_frames(tmp_path_factory, values, data):
    order = data.draw(st.permutations(range(len(values))))
    frame = pd.DataFrame(values, columns=[f"a{i}" for i in range(len(values[0]))]).assign(frame=range(len(values)))
    text = io.StringIO()
    frame.iloc[list(order)].to_csv(text, index=False)
    table = table_of(tmp_path_factory.mktemp("tables"), text.getvalue())
    assert table.in_order(len(values), "a.mp4").tolist() == np.float32(values).tolist()
