"""A visitor's game: what is taken back is as it was, branches are separate, and everything is bounded."""

import json
import pickle
import struct

import pytest
import torch

from ivideogpt_hf import Sampling, read_actions
from tests.conftest import assert_same_frames, random_actions, random_frames
from tests.spaces import conftest  # noqa: F401 (finds the Space's modules)

import game as games  # isort: skip
import worlds  # isort: skip
import page  # isort: skip
import scenes  # isort: skip

SEEDED = Sampling(seed=3)
ACTIONS = ([1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.5, 0.5, 0.5])


@pytest.fixture
def game(world):
    return games.start(world, random_frames(2))


def play(world, game, actions=ACTIONS):
    return [games.step(world, game, action, SEEDED).frame for action in actions]


def test_what_is_played_is_what_the_model_predicts(world, game):
    """The game has tokens guessed."""
    state = world.reset(random_frames(2)[None])
    for action in ACTIONS:
        expected, state = world.step(state, torch.tensor([action]), sampling=SEEDED)
        moment = games.step(world, game, action, SEEDED)
        assert moment.state.tokens.equal(state.tokens)
        assert_same_frames(moment.frame, expected.frame[0])


def test_room_that_is_made_while_somebody_plays_takes_no_frame_away(world, game, monkeypatch):
    play(world, game, [ACTIONS[0]] * world.spec.max_future_frames)
    made = world.make_room

    def make_room(state):
        with pytest.warns(UserWarning, match="re-anchored"):
            play(world, game, [ACTIONS[1]])
        return made(state)

    monkeypatch.setattr(world, "make_room", make_room)
    assert not games.make_room(world, game)
    assert game.now.action.tolist() == ACTIONS[1]


def test_it_begins_with_the_last_real_frame(game):
    assert game.now.frame.equal(random_frames(2)[-1])
    assert len(game.line) == 1


def test_what_is_taken_back_comes_again(world, game):
    first = play(world, game)
    games.undo(game)
    games.undo(game)
    assert game.now.frame.equal(first[0])
    again = play(world, game, ACTIONS[1:])
    assert all(one.equal(other) for one, other in zip(first[1:], again, strict=True))


def test_the_start_cannot_be_taken_back(game):
    games.undo(game)
    assert len(game.line) == 1


def test_saved_actions_are_read_as_they_were_played(world, game):
    play(world, game)
    games.undo(game)
    assert read_actions(scenes.write_actions(games.played_actions(game), 1)).equal(torch.tensor(ACTIONS[:-1]))


def test_a_line_without_actions_has_none_to_save(free_world, game):
    with pytest.raises(ValueError, match="has no actions yet"):
        games.played_actions(game)
    moving = games.start(free_world, random_frames(2))
    games.step(free_world, moving, None, SEEDED)
    with pytest.raises(ValueError, match="takes no actions"):
        games.played_actions(moving)


def read(message):
    """What is said in a message, and its pictures (N, 3, H, W)."""
    (length,) = struct.unpack("<I", message[:4])
    said = json.loads(message[4 : 4 + length])
    pixels = torch.frombuffer(bytearray(message[4 + length :]), dtype=torch.uint8)
    return said, pixels.view(-1, said["height"], said["width"], 3).movedim(-1, 1)


def test_pictures_are_those_of_the_frames(world, game):
    play(world, game)
    _, frames = read(page.game_message(worlds.Played(world, scenes.GALLERY, has_own_scenes=True), game))
    assert frames.equal(torch.stack([moment.frame for moment in game.line]))
    _, frames = read(page.moment_message(game))
    assert frames.equal(game.now.frame[None])


def test_a_branch_leaves_the_line_as_it_was(world, game):
    frames = play(world, game)
    games.branch(game, 1)
    assert game.active == 1
    assert game.now.frame.equal(frames[0])
    play(world, game, [[-1.0, 1.0, 0.0]])
    assert [moment.frame.equal(frame) for moment, frame in zip(game.lines[0][1:], frames, strict=True)] == [True] * 3


def test_a_branch_draws_its_own_luck(world, game):
    play(world, game)
    kept = [moment.frame for moment in game.lines[0][2:]]
    games.branch(game, 1)
    again = play(world, game, ACTIONS[1:])
    assert not all(one.equal(other) for one, other in zip(kept, again, strict=True))


