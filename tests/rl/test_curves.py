"""Runs of agents compared: numbers worked out by hand, and runs that cannot be compared."""

import json

import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf.cli import main
from ivideogpt_hf.rl.curves import (
    bootstrap_intervals,
    compare_runs,
    comparison_as_text,
    group_runs,
    interquartile_mean,
    read_run,
    steps_to_reach,
)

pytest.importorskip("scipy")

SETTINGS = {
    "environment": "push2d",
    "agent": "drqv2",
    "world_model": None,
    "demos": 0,
    "num_steps": 3000,
    "label": "",
}


def write_run(folder, success, *, seed=0, steps=None, num_episodes=10, **settings):
    """A run with an evaluation every 1,000 steps."""
    folder.mkdir(parents=True)
    steps = [1000 * (i + 1) for i in range(len(success))] if steps is None else steps
    record = SETTINGS | {"num_steps": steps[-1]} | settings | {"seed": seed, "command": f"ivideogpt rl {folder}"}
    (folder / "run.json").write_text(json.dumps(record))
    lines = [
        {
            "step": step,
            "imagined_steps": 10 * step,
            "success": rate,
            "num_episodes": num_episodes,
            "return": 5.0,
            "seconds": step / 10,
        }
        for step, rate in zip(steps, success, strict=True)
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def write(tmp_path):
    number = iter(range(100))
    return lambda success, **more: write_run(tmp_path / f"run{next(number)}", success, **more)


def compared(*folders):
    return compare_runs([read_run(folder) for folder in folders])


# -- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([0.7], 0.7),
        ([0.0, 0.1, 0.9], 1 / 3),  # a quarter of three is none
        ([0.9, 0.0, 0.2, 0.4], 0.3),
        ([0.0, 0.1, 0.2, 0.6, 1.0], 0.3),
        ([0, 0, 1, 2, 3, 4, 9, 99], 2.5),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side(scores, mean):
    assert interquartile_mean(np.array(scores)) == pytest.approx(mean)


def test_the_interquartile_mean_is_taken_at_each_step():
    curves = np.array([[0.0, 0.9], [0.2, 0.4], [0.4, 0.2], [0.9, 0.0]])
    np.testing.assert_allclose(interquartile_mean(curves), [0.3, 0.3])


def test_intervals_hold_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap_intervals([generator.normal(0.5, 0.1, 20)])
        held += low <= 0.5 <= high
    assert 0.85 < held / 200 < 0.99  # a bootstrap of 20 runs is somewhat too narrow


def test_equal_runs_have_an_interval_without_width():
    low, high = bootstrap_intervals([np.full((5, 3), 0.4)])
    np.testing.assert_allclose([low, high], 0.4)


def test_strata_keep_their_sizes_in_every_resample():
    """Two environments whose runs are alike: whatever is drawn, half of the scores are 0 and half are 1."""
    low, high = bootstrap_intervals([np.zeros(4), np.ones(4)])
    assert low == high == 0.5
    mixed_low, mixed_high = bootstrap_intervals([np.concatenate([np.zeros(4), np.ones(4)])])
    assert mixed_low < 0.5 < mixed_high


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="at least two runs"):
        bootstrap_intervals([np.ones(1), np.ones(1)])


@pytest.mark.parametrize(
    ("success", "reached"),
    [
        ([0.0, 0.2, 0.6, 1.0], 1750),  # three quarters of the way from 0.2 to 0.6
        ([0.0, 0.5, 0.4, 0.9], 1000),  # the first time counts
        ([0.5, 0.6, 0.7, 0.8], 0),  # from the first evaluation on
        ([0.9, 0.1, 0.1, 0.1], 0),
        ([0.0, 0.1, 0.2, 0.499], None),
        ([0.0, 0.0, 0.0, 0.5], 3000),
    ],
)
def test_steps_to_half_of_the_episodes(success, reached):
    assert steps_to_reach(0.5, [0, 1000, 2000, 3000], success) == reached


def test_a_mean_that_is_rounded_down_reaches_the_threshold():
    success = [0.0, 0.1 + 0.7 - 1e-16]
    assert success[1] < 0.8
    assert steps_to_reach(0.8, [0, 1000], success) == 1000


# -- scores of runs ---------------------------------------------------------------------------------------------------


def test_success_at_the_end_is_the_mean_of_the_last_three_evaluations(write):
    assert read_run(write([1.0, 0.2, 0.4, 0.9])).success_at_end == pytest.approx(0.5)
    assert read_run(write([0.2, 0.4])).success_at_end == pytest.approx(0.3)


def test_the_area_counts_steps_between_evaluations(write):
    run = read_run(write([0.0, 1.0, 1.0], steps=[0, 1000, 4000]))
    assert run.area == pytest.approx((500 + 3000) / 4000)
    assert read_run(write([0.4])).area == 0.4


def test_a_group_is_summarized_over_its_seeds(write):
    ends = [0.0, 0.3, 0.6, 0.6, 1.0]
    folders = [write([0.0, 0.0, end], seed=seed) for seed, end in enumerate(ends)]
    (group,) = compared(*folders)["groups"]
    assert group["seeds"] == [0, 1, 2, 3, 4]
    assert group["curve"]["success"] == [0, 0, 0.5]
    assert group["steps_to_50"] == 3000
    assert group["steps_to_80"] is None
    assert group["success_at_end"]["value"] == pytest.approx(0.5 / 3, abs=1e-4)
    assert group["success_at_end"]["low"] < 0.5 / 3 < group["success_at_end"]["high"]
    assert group["area"]["value"] == pytest.approx(0.125)
    assert (group["imagined_steps"], group["seconds"]) == (30_000, 300)


