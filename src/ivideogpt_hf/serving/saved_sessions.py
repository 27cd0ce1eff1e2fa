"""Sessions in a folder, so that the next server goes on with them."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError

from ..run_folder import PARTIAL, claim, link_file, lock, read_object, recover_folder, replace_folder, write_json
from ..world.state import WorldState
from ..world.state_folder import load_states, save_states
from ..world.world_model import WorldModel
from .messages import Message
from .sessions import Sessions

RECORD, LIVES, SESSIONS = "server.json", "lives.json", "sessions"
FORMAT = 2
# Of configs, what does not change what a world computes.
NOT_COMPUTED = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
# A session's name lets anybody use it.
PRIVATE = 0o700
# Numbers of states that one life of the server may give, before those of the next life begin.
NUMBERS_PER_LIFE = 2**32
MAX_LIVES = 2**20  # so that every number is exact in JSON


class Lives(Message):
    """How many servers have used a folder."""

    count: Annotated[int, Field(ge=1, lt=MAX_LIVES)]


class SavedSessions:
    """The sessions of a server, in a folder that this process holds; see `open_saved`.

    Args:
        folder: folder of the sessions.
        world: model that they belong to.
    """

    def __init__(self, folder: Path, world: WorldModel) -> None:
        self.folder, self._world = folder, world
        self._lock = threading.Lock()
        self._saved: dict[str, frozenset[int]] = {}  # the numbers in each session's folder

    def take_up(self, sessions: Sessions, max_bytes: int) -> None:
        """Put the saved sessions into those of a server. They stay saved as they are until the next `save`.

        New states get numbers that no state ever had, even if a server was killed and could not save: a client's number
        never means another state.

        Args:
            sessions: sessions of the server.
            max_bytes: largest number of bytes of all their states.

        Raises:
            OSError: if a file is damaged.
            ValueError: if a state is of another world model, or they are more than the server may have.
        """
        path = self.folder / SESSIONS
        recover_folder(path)
        names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        if names and not (self.folder / LIVES).exists():
            raise OSError(f"{self.folder} holds sessions, but {LIVES} is missing: put it back, or delete the folder")
        num_bytes = _bytes_in(path)
        if num_bytes > max_bytes:
            raise ValueError(
                f"the saved states take {num_bytes} bytes, and this server keeps {max_bytes}: give it a larger "
                f"--max-state-bytes"
            )
        saved = {name: self._load(path / name) for name in names}
        sessions.take_up(saved, self._begin_life() * NUMBERS_PER_LIFE)
        self._saved = {name: frozenset(states) for name, states in saved.items()}

    def save(self, sessions: Sessions) -> None:
        """Save all sessions, in place of those that were saved before. After an error or a kill these are still there.
        Sessions that have the states that they had then are not written again. Calls may be answered meanwhile, since
        a state never changes.

        Raises:
            OSError: if they cannot be written.
        """
        aside, path = self.folder / f"{SESSIONS}.{secrets.token_hex(4)}{PARTIAL}", self.folder / SESSIONS
        with self._lock:
            states_of = sessions.all_states()
            numbers = {name: frozenset(states) for name, states in states_of.items()}
            if numbers == self._saved and path.is_dir():
                return
            try:
                aside.mkdir(mode=PRIVATE)
                for name, states in states_of.items():
                    if numbers[name] == self._saved.get(name):  # a number never means another state
                        shutil.copytree(path / name, aside / name, copy_function=link_file)
                    else:
                        (aside / name).mkdir(mode=PRIVATE)
                        save_states(states, aside / name)
                replace_folder(path, aside)
                self._saved = numbers
            except OSError as error:
                raise OSError(f"the sessions could not be saved in {self.folder}: {error}") from error
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _begin_life(self) -> int:
        """Count one more server; returns its number, from 1."""
        file = self.folder / LIVES
        before = _lives(file) if file.exists() else 0
        if before + 1 >= MAX_LIVES:
            raise OSError(f"{self.folder} has served {before} servers: give a new folder")
        write_json(file, {"count": before + 1})
        return before + 1

    def _load(self, folder: Path) -> dict[int, WorldState]:
        states = load_states(folder, self._world.device)
        if any(number >= MAX_LIVES * NUMBERS_PER_LIFE for number in states):
            raise OSError(f"{folder} is damaged: it has states of numbers that no server gives")
        for state in states.values():
            self._world.calls.check(state)
        return states


@contextmanager
def open_saved(folder: Path, world: WorldModel) -> Iterator[SavedSessions]:
    """Hold a folder for the sessions of a world model during the block.

    Args:
        folder: new folder, or one of an earlier server of the same checkpoint.
        world: model that is served.

    Raises:
        BlockingIOError: if another process holds the folder.
        FileExistsError: if it holds something else, or sessions of another checkpoint.
        OSError: if it cannot be read or written.
    """
    with lock(folder):
        folder.chmod(PRIVATE)
        claim(folder, RECORD, {"format": FORMAT, "checkpoint": fingerprint(world)}, noun="server's sessions")
        for left in folder.glob(f"{SESSIONS}.*{PARTIAL}"):  # by a kill
            if left.name != f"{SESSIONS}.old{PARTIAL}":
                shutil.rmtree(left, ignore_errors=True)
        yield SavedSessions(folder, world)


def fingerprint(world: WorldModel) -> str:
    """A hash of the weights in the precision that they are in, and of the configs. States go on exactly where it is the
    same."""
    digest = hashlib.sha256()
    for part in (world.vq_model.config, world.transformer.config, world.processor):
        fields = {name: value for name, value in part.to_dict().items() if name not in NOT_COMPUTED}
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for network in (world.vq_model, world.transformer):
        for name, weight in sorted(network.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _bytes_in(folder: Path) -> int:
    """Memory that the states of a folder take."""
    num_bytes = 0
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            num_bytes += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")  # without its header
    return num_bytes


def _lives(file: Path) -> int:
    try:
        return Lives.model_validate(read_object(file)).count
    except ValidationError as error:
        raise OSError(f"{file} is damaged: {error}") from error
