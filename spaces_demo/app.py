"""The playground: drive a world model in the browser. Only the widgets are here; see game.py and worlds.py."""

from __future__ import annotations

import argparse
import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from game import (
    MAX_FUTURES,
    MAX_LINE_FRAMES,
    Game,
    branch,
    dream,
    futures,
    played_actions,
    random_actions,
    restart,
    start,
    step,
    undo,
)
from page import error_message, game_message, message, moment_message, png
from PIL import Image
from scenes import MAX_UPLOAD_BYTES, context_of, picture, read_upload, scenes, write, write_actions
from torch import Tensor
from worlds import DEFAULT, LoadingRules, Worlds

from ivideogpt_hf import Sampling, read_video, side_by_side
from ivideogpt_hf.spec import first_action

try:
    import spaces
except ImportError:  # only Spaces with ZeroGPU have this package
    spaces = None

HERE = Path(__file__).parent
EXPIRES_SECONDS = 1800
DREAM_FRAMES, FUTURE_FRAMES = 15, 10
TEMPERATURE = 0.5  # the embedded model is evaluated at this temperature
WORLDS = Worlds(LoadingRules.from_environment())


@dataclass
class Visitor:
    """One visitor.

    Attributes:
        checkpoint: name of the checkpoint that the visitor plays with.
        game: game of the visitor; None before the first one, and after it has expired.
    """

    checkpoint: str = DEFAULT
    game: Game | None = None


def gpu(function: Any) -> Any:
    """Have a function run on a GPU of ZeroGPU, on a Space that has it."""
    return spaces.GPU(duration=30)(function) if spaces is not None else function


def game_of(visitor: Visitor) -> Game:
    """The game of a visitor. It is gone if the visitor was away for too long."""
    if visitor.game is None:
        raise gr.Error("Your game has expired. Choose a scene to begin again.")
    return visitor.game


# -- what visitors do -------------------------------------------------------------------------------------------------


def sampling_of(temperature: float, seed: float) -> Sampling:
    return Sampling(greedy=True) if temperature == 0 else Sampling(temperature=temperature, seed=int(seed))


@gpu
def begin(visitor: Visitor, frames: Tensor, goal: Tensor | None = None) -> tuple[str, Visitor]:
    """Start a new game from a video or an image."""
    world = WORLDS.get(visitor.checkpoint)
    visitor.game = start(world, visitor.checkpoint, context_of(world, frames, goal))
    return game_message(world, visitor.game), visitor


@gpu
def act(visitor: Visitor, action: list[float] | None, temperature: float, seed: float) -> tuple[str, Visitor]:
    """Play one action, or None if the model takes no actions."""
    game = game_of(visitor)
    try:
        step(WORLDS.get(visitor.checkpoint), game, action, sampling_of(temperature, seed))
    except ValueError as error:
        return error_message(error), visitor
    return moment_message(game), visitor


@gpu
def let_it_dream(visitor: Visitor, temperature: float, seed: float) -> Iterator[tuple[str, Visitor]]:
    """Play random actions, and show their frames one after the other."""
    world, game = WORLDS.get(visitor.checkpoint), game_of(visitor)
    actions = random_actions(world, DREAM_FRAMES, int(seed) + len(game.line))
    for _ in dream(world, game, actions, DREAM_FRAMES, sampling_of(temperature, seed)):
        yield moment_message(game), visitor
    yield message("idle"), visitor


@gpu
def show_futures(visitor: Visitor, count: float, temperature: float, seed: float) -> str:
    """Write a video file with a grid of futures of the same random actions."""
    world, game = WORLDS.get(visitor.checkpoint), game_of(visitor)
    actions = random_actions(world, FUTURE_FRAMES, int(seed) + len(game.line))
    frames = futures(world, game, actions, FUTURE_FRAMES, sampling_of(temperature, seed), int(count))
    columns = 3 if len(frames) > 3 else len(frames)
    missing = -len(frames) % columns
    frames = torch.cat([frames, frames.new_full((missing, *frames.shape[1:]), 255)])
    rows = [side_by_side(*frames[i : i + columns]) for i in range(0, len(frames), columns)]
    return write(torch.cat(rows, dim=2), "futures.mp4")


