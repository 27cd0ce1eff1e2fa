"""The folder in which this package keeps what it found out, beside the Hub's own cache."""

from __future__ import annotations

from pathlib import Path


def cache_folder() -> Path:
    """`ivideogpt_hf` in the folder that the environment variable HF_HOME names. It may not exist yet."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "ivideogpt_hf"
