"""The page's header, and messages to it: JSON for player.js."""

from __future__ import annotations

import base64
import json
import random
from importlib.metadata import metadata
from pathlib import Path
from string import Template
from typing import Any

from game import Game, Moment, bounds
from torch import Tensor
from worlds import Played

from ivideogpt_hf.media import encode_png

HEADER = Path(__file__).parent / "header.html"


def header() -> str:
    """The title, what one sees, and links."""
    links = dict(entry.split(", ", 1) for entry in metadata("ivideogpt-hf").get_all("Project-URL") or [])
    return Template(HEADER.read_text(encoding="utf-8")).substitute(
        model=links["Released checkpoints"], paper=links["Paper"], code=links.get("Source", links["Original code"])
    )


def png(frame: Tensor) -> str:
    """A frame (3, H, W) as a data URL."""
    return "data:image/png;base64," + base64.b64encode(encode_png(frame.movedim(0, -1).numpy())).decode()


def describe_moment(moment: Moment) -> dict[str, Any]:
    """A moment as the page shows it."""
    numbers = {
        name: None if value is None else round(value, 4)
        for name, value in (("reward", moment.reward), ("log_prob", moment.log_prob))
    }
    return {"image": png(moment.frame)} | numbers


def message(kind: str, **content: Any) -> str:
    """A message for player.js. Each has its own id, since the page notices only changes."""
    return json.dumps({"kind": kind, "id": random.getrandbits(48), **content})


def game_message(played: Played, game: Game) -> str:
    """A message with everything that the page shows of a game."""
    spec = played.world.spec
    low, high = (bound.tolist() for bound in bounds(played.world))
    return message(
        "game",
        link=played.link,
        actions={
            "names": list(spec.action_names)
            if spec.action_names
            else [f"action {i + 1}" for i in range(spec.action_dim)],
            "low": low,
            "high": high,
        },
        has_reward=spec.has_reward,
        goal=png(game.context[0]) if spec.goal_conditioned else None,
        lines=[[describe_moment(moment) for moment in line] for line in game.lines],
        active=game.active,
    )


def moment_message(game: Game) -> str:
    """A message with the newest moment of the active line."""
    return message("moment", line=game.active, index=len(game.line) - 1, moment=describe_moment(game.now))


def error_message(error: Exception) -> str:
    """A message that says why something did not work."""
    return message("error", text=str(error))
