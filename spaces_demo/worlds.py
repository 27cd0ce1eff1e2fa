"""Loaded worlds, and the rules for what visitors may load."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ivideogpt_hf import RemoteWorldModel, World, WorldModel
from ivideogpt_hf.checkpoints.family import with_released_id
from ivideogpt_hf.hub.download import size_of_files

DEFAULT = "default"
MAX_LOADED = 2


@dataclass(frozen=True)
class LoadingRules:
    """Rules for the checkpoints that visitors may load.

    Attributes:
        allowed: Hub ids that may be loaded; empty: all.
        max_bytes: largest size of a repository's weights.
        local: whether folders of this machine may be loaded, and worlds that `ivideogpt serve` serves.
    """

    allowed: tuple[str, ...] = ()
    max_bytes: int = 2 * 2**30
    local: bool = True

    @classmethod
    def from_environment(cls) -> LoadingRules:
        """Rules from IVIDEOGPT_DEMO_CHECKPOINTS (ids, separated by commas) and IVIDEOGPT_DEMO_MAX_MB. On a Space,
        nothing local may be loaded."""
        names = os.environ.get("IVIDEOGPT_DEMO_CHECKPOINTS", "")
        return cls(
            allowed=tuple(name.strip() for name in names.split(",") if name.strip()),
            max_bytes=int(os.environ.get("IVIDEOGPT_DEMO_MAX_MB", 2048)) * 2**20,
            local="SPACE_ID" not in os.environ,
        )

    def check(self, name: str) -> None:
        """Check that a world may be loaded, before anything is downloaded.

        Raises:
            ValueError: if it may not; says why.
        """
        if name == DEFAULT:
            return
        if self.allowed and name not in self.allowed:
            raise ValueError(f"This page plays {', '.join((DEFAULT, *self.allowed))}.")
        if is_address(name) or Path(name).exists():
            if not self.local:
                raise ValueError("Folders and servers can be played only where this page runs on your own machine.")
            return
        try:
            size = with_released_id(name, lambda repo_id: size_of_files(repo_id, ".safetensors"))
        except OSError as error:
            raise ValueError(f"{name} cannot be found: {error}") from error
        if size > self.max_bytes:
            raise ValueError(
                f"{name} has {size / 2**20:.0f} MB of weights; at most {self.max_bytes >> 20} MB are loaded."
            )


def is_address(name: str) -> bool:
    """Whether a name is the address of a served world."""
    return name.startswith(("http://", "https://"))


class Worlds:
    """Loaded worlds. The least recently used one is forgotten first. Nothing here belongs to a visitor.

    Args:
        rules: rules for what may be loaded.
        device: device of the worlds; None: a GPU if there is one.
    """

    def __init__(self, rules: LoadingRules, device: str | None = None) -> None:
        self.rules = rules
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded: OrderedDict[str, World[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> World[Any]:
        """Get a world by its name, and load it if necessary.

        Raises:
            ValueError: if it may not be loaded, or there is no such checkpoint.
        """
        name = name.strip() or DEFAULT
        with self._lock:
            if name not in self._loaded:
                self.rules.check(name)
                try:
                    self._loaded[name] = self._load(name)
                except OSError as error:
                    raise ValueError(f"{name} cannot be loaded: {error}") from error
                while len(self._loaded) > MAX_LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _load(self, name: str) -> World[Any]:
        return RemoteWorldModel(name) if is_address(name) else WorldModel.from_pretrained(name).to(self.device)
