"""Checkpoints in folders: what lies where, loading, saving, and the released layout."""

from .layout import DEFAULT_FOLDER, EPISODE_FILE, EXAMPLE_EPISODE

__all__ = ["DEFAULT_FOLDER", "EPISODE_FILE", "EXAMPLE_EPISODE"]
