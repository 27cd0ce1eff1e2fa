"""Video, images and actions, from files and to files. Names are imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .actions import read_actions
    from .images import encode_png
    from .video import read_video, side_by_side, write_video

_HOMES = {
    "encode_png": "images",
    "read_actions": "actions",
    "read_video": "video",
    "side_by_side": "video",
    "write_video": "video",
}

__all__ = ["encode_png", "read_actions", "read_video", "side_by_side", "write_video"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
