"""The game of one visitor: lines of imagined frames, which can be taken back and branched. It knows no widgets.

A game has bounds, can be pickled, and belongs to one visitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ivideogpt_hf import Sampling, World, WorldState
from ivideogpt_hf.world.state import num_bytes_of

MAX_LINE_FRAMES = 128  # largest number of frames in a line
MAX_LINES = 3
# Tokens that are guessed in each pass. The same tokens are drawn in two thirds of the time (benchmarks/options.py).
GUESSES = 3
MAX_FUTURES = 9


class FullError(ValueError):
    """A bound is reached. The message says what to do."""


@dataclass(frozen=True)
class Moment:
    """One frame of a line, and everything that is needed to continue from it.

    Attributes:
        frame: picture (3, H, W) uint8.
        state: state of one world, as `to_store` returns it.
        action: action (A,) that led to the frame; None for the start, and in action-free models.
        reward: predicted reward, or None.
        log_prob: log-probability of the frame; None for the start.
    """

    frame: Tensor
    state: Any
    action: Tensor | None = None
    reward: float | None = None
    log_prob: float | None = None


@dataclass
class Game:
    """Lines of moments, each from the oldest to the newest.

    Attributes:
        context: frames (C, 3, H, W) uint8 at the start.
        lines: lines of moments, at least one.
        active: number of the line that is played.
    """

    context: Tensor
    lines: list[list[Moment]] = field(default_factory=list)
    active: int = 0

    @property
    def line(self) -> list[Moment]:
        """The line that is played."""
        return self.lines[self.active]

    @property
    def now(self) -> Moment:
        """The newest moment of the active line."""
        return self.line[-1]

    @property
    def num_bytes(self) -> int:
        """Memory that its pictures and states take. What several states share counts once."""
        moments = {id(moment): moment for line in self.lines for moment in line}.values()
        states = [moment.state for moment in moments if isinstance(moment.state, WorldState)]
        return self.context.nbytes + sum(moment.frame.nbytes for moment in moments) + num_bytes_of(states)


def start(world: World[Any], context: Tensor) -> Game:
    """Start a game from real frames (C, 3, H, W) uint8. For a goal-conditioned model the goal is the first of them."""
    return Game(context, [[Moment(context[-1], to_store(world.reset(context[None])))]])


def to_store(state: Any) -> Any:
    """A state as games store it. It is moved to the CPU, so that it can be pickled: ZeroGPU runs each call in another
    process. The state of a served world stays on its server."""
    return state.to("cpu") if isinstance(state, WorldState) else state


def to_store_after(state: Any, before: Any, stored: Any) -> Any:
    """As `to_store`, of the state after a step. Contexts that it shares with the one before are not stored again.

    Args:
        state: state after the step.
        before: state before it.
        stored: the latter as it is stored.
    """
    moved = to_store(state)
    if isinstance(state, WorldState) and state.contexts.prefix is before.contexts.prefix:
        return replace(moved, contexts=stored.contexts)
    return moved


def to_step(world: World[Any], state: Any) -> Any:
    """A stored state, moved to the device of the world. This copy is made at each frame."""
    return state.to(world.device) if isinstance(state, WorldState) else state


def step(world: World[Any], game: Game, action: Sequence[float] | None, sampling: Sampling) -> Moment:
    """Play one action in the active line.

    Raises:
        FullError: if the line is as long as it may be.
        ValueError: if the action does not fit the model.
    """
    check_room(game)
    moment = next_moment(world, game.now, action, sampling)
    game.line.append(moment)
    return moment


def check_room(game: Game) -> None:
    """Check that the active line has room for one more frame.

    Raises:
        FullError: if it has none.
    """
    if len(game.line) >= MAX_LINE_FRAMES:
        raise FullError(f"This line has {MAX_LINE_FRAMES} frames. Take some back, or start again.")


def next_moment(world: World[Any], now: Moment, action: Sequence[float] | None, sampling: Sampling) -> Moment:
    """The moment that an action leads to. It belongs to no game yet.

    Raises:
        ValueError: if the action does not fit the model.
    """
    actions = None if action is None else torch.tensor([list(action)], dtype=torch.float32)
    before = to_step(world, now.state)
    if isinstance(before, WorldState):  # a served world takes no guesses
        sampling = replace(sampling, num_guesses=GUESSES)
    result, state = world.step(before, None if actions is None else actions.to(world.device), sampling=sampling)
    return Moment(
        frame=result.frame[0].cpu(),
        state=to_store_after(state, before, now.state),
        action=None if actions is None else actions[0],
        reward=None if result.reward is None else float(result.reward[0]),
        log_prob=float(result.log_prob[0]),
    )


def make_room(world: World[Any], game: Game) -> bool:
    """Do now what else would make the next frame late: re-anchor the newest moment, if it is at the end of the horizon.
    A served world does so when it is stepped. Returns whether anything was done."""
    now = game.now
    if not isinstance(now.state, WorldState) or max(now.state.num_frames) < world.spec.max_future_frames:
        return False
    with_room = replace(now, state=to_store(world.make_room(to_step(world, now.state))))
    if game.now is not now:  # who has the key may have played meanwhile, by a call
        return False
    game.line[-1] = with_room
    return True


def rejoin(moment: Moment, sent: Moment, now: Moment) -> Moment:
    """Have a moment share the contexts of the one before again, where both were pickled in between.

    Args:
        moment: moment that came back.
        sent: the one before, as it came back.
        now: the one before, as the game has it.
    """
    if sent is now or not isinstance(now.state, WorldState) or moment.state.contexts is not sent.state.contexts:
        return moment
    return replace(moment, state=replace(moment.state, contexts=now.state.contexts))


def played_actions(game: Game) -> Tensor:
    """The actions (T, A) of the active line, in the checkpoint's units. Row t leads from frame t to frame t + 1.

    Raises:
        ValueError: if nothing was played yet, or the model takes no actions.
    """
    actions = [moment.action for moment in game.line[1:]]
    if not actions:
        raise ValueError("This line has no actions yet. Play one first.")
    if any(action is None for action in actions):
        raise ValueError("This checkpoint takes no actions, so there are none to save.")
    return torch.stack(actions)


def undo(game: Game) -> None:
    """Take the newest moment of the active line back; the start stays."""
    if len(game.line) > 1:
        game.line.pop()


def branch(game: Game, index: int) -> None:
    """Start a new line from moment ``index`` of the active one, which stays as it is.

    Raises:
        FullError: if there are as many lines as there may be.
        ValueError: if there is no such moment.
    """
    if len(game.lines) >= MAX_LINES:
        raise FullError(f"There are {MAX_LINES} lines. Start again to make room.")
    if not 0 <= index < len(game.line):
        raise ValueError(f"The line has the frames 0 to {len(game.line) - 1}, not {index}.")
    beginning = list(game.line[: index + 1])
    # The branch gets another stream of random numbers. Otherwise the same actions would give the same frames.
    last = beginning[-1]
    stream = len(game.lines)
    beginning[-1] = replace(last, state=last.state.fork(stream + 1).index([stream]))
    game.lines.append(beginning)
    game.active = len(game.lines) - 1


def restart(game: Game) -> None:
    """Go back to the start, with one line."""
    game.lines, game.active = [[game.lines[0][0]]], 0


def futures(
    world: World[Any], game: Game, actions: Tensor | None, num_frames: int, sampling: Sampling, count: int
) -> Tensor:
    """Predict several futures of the same actions (T, A): frames (count, T, 3, H, W) uint8.

    Raises:
        FullError: if the count is not allowed.
    """
    if not 1 <= count <= MAX_FUTURES:
        raise FullError(f"1 to {MAX_FUTURES} futures can be shown, not {count}.")
    rollout = world.rollout(
        to_step(world, game.now.state),
        None if actions is None else actions[None].to(world.device),
        num_frames=num_frames if actions is None else None,
        num_samples=count,
        sampling=sampling,
        outputs=("frames",),
    )
    return rollout.frames[0].cpu()


def dreamed_actions(world: World[Any], game: Game, num_frames: int, seed: int) -> list[list[float] | None]:
    """Random actions to play one after the other, as many as the active line has room for; None for each frame of an
    action-free model."""
    actions = random_actions(world, num_frames, seed + len(game.line))
    rows = [None] * num_frames if actions is None else actions.tolist()
    return rows[: max(0, MAX_LINE_FRAMES - len(game.line))]


def random_actions(world: World[Any], num_frames: int, seed: int) -> Tensor | None:
    """Random actions (T, A) that change every five steps; None for an action-free model."""
    spec = world.spec
    if not spec.action_dim:
        return None
    low, high = bounds(world)
    generator = torch.Generator().manual_seed(seed % 2**63)
    directions = torch.rand(num_frames // 5 + 1, spec.action_dim, generator=generator)
    return (low + (high - low) * directions).repeat_interleave(5, dim=0)[:num_frames]


def bounds(world: World[Any]) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (A,) of actions; minus one and one where the checkpoint has none."""
    spec = world.spec
    low = spec.action_low or (-1.0,) * spec.action_dim
    high = spec.action_high or (1.0,) * spec.action_dim
    return torch.tensor(low), torch.tensor(high)