def take_back(visitor: Visitor) -> tuple[str, Visitor]:
    """Undo one step."""
    game = game_of(visitor)
    undo(game)
    return message("cut", line=game.active, length=len(game.line)), visitor


def begin_again(visitor: Visitor) -> tuple[str, Visitor]:
    """Go back to the start."""
    game = game_of(visitor)
    restart(game)
    return game_message(WORLDS.get(visitor.checkpoint), game), visitor


def branch_off(visitor: Visitor, index: int) -> tuple[str, Visitor]:
    """Start a new line from one of the active line's frames."""
    game = game_of(visitor)
    try:
        branch(game, index)
    except ValueError as error:
        return error_message(error), visitor
    return game_message(WORLDS.get(visitor.checkpoint), game), visitor


def choose_line(visitor: Visitor, line: int) -> tuple[str, Visitor]:
    """Play another line."""
    game = game_of(visitor)
    game.active = min(max(line, 0), len(game.lines) - 1)
    return message("line", active=game.active), visitor


def load_checkpoint(visitor: Visitor, name: str, scene: Tensor) -> tuple[str, Visitor]:
    """Play with another checkpoint."""
    previous, visitor.checkpoint = visitor.checkpoint, name.strip() or DEFAULT
    try:
        return begin(visitor, scene)
    except ValueError as error:
        visitor.checkpoint = previous
        return error_message(error), visitor


# -- files ------------------------------------------------------------------------------------------------------------


def save_video(visitor: Visitor) -> str:
    """The active line as mp4."""
    game = game_of(visitor)
    return write(torch.stack([*game.context[:-1], *(moment.frame for moment in game.line)]), "dream.mp4")


def save_actions(visitor: Visitor) -> str:
    """The active line's actions, as `ivideogpt predict --actions` reads them for the video that `save_video` writes."""
    with reasons_shown():
        game = game_of(visitor)
        return write_actions(played_actions(game), first_action(len(game.context)))


# -- endpoints without widgets ----------------------------------------------------------------------------------------


def api_reset(scene: int = 0, checkpoint: str = DEFAULT) -> tuple[Any, Visitor]:
    """Begin in one of the gallery's scenes; returns the frame as a picture. The session goes on with `step`.

    Args:
        scene: number of the scene, from 0.
        checkpoint: Hub id, or "default".
    """
    visitor = Visitor(checkpoint)
    with reasons_shown():
        begin(visitor, scenes()[int(scene) % len(scenes())])
    return picture(game_of(visitor).now.frame), visitor


@gpu
def api_step(
    visitor: Visitor, action: list[float], temperature: float = TEMPERATURE, seed: int = 0
) -> tuple[Any, float | None, Visitor]:
    """Take one action after `reset`; returns the next frame as a picture and the predicted reward.

    Args:
        action: list with a number per dimension, in the checkpoint's units.
        temperature: temperature of the sampling; 0 takes the likeliest tokens.
        seed: seed of the sampling; the same seed and actions give the same video.
    """
    game = game_of(visitor)
    with reasons_shown():
        step(WORLDS.get(visitor.checkpoint), game, action or None, sampling_of(temperature, seed))
    return picture(game.now.frame), game.now.reward, visitor


