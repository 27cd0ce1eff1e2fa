"""Options from a yaml file: what a run of a command gets, and how a mistake in the file is told."""

from pathlib import Path

import pytest

from ivideogpt_hf.cli import main
from ivideogpt_hf.cli.arguments import OneLineParser, parse_shard
from ivideogpt_hf.cli.config import add_config_option, read_runs
from ivideogpt_hf.training.command_line import register_types
from tests.data.files import make_dataset


def build_parser():
    """A command with every kind of option and positional, and one whose only positional is a list."""
    parser = OneLineParser(prog="ivideogpt")
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("measure")
    measure.add_argument("checkpoint")
    measure.add_argument("data")
    measure.add_argument("--num-clips", type=int, default=256)
    measure.add_argument("--rate", type=float)
    measure.add_argument("--output", type=Path, default=Path("out"))
    measure.add_argument("--shard", type=parse_shard)
    measure.add_argument("--planner", choices=("cem", "mppi"), default="cem")
    measure.add_argument("--std", type=float, nargs="+")
    measure.add_argument("--cameras", nargs="+")
    measure.add_argument("--record", action="store_true")
    compare = commands.add_parser("compare")
    compare.add_argument("runs", nargs="+")
    compare.add_argument("--required-name", required=True)
    show = commands.add_parser("show")
    show.add_argument("video", nargs="?")
    show.add_argument("--fps", type=int, default=10)
    for command in (measure, compare, show):
        register_types(command)
        add_config_option(command)
    return parser


@pytest.fixture
def read(tmp_path):
    """The runs that a file and a command line come to, each as a mapping."""

    def read(text, command, *argv):
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return [vars(args) for args in read_runs(build_parser(), [command, "--config", str(file), *argv])]

    return read


def differ(run, **expected):
    return {name: run[name] for name in expected if run[name] != expected[name]}


def test_every_kind_of_option(read):
    (run,) = read(
        "checkpoint: my-model\ndata: my-data\nnum_clips: 3\nrate: 1e-4\noutput: there\nshard: 1/2\nplanner: mppi\n"
        "std: [0.5, -1]\ncameras: front\nrecord: true\n",
        "measure",
    )
    assert not differ(
        run,
        checkpoint="my-model",
        data="my-data",
        num_clips=3,
        rate=1e-4,
        output=Path("there"),
        shard=(1, 2),
        planner="mppi",
        std=[0.5, -1.0],
        cameras=["front"],
        record=True,
    )


@pytest.mark.parametrize("key", ["num_clips", "num-clips"])
@pytest.mark.parametrize("option", ["--num_clips", "--num-clips"])
def test_both_spellings_and_the_command_line_wins(read, key, option, tmp_path):
    text = f"checkpoint: a\ndata: b\n{key}: 3\n"
    assert read(text, "measure")[0]["num_clips"] == 3
    assert read_runs(build_parser(), ["measure", "--conf", str(tmp_path / "run.yaml")])[0].num_clips == 3
    assert read(text, "measure", option, "4")[0]["num_clips"] == 4
    assert read(text, "measure", f"{option}=4")[0]["num_clips"] == 4


def test_what_is_null_or_absent_has_its_default(read):
    (run,) = read("checkpoint: a\ndata: b\nnum_clips: null\n", "measure")
    assert not differ(run, num_clips=256, rate=None, output=Path("out"), record=False)


def test_a_flag_goes_both_ways_and_the_command_line_wins(read):
    text = "checkpoint: a\ndata: b\nrecord: {}\n".format
    assert read(text("true"), "measure")[0]["record"] is True
    assert read(text("false"), "measure")[0]["record"] is False
    assert read(text("true"), "measure", "--no-record")[0]["record"] is False
    assert read(text("false"), "measure", "--record")[0]["record"] is True


def test_a_list_of_the_command_line_replaces_that_of_the_file(read):
    (run,) = read("checkpoint: a\ndata: b\nstd: [1, 2]\n", "measure", "--std", "3")
    assert run["std"] == [3.0]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ("file-model", "file-data")),
        (["my-model"], ("my-model", "file-data")),
        (["my-model", "my-data"], ("my-model", "my-data")),
        (["--num-clips", "1", "my-model"], ("my-model", "file-data")),
        (["my-model", "--num-clips", "1", "my-data"], ("my-model", "my-data")),
        (["my-model", "--std", "1", "2"], ("my-model", "file-data")),
        (["--std", "1", "2", "--", "-my-model"], ("-my-model", "file-data")),
    ],
)
def test_positionals_of_the_command_line_come_first(read, argv, expected):
    (run,) = read("data: file-data\ncheckpoint: file-model\ncameras: [a, b]\n", "measure", *argv)
    assert (run["checkpoint"], run["data"]) == expected
    assert run["cameras"] == ["a", "b"]


def test_positionals_that_are_optional_or_a_list(read):
    assert read("video: clip.mp4\nfps: 5\n", "show")[0]["video"] == "clip.mp4"
    assert read("video: clip.mp4\n", "show", "other.mp4")[0]["video"] == "other.mp4"
    assert read("fps: 5\n", "show")[0]["video"] is None
    assert read("runs: [a, b]\nrequired_name: x\n", "compare")[0]["runs"] == ["a", "b"]
    assert read("runs: [a, b]\nrequired_name: x\n", "compare", "c")[0]["runs"] == ["c"]


