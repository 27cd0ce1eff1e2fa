"""All games together are bounded in bytes, and what nobody plays is forgotten."""

import pytest

from ivideogpt_hf import Sampling
from tests.conftest import random_frames
from tests.spaces import conftest  # noqa: F401 (finds the Space's modules)

import game as games  # isort: skip
import store as stores  # isort: skip
from worlds import Choice  # isort: skip

CHOICE = Choice("default", "default")


@pytest.fixture
def new_game(world):
    return lambda: games.start(world, random_frames(2))


def test_a_game_is_found_by_its_key_alone(new_game):
    store, (one, other) = stores.Store(), (new_game(), new_game())
    keys = [store.add(CHOICE, game) for game in (one, other)]
    assert store.get(keys[0]) == (CHOICE, one)
    assert store.get(keys[1])[1] is other
    for key in ("", None, "guessed"):
        with pytest.raises(ValueError, match="has expired"):
            store.get(key)


def test_the_least_recently_played_game_makes_room(new_game):
    store = stores.Store(max_bytes=2 * new_game().num_bytes)
    first, second = store.add(CHOICE, new_game()), store.add(CHOICE, new_game())
    store.get(first)
    third = store.add(CHOICE, new_game())
    assert store.get(first)
    assert store.get(third)
    with pytest.raises(ValueError, match="has expired"):
        store.get(second)


def test_what_a_game_gains_while_it_is_played_counts(world, new_game):
    game = new_game()
    at_start = game.num_bytes
    games.step(world, game, [1.0, 0.0, 0.0], Sampling(seed=0))
    store = stores.Store(max_bytes=at_start + game.num_bytes - 1)
    games.undo(game)
    key, other = store.add(CHOICE, game), store.add(CHOICE, new_game())
    assert store.num_games == 2
    games.step(world, game, [1.0, 0.0, 0.0], Sampling(seed=0))
    store.update(key, CHOICE, game)
    assert store.get(key)[1] is game
    with pytest.raises(ValueError, match="has expired"):
        store.get(other)


def test_a_game_that_is_larger_than_all_may_be_is_refused(new_game):
    store = stores.Store(max_bytes=new_game().num_bytes - 1)
    with pytest.raises(ValueError, match="A game with this checkpoint takes"):
        store.add(CHOICE, new_game())
    assert not store.num_games


def test_a_game_expires(new_game, monkeypatch):
    store = stores.Store()
    key = store.add(CHOICE, new_game())
    clock = stores.time.monotonic() + stores.EXPIRES_SECONDS
    monkeypatch.setattr(stores.time, "monotonic", lambda: clock - 60)
    assert store.get(key)
    monkeypatch.setattr(stores.time, "monotonic", lambda: clock + stores.EXPIRES_SECONDS)
    with pytest.raises(ValueError, match="has expired"):
        store.get(key)
    assert not store.num_games
