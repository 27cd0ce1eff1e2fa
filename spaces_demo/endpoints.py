"""Calls without a page: for gradio_client and curl, and tools of the Model Context Protocol.

A game has a key that the caller passes on, so that a call needs no session. Pictures are files, which the protocol
sends as images. Annotations are no strings here, since Gradio makes the schemas of the calls from them.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gradio as gr
from game import bounds
from play import TEMPERATURE, WORLDS, new_game, play_action, predict, sampling_of
from pydantic import ConfigDict, ValidationError, validate_call
from scenes import write, write_picture
from torch import Tensor
from worlds import DEFAULT, Choice, Played

SHEET_COLUMNS = 8
MAX_ACTIONS = 64  # of one rollout
MAX_CALLS = 4  # calls that are answered at a time
CALLS = threading.BoundedSemaphore(MAX_CALLS)
STRICT = ConfigDict(strict=True, allow_inf_nan=False)  # neither "0" nor 0.5 is the number of a scene
T = TypeVar("T")


def answered(function: Callable[..., T]) -> Callable[..., T]:
    """Have a call answered if its arguments are what the function says they are: as many calls at a time as
    `MAX_CALLS`, and with the reason where it does not work."""
    checked = validate_call(config=STRICT)(function)

    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> T:
        with answering():
            return checked(**inspect.signature(function).bind(*args, **kwargs).arguments)

    return answer


@answered
def reset(scene: int = 0, checkpoint: str = DEFAULT) -> tuple[gr.FileData, str, dict[str, Any]]:
    """Begin a game in one of the checkpoint's scenes.

    Args:
        scene: number of the scene, from 0.
        checkpoint: Hub id, "default" or "push2d", of those that this page plays.

    Returns:
        The first frame as a picture; the key of the game, which `step` takes; and what there is to know about the
        checkpoint: the number of scenes, and name, lower and upper bound of each action.
    """
    choice, played = choose(checkpoint)
    key, game = new_game(choice, scene_of(played, scene))
    low, high = (bound.tolist() for bound in bounds(played.world))
    names = played.world.spec.action_names or [None] * len(low)
    about = {"num_scenes": len(played.scenes), "actions": list(zip(names, low, high, strict=True))}
    return as_file(game.now.frame[None]), key, about


@answered
def step(
    game: str, action: list[float], temperature: float = TEMPERATURE, seed: int = 0
) -> tuple[gr.FileData, float | None]:
    """Take one action in a game.

    Args:
        game: key of the game, which `reset` returned.
        action: one number per action of the checkpoint, within its bounds; an empty list if it takes none.
        temperature: temperature of the sampling; 0 takes the likeliest tokens.
        seed: seed of the sampling; the same seed and actions give the same video.

    Returns:
        The next frame as a picture, and the predicted reward, if the checkpoint predicts rewards.
    """
    now = play_action(game, action or None, sampling_of(temperature, seed)).now
    return as_file(now.frame[None]), now.reward


@answered
def rollout(
    scene: int, actions: list[list[float]], temperature: float = TEMPERATURE, seed: int = 0, checkpoint: str = DEFAULT
) -> tuple[gr.FileData, gr.FileData, list[float] | None]:
    """Predict what follows when a robot in one of the checkpoint's scenes takes these actions.

    Args:
        scene: number of the scene, from 0.
        actions: one row of numbers per step, within the checkpoint's bounds; at most 64. The rows are empty if it takes
            none.
        temperature: temperature of the sampling; 0 takes the likeliest tokens.
        seed: seed of the sampling; the same seed gives the same video.
        checkpoint: Hub id, "default" or "push2d", of those that this page plays.

    Returns:
        A picture with a frame per action, row by row; the same as a video; and the predicted reward of each action, if
        the checkpoint predicts rewards.
    """
    if not 1 <= len(actions) <= MAX_ACTIONS:
        raise ValueError(f"1 to {MAX_ACTIONS} actions can be taken, not {len(actions)}.")
    choice, played = choose(checkpoint)
    frames, rewards = predict(choice, scene_of(played, scene), actions, sampling_of(temperature, seed))
    video = gr.FileData(path=write(frames, "rollout.mp4"), mime_type="video/mp4")
    return as_file(frames), video, rewards


def choose(checkpoint: str) -> tuple[Choice, Played]:
    """A checkpoint as these calls may choose it. They come through proxies and protocols, so none counts as local."""
    choice = WORLDS.rules.choose(checkpoint, is_local=False)
    return choice, WORLDS.get(choice)


def scene_of(played: Played, scene: int) -> Tensor:
    """A start (T, 3, H, W) of a world's games."""
    if not 0 <= scene < len(played.scenes):
        raise ValueError(f"There are the scenes 0 to {len(played.scenes) - 1}, not {scene}.")
    return played.scenes[scene]


def as_file(frames: Tensor) -> gr.FileData:
    """Frames (T, 3, H, W) uint8 as a PNG file, row by row."""
    return gr.FileData(path=write_picture(frames, SHEET_COLUMNS), mime_type="image/png")


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Keep one of `MAX_CALLS`, and show the reason where the call does not work."""
    if not CALLS.acquire(blocking=False):
        raise gr.Error(f"{MAX_CALLS} calls are being answered already. Try again in a moment.")
    try:
        with reasons_shown():
            yield
    finally:
        CALLS.release()


@contextlib.contextmanager
def reasons_shown() -> Iterator[None]:
    """Show why something did not work to visitors and clients. Gradio hides errors that are not its own from them."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        raise gr.Error(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error


def add_endpoints() -> None:
    """Add the calls to the page that is being made. Each is a tool, too.

    They are not queued: where a queued call returns several things, Gradio sends agents its pictures as text.
    """
    for function in (reset, step, rollout):
        gr.api(function, api_name=function.__name__, queue=False)
