"""Video, images and actions, from files and to files."""

from .actions import read_actions
from .images import encode_png
from .video import read_video, side_by_side, write_video

__all__ = ["encode_png", "read_actions", "read_video", "side_by_side", "write_video"]
