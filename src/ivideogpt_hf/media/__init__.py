"""Video, images and actions, from files and to files."""

from .actions import read_actions
from .video import read_video, side_by_side, write_video

__all__ = ["read_actions", "read_video", "side_by_side", "write_video"]
