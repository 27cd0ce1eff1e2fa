"""What is done with stored games, by visitors of the page and by callers alike. It knows no widgets.

On a Space with ZeroGPU, functions under `gpu` run in another process. What they get and return is pickled.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import game as games
import torch
from game import Game, Moment, futures, random_actions
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
TEMPERATURE = Sampling.temperature
WORLDS = Worlds(LoadingRules.from_environment())
STORE = Store()
ADDING = threading.Lock()  # held while a moment is added to a game


def gpu(function: Any) -> Any:
    """Have a function run on a GPU of ZeroGPU, on a Space that has it."""
    return spaces.GPU(duration=GPU_SECONDS)(function) if spaces is not None else function


def sampling_of(temperature: float, seed: float) -> Sampling:
    """The sampling of a temperature, of which 0 means the likeliest tokens."""
    return Sampling(greedy=True) if temperature == 0 else Sampling(temperature=temperature, seed=whole(seed, "seed"))


def whole(number: float, name: str) -> int:
    """A number that a visitor gave, as a whole one.

    Raises:
        ValueError: if it is none.
    """
    try:
        return int(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"The {name} must be a whole number, not {number!r:.40}.") from error


def new_game(choice: Choice, frames: Tensor, goal: Tensor | None = None) -> tuple[str, Game]:
    """Start a game from a video or an image (T, 3, H, W) uint8; its key, and the game."""
    game = _start(choice, frames, goal)
    return STORE.add(choice, game), game


@dataclass(frozen=True)
class Expected:
    """A moment that was predicted before anybody asked for it.

    Attributes:
        now: moment that it follows.
        action: action that it was predicted for.
        sampling: sampling that it was predicted with.
        moment: the moment.
    """

    now: Moment
    action: list[float] | None
    sampling: Sampling
    moment: Moment

    def is_what_follows(self, now: Moment, action: list[float] | None, sampling: Sampling) -> bool:
        """Whether it is what would be predicted now. Whoever took a step back or branched off stands at another moment,
        or at this one again."""
        return self.now is now and self.action == action and self.sampling == sampling


def play_action(
    key: str | None, action: list[float] | None, sampling: Sampling, expected: Expected | None = None
) -> Game:
    """Play one action of the game, or None if the model takes no actions.

    Args:
        key: key of the game.
        action: action (A,).
        sampling: sampling of the tokens.
        expected: moment that is taken if it is what follows, and ignored if it is not; None: there is none.
    """
    choice, game = STORE.get(key)
    while True:
        games.check_room(game)
        line, now = game.line, game.now
        if expected is not None and expected.is_what_follows(now, action, sampling):
            moment = expected.moment
        else:
            moment = _follow(choice, now, action, sampling)
        with ADDING:
            # Who has the key too may have played meanwhile, by a call: then this action follows on that.
            if game.line is line and game.now is now:
                line.append(moment)
                break
    STORE.update(key, choice, game)
    return game


def expect_action(key: str | None, action: list[float] | None, sampling: Sampling) -> Expected:
    """Predict what follows if this action is played next. The game stays as it is."""
    choice, game = STORE.get(key)
    games.check_room(game)
    return Expected(game.now, action, sampling, _follow(choice, game.now, action, sampling))


def make_room(key: str | None) -> None:
    """Use the time until the next action, see `game.make_room`. On ZeroGPU, nothing is done while nobody waits for it:
    a GPU is given by the call."""
    if spaces is None:
        choice, game = STORE.get(key)
        if games.make_room(WORLDS.get(choice).world, game):
            STORE.update(key, choice, game)


def dreamed_actions(key: str | None, seed: int) -> list[list[float] | None]:
    """Random actions of a dream."""
    choice, game = STORE.get(key)
    return games.dreamed_actions(WORLDS.get(choice).world, game, DREAM_FRAMES, seed)


def grid_of_futures(key: str | None, count: int, sampling: Sampling, seed: int) -> Tensor:
    """A clip (T, 3, H, W) uint8 with a grid of futures of the same random actions."""
    choice, game = STORE.get(key)
    return clips_in_rows(_futures(choice, game, count, sampling, seed), FUTURE_COLUMNS)


@gpu
def _start(choice: Choice, frames: Tensor, goal: Tensor | None) -> Game:
    world = WORLDS.get(choice).world
    return games.start(world, context_of(world, frames, goal))


def _follow(choice: Choice, now: Moment, action: list[float] | None, sampling: Sampling) -> Moment:
    sent, moment = _next(choice, now, action, sampling)
    return games.rejoin(moment, sent, now)


@gpu
def _next(choice: Choice, now: Moment, action: list[float] | None, sampling: Sampling) -> tuple[Moment, Moment]:
    """A moment and the one after it. What they share stays shared when both are pickled together."""
    return now, games.next_moment(WORLDS.get(choice).world, now, action, sampling)


@gpu
def _futures(choice: Choice, game: Game, count: int, sampling: Sampling, seed: int) -> Tensor:
    world = WORLDS.get(choice).world
    actions = random_actions(world, FUTURE_FRAMES, seed + len(game.line))
    return futures(world, game, actions, FUTURE_FRAMES, sampling, count)


@gpu
def predict(
    choice: Choice, scene: Tensor, actions: list[list[float]], sampling: Sampling
) -> tuple[Tensor, list[float] | None]:
    """Frames (T, 3, H, W) uint8 and rewards that follow a start (T, 3, H, W) by actions, which are empty rows where the
    model takes none."""
    world = WORLDS.get(choice).world
    try:
        rows = torch.tensor(actions, dtype=torch.float32)[None].to(world.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"actions must be rows of numbers, all of one length: {error}") from error
    takes_none = not world.spec.action_dim and not rows.numel()
    predicted = world.rollout(
        context_of(world, scene)[None],
        None if takes_none else rows,
        num_frames=len(actions),
        sampling=sampling,
    )
    rewards = None if predicted.rewards is None else predicted.rewards[0].tolist()
    return predicted.frames[0].cpu(), rewards
