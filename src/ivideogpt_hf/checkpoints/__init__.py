"""Checkpoints in folders: what lies where, loading, saving, and the released layout."""
