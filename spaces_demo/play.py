"""What is done with stored games, by visitors of the page and by callers alike. It knows no widgets.

On a Space with ZeroGPU, functions under `gpu` run in another process. They get a game, and return it played.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import game as games
import torch
from game import Game, dream, futures, random_actions
from scenes import clips_in_rows, context_of
from store import Store
from torch import Tensor
from worlds import Choice, LoadingRules, Worlds

from ivideogpt_hf import Sampling

try:
    import spaces
except ImportError:  # only Spaces with ZeroGPU have this package
    spaces = None

GPU_SECONDS = 30
DREAM_FRAMES, FUTURE_FRAMES, FUTURE_COLUMNS = 15, 10, 3
TEMPERATURE = 0.5  # the embedded model is evaluated at this temperature
WORLDS = Worlds(LoadingRules.from_environment())
STORE = Store()


def gpu(function: Any) -> Any:
    """Have a function run on a GPU of ZeroGPU, on a Space that has it."""
    return spaces.GPU(duration=GPU_SECONDS)(function) if spaces is not None else function


def sampling_of(temperature: float, seed: float) -> Sampling:
    """The sampling of a temperature, of which 0 means the likeliest tokens."""
    return Sampling(greedy=True) if temperature == 0 else Sampling(temperature=temperature, seed=int(seed))


def new_game(choice: Choice, frames: Tensor, goal: Tensor | None = None) -> tuple[str, Game]:
    """Start a game from a video or an image (T, 3, H, W) uint8; its key, and the game."""
    game = _start(choice, frames, goal)
    return STORE.add(choice, game), game


def play_action(key: str | None, action: list[float] | None, sampling: Sampling) -> Game:
    """Play one action of the game, or None if the model takes no actions."""
    choice, game = STORE.get(key)
    game = _step(choice, game, action, sampling)
    STORE.update(key, choice, game)
    return game


def play_dream(key: str | None, sampling: Sampling, seed: int) -> Iterator[Game]:
    """Play random actions; the game after each of them."""
    choice, game = STORE.get(key)
    for played in _dream(choice, game, sampling, seed):
        STORE.update(key, choice, played)
        yield played


def grid_of_futures(key: str | None, count: int, sampling: Sampling, seed: int) -> Tensor:
    """A clip (T, 3, H, W) uint8 with a grid of futures of the same random actions."""
    choice, game = STORE.get(key)
    return clips_in_rows(_futures(choice, game, count, sampling, seed), FUTURE_COLUMNS)


@gpu
def _start(choice: Choice, frames: Tensor, goal: Tensor | None) -> Game:
    world = WORLDS.get(choice).world
    return games.start(world, context_of(world, frames, goal))


@gpu
def _step(choice: Choice, game: Game, action: list[float] | None, sampling: Sampling) -> Game:
    games.step(WORLDS.get(choice).world, game, action, sampling)
    return game


@gpu
def _dream(choice: Choice, game: Game, sampling: Sampling, seed: int) -> Iterator[Game]:
    world = WORLDS.get(choice).world
    actions = random_actions(world, DREAM_FRAMES, seed + len(game.line))
    for _ in dream(world, game, actions, DREAM_FRAMES, sampling):
        yield game


@gpu
def _futures(choice: Choice, game: Game, count: int, sampling: Sampling, seed: int) -> Tensor:
    world = WORLDS.get(choice).world
    actions = random_actions(world, FUTURE_FRAMES, seed + len(game.line))
    return futures(world, game, actions, FUTURE_FRAMES, sampling, count)


@gpu
def predict(
    choice: Choice, scene: Tensor, actions: list[list[float]], sampling: Sampling
) -> tuple[Tensor, list[float] | None]:
    """Frames (T, 3, H, W) uint8 and rewards that follow a start (T, 3, H, W) by actions."""
    world = WORLDS.get(choice).world
    try:
        rows = torch.tensor(actions, dtype=torch.float32)[None].to(world.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"actions must be rows of numbers, all of one length: {error}") from error
    predicted = world.rollout(context_of(world, scene)[None], rows, sampling=sampling)
    rewards = None if predicted.rewards is None else predicted.rewards[0].tolist()
    return predicted.frames[0].cpu(), rewards
