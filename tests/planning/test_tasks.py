"""Planning tasks: instances belong to seeds, goals can be reached, and trying things out changes nothing."""

import pytest
import torch

from ivideogpt_hf.planning.tasks import make_task

TASKS = {"push2d": "numpy", "metaworld/reach": "metaworld", "pusht": "gym_pusht", "robodesk/push_red": "robodesk"}


@pytest.fixture(scope="module", params=TASKS, ids=str)
def task(request):
    pytest.importorskip(TASKS[request.param])
    task = make_task(request.param, 32, 2 if request.param.startswith("metaworld") else 1)
    yield task
    task.close()


def expert(task):
    return torch.from_numpy(task.simulator.expert_action())


def test_a_seed_is_an_instance(task):
    frames = [task.reset(seed) for seed in (3, 4, 3)]
    assert frames[0].shape == (3, 32, 32)
    assert frames[0].equal(frames[2])
    assert not frames[0].equal(frames[1])


def test_trying_actions_changes_nothing_and_tells_what_happens(task):
    task.reset(5)
    task.step(expert(task))  # Meta-world shows its goal where it is from the first step on
    before = task.frame()
    actions = torch.stack([expert(task).expand(2, -1), -expert(task).expand(2, -1)]).float()
    imagined = task.imagine(actions, "all")
    assert (task.frame().int() - before.int()).abs().max() < 10  # Push-T draws where bodies touched last
    rewards = [task.step(action).reward for action in actions[0]]
    assert imagined.rewards[0].tolist() == pytest.approx(rewards, rel=1e-3)
    assert (imagined.frames[0, -1].int() - task.frame().int()).abs().float().mean() < 0.1
    assert not imagined.frames[0].equal(imagined.frames[1])


def test_only_what_is_asked_for_is_rendered(task):
    task.reset(5)
    actions = torch.zeros(2, 3, len(task.bounds[0]))
    assert task.imagine(actions, None).frames is None
    assert task.imagine(actions, "last").frames.shape == (2, 1, 3, 32, 32)


def test_goals_differ_from_starts_and_are_not_reached_there(task):
    frame = task.reset(6)
    if task.name.startswith("metaworld"):
        assert task.goal is None
        return
    assert task.goal.shape == frame.shape
    assert not task.goal.equal(frame)
    assert not task.step(torch.zeros(len(task.bounds[0])) if task.name != "pusht" else expert(task)).success


def test_the_expert_reaches_the_goal_of_the_plane():
    task = make_task("push2d", 16)
    for seed in range(20):
        task.reset(seed)
        assert any(task.step(expert(task)).success for _ in range(15))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no/such", {}, "gymnasium cannot make"),
        ("Pendulum-v1", {}, "cannot be saved"),
        ("push2d", {"action_repeat": 0}, "action_repeat must be at least 1"),
    ],
)
def test_what_is_no_task_is_refused(name, options, message):
    pytest.importorskip("gymnasium")
    with pytest.raises(ValueError, match=message):
        make_task(name, 32, **options)
