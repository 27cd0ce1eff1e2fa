"""Worlds that the page plays: the rules for what visitors may choose, and those that are loaded."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from scenes import GALLERY, own_scenes
from torch import Tensor

from ivideogpt_hf import RemoteWorldModel, World, WorldModel
from ivideogpt_hf.checkpoints.family import with_released_id
from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER, DOWNLOADED, EMBEDDED
from ivideogpt_hf.checkpoints.loading import fetch, is_goal_conditioned
from ivideogpt_hf.hub.download import download_repository, size_of_files
from ivideogpt_hf.serving.access import host_name

DEFAULT = "default"  # name of the page's own checkpoint
MAX_LOADED = 2
# What a state and the activations of a frame take grows with these, whatever the size of the weights.
MAX_FRAME_PIXELS, MAX_CONTEXT_FRAMES = 256 * 256, 16
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
FORWARDED = ("forwarded", "x-real-ip", "via")  # headers of proxies, beside x-forwarded-...


@dataclass(frozen=True)
class Choice:
    """A checkpoint that a visitor may play; `LoadingRules.choose` makes it.

    Attributes:
        name: "default", the name of another embedded checkpoint, a Hub id, a folder, or the address of a served world.
        kind: which of these it is. So what is named like a Hub id is never taken for a folder.
    """

    name: str
    kind: Literal["default", "embedded", "hub", "folder", "address"]


@dataclass(frozen=True)
class LoadingRules:
    """Rules for the checkpoints that visitors may choose.

    Attributes:
        allowed: Hub ids that may be chosen; empty: all.
        max_bytes: largest size of a repository's weights.
    """

    allowed: tuple[str, ...] = ()
    max_bytes: int = 2 * 2**30

    @classmethod
    def from_environment(cls) -> LoadingRules:
        """Rules from IVIDEOGPT_DEMO_CHECKPOINTS (ids, separated by commas) and IVIDEOGPT_DEMO_MAX_MB."""
        names = os.environ.get("IVIDEOGPT_DEMO_CHECKPOINTS", "")
        return cls(
            allowed=tuple(name.strip() for name in names.split(",") if name.strip()),
            max_bytes=int(os.environ.get("IVIDEOGPT_DEMO_MAX_MB", 2048)) * 2**20,
        )

    def choose(self, name: str, is_local: bool) -> Choice:
        """Choose a world by its name, before anything is loaded.

        Args:
            name: name as a visitor typed it.
            is_local: whether the visitor is on this machine, see `is_local`. Others name Hub ids only, and are told
                nothing of the files that are here.

        Raises:
            ValueError: if it may not be chosen; says why.
        """
        if not isinstance(name, str):
            raise ValueError("A checkpoint is named by its Hub id, owner/name.")
        name = name.strip() or DEFAULT
        if name == DEFAULT:
            return Choice(name, "default")
        if self.allowed and name not in self.allowed:
            raise ValueError(f"This page plays {', '.join((DEFAULT, *self.allowed))}.")
        if name in EMBEDDED:
            return Choice(name, "embedded")
        if is_local and is_address(name):
            return Choice(name, "address")
        if is_local and Path(name).is_dir():
            return Choice(name, "folder")
        if not HUB_ID.fullmatch(name):
            others = "There is no such folder." if is_local else "Folders and servers are for visitors of this machine."
            raise ValueError(f"A checkpoint is named by its Hub id, owner/name. {others}")
        try:
            size = with_released_id(name, lambda repo_id: size_of_files(repo_id, ".safetensors"))
        except OSError as error:
            raise ValueError(f"{name} cannot be found: {error}") from error
        if size > self.max_bytes:
            raise ValueError(
                f"{name} has {size / 2**20:.0f} MB of weights; at most {self.max_bytes >> 20} MB are loaded."
            )
        return Choice(name, "hub")


def is_address(name: str) -> bool:
    """Whether a name is the address of a served world."""
    return name.startswith(("http://", "https://"))


def is_local(client: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a visitor is on this machine: the connection is, no proxy forwarded it, and the page was asked for by a
    name of this machine, which a foreign page that a browser was led to has not.

    Args:
        client: address of the other end of the connection; None: unknown.
        headers: headers of the request.
    """
    names = {name.lower() for name in headers}
    if names & set(FORWARDED) or any(name.startswith("x-forwarded-") for name in names) or "SPACE_ID" in os.environ:
        return False
    host = next((value for name, value in headers.items() if name.lower() == "host"), "")
    return _is_loopback(client or "") and _is_loopback(host_name(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Played:
    """A loaded world, and where games in it begin.

    Attributes:
        world: world.
        scenes: starts, each (T, 3, H, W) uint8.
        has_own_scenes: whether the starts come with the checkpoint. Otherwise they are those of Meta-world.
        link: address of its page; None if it has none.
    """

    world: World[Any]
    scenes: list[Tensor]
    has_own_scenes: bool
    link: str | None = None


class Worlds:
    """Loaded worlds. The least recently used one is forgotten first. Nothing here belongs to a visitor.

    Args:
        rules: rules for what may be chosen.
        default: folder, Hub id or address of the page's own checkpoint; None: the embedded one.
        device: device of the worlds; None: a GPU if there is one.
    """

    def __init__(self, rules: LoadingRules, default: str | None = None, device: str | None = None) -> None:
        self.rules = rules
        self.default = default
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded: OrderedDict[Choice, Played] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, choice: Choice) -> Played:
        """Get a world, and load it if necessary.

        Raises:
            ValueError: if it cannot be loaded.
        """
        with self._lock:
            if choice not in self._loaded:
                try:
                    self._loaded[choice] = self._load(choice)
                except OSError as error:
                    raise ValueError(f"{choice.name} cannot be loaded: {error}") from error
                while len(self._loaded) > MAX_LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(choice)
            return self._loaded[choice]

    def _load(self, choice: Choice) -> Played:
        name = choice.name
        if choice.kind == "default":
            if self.default is None:
                return Played(WorldModel.default().to(self.device), GALLERY, has_own_scenes=True)
            name = self.default
        if is_address(name):
            return Played(RemoteWorldModel(name), GALLERY, has_own_scenes=False)
        # The page's owner and visitors on this machine name folders as well.
        folder = _folder(choice.kind, name)
        world = WorldModel.from_pretrained(folder, goal_conditioned=is_goal_conditioned(name, None)).to(self.device)
        if choice.kind == "hub":
            _check_sizes(name, world)
        own = GALLERY if folder.samefile(DEFAULT_FOLDER) else own_scenes(folder)
        link = None if Path(name).is_dir() or not HUB_ID.fullmatch(name) else f"https://huggingface.co/{name}"
        return Played(world, own or GALLERY, bool(own), link)


def _folder(kind: str, name: str) -> Path:
    """The folder of a checkpoint."""
    if kind == "embedded":
        return EMBEDDED[name].folder
    if kind == "hub":
        return with_released_id(name, partial(download_repository, kind="model", patterns=DOWNLOADED))
    return fetch(name)


def _check_sizes(name: str, world: World[Any]) -> None:
    spec = world.spec
    height, width = spec.frame_size
    if height * width > MAX_FRAME_PIXELS or spec.num_context_frames > MAX_CONTEXT_FRAMES:
        raise ValueError(
            f"{name} has {spec.num_context_frames} context frames of {height} x {width} pixels; at most "
            f"{MAX_CONTEXT_FRAMES} of {MAX_FRAME_PIXELS} pixels are played."
        )
