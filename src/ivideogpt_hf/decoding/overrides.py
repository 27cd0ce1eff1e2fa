"""Attributes of networks that rollouts set while they run, in however many threads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class _Override:
    """An attribute that is set at present.

    Attributes:
        num_users: number of blocks that need it.
        originals: objects that had another value, and that value.
    """

    num_users: int = 0
    originals: list[tuple[Any, Any]] = field(default_factory=list)


_LOCK = threading.Lock()
_PRESENT: dict[tuple[nn.Module, str], _Override] = {}


@contextmanager
def override(network: nn.Module, name: str, *, value: Any, objects: Iterable[Any]) -> Iterator[None]:
    """Give an attribute of parts of a network a value during the block.

    Blocks of several threads may overlap. Each object gets its own value back when the last of them ends.

    Args:
        network: network that the objects belong to.
        name: name of the attribute.
        value: value of the attribute during the block.
        objects: objects whose attribute is set.
    """
    key = (network, name)
    with _LOCK:
        present = _PRESENT.setdefault(key, _Override())
        present.num_users += 1
        for item in objects:
            original = getattr(item, name)
            if original != value:
                present.originals.append((item, original))
                setattr(item, name, value)
    try:
        yield
    finally:
        with _LOCK:
            present.num_users -= 1
            if not present.num_users:
                del _PRESENT[key]
                for item, original in present.originals:
                    setattr(item, name, original)
