"""The playground: drive a world model in the browser. Only the widgets are here; see play.py for what they do.

What is done in a game does not come here, but to connection.py.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from connection import play_route
from endpoints import add_endpoints, reasons_shown
from game import MAX_FUTURES, Game, played_actions
from page import error_message, header, message
from play import STORE, TEMPERATURE, WORLDS, grid_of_futures, new_game, sampling_of, whole
from scenes import MAX_UPLOAD_BYTES, picture, read_upload, write, write_actions
from torch import Tensor
from worlds import DEFAULT, Choice, Played, is_local

from ivideogpt_hf.checkpoints.family import RELEASED_IDS
from ivideogpt_hf.checkpoints.layout import EMBEDDED
from ivideogpt_hf.spec import first_action

HERE = Path(__file__).parent
GALLERY_PIXELS, GALLERY_COLUMNS = 128, 3
# One typeface, which every machine has, for what Gradio draws and what player.css does.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    slider_color="#e0532f",
    slider_color_dark="#e0532f",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
)
NO_SCENES = (
    "This checkpoint brings no scenes, so these are Meta-world's. Upload a picture like those that it was trained on."
)
DEFAULT_CHOICE = Choice(DEFAULT, "default")


@dataclass
class Visitor:
    """One visitor.

    Attributes:
        choice: checkpoint that the visitor plays with.
        key: key of the visitor's game; None before the first one.
    """

    choice: Choice = DEFAULT_CHOICE
    key: str | None = None

    @property
    def played(self) -> Played:
        """The world of the visitor's checkpoint."""
        return WORLDS.get(self.choice)

    @property
    def game(self) -> Game:
        """The visitor's game.

        Raises:
            ValueError: if it has expired.
        """
        return STORE.get(self.key)[1]

    def forget(self) -> None:
        """Forget the game. The visitor is gone."""
        STORE.forget(self.key)


def errors_told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function, which returns a message to the page, say in one why something did not work."""

    @wraps(function)
    def told(visitor: Visitor, *args: Any) -> Any:
        try:
            return function(visitor, *args)
        except (ValueError, OSError) as error:
            return error_message(error)

    return told


# -- what visitors do -------------------------------------------------------------------------------------------------


def begin(visitor: Visitor, frames: Tensor, goal: Tensor | None = None) -> str:
    """Start a new game from a video or an image, in place of the visitor's old one, and have the page show it."""
    key, _ = new_game(visitor.choice, frames, goal)
    visitor.forget()
    visitor.key = key
    return message("play", game=key)


@errors_told
def begin_in_scene(visitor: Visitor, index: int) -> str:
    """Start a new game in a scene of the gallery."""
    scenes = visitor.played.scenes
    return begin(visitor, scenes[min(index, len(scenes) - 1)])


@errors_told
def begin_in_upload(visitor: Visitor, file: str | None, goal: str | None) -> str:
    """Start a new game from files of the visitor."""
    if file is None:
        return message("idle")
    world = visitor.played.world
    return begin(visitor, read_upload(world, file), None if goal is None else read_upload(world, goal))


def show_futures(visitor: Visitor, count: float, temperature: float, seed: float) -> str:
    """Write a video file with a grid of futures of the same random actions."""
    with reasons_shown():
        grid = grid_of_futures(visitor.key, whole(count, "number"), sampling_of(temperature, seed), whole(seed, "seed"))
        return write(grid, "futures.mp4")


@errors_told
def load_checkpoint(visitor: Visitor, name: str, request: gr.Request) -> str:
    """Play with another checkpoint."""
    client = None if request.client is None else request.client.host
    choice = WORLDS.rules.choose(name, is_local(client, request.headers))
    previous, visitor.choice = visitor.choice, choice
    try:
        return begin(visitor, visitor.played.scenes[0])
    except (ValueError, OSError):
        visitor.choice = previous
        raise


# -- files ------------------------------------------------------------------------------------------------------------


def save_video(visitor: Visitor) -> str:
    """The active line as mp4."""
    with reasons_shown():
        game = visitor.game
        return write(torch.stack([*game.context[:-1], *(moment.frame for moment in game.line)]), "dream.mp4")


def save_actions(visitor: Visitor) -> str:
    """The active line's actions, as `ivideogpt predict --actions` reads them for the video that `save_video` writes."""
    with reasons_shown():
        game = visitor.game
        return write_actions(played_actions(game), first_action(len(game.context)))


# -- the page ---------------------------------------------------------------------------------------------------------