def test_a_value_may_begin_with_a_dash(read):
    assert read("checkpoint: -a\ndata: b\noutput: --fast\n", "measure")[0]["output"] == Path("--fast")


def test_a_list_of_mappings_is_one_run_after_another(read):
    text = "- &a {checkpoint: a, data: b, num_clips: 3}\n- &b {<<: *a, data: c}\n- {<<: *b, data: d}\n- *b\n"
    assert [(run["data"], run["num_clips"]) for run in read(text, "measure")] == [
        ("b", 3),
        ("c", 3),
        ("d", 3),
        ("c", 3),
    ]
    assert [run["num_clips"] for run in read(text, "measure", "--num-clips", "4")] == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_clip: 3", r"run\.yaml has the unknown key 'num_clip'; did you mean 'num_clips'\?"),
        ("xyzzy: 3", r"unknown key 'xyzzy'; allowed are checkpoint, data, num_clips"),
        ("config: other.yaml", "unknown key 'config'"),
        ("num_clips: 3\nnum_clips: 4", "num_clips is set twice, in line 1 and in line 2"),
        ("{num_clips: 3, num-clips: 3}", "sets num_clips twice"),
        ("num_clips: [3, 4]", r"num_clips takes one value, got the list \[3, 4\]"),
        ("num_clips: many", r"run\.yaml: argument --num-clips: must be a whole number, got 'many'"),
        ("num_clips: .inf", "argument --num-clips: must be a whole number, got 'inf'"),
        ("rate: .nan", "argument --rate: must be a finite number, got nan"),
        ("std: [1, 1e999]", "argument --std: must be a finite number, got 1e999"),
        ("output: ''", "argument --output: is empty"),
        ("planner: icem", "argument --planner: invalid choice: 'icem'"),
        ("planner: no", "planner takes numbers or text, got False"),
        ("std: [1, null]", "std takes numbers or text, got None"),
        ("record: 1", "record must be true or false, got 1"),
        ("num_clips: 3", "the following arguments are required: checkpoint, data"),
        ("a: [", "is not valid YAML"),
        ("a word", "must be a mapping of keys to values"),
        ("", "must be a mapping"),
        ("[]", "must be a mapping"),
        ("[a, b]", "must be a mapping"),
        ("[{checkpoint: a, data: b}, {xyzzy: 1}]", r"run\.yaml, run 2 of 2 has the unknown key 'xyzzy'"),
    ],
)
def test_a_mistake_is_told(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text, "measure")


@pytest.mark.parametrize("words", [["--xyzzy"], ["--num-clips", "many"]])
def test_a_mistake_of_the_command_line_is_not_blamed_on_the_file(read, words, capsys):
    with pytest.raises(SystemExit):
        read("checkpoint: a\ndata: b\n", "measure", *words)
    assert "run.yaml" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nun_clips=3"], "ivideogpt measure has no option --nun_clips; did you mean --num-clips?"),
        (["--nun-clips", "3"], "ivideogpt measure has no option --nun-clips; did you mean --num-clips?"),
        (["--xyzzy"], "ivideogpt measure has no option --xyzzy; `ivideogpt measure --help` lists all options"),
        (["--data", "c"], "data is given by its place, without a name: `ivideogpt measure CHECKPOINT DATA`"),
    ],
)
def test_an_unknown_option_is_told_with_the_one_that_was_meant(words, message, capsys):
    with pytest.raises(SystemExit):
        read_runs(build_parser(), ["measure", "a", "b", *words])
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_help_beside_a_file_is_that_of_the_command(read, capsys):
    with pytest.raises(SystemExit):
        read("checkpoint: a", "measure", "--help")
    assert "positional arguments:" in capsys.readouterr().out


def test_an_option_that_is_required_may_stand_in_either_place(read):
    with pytest.raises(ValueError, match="required: --required-name"):
        read("runs: a", "compare")
    assert read("runs: a", "compare", "--required-name", "x")[0]["required_name"] == "x"


def test_a_missing_file_is_one_line(capsys):
    assert main(["evaluate", "--config", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "ivideogpt: error: there is no yaml file nowhere.yaml\n"


def test_a_command_runs_as_often_as_its_file_lists(tmp_path, monkeypatch):
    """And not at all if any of the runs cannot be read."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", [3])
    shown = "{{source: data/data, output: {}, episodes: 0}}".format
    (tmp_path / "show.yaml").write_text(f"- {shown('one.png')}\n- {shown('two.png')}\n- {{sauce: data}}\n")
    assert main(["show", "--config", "show.yaml"]) == 2
    assert not (tmp_path / "one.png").exists()
    (tmp_path / "show.yaml").write_text(f"- {shown('one.png')}\n- {shown('two.png')}\n")
    assert main(["show", "--config", "show.yaml"]) == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_first_run_that_fails_is_the_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", [3])
    (tmp_path / "show.yaml").write_text(
        "- {source: nowhere, output: one.png}\n- {source: data, output: two.png, debug: true}\n"
    )
    assert main(["show", "--config", "show.yaml"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "two.png").exists()
