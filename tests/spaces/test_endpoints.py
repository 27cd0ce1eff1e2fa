"""Calls without a page: whatever is given, a caller is told what is wrong with it."""

import inspect
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
import gradio as gr

from tests.conftest import random_frames
from tests.spaces import conftest  # noqa: F401 (finds the Space's modules)

import endpoints  # isort: skip
import game as games  # isort: skip
import play  # isort: skip
from worlds import Choice, LoadingRules, Played, Worlds  # isort: skip

ACTION = [0.0, 1.0, 0.0, 0.0]
HUGE = 10**400


@pytest.fixture
def key(monkeypatch):
    worlds = Worlds(LoadingRules(), device="cpu")
    for module in (play, endpoints):
        monkeypatch.setattr(module, "WORLDS", worlds)
    return endpoints.reset(0, "default")[1]


def test_calls_are_answered(key):
    assert endpoints.step(key, ACTION, 0.5, seed=10**30)[1] is not None
    assert len(endpoints.rollout(0, [[0, 1, 0, 0]] * 2)[2]) == 2
    assert list(inspect.signature(endpoints.step).parameters) == ["game", "action", "temperature", "seed"]


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("reset", ["0"], "^'?scene: "),
        ("reset", [0.5], "scene: "),
        ("reset", [float("nan")], "scene: "),
        ("reset", [0, None], "checkpoint: "),
        ("reset", [0, ["x"]], "checkpoint: "),
        ("step", [["x"], ACTION], "game: "),
        ("step", ["x", ACTION], "expired"),
        ("step", [None, {"a": 1}], "action: "),
        ("step", [None, "abc"], "action: "),
        ("step", [None, [None] * 4], "action.0: "),
        ("step", [None, [[0.0] * 4]], "action.0: "),
        ("step", [None, [HUGE] * 4], "action.0: "),
        ("step", [None, [1e300] * 4], "finite"),
        ("step", [None, ACTION, 1, float("inf")], "seed: "),
        ("step", [None, ACTION, 1, "x"], "seed: "),
        ("step", [None, ACTION, "x"], "temperature: "),
        ("step", [None, ACTION, float("inf")], "temperature: "),
        ("step", [None, ACTION, 1e-320], "at least 1e-06"),
        ("rollout", [0, None], "actions: "),
        ("rollout", [0, [[HUGE] * 4]], "actions.0.0: "),
        ("rollout", [0, [[0.0], [0.0, 1.0]]], "all of one length"),
        ("rollout", [0, []], "1 to 64 actions"),
    ],
)
def test_callers_are_told_what_is_wrong(key, name, arguments, reason):
    given = [key if value is None and i == 0 and name == "step" else value for i, value in enumerate(arguments)]
    with pytest.raises(gr.Error, match=reason):
        getattr(endpoints, name)(*given)


def test_an_action_follows_what_another_call_played_meanwhile(key, monkeypatch):
    others, follow, sampling = [[0.0, -1.0, 0.0, 0.0]], play._follow, play.sampling_of(0, 0)

    def follow_slowly(choice, now, action, sampling):
        moment = follow(choice, now, action, sampling)
        if others:
            play.play_action(key, others.pop(), sampling)
        return moment

    monkeypatch.setattr(play, "_follow", follow_slowly)
    line = play.play_action(key, ACTION, sampling).line
    choice, played = endpoints.choose("default")
    game = play.new_game(choice, played.scenes[0])[1]
    for action in ([0.0, -1.0, 0.0, 0.0], ACTION):
        games.step(played.world, game, action, sampling)
    assert [moment.frame.tolist() for moment in line] == [moment.frame.tolist() for moment in game.line]


def test_a_checkpoint_without_actions_is_rolled_out_by_empty_rows(free_world, monkeypatch):
    played = Played(free_world, [random_frames(2)], has_own_scenes=True)
    monkeypatch.setattr(play, "WORLDS", SimpleNamespace(get=lambda choice: played))
    frames, rewards = play.predict(Choice("free", "folder"), played.scenes[0], [[], []], play.sampling_of(1.0, 0))
    assert (frames.shape, rewards) == ((2, 3, 16, 16), None)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), None, "x"])
def test_a_seed_of_the_page_is_a_whole_number(number):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        play.sampling_of(1.0, number)


@pytest.mark.parametrize("seed", [10**30, -(2**70), 2**63])
def test_any_whole_number_is_a_seed_of_a_dream(key, seed):
    assert len(play.dreamed_actions(key, seed)) == play.DREAM_FRAMES


def test_what_is_no_name_is_no_checkpoint_and_no_key(key):
    with pytest.raises(ValueError, match="Hub id"):
        LoadingRules().choose(None, is_local=True)
    with pytest.raises(ValueError, match="expired"):
        play.STORE.get([key])