def thumbnails(scenes: list[Tensor]) -> list[Any]:
    """The pictures of a gallery."""
    return [picture(frames[-1], max(1, GALLERY_PIXELS // frames.shape[-1])) for frames in scenes]


def build() -> gr.Blocks:
    """Make the page.

    Raises:
        ValueError: if the page's own checkpoint cannot be loaded.
    """
    default = Visitor().played
    with gr.Blocks(title="iVideoGPT playground", fill_width=True) as page:
        visitor = gr.State(Visitor(), delete_callback=Visitor.forget)
        gr.HTML(header(), elem_id="header", padding=False)
        gr.HTML((HERE / "player.html").read_text(encoding="utf-8"), elem_id="player", padding=False)
        bus = gr.HTML(
            message("idle"),
            html_template="<span></span>",
            js_on_load=(HERE / "player.js").read_text(encoding="utf-8"),
            elem_id="bus",
            visible="hidden",
        )
        with gr.Row(elem_id="below"):
            with gr.Column(min_width=280), gr.Accordion("Scenes", open=False):
                scene, note = _add_gallery(default)
                upload = gr.UploadButton(
                    "Your image or short video", file_types=["image", "video"], size="md", elem_id="upload"
                )
                goal = gr.Image(
                    label="Goal, for checkpoints that take one",
                    type="filepath",  # a picture is decoded by `read_upload` alone, which looks at its size first
                    image_mode=None,
                    sources=["upload"],
                    height=160,
                    visible=False,
                    elem_id="goal",
                )
            with gr.Column(min_width=280), gr.Accordion("Settings", open=False):
                temperature = gr.Slider(0, 2, TEMPERATURE, step=0.1, label="Temperature", info="0: the likeliest frame")
                seed = gr.Number(0, precision=0, label="Seed", info="The same seed and actions give the same video")
                name = gr.Dropdown(
                    list(dict.fromkeys([DEFAULT, *(WORLDS.rules.allowed or (*EMBEDDED, *RELEASED_IDS))])),
                    value=DEFAULT,
                    allow_custom_value=True,
                    label="Checkpoint",
                    info="One of these, or any Hub id",
                    elem_id="checkpoint",
                )
                load = gr.Button("Load", elem_id="load", size="md")
            with gr.Column(min_width=280), gr.Accordion("Futures and files", open=False):
                _add_files(visitor, [temperature, seed])
        drive = {"show_progress": "hidden", "api_visibility": "private"}
        settings = [temperature, seed]

        # Gradio fills arguments of its own kinds in by their annotations. A visitor is changed in place, and is an
        # output so that Gradio stores it.
        def on_scene(visitor: Visitor, event: gr.SelectData) -> tuple[str, Visitor]:
            return begin_in_scene(visitor, event.index), visitor

        def on_upload(visitor: Visitor, file: str | None, goal: str | None) -> tuple[str, Visitor]:
            return begin_in_upload(visitor, file, goal), visitor

        def on_load(visitor: Visitor, name: str, request: gr.Request) -> tuple[str, Visitor, Any, Any, Any]:
            content = load_checkpoint(visitor, name or "", request)
            played = visitor.played
            return (
                content,
                visitor,
                gr.update(visible=played.world.spec.goal_conditioned),
                thumbnails(played.scenes),
                gr.update(visible=not played.has_own_scenes),
            )

        page.load(lambda visitor: (begin_in_scene(visitor, 0), visitor), visitor, [bus, visitor], **drive)
        gr.on(
            [page.load, temperature.change, seed.change],
            None,
            settings,
            js="(temperature, seed) => { window.sampling = { temperature, seed: seed ?? 0 }; }",
            api_visibility="private",
        )
        scene.select(on_scene, visitor, [bus, visitor], **drive)
        upload.upload(on_upload, [visitor, upload, goal], [bus, visitor], **drive)
        load.click(on_load, [visitor, name], [bus, visitor, goal, scene, note], **drive)
        add_endpoints()
    return page


def _add_gallery(played: Played) -> tuple[gr.Gallery, gr.Markdown]:
    """Add the scenes, and a note for checkpoints that bring none."""
    scene = gr.Gallery(
        thumbnails(played.scenes),
        columns=GALLERY_COLUMNS,
        height="auto",
        object_fit="cover",
        show_label=False,
        allow_preview=False,
        elem_id="scenes",
        buttons=[],
    )
    return scene, gr.Markdown(NO_SCENES, visible=not played.has_own_scenes, elem_id="scenes-note")


def _add_files(visitor: gr.State, settings: list[Any]) -> None:
    """Add a grid of futures, and files to download."""
    count = gr.Slider(1, MAX_FUTURES, 6, step=1, label="Futures of the same random actions")
    show = gr.Button("Show them", elem_id="futures", size="md")
    grid = gr.Video(show_label=False, autoplay=True, loop=True, height=240, elem_id="grid", buttons=[])
    show.click(show_futures, [visitor, count, *settings], grid, api_visibility="private")
    with gr.Row():
        for label, save in (("Video", save_video), ("Actions", save_actions)):
            name = f"save-{label.lower()}"
            button = gr.Button(f"Save {label.lower()}", elem_id=name, size="md", min_width=100)
            # A download button gives the file that it holds when it is pressed. So this page presses it when the file
            # has been written.
            file = gr.DownloadButton(visible="hidden", elem_id=f"{name}-file")
            saved = button.click(save, visitor, file, api_visibility="private")
            saved.success(None, js=f"() => document.querySelector('#{name}-file').click()")


def main() -> None:
    """Serve the page."""
    warnings.filterwarnings("ignore", message=".*was re-anchored")  # a game has no end, so re-anchoring is normal
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", nargs="?", help="folder, Hub id or address of a served world")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--mcp", action="store_true", help="serve tools of the Model Context Protocol as well")
    args = parser.parse_args()
    WORLDS.default = args.checkpoint
    page = build().queue(max_size=64, default_concurrency_limit=2)
    on_space = "SPACE_ID" in os.environ
    page.launch(
        server_name=None if on_space else args.host,
        server_port=None if on_space else args.port,
        theme=THEME,
        css=(HERE / "player.css").read_text(encoding="utf-8"),
        max_file_size=MAX_UPLOAD_BYTES,
        mcp_server=args.mcp,
        app_kwargs={"routes": [play_route(None if on_space else args.host)]},
        ssr_mode=False,  # with it, a server in front of this one asks, and every visitor would seem to be local
        footer_links=[],
    )


if __name__ == "__main__":
    main()
