"""Runs of agents compared, and runs that cannot be."""

import json

import pytest
from PIL import Image

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from ivideogpt_hf.cli import main
from ivideogpt_hf.rl.results.comparison import compare_runs, comparison_as_text, write_comparison
from ivideogpt_hf.rl.results.finished_runs import group_runs, read_run


def compared(*folders):
    return compare_runs([read_run(folder) for folder in folders])


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


def test_the_steps_of_an_agent_that_only_imagines_are_not_called_real(write):
    comparison = compared(write([0.0, 0.6], label="dreams", agent="ppo"), write([0.0, 0.6], label="acts"))
    assert "push2d: the steps of dreams are imagined ones, it took no real step" in comparison["notes"]
    rows = [line.split("|") for line in comparison_as_text(comparison).splitlines() if line.startswith("| ")]
    steps = [row[5].strip() for row in rows]
    assert steps == ["real steps to 50%", "1833 imagined", "1833"]


# -- what is written --------------------------------------------------------------------------------------------------


def test_the_command_writes_table_numbers_and_picture(write, tmp_path, capsys):
    folders = [write([0.0, 0.6, 0.6], seed=seed, label="ours") for seed in range(2)]
    output = tmp_path / "out"
    assert main(["rl-compare", *map(str, folders), "--output", str(output)]) == 0
    lines = (output / "table.md").read_text().splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], lines[2])), strict=True))
    assert cells == {
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


def test_a_dollar_in_a_label_begins_no_formula(write, tmp_path):
    folder = write([0.1], label=r"$\nothing$", environment=r"$\nowhere$")
    write_comparison([folder], tmp_path / "out")
    assert Image.open(tmp_path / "out" / "curves.png").format == "PNG"


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
    assert text.startswith("| environment |")  # which the table of one environment leaves out


# -- errors -----------------------------------------------------------------------------------------------------------


def test_an_agent_that_only_imagines_may_be_evaluated_at_other_steps(write):
    comparison = compared(write([0.1, 0.2]), write([0.1, 0.2], steps=[1280, 2000], agent="ppo"))
    assert [group["curve"]["steps"] for group in comparison["groups"]] == [[1000, 2000], [1280, 2000]]


def test_an_agent_that_only_imagines_is_evaluated_in_as_many_episodes(write):
    with pytest.raises(ValueError, match=r"at 2 steps from 1000 to 2000 in 10 episodes, and .* in 20 episodes"):
        compared(write([0.1, 0.2]), write([0.1, 0.2], agent="ppo", num_episodes=20))


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