def test_an_evaluation_that_was_written_again_counts_once(write):
    folder = write([0.1, 0.2])
    again = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[1]) | {"success": 0.7}
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 20\n' + json.dumps(again) + "\n")
    assert read_run(folder).success.tolist() == [0.1, 0.7]


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


def test_groups_with_one_label_are_told_apart(write):
    folders = [write([0.1], label="ours", horizon=horizon) for horizon in (5, 10)] + [write([0.1], label="plain")]
    assert [group.name for group in group_runs([read_run(folder) for folder in folders])] == [
        "ours, horizon 5",
        "ours, horizon 10",
        "plain",
    ]


def test_environments_are_told_and_summarized_together(write):
    folders = [
        write([end] * 2, seed=seed, environment=environment, label="ours")
        for environment, ends in (("push2d", (0.2, 0.2)), ("pusht", (0.8, 0.8)))
        for seed, end in enumerate(ends)
    ]
    comparison = compared(*folders, write([0.1] * 2, label="plain"))
    assert [group["environment"] for group in comparison["groups"]] == ["push2d", "pusht", "push2d"]
    (total,) = comparison["all_environments"]
    assert (total["name"], total["num_runs"]) == ("ours", 4)
    assert total["area"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert "runs in 2 environments: push2d, pusht; curves are drawn for each" in comparison["notes"]


def test_a_single_seed_is_told_and_has_no_interval(write):
    comparison = compared(write([0.1, 0.3], label="plain"))
    assert comparison["groups"][0]["success_at_end"] == {"value": 0.2, "low": None, "high": None}
    assert comparison["notes"] == ["push2d: plain has one seed, and no interval"]


# -- what is written --------------------------------------------------------------------------------------------------


def test_the_command_writes_table_numbers_and_picture(write, tmp_path, capsys):
    folders = [write([0.0, 0.6, 0.6], seed=seed, label="ours") for seed in range(2)]
    output = tmp_path / "out"
    assert main(["rl-compare", *map(str, folders), "--output", str(output)]) == 0
    lines = (output / "table.md").read_text().splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], lines[2])), strict=True))
    assert cells == {
        "environment": "push2d",
        "agent": "ours",
        "seeds": "2",
        "success at the end": "0.40 [0.40, 0.40]",
        "area under the curve": "0.45 [0.45, 0.45]",
        "real steps to 50%": "1833",
        "real steps to 80%": "never",
        "imagined steps": "30000",
        "minutes": "5.0",
    }
    assert "a run's last 3 evaluations" in lines[-1]
    assert lines[0] in capsys.readouterr().out
    assert json.loads((output / "comparison.json").read_text())["groups"][0]["name"] == "ours"
    assert Image.open(output / "curves.png").format == "PNG"


def test_a_comparison_replaces_an_earlier_one_and_nothing_else(write, tmp_path, capsys):
    folder, output = write([0.1]), tmp_path / "out"
    assert main(["rl-compare", str(folder), "--output", str(output)]) == 0
    assert main(["rl-compare", str(folder), "--output", str(output)]) == 0
    assert main(["rl-compare", str(folder), "--output", str(folder)]) == 2
    assert "holds something else than a comparison" in capsys.readouterr().err
    assert sorted(file.name for file in folder.iterdir()) == ["evaluations.jsonl", "run.json"]


def test_the_table_of_all_environments_follows(write):
    folders = [write([0.5], seed=s, environment=e, label="ours") for e in ("push2d", "pusht") for s in (0, 1)]
    text = comparison_as_text(compared(*folders))
    assert "| all environments | runs | success at the end | area under the curve |" in text


# -- errors -----------------------------------------------------------------------------------------------------------


def test_there_must_be_runs():
    with pytest.raises(ValueError, match="nothing to compare"):
        group_runs([])


def test_two_runs_with_one_seed_are_refused(write):
    with pytest.raises(ValueError, match=r"run0 and .*run1 have the same settings and the seed 0: leave one"):
        compared(write([0.1]), write([0.2]))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"steps": [500, 2000]}, "at 2 steps from 1000 to 2000 in 10 episodes, and at 2 steps from 500 to 2000 in 10"),
        ({"num_episodes": 20}, "in 10 episodes, and at 2 steps from 1000 to 2000 in 20 episodes"),
    ],
)
def test_other_evaluations_are_refused(write, other, message):
    with pytest.raises(ValueError, match=rf"evaluated differently, and cannot be compared: .*{message}"):
        compared(write([0.1, 0.2]), write([0.1, 0.2], seed=1, **other))


def test_other_environments_may_be_evaluated_otherwise(write):
    comparison = compared(write([0.1, 0.2]), write([0.1], environment="pusht"))
    assert [len(group["curve"]["steps"]) for group in comparison["groups"]] == [2, 1]


def test_a_run_that_is_not_finished_is_refused(write):
    with pytest.raises(ValueError, match="not finished: its last evaluation is at step 2000 of 3000"):
        read_run(write([0.1, 0.2], num_steps=3000))


def test_a_run_without_success_is_refused(write):
    with pytest.raises(ValueError, match="does not tell whether the task is solved"):
        read_run(write([0.1, None]))


def test_success_must_be_a_rate(write):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        read_run(write([0.1, 30]))


def test_other_folders_are_refused(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"holds no run of an agent with evaluations \(run.json is missing\)"):
        read_run(tmp_path)
    (folder := write([0.1])).joinpath("evaluations.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(evaluations\.jsonl is missing\)"):
        read_run(folder)


def test_what_a_file_lacks_is_named(write):
    folder = write([0.1])
    (folder / "run.json").write_text(json.dumps({"environment": "push2d", "seed": 0, "num_steps": 3}))
    with pytest.raises(ValueError, match="lacks agent, world_model, demos, label"):
        read_run(folder)
