"""The page's header, and messages to it, which player.js reads."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from importlib.metadata import metadata
from pathlib import Path
from string import Template
from typing import Any

from game import Game, Moment, bounds
from torch import Tensor
from worlds import Played

HEADER = Path(__file__).parent / "header.html"


def header() -> str:
    """The title, what one sees, and links."""
    links = dict(entry.split(", ", 1) for entry in metadata("ivideogpt-hf").get_all("Project-URL") or [])
    return Template(HEADER.read_text(encoding="utf-8")).substitute(
        model=links["Released checkpoints"], paper=links["Paper"], code=links.get("Source", links["Original code"])
    )


def message(kind: str, **content: Any) -> str:
    """A message for player.js, by Gradio. Each has its own id, since the page notices only changes."""
    return json.dumps({"kind": kind, "id": random.getrandbits(48), **content}, allow_nan=False)


def error_message(error: Exception) -> str:
    """A message that says why something did not work."""
    return message("error", text=str(error))


def frames_message(kind: str, frames: Sequence[Tensor] = (), **content: Any) -> bytes:
    """A message for player.js with pictures, by the connection: the number of bytes of what is said, which is JSON, as
    4 bytes, the lowest first; what is said; and the pictures' bytes, red, green and blue of one pixel after the other.

    Args:
        kind: name of what the page does with it.
        frames: pictures (3, H, W) uint8 of one size.
        content: what else is said.
    """
    if frames:
        content["height"], content["width"] = frames[0].shape[-2:]
    said = json.dumps({"kind": kind, **content}, allow_nan=False).encode()
    pixels = (frame.movedim(0, -1).contiguous().numpy().tobytes() for frame in frames)
    return b"".join((struct.pack("<I", len(said)), said, *pixels))


def describe_moment(moment: Moment) -> dict[str, Any]:
    """What the page shows of a moment beside its picture."""
    return {
        name: None if value is None else round(value, 4)
        for name, value in (("reward", moment.reward), ("log_prob", moment.log_prob))
    }


def game_message(played: Played, game: Game) -> bytes:
    """A message with everything that the page shows of a game: the goal, if there is one, and all lines."""
    spec = played.world.spec
    low, high = (bound.tolist() for bound in bounds(played.world))
    goal = [game.context[0]] if spec.goal_conditioned else []
    return frames_message(
        "game",
        [*goal, *(moment.frame for line in game.lines for moment in line)],
        link=played.link,
        actions={
            "names": list(spec.action_names)
            if spec.action_names
            else [f"action {i + 1}" for i in range(spec.action_dim)],
            "low": low,
            "high": high,
        },
        has_reward=spec.has_reward,
        has_goal=spec.goal_conditioned,
        lines=[[describe_moment(moment) for moment in line] for line in game.lines],
        active=game.active,
    )


def moment_message(game: Game) -> bytes:
    """A message with the newest moment of the active line."""
    now = game.now
    return frames_message(
        "moment", [now.frame], line=game.active, index=len(game.line) - 1, moment=describe_moment(now)
    )
