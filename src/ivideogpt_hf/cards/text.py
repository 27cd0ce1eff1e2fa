"""What people say in cards, from yaml; and where the templates are."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

Text = TypeVar("Text")

_PACKAGED, _CHECKOUT = Path(__file__).parents[1] / "model_cards", Path(__file__).parents[3] / "model_cards"
CARDS = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
# By the type of a field; a list of what else a card's yaml may hold there.
KINDS: dict[str, Any] = {"str": str, "str | None": (str, type(None))}


def read_card_text(kind: type[Text], file: Path) -> Text:
    """Fill a dataclass from a yaml file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a key is missing, unknown or of the wrong kind.
    """
    import yaml

    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no card {file}")
    content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    known = {item.name: item.type for item in fields(kind)}
    if not isinstance(content, dict) or set(content) - set(known):
        unknown = sorted(set(content) - set(known)) if isinstance(content, dict) else [type(content).__name__]
        raise ValueError(f"{file}: a card has the keys {', '.join(sorted(known))}, not {', '.join(unknown)}")
    try:
        text = kind(**content)
    except TypeError as error:
        raise ValueError(f"{file}: {error}") from error
    wrong = [name for name, declared in known.items() if not isinstance(getattr(text, name), _kinds(declared))]
    if wrong:
        raise ValueError(f"{file}: {', '.join(wrong)}: of the wrong kind (datasets and limits are lists, others text)")
    return text


def _kinds(declared: str) -> Any:
    """What a field's annotation stands for, as far as yaml is concerned."""
    if declared in KINDS:
        return KINDS[declared]
    return list if declared.startswith("list") else dict
