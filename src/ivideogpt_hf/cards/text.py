"""Texts of cards, which people write as yaml files, and the folder of the templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ..settings import fill, packaged_folder, read_yaml

Text = TypeVar("Text")

CARDS = packaged_folder("model_cards")
# Tags by which such models and data sets are found on the Hub; both numbers of "world model" are in use.
TAGS = ("ivideogpt", "world-model", "world-models", "video-prediction", "robotics")
# The Hub's identifier where nobody stated a licence.
UNKNOWN_LICENSE = "unknown"
# The keys of a card are spelled as the Hub spells its metadata. Older cards have the British spelling.
BRITISH_KEYS = {"licence": "license", "licence_note": "license_note"}


def read_card_text(kind: type[Text], file: Path) -> Text:
    """Fill a dataclass from the yaml file of a card.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is missing, unknown or of the wrong kind.
    """
    return fill(kind, _with_hub_spelling(read_yaml(file)), str(file))


def _with_hub_spelling(content: Any) -> Any:
    """The content of a card with its British keys replaced. A key that stands there in both spellings stays as it is,
    and is then refused as unknown."""
    if isinstance(content, list):
        return [_with_hub_spelling(entry) for entry in content]
    if not isinstance(content, dict):
        return content
    names = {key: name for key, name in BRITISH_KEYS.items() if name not in content}
    return {names.get(key, key): _with_hub_spelling(value) for key, value in content.items()}
