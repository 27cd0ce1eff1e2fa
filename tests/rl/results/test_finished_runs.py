"""Folders of finished runs: their scores, groups of them, and what no run writes."""

import json
import re

import pytest

from ivideogpt_hf.rl.results.finished_runs import group_runs, read_run


def test_success_at_the_end_is_the_mean_of_the_last_three_evaluations(write):
    assert read_run(write([1.0, 0.2, 0.4, 0.9])).success_at_end == pytest.approx(0.5)
    assert read_run(write([0.2, 0.4])).success_at_end == pytest.approx(0.3)


def test_the_area_counts_steps_between_evaluations(write):
    run = read_run(write([0.0, 1.0, 1.0], steps=[0, 1000, 4000]))
    assert run.area == pytest.approx((500 + 3000) / 4000)
    assert read_run(write([0.4])).area == 0.4


def test_an_evaluation_that_was_written_again_counts_once(write):
    folder = write([0.1, 0.2])
    again = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[1]) | {"success": 0.7}
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    assert read_run(folder).success.tolist() == [0.1, 0.7]


def test_a_last_line_that_a_kill_tore_counts_not(write):
    folder = write([0.1, 0.2])
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 20')
    assert read_run(folder).success.tolist() == [0.1, 0.2]


# -- groups -----------------------------------------------------------------------------------------------------------


def test_groups_differ_in_anything_but_the_seed(write):
    """The command differs, too, and says nothing."""
    folders = [write([0.1], seed=seed, demos=demos) for demos in (0, 5) for seed in (1, 0)]
    groups = group_runs([read_run(folder) for folder in folders])
    assert [[run.settings["seed"] for run in group.runs] for group in groups] == [[0, 1], [0, 1]]
    assert [g.name for g in groups] == [
        "drqv2, no world model, 0 demonstrations",
        "drqv2, no world model, 5 demonstrations",
    ]


def test_a_setting_that_one_version_lacks_and_another_leaves_unset_is_the_same(write):
    folders = [write([0.1], seed=0), write([0.1], seed=1, gradient_steps=None)]
    (group,) = group_runs([read_run(folder) for folder in folders])
    assert [run.settings["seed"] for run in group.runs] == [0, 1]


def test_groups_with_one_label_are_told_apart(write):
    folders = [write([0.1], label="ours", horizon=horizon) for horizon in (5, 10)] + [write([0.1], label="plain")]
    assert [group.name for group in group_runs([read_run(folder) for folder in folders])] == [
        "ours, horizon 5",
        "ours, horizon 10",
        "plain",
    ]


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_finished_is_refused(write):
    with pytest.raises(ValueError, match="not finished: its last evaluation is at step 2000 of 3000"):
        read_run(write([0.1, 0.2], num_steps=3000))


def test_a_run_without_success_is_refused(write):
    with pytest.raises(ValueError, match="does not tell whether the task is solved"):
        read_run(write([0.1, None]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"success": 30}, r"success must be in \[0, 1\], or null, got 30"),
        ({"success": True}, "success must be"),
        ({"success": "1"}, "success must be"),
        ({"step": -1}, "step must be a whole number from 0"),
        ({"step": 1e3}, "step must be a whole number from 0"),
        ({"step": 10**400}, "step must be a whole number from 0"),
        ({"num_episodes": 0}, "num_episodes must be a whole number from 1"),
        ({"return": float("nan")}, "return must be a finite number"),
        ({"seconds": [1]}, "seconds must be a finite number"),
        ({"seconds": 10**400}, "seconds must be a finite number"),
        ({"low": "a"}, "low must be in"),
    ],
)
def test_values_of_evaluations_are_checked(changes, message, write):
    folder = write([0.1])
    file = folder / "evaluations.jsonl"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes) + "\n")
    with pytest.raises(ValueError, match=rf"evaluations\.jsonl is not what a run of an agent writes: {message}"):
        read_run(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": 3}, "environment must be text"),
        ({"environment": "a\nb"}, "environment must be text in one line"),
        ({"agent": ["drqv2"]}, "agent must be text"),
        ({"label": {}}, "label must be text in one line, or null"),
        ({"label": "\ud800"}, "label must be text"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"num_steps": "1000"}, "num_steps must be a whole number from 1"),
        ({"demos": None}, "demos must be a whole number from 0"),
    ],
)
def test_values_of_settings_are_checked(changes, message, write):
    folder = write([0.1])
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | changes))
    with pytest.raises(ValueError, match=rf"run\.json is not what a run of an agent writes: {message}"):
        read_run(folder)


@pytest.mark.parametrize("name", ["run.json", "evaluations.jsonl"])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]\n", b"3\n", b"null\n", b'"a"\n', b"{]\n", b"\xff\xfe{}\n", b"[" * 100_000 + b"\n", b"{}\n\x00\n"],
)
def test_whatever_a_file_holds_is_an_error_that_names_it(name, content, write):
    folder = write([0.1])
    (folder / name).write_bytes(content)
    with pytest.raises((OSError, ValueError), match=rf"{re.escape(name)}|is not finished"):
        read_run(folder)


def test_other_folders_are_refused(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"holds no run of an agent with evaluations \(run.json is missing\)"):
        read_run(tmp_path)
    (folder := write([0.1])).joinpath("evaluations.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(evaluations\.jsonl is missing\)"):
        read_run(folder)


def test_what_a_file_lacks_is_named(write):
    folder = write([0.1])
    (folder / "run.json").write_text(json.dumps({"environment": "push2d", "seed": 0, "num_steps": 3}))
    with pytest.raises(ValueError, match="lacks agent, world_model, demos, num_stack, label"):
        read_run(folder)
