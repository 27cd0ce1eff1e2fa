import json
import os
import re
import socket
import subprocess
import sys
from inspect import isabstract

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ivideogpt_hf.cli import data, evaluate, main, plan, predict
from ivideogpt_hf.cli.arguments import parse_shard
from ivideogpt_hf.cli.config import read_runs, subcommands
from ivideogpt_hf.cli.main import build_parser
from ivideogpt_hf.evaluation.protocols import PROTOCOLS
from ivideogpt_hf.media.video import read_video, write_video
from ivideogpt_hf.metrics.lpips import LPIPS
from ivideogpt_hf.planning import controllers, planners
from ivideogpt_hf.planning.objectives import PerceptualError, PixelError, RewardSum
from ivideogpt_hf.planning.tasks import make_task
from ivideogpt_hf.world import timing
from tests.conftest import build_world, free_port, is_released, random_actions, random_frames
from tests.data.files import make_dataset


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    world.save_pretrained(folder)
    return str(folder)


def fails(capsys, *argv):
    """The one line that a failing command prints."""
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("ivideogpt: error: ")
    return lines[-1]


def refused(capsys, *argv):
    """The one line by which a command line is refused that cannot be parsed."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_predict_writes_the_prediction_beside_the_truth(checkpoint, tmp_path, capsys):
    video = write_video(random_frames(6), tmp_path / "clip.gif")
    np.save(tmp_path / "actions.npy", random_actions(3, 3).numpy())
    output = tmp_path / "out" / "prediction.mp4"
    argv = ["predict", str(video), "--checkpoint", checkpoint, "--actions", str(tmp_path / "actions.npy")]
    assert main([*argv, "--num-frames", "3", "--num-samples", "2", "--output", str(output)]) == 0
    frames = read_video(output)
    assert len(frames) == 3
    assert frames.shape[-1] == 16 * (3 * 16 + 2 * 2)  # truth and two samples, pixels enlarged to squares of 16
    assert "against the true future" in capsys.readouterr().out


def test_predict_goes_on_beyond_the_video(tmp_path, capsys):
    build_world().save_pretrained(tmp_path / "free")
    video = write_video(random_frames(2), tmp_path / "clip.gif")
    argv = ["predict", str(video), "--checkpoint", str(tmp_path / "free"), "--output", str(tmp_path / "p.gif")]
    assert "pass --num-frames" in fails(capsys, *argv)
    assert main([*argv, "--num-frames", "4"]) == 0
    assert len(read_video(tmp_path / "p.gif")) == 4


def test_the_seed_decides(checkpoint, tmp_path):
    video = write_video(random_frames(4), tmp_path / "clip.gif")
    np.save(tmp_path / "actions.npy", random_actions(2, 3).numpy())

    def predict(seed):
        output = tmp_path / "p.gif"
        argv = ["predict", str(video), "--checkpoint", checkpoint, "--actions", str(tmp_path / "actions.npy")]
        assert main([*argv, "--num-frames", "2", "--seed", str(seed), "--output", str(output)]) == 0
        return output.read_bytes()

    assert predict(0) == predict(0)
    assert predict(0) != predict(1)


def test_convert_there_and_back(original_world, tmp_path):
    original_world.save_pretrained(tmp_path / "saved")
    assert main(["convert", str(tmp_path / "saved"), str(tmp_path / "released"), "--to", "released"]) == 0
    assert is_released(tmp_path / "released")
    assert main(["convert", str(tmp_path / "released"), str(tmp_path / "ours"), "--remote-code"]) == 0
    assert not is_released(tmp_path / "ours")
    assert (tmp_path / "ours" / "modeling_ivideogpt.py").is_file()
    config = json.loads((tmp_path / "ours" / "transformer" / "config.json").read_text())
    assert config["action_dim"] == 3


@pytest.mark.parametrize("layout", ["ours", "released"])
def test_convert_takes_along_what_lies_beside_the_parts(original_world, tmp_path, layout):
    source, output = tmp_path / "saved", tmp_path / "out"
    original_world.save_pretrained(source)
    contents = {"metrics.json": b'{"commands": []}', "training.json": b'{"origins": []}', "episode.npz": b"frames"}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    assert main(["convert", str(source), str(output), "--to", layout]) == 0
    assert {name: (output / name).read_bytes() for name in contents} == contents


def test_convert_onto_itself_is_refused(checkpoint, capsys):
    assert "the same folder" in fails(capsys, "convert", checkpoint, checkpoint)


def test_convert_refuses_what_the_original_code_cannot_run_and_writes_nothing(checkpoint, tmp_path, capsys):
    line = fails(capsys, "convert", checkpoint, str(tmp_path / "released"), "--to", "released")
    assert "a context frame has 8 x 8 tokens" in line
    assert not list(tmp_path.iterdir())
    line = fails(capsys, "convert", checkpoint, str(tmp_path / "released"), "--to", "released", "--remote-code")
    assert "--remote-code" in line


def test_info_tells_what_a_checkpoint_is(checkpoint, capsys):
    assert main(["info", checkpoint]) == 0
    output = capsys.readouterr().out
    for fact in ("16 x 16 pixels", "3 wide", "64 (8 x 8)", "4 (2 x 2)", "66 = 24 context + 40", "up to 6", "s with"):
        assert fact in output


def test_info_says_how_many_threads_compute(checkpoint, capsys):
    assert main(["info", checkpoint]) == 0
    assert re.search(r"^threads +1 of \d+ processors", capsys.readouterr().out, re.MULTILINE)


def test_a_folder_of_a_similar_name_is_asked_about(checkpoint, capsys, monkeypatch, tmp_path):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, "info", "./my-modell/x/y")
    assert "it is no Hub id" in line
    assert "did you mean" not in line
    assert fails(capsys, "info", f"{tmp_path}/my-modell").endswith(f"did you mean the folder {tmp_path}/my-model?")


def raises(monkeypatch, error):
    """Let every command raise an error."""

    def read_runs(*_):
        raise error

    monkeypatch.setattr(sys.modules["ivideogpt_hf.cli.main"], "read_runs", read_runs)


def test_memory_that_does_not_suffice_is_told(capsys, monkeypatch):
    raises(monkeypatch, MemoryError())
    assert fails(capsys, "info", "default") == "ivideogpt: error: there is not enough memory"
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    raises(monkeypatch, error.value)
    assert fails(capsys, "info", "default").startswith("ivideogpt: error: there is not enough memory: ")


def test_other_errors_of_torch_keep_their_traceback(monkeypatch):
    raises(monkeypatch, RuntimeError("a kernel of another size"))
    with pytest.raises(RuntimeError, match="a kernel of another size"):
        main(["info", "default"])


def test_an_interruption_is_one_line_with_the_code_that_shells_give_it(capsys, monkeypatch):
    raises(monkeypatch, KeyboardInterrupt())
    assert main(["info", "default"]) == 130
    assert capsys.readouterr().err == "ivideogpt: interrupted\n"
    with pytest.raises(KeyboardInterrupt):
        main(["info", "default", "--debug"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_stops_reading_what_is_printed_ends_the_command_without_a_word(tmp_path, unbuffered):
    """As of `ivideogpt list environments | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as unread, (tmp_path / "errors").open("w") as errors:
        argv = [sys.executable, "-m", "ivideogpt_hf", "list", "environments"]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        assert subprocess.run(argv, stdout=unread, stderr=errors, env=environment).returncode == 141
    assert not (tmp_path / "errors").read_text()


def test_a_folder_that_is_not_there_is_told_before_the_hub(capsys):
    line = fails(capsys, "info", "nothing")
    assert line.startswith(
        "ivideogpt: error: no folder, cached checkpoint or embedded model is named 'nothing'. The Hub"
    )


def test_the_embedded_checkpoint_that_was_meant_is_named(capsys):
    assert fails(capsys, "info", "defalt").endswith("is set; did you mean 'default'?")


def test_first_rounds_and_a_slow_one_do_not_count(world, monkeypatch):
    rounds = iter([(9.0, 1.66), (1.0, 0.2), (1.0, 0.11), (5.0, 3.0), (1.0, 0.11)])
    monkeypatch.setattr(timing, "_measure_round", lambda _: next(rounds))
    assert timing._measure(world) == (1.0, 0.11)


def test_info_times_rollouts(checkpoint, capsys):
    assert main(["info", checkpoint, "--benchmark"]) == 0
    *_, header, one, guessed, eight, many = capsys.readouterr().out.splitlines()
    assert "tokens/s" in header
    assert [line.split()[:2] for line in (one, guessed, eight, many)] == [
        ["1", "0"],
        ["1", "3"],
        ["8", "0"],
        ["64", "0"],
    ]


def test_errors_are_one_line_and_debug_shows_the_traceback(tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"nonsense")
    assert "cannot be decoded as video" in fails(capsys, "predict", str(tmp_path / "clip.mp4"))
    with pytest.raises(OSError, match="cannot be decoded as video"):
        main(["predict", str(tmp_path / "clip.mp4"), "--debug"])


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["convert-data", "", "OUT"], "source"),
        (["convert-data", "SOURCE", ""], "output"),
        (["predict", ""], "video"),
        (["publish", "", "owner/name"], "folder"),
        (["evaluate", "default", "DATA", "--output", ""], "--output"),
        (["rl-compare", "RUN", ""], "runs"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(argv, name, capsys):
    line = f"ivideogpt {argv[0]}: error: argument {name}: is empty: was a variable of the shell not set?"
    assert refused(capsys, *argv) == line


def test_an_empty_option_of_a_training_is_told(capsys):
    line = fails(capsys, "train", "--output-dir", "OUT", "--data=")
    assert line.endswith("argument --data: is empty: was a variable of the shell not set?")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--horizon", "9" * 20], "--horizon: must be a whole number below 2^63, got 99999999999999999999"),
        (["--horizon", "9" * 5000], f"--horizon: must be a whole number, got '{'9' * 40}'"),
        (["--horizon", "1.5"], "--horizon: must be a whole number, got '1.5'"),
        (["--temperature", "inf"], "--temperature: must be a finite number, got inf"),
        (["--temperature", "1e400"], "--temperature: must be a finite number, got 1e400"),
        (["--std", "1", "nan"], "--std: must be a finite number, got nan"),
        (["--std", "1", "wide"], "--std: must be a number, got 'wide'"),
    ],
)
def test_numbers_that_nothing_can_count_with_are_refused(argv, message, capsys):
    assert refused(capsys, "plan", "push2d", *argv) == f"ivideogpt plan: error: argument {message}"


def test_the_same_numbers_are_refused_by_trainings(capsys):
    line = fails(capsys, "train", "--learning-rate", "inf")
    assert line == "ivideogpt: error: argument --learning-rate: must be a finite number, got inf"


def test_what_is_missing_is_told_in_one_line_that_leads_to_the_help(capsys):
    line = "the following arguments are required: checkpoint, data; `ivideogpt evaluate --help` describes them"
    assert refused(capsys, "evaluate") == f"ivideogpt evaluate: error: {line}"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--output", "{}/p.gif"],
        ["convert", "push2d", "{}"],
        ["convert-data", "data", "{}"],
        ["collect", "push2d", "{}/inside"],
        ["show", "data", "--output", "{}/s.png"],
        ["show", "data", "--output", "{}/s.gif"],
        ["evaluate", "push2d", "data", "--output", "{}"],
        ["plan", "push2d", "--output", "{}"],
        ["rl", "push2d/goal-shown", "--output", "{}"],
        ["rl-compare", "run", "--output", "{}"],
        ["tokenize", "--data", "data", "--vq-model", "push2d", "--output-dir", "{}"],
        ["serve", "push2d", "--port", "{port}", "--state-dir", "{}"],
    ],
    ids=lambda words: words[0],
)
def test_a_file_where_a_folder_would_be_made_is_named(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", [20])
    (tmp_path / "notes").write_text("of somebody")
    words = [word.format("notes", port=free_port()) for word in words]
    line = "notes is a file, where a folder is needed; give another path"
    assert fails(capsys, *words).removeprefix("ivideogpt: error: ") in (line, f"{tmp_path}/{line}")


def test_convert_leaves_a_folder_alone_that_holds_something_else(tmp_path, capsys):
    folder = make_dataset(tmp_path / "data", [3])
    before = sorted(folder.rglob("*"))
    assert "holds something else than a checkpoint" in fails(capsys, "convert", "push2d", str(folder))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "data", "--seed", "3"], "--seed: only for clips; add --clips N"),
        (["show", "data", "--num-frames", "4", "--standardize"], "--num-frames, --standardize: only for clips"),
        (["show", "data", "--clips", "1", "--reader", "npz"], "--reader: only for whole episodes; leave --clips out"),
        (["show", "data", "--clips", "1", "--episodes", "2"], "--episodes: only for whole episodes"),
        (["convert-data", "data", "out", "--private"], "--private is for --push REPO"),
        (["convert-data", "data", "out", "--max-skipped", "0.5"], "--max-skipped is for --skip-bad"),
        (["plan", "push2d", "--lpips-weights", "file"], "--lpips-weights is for --objective lpips, not for pixels"),
        (["info", "push2d", "--revision", "main"], "--revision main is for a checkpoint on the Hub"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", [3])
    assert message in fails(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "words",
    [
        ["convert-data", "data", "out", "--push"],
        ["collect", "push2d", "out", "--push"],
        ["publish", "push2d", "--dry-run"],
        ["rl-publish", "run"],
    ],
    ids=lambda words: words[0],
)
def test_an_id_that_the_hub_would_refuse_is_told_before_anything_is_made(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", [3])
    assert "'a b/c' can be no repository on the Hub, give owner/name: " in fails(capsys, *words, "a b/c")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("fps", ["0", "51"])
def test_a_rate_that_cannot_be_written_is_told_before_the_prediction(fps, capsys, monkeypatch):
    monkeypatch.setattr(predict, "load_world", None)
    assert "fps of a .gif file must be a number from 0.01 to 50" in fails(capsys, "predict", "--fps", fps)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-sessions", "0"], "max_sessions must be a finite number above 0, got 0"),
        (["--max-call-seconds", "-1"], "max_call_seconds must be a finite number above 0, got -1.0"),
        (["--stop-after", "-1"], "--stop-after must be 0 or more, got -1"),
        (["--host", "nowhere.invalid", "--open"], "cannot listen on nowhere.invalid:"),
    ],
)
def test_what_a_server_cannot_do_is_told_before_the_model_is_loaded(words, message, capsys):
    assert message in fails(capsys, "serve", "nowhere", "--port", str(free_port()), *words)


@pytest.mark.parametrize("command", ["serve", "play"])
def test_ports_that_cannot_be_listened_on(command, capsys):
    assert refused(capsys, command, "--port", "70000").endswith("--port: must be from 1 to 65535, got '70000'")
    if command == "play":
        pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in fails(capsys, command, "--port", port)


def test_a_missing_checkpoint_is_one_line(capsys):
    assert "it is no Hub id of the form 'owner/name'" in fails(capsys, "info", "/no/such/checkpoint")


@pytest.mark.parametrize("device", ["gpu", "cpu:x"])
def test_a_device_that_torch_does_not_have(checkpoint, capsys, device):
    message = f"--device {device} is no device that torch has here; give cpu or cuda"
    assert message in fails(capsys, "info", checkpoint, "--device", device)


def test_a_device_that_is_not_there(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch sees no CUDA device" in fails(capsys, "info", checkpoint, "--device", "cuda")


@pytest.mark.parametrize("command", subcommands(build_parser()))
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: ivideogpt {command}")
    assert "--config" in text
    assert not re.findall(r"--\w+_\w+", text)


def test_help_as_a_module_lists_every_command():
    argv = [sys.executable, "-m", "ivideogpt_hf", "--help"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "usage: ivideogpt" in text
    assert not [
        command for command in subcommands(build_parser()) if not re.search(rf"^ +{command}\b", text, re.MULTILINE)
    ]


def words_of(action):
    """A value that an option takes, as words of a command line; none for a flag."""
    values = {int: "7", float: "0.25", parse_shard: "1/2", data._size: "8x8"}
    value = list(action.choices)[-1] if action.choices else values.get(action.type, "x")
    return [] if action.nargs == 0 else [value] * (2 if action.nargs == "+" else 1)


def kebab_options():
    """Every option of every command that argparse reads and that two spellings could have."""
    for command, parser in subcommands(build_parser()).items():
        for action in parser._actions:
            for option in action.option_strings:
                if "-" in option.removeprefix("--") and option.startswith("--"):
                    yield pytest.param(command, action, option, id=f"{command} {option}")


@pytest.mark.parametrize(("command", "action", "option"), kebab_options())
def test_options_are_read_in_both_spellings(command, action, option):
    parser = build_parser()
    required_words = []
    for other in subcommands(parser)[command]._actions:
        if not other.option_strings and other.nargs != "?":
            required_words += words_of(other)
        elif other.required and other.dest != action.dest:
            required_words += [other.option_strings[0], *words_of(other)]
    snake = "--" + option.removeprefix("--").replace("-", "_")
    ((first,), (second,)) = (
        read_runs(parser, [command, *required_words, spelling, *words_of(action)]) for spelling in (option, snake)
    )
    assert vars(first) == vars(second)
    if not action.required and not option.startswith("--no-"):
        (default,) = read_runs(parser, [command, *required_words])
        assert getattr(first, action.dest) != getattr(default, action.dest)


def test_protocols_of_the_command_line_are_those_that_there_are():
    assert tuple(PROTOCOLS) == evaluate.PROTOCOL_NAMES


def classes_of(module, base):
    """The classes of a module that can be built and have this base."""
    kinds = vars(module).values()
    return {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, base) and not isabstract(kind)}


def plan_arguments(*argv):
    (args,) = read_runs(build_parser(), ["plan", "push2d", *argv])
    return args


def test_planners_of_the_command_line_are_those_that_there_are():
    """A preset, vp2, is of the same class as another one."""
    kinds = set()
    for name in plan.PLANNERS:
        settings = ["--std", "1", "1"] if name == "vp2" else []
        kinds.add(type(plan._planner(plan_arguments("--planner", name, *settings), [-1.0, -1.0], [1.0, 1.0])))
    assert kinds == classes_of(planners, planners.Planner) - {planners.Planner}


def test_controllers_of_the_command_line_are_those_that_there_are(world):
    args = plan_arguments()
    planner = plan._planner(args, [-1.0], [1.0])
    kinds = plan._controllers(args, world, planner, lambda goal: RewardSum())
    assert tuple(kinds) == plan.CONTROLLERS
    assert {type(controller) for controller in kinds.values()} == classes_of(controllers, controllers.Controller)


def test_objectives_of_the_command_line_can_be_made(tmp_path):
    """Other objectives need a network or a value that no option can name."""
    world, task = build_world(action_dim=2, predict_reward=True), make_task("push2d", 16)
    task.reset(0)
    torch.manual_seed(0)
    save_file(LPIPS().state_dict(), tmp_path / "lpips.safetensors")
    args = plan_arguments("--lpips-weights", str(tmp_path / "lpips.safetensors"))
    made = {type(plan._make_objective(args, name, task, world)[0](task.goal)) for name in plan.OBJECTIVES}
    assert made == {RewardSum, PixelError, PerceptualError}