@gpu
def rollout(
    scene: int, actions: list[list[float]], temperature: float = TEMPERATURE, seed: int = 0, checkpoint: str = DEFAULT
) -> dict[str, Any]:
    """Predict what follows when a robot in one of the gallery's scenes takes these actions.

    Args:
        scene: number of the scene, from 0.
        actions: one row of numbers per step, in the checkpoint's units; at most 64.
        temperature: temperature of the sampling; 0 takes the likeliest tokens.
        seed: seed of the sampling; the same seed gives the same video.
        checkpoint: Hub id, or "default".

    Returns:
        A dict with "frames", a PNG picture per action as data URL, and "rewards", a number per action.
    """
    with reasons_shown():
        if not 1 <= len(actions) <= MAX_LINE_FRAMES:
            raise ValueError(f"1 to {MAX_LINE_FRAMES} actions can be taken, not {len(actions)}.")
        world = WORLDS.get(checkpoint)
        frames = context_of(world, scenes()[int(scene) % len(scenes())])
        predicted = world.rollout(frames[None], torch.tensor(actions)[None], sampling=sampling_of(temperature, seed))
    rewards = None if predicted.rewards is None else predicted.rewards[0].tolist()
    return {"frames": [png(frame) for frame in predicted.frames[0].cpu()], "rewards": rewards}


