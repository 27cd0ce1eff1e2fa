"""Trials of controllers: the simulator as ceiling, luck as floor, and what a kill leaves."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ivideogpt_hf.cli import main
from ivideogpt_hf.extras import how_to_install
from ivideogpt_hf.metrics.lpips import LPIPS
from ivideogpt_hf.planning.controllers import ModelController, ShuffledController, SimulatorController
from ivideogpt_hf.planning.objectives import PixelError, RewardSum
from ivideogpt_hf.planning.planners import CEM
from ivideogpt_hf.planning.tasks import PlanningTask, make_task
from ivideogpt_hf.planning.trials import Trial, Trials, summarize_trials
from tests.conftest import build_world, hide_package, locked_elsewhere

PLANNER = CEM(low=[-1.0] * 2, high=[1.0] * 2, horizon=5, num_candidates=24, num_elites=4, num_iterations=2)
COMMAND = ("--num-instances", "2", "--num-steps", "2", "--num-candidates", "4", "--horizon", "2", "--num-elites", "2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build_world(action_dim=2, predict_reward=True).save_pretrained(folder)
    return str(folder)


def plan(checkpoint, output, *more, environment="push2d"):
    return main(["plan", environment, "--checkpoint", checkpoint, "--output", str(output), *COMMAND, *more])


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "out"
    assert plan(checkpoint, folder) == 0
    return folder


def outcomes(folder):
    """All trials but for the time that they took."""
    lines = [json.loads(x) for x in (folder / "trials.jsonl").read_text().splitlines() if x.endswith("}")]
    return sorted(
        (t["seed"], t["controller"], t["success"], t["num_steps"], t["reward"], t["num_plans"]) for t in lines
    )


@pytest.mark.parametrize("objective", [lambda goal: PixelError(goal[None], "last", "sum"), lambda goal: RewardSum()])
def test_planning_in_the_simulator_solves_the_plane(objective, tmp_path):
    task = make_task("push2d", 16)
    controllers = {"simulator": SimulatorController(PLANNER, objective)}
    results = Trials(task, controllers, range(6), 15, tmp_path / "out", {}).run()
    assert results["controllers"]["simulator"]["success_rate"] > 0.8


def test_shuffled_candidates_get_each_others_costs():
    """With two candidates that differ, a plan by the right costs prefers the one, by shuffled costs often the other."""
    world = build_world(action_dim=2, predict_reward=True, initializer_range=0.05)
    task = make_task("push2d", 16)
    actions = []
    for kind in (ModelController, ShuffledController):
        controller = kind(world, PLANNER, lambda goal: RewardSum())
        frame = task.reset(0)
        controller.reset(task, 0)
        actions.append(controller.act(frame))
    assert not torch.allclose(*actions)


def test_every_controller_acts_in_every_instance(finished):
    results = json.loads((finished / "results.json").read_text())
    assert set(results["controllers"]) == {"random", "zero", "shuffled", "model", "simulator"}
    assert all(values["num_trials"] == 2 for values in results["controllers"].values())
    assert results["planner_settings"]["num_candidates"] == 4
    assert len(list((finished / "videos").glob("*.gif"))) == 10
    assert results["controllers"]["model"]["plans_per_second"] > 0
    assert results["controllers"]["zero"]["plans_per_second"] is None
    assert results["command"]
    assert results["date"]


def test_a_killed_run_goes_on_and_ends_the_same(finished, checkpoint, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "run.json").write_bytes((finished / "run.json").read_bytes())
    kept = (finished / "trials.jsonl").read_text().splitlines()[:4]
    (folder / "trials.jsonl").write_text("\n".join([*kept, '{"controller": "mod']))  # cut off in the middle of a line
    assert plan(checkpoint, folder) == 0
    assert outcomes(folder) == outcomes(finished)


def test_success_has_wilsons_interval_and_is_compared_with_the_simulator():
    def trials(name, solved):
        return [Trial(name, seed, seed < solved, 3, 1.0, 2, 0.5) for seed in range(10)]

    results = summarize_trials([*trials("model", 4), *trials("simulator", 8)])
    z, p, n = 1.959964, 0.4, 10
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert results["model"]["low"] == pytest.approx(centre - half, abs=1e-3)
    assert results["model"]["high"] == pytest.approx(centre + half, abs=1e-3)
    assert results["model"]["of_simulator"] == 0.5
    assert results["model"]["plans_per_second"] == 4.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--horizon", "0"), "horizon must be at least 1"),
        (("--planner", "mppi", "--num-elites", "2"), "does not take all of"),
        (("--planner", "vp2"), "--planner vp2 needs --std with a value per action dimension"),
        (("--planner", "vp2", "--std", "0.1", "0.2", "0.3"), "--std with a value per action dimension"),
        (("--std", "0.1", "0.2", "0.3"), "std must be one value or 2"),
        (("--num-instances", "0"), "--num-instances must be at least 1, got 0"),
        (("--num-steps", "0"), "--num-steps must be at least 1, got 0"),
        (("--first-seed", "-1"), "--first-seed must be at least 0, got -1"),
        (("--chunk-size", "0"), "chunk_size must be at least 1, got 0"),
        (("--temperature", "0"), "temperature must be a finite number of at least 1e-06, got 0"),
        (("--replan-every", "5"), "replan_every must be from 1 to the horizon 2"),
    ],
)
def test_what_cannot_be_planned_is_refused(checkpoint, tmp_path, capsys, arguments, message):
    assert plan(checkpoint, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()  # else the folder would be that of a run with the wrong setting


def test_a_checkpoint_of_another_action_width_is_refused(tmp_path, capsys):
    build_world(action_dim=3).save_pretrained(tmp_path / "model")
    assert plan(str(tmp_path / "model"), tmp_path / "out") == 2
    assert "actions of push2d are 2 wide, the checkpoint takes 3" in capsys.readouterr().err


def test_without_a_checkpoint_the_embedded_one_of_the_environment_plans(tmp_path):
    output = tmp_path / "out"
    assert main(["plan", "push2d", "--output", str(output), *COMMAND, "--controllers", "model"]) == 0
    results = json.loads((output / "results.json").read_text())
    assert (results["checkpoint"], results["objective"]) == ("push2d", "pixels")


def test_an_embedded_checkpoint_says_what_it_knows_and_which_one_plans_instead(tmp_path, capsys):
    assert plan("default", tmp_path / "out") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "it is embedded, and was trained on metaworld only; leave --checkpoint out, and 'push2d' is taken" in line


def test_where_no_embedded_checkpoint_fits_the_command_is_named_that_makes_one(tmp_path, capsys):
    pytest.importorskip("gym_pusht")
    assert main(["plan", "pusht", "--output", str(tmp_path / "out"), *COMMAND]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "trained on metaworld only; configs/pusht/run.sh" in line
    assert "--checkpoint outputs/pusht/world" in line


def test_an_embedded_checkpoint_is_warned_of_where_only_its_actions_fit(tmp_path, capsys):
    pytest.importorskip("gym_pusht")
    assert plan("push2d", tmp_path / "out", "--controllers", "zero", environment="pusht") == 0
    assert "the checkpoint was trained on push2d; unless these are data of pusht" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "warned"), [("datasets/phone-clips", True), ("datasets/push2d/expert", False)])
def test_a_checkpoint_of_other_data_is_warned_of(tmp_path, capsys, path, warned):
    build_world(action_dim=2).save_pretrained(tmp_path / "model")
    training = {"data": [{"name": path.split("/")[-1], "path": path}]}
    (tmp_path / "model" / "training.json").write_text(json.dumps(training))
    assert plan(str(tmp_path / "model"), tmp_path / "out", "--controllers", "zero") == 0
    warning = f"the checkpoint was trained on {path}; unless these are data of push2d, its plans mean nothing there"
    assert (warning in capsys.readouterr().err) == warned


def test_rewards_need_a_reward_head(tmp_path, capsys):
    build_world(action_dim=2).save_pretrained(tmp_path / "model")
    assert plan(str(tmp_path / "model"), tmp_path / "out", "--objective", "rewards") == 2
    assert "has no reward head" in capsys.readouterr().err


def test_other_trials_are_not_mixed_in(finished, checkpoint, capsys):
    assert plan(checkpoint, finished, "--objective", "rewards") == 2
    assert "they differ in objective" in capsys.readouterr().err


def test_vp2s_planner_is_refused_where_actions_are_other_numbers(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PlanningTask, "bounds", ([0.0, 0.0], [512.0, 512.0]))  # those of Push-T
    words = ["plan", "push2d", "--checkpoint", checkpoint, "--output", str(tmp_path / "out"), "--planner", "vp2"]
    assert main([*words, "--std", "9", "9"]) == 2
    assert "acts between -1 and 1, as in VP2's environments" in capsys.readouterr().err


def test_trials_in_another_precision_are_not_mixed_in(tmp_path, capsys):
    world = build_world(action_dim=2, predict_reward=True).to(torch.float16)
    world.save_pretrained(tmp_path / "world")
    for options, code in (((), 0), (("--dtype", "float16"), 2)):
        assert plan(str(tmp_path / "world"), tmp_path / "out", "--controllers", "random", *options) == code
    assert "they differ in dtype" in capsys.readouterr().err


def test_trials_with_another_lpips_are_not_mixed_in(checkpoint, tmp_path, capsys):
    for seed, code in ((0, 0), (1, 2)):
        torch.manual_seed(seed)
        file = tmp_path / f"{seed}.safetensors"
        save_file(LPIPS().state_dict(), file)
        options = ("--objective", "lpips", "--lpips-weights", str(file), "--controllers", "random")
        assert plan(checkpoint, tmp_path / "out", *options) == code
    assert "they differ in lpips" in capsys.readouterr().err


def test_a_single_instance_is_one(checkpoint, tmp_path, capsys):
    assert plan(checkpoint, tmp_path / "out", "--num-instances", "1") == 0
    assert f"{tmp_path / 'out'}: 1 instance, videos" in capsys.readouterr().out


def test_trials_that_another_process_runs_are_refused(finished, checkpoint, capsys):
    with locked_elsewhere(finished):
        assert plan(checkpoint, finished) == 2
    assert capsys.readouterr().err.startswith(f"ivideogpt: error: another process is writing {finished}: wait for it")


def test_without_scipy_the_extra_is_named_before_any_trial(checkpoint, tmp_path, capsys, monkeypatch):
    hide_package(monkeypatch, "scipy")
    assert plan(checkpoint, tmp_path / "out") == 2
    assert how_to_install("eval") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_changed_under_its_name_is_refused(tmp_path, capsys):
    for seed in (0, 1):
        folder = tmp_path / "world"
        build_world(seed=seed, action_dim=2, predict_reward=True).save_pretrained(folder)
        assert plan(str(folder), tmp_path / "out", "--controllers", "zero", "model") == (2 if seed else 0)
    assert "holds another series of trials, they differ in weights;" in capsys.readouterr().err