def test_starting_again_keeps_the_start_only(world, game):
    play(world, game)
    games.branch(game, 2)
    games.restart(game)
    assert (len(game.lines), len(game.line), game.active) == (1, 1, 0)


def test_a_game_survives_being_pickled(world, game):
    """As ZeroGPU does with every call."""
    play(world, game)
    copy = pickle.loads(pickle.dumps(game))
    expected, found = (games.step(world, g, ACTIONS[0], SEEDED).frame for g in (game, copy))
    assert found.equal(expected)


def test_contexts_are_shared_again_after_a_moment_was_pickled(world, game):
    """As ZeroGPU does with the moment before, together with the one after it."""
    sent, moment = pickle.loads(pickle.dumps((game.now, games.next_moment(world, game.now, ACTIONS[0], SEEDED))))
    assert moment.state.contexts is not game.now.state.contexts
    assert games.rejoin(moment, sent, game.now).state.contexts is game.now.state.contexts


def test_lines_and_their_number_are_bounded(world, game, monkeypatch):
    monkeypatch.setattr(games, "MAX_LINE_FRAMES", 3)
    play(world, game, ACTIONS[:2])
    with pytest.raises(games.FullError, match="has 3 frames"):
        games.step(world, game, ACTIONS[0], SEEDED)
    for _ in range(games.MAX_LINES - 1):
        games.branch(game, 0)
    with pytest.raises(games.FullError, match="There are 3 lines"):
        games.branch(game, 0)
    with pytest.raises(games.FullError, match="1 to 9 futures"):
        games.futures(world, game, torch.zeros(2, 3), 2, SEEDED, 10)


def test_futures_differ_and_the_game_stays(world, game):
    frames = games.futures(world, game, torch.zeros(2, 3), 2, SEEDED, 3)
    assert frames.shape == (3, 2, 3, 16, 16)
    assert not frames[0].equal(frames[1])
    assert len(game.line) == 1


def test_an_action_free_model_goes_by_itself(free_world):
    game = games.start(free_world, random_frames(2))
    assert games.step(free_world, game, None, SEEDED).action is None
    assert games.random_actions(free_world, 5, seed=0) is None
    assert games.dreamed_actions(free_world, game, 5, seed=0) == [None] * 5


def test_random_actions_stay_within_bounds(world):
    low, high = games.bounds(world)
    actions = games.random_actions(world, 12, seed=1)
    assert actions.shape == (12, 3)
    assert ((actions >= low) & (actions <= high)).all()


def test_a_branch_from_a_frame_that_is_not_there_is_refused(game):
    with pytest.raises(ValueError, match="has the frames 0 to 0, not 5"):
        games.branch(game, 5)


def test_shared_memory_counts_once(world, game):
    """A line of a game shares its contexts, and a branch its beginning."""
    num_bytes = game.num_bytes
    play(world, game)
    contexts = {id(moment.state.contexts) for moment in game.line}
    assert len(contexts) == 1
    assert num_bytes < game.num_bytes < num_bytes + sum(moment.state.num_bytes for moment in game.line[1:])


def test_a_served_world_is_played_like_a_local_one(world):
    pytest.importorskip("fastapi")
    from tests.serving.conftest import serving

    lines = []
    with serving(world) as (url, _):
        rules = worlds.LoadingRules()
        served = worlds.Worlds(rules).get(rules.choose(url, is_local=True))
        for played in (worlds.Played(world, scenes.GALLERY, has_own_scenes=True), served):
            game = games.start(played.world, random_frames(2))
            play(played.world, game)
            games.undo(game)
            games.branch(game, 1)
            play(played.world, game)
            shown, _ = read(page.game_message(played, game))
            grid = games.futures(played.world, game, random_actions(2, 3), 2, SEEDED, 3)
            lines.append(([moment.frame for line in game.lines for moment in line], shown["actions"], grid))
    (frames, actions, grid), (served_frames, served_actions, served_grid) = lines
    assert_same_frames(torch.stack(served_frames), torch.stack(frames))
    assert_same_frames(served_grid, grid)
    assert served_actions == actions