@contextlib.contextmanager
def reasons_shown() -> Iterator[None]:
    """Show ValueErrors to visitors and clients. Gradio hides other errors from them."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error)) from error


# -- the page ---------------------------------------------------------------------------------------------------------


def build() -> gr.Blocks:
    """Make the page."""
    starts = scenes()
    gallery = [picture(frames[-1]).resize((128, 128), Image.Resampling.NEAREST) for frames in starts]
    with gr.Blocks(title="iVideoGPT playground", fill_width=True) as page:
        visitor = gr.State(Visitor(), time_to_live=EXPIRES_SECONDS)
        gr.HTML((HERE / "player.html").read_text(encoding="utf-8"), elem_id="player", padding=False)
        bus = gr.HTML(
            message("idle"),
            html_template="<span></span>",
            js_on_load=(HERE / "player.js").read_text(encoding="utf-8"),
            elem_id="bus",
            visible="hidden",
        )
        with gr.Row(elem_id="below"):
            with gr.Accordion("Scenes", open=False):
                scene = gr.Gallery(
                    gallery, columns=6, height=220, show_label=False, allow_preview=False, elem_id="scenes", buttons=[]
                )
                upload = gr.File(
                    label="Or an image or a short video of yours", file_count="single", height=110, elem_id="upload"
                )
                goal = gr.Image(
                    label="Goal, for checkpoints that take one",
                    type="pil",
                    image_mode=None,  # as the file has it, so that transparent pixels are noticed
                    height=120,
                    visible=False,
                    elem_id="goal",
                )
            with gr.Accordion("Settings", open=False):
                temperature = gr.Slider(0, 2, TEMPERATURE, step=0.1, label="Temperature", info="0: the likeliest frame")
                seed = gr.Number(0, precision=0, label="Seed", info="The same seed and actions give the same video")
                name = gr.Textbox(DEFAULT, label="Checkpoint", info="default, or a Hub id", elem_id="checkpoint")
                load = gr.Button("Load", elem_id="load")
            with gr.Accordion("Futures and files", open=False):
                _add_files(visitor, [temperature, seed])
        drive = {"outputs": [bus, visitor], "show_progress": "hidden", "api_visibility": "private"}
        settings = [temperature, seed]

        def on_act(visitor: Visitor, temperature: float, seed: float, event: gr.EventData) -> tuple[str, Visitor]:
            return act(visitor, event._data.get("action"), temperature, seed)

        def on_branch(visitor: Visitor, event: gr.EventData) -> tuple[str, Visitor]:
            return branch_off(visitor, int(event._data["index"]))

        def on_line(visitor: Visitor, event: gr.EventData) -> tuple[str, Visitor]:
            return choose_line(visitor, int(event._data["line"]))

        def on_scene(visitor: Visitor, event: gr.SelectData) -> tuple[str, Visitor]:
            return begin(visitor, starts[event.index])

        def on_upload(visitor: Visitor, file: str | None, goal: Any) -> tuple[str, Visitor]:
            if file is None:
                return message("idle"), visitor
            try:
                frames = read_upload(WORLDS.get(visitor.checkpoint), file)
                return begin(visitor, frames, None if goal is None else read_video([goal]))
            except ValueError as error:
                return error_message(error), visitor

        def on_load(visitor: Visitor, name: str) -> tuple[str, Visitor, Any]:
            content, visitor = load_checkpoint(visitor, name, starts[0])
            takes_goal = WORLDS.get(visitor.checkpoint).spec.goal_conditioned
            return content, visitor, gr.update(visible=takes_goal)

        page.load(lambda visitor: begin(visitor, starts[0]), visitor, **drive)
        bus.act(on_act, [visitor, *settings], trigger_mode="multiple", **drive)
        dreaming = bus.dream(let_it_dream, [visitor, *settings], **drive)
        bus.stop(None, cancels=[dreaming], api_visibility="private")
        bus.undo(take_back, visitor, **drive)
        bus.restart(begin_again, visitor, **drive)
        bus.branch(on_branch, visitor, **drive)
        bus.line(on_line, visitor, **drive)
        scene.select(on_scene, visitor, **drive)
        upload.change(on_upload, [visitor, upload, goal], **drive)
        gr.on([load.click, name.submit], on_load, [visitor, name], **drive | {"outputs": [bus, visitor, goal]})
        _add_endpoints()
    return page


def _add_files(visitor: gr.State, settings: list[Any]) -> None:
    """Add a grid of futures, and files to download."""
    count = gr.Slider(1, MAX_FUTURES, 6, step=1, label="Futures of the same random actions")
    show = gr.Button("Show them", elem_id="futures")
    grid = gr.Video(show_label=False, autoplay=True, loop=True, height=240, elem_id="grid")
    show.click(show_futures, [visitor, count, *settings], grid, api_visibility="private")
    with gr.Row():
        for label, save in (("Video", save_video), ("Actions", save_actions)):
            name = f"save-{label.lower()}"
            button = gr.Button(label, elem_id=name)
            # A download button gives the file that it holds when it is pressed. So this page presses it when the file
            # has been written.
            file = gr.DownloadButton(visible="hidden", elem_id=f"{name}-file")
            saved = button.click(save, visitor, file, api_visibility="private")
            saved.success(None, js=f"() => document.querySelector('#{name}-file').click()")


def _add_endpoints() -> None:
    """Add named calls for gradio_client. `rollout` needs no session, and is an MCP tool as well."""
    visitor = gr.State(Visitor())
    image, reward = gr.Image(visible=False, format="png"), gr.Number(visible=False)
    scene, checkpoint = gr.Number(0, visible=False, precision=0), gr.Textbox(DEFAULT, visible=False)
    action, temperature, seed = (
        gr.JSON([], visible=False),
        gr.Number(TEMPERATURE, visible=False),
        gr.Number(0, visible=False),
    )
    hidden = gr.Button(visible=False)
    hidden.click(api_reset, [scene, checkpoint], [image, visitor], api_name="reset")
    hidden.click(api_step, [visitor, action, temperature, seed], [image, reward, visitor], api_name="step")
    gr.api(rollout, api_name="rollout")


def main() -> None:
    """Serve the page."""
    warnings.filterwarnings("ignore", message=".*was re-anchored")  # a game has no end, so re-anchoring is normal
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--mcp", action="store_true", help="serve an MCP tool as well; needs gradio[mcp]")
    args = parser.parse_args()
    page = build().queue(max_size=64, default_concurrency_limit=2)
    on_space = "SPACE_ID" in os.environ
    page.launch(
        server_name=None if on_space else args.host,
        server_port=None if on_space else args.port,
        css=(HERE / "player.css").read_text(encoding="utf-8"),
        max_file_size=MAX_UPLOAD_BYTES,
        mcp_server=args.mcp,
        footer_links=[],
    )


if __name__ == "__main__":
    main()
