"""Texts of cards, which people write as yaml files, the folder of the templates, and words of cards and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ..run_folder import naming
from ..settings import fill, packaged_folder, read_yaml

Text = TypeVar("Text")

CARDS = packaged_folder("model_cards")
# Tags by which such models and data sets are found on the Hub; both numbers of "world model" are in use.
TAGS = ("ivideogpt", "world-model", "world-models", "video-prediction", "robotics")
# The Hub's identifier where nobody stated a licence.
UNKNOWN_LICENSE = "unknown"
# The keys of a card are spelled as the Hub spells its metadata. Older cards have the British spelling.
BRITISH_KEYS = {"licence": "license", "licence_note": "license_note"}


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless there is one.

    Args:
        number: number of the things.
        noun: word for one of them, whose plural ends in s.

    Example:
        >>> from ivideogpt_hf.cards.text import counted
        >>> counted(1, "clip"), counted(2, "clip")
        ('1 clip', '2 clips')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def read_card_text(kind: type[Text], file: Path) -> Text:
    """Fill a dataclass from the yaml file of a card.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is missing, unknown or of the wrong kind.
    """
    content = _with_hub_spelling(read_yaml(file))
    with naming(file):
        return fill(kind, content, str(file))


def _with_hub_spelling(content: Any) -> Any:
    """The content of a card with its British keys replaced. A key that stands there in both spellings stays as it is,
    and is then refused as unknown."""
    if isinstance(content, list):
        return [_with_hub_spelling(entry) for entry in content]
    if not isinstance(content, dict):
        return content
    names = {key: name for key, name in BRITISH_KEYS.items() if name not in content}
    return {names.get(key, key): _with_hub_spelling(value) for key, value in content.items()}
