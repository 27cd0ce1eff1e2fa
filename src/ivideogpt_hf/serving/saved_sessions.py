"""Sessions in a folder, so that the next server goes on with them."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import Field, ValidationError

from ..run_folder import PARTIAL, claim, link_file, lock, read_object, recover_folder, replace_folder, write_json
from ..world.state import WorldState
from ..world.world_model import WorldModel
from .messages import Message
from .sessions import Sessions

RECORD, LIVES, SESSIONS, INDEX = "server.json", "lives.json", "sessions", "session.json"
FORMAT = 1
M = TypeVar("M", bound=Message)
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


class SavedState(Message):
    """A state in a file with others.

    Attributes:
        number: number of the state in its session.
        num_rows: number of its rows, which follow those of the state before.
    """

    number: Annotated[int, Field(ge=0, lt=MAX_LIVES * NUMBERS_PER_LIFE)]
    num_rows: Annotated[int, Field(ge=1)]


class SavedSession(Message):
    """A session: the states in each of its files, `0.safetensors` and so on."""

    files: list[Annotated[list[SavedState], Field(min_length=1)]]


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

    def take_up(self, sessions: Sessions) -> None:
        """Put the saved sessions into those of a server. They stay saved as they are until the next `save`.

        New states get numbers that no state ever had, even if a server was killed and could not save: a client's number
        never means another state.

        Raises:
            OSError: if a file is damaged.
            ValueError: if a state is of another world model, or they are more than the server may have.
        """
        path = self.folder / SESSIONS
        recover_folder(path)
        names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        if names and not (self.folder / LIVES).exists():
            raise OSError(f"{self.folder} holds sessions, but {LIVES} is missing: put it back, or delete the folder")
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
                        _write(aside / name, states)
                replace_folder(path, aside)
                self._saved = numbers
            except OSError as error:
                raise OSError(f"the sessions could not be saved in {self.folder}: {error}") from error
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _begin_life(self) -> int:
        """Count one more server; returns its number, from 1."""
        file = self.folder / LIVES
        before = _parsed(Lives, file).count if file.exists() else 0
        if before + 1 >= MAX_LIVES:
            raise OSError(f"{self.folder} has served {before} servers: give a new folder")
        write_json(file, {"count": before + 1})
        return before + 1

    def _load(self, folder: Path) -> dict[int, WorldState]:
        index = folder / INDEX
        states: dict[int, WorldState] = {}
        for number, saved in enumerate(_parsed(SavedSession, index).files):
            file = folder / f"{number}.safetensors"
            joined = WorldState.load(file, self._world.device)
            self._world.calls.check(joined)
            ends = list(accumulate(state.num_rows for state in saved))
            if ends[-1] != joined.batch_size or states.keys() & {state.number for state in saved}:
                raise OSError(f"{index} is damaged: it does not fit {file}")
            for state, end in zip(saved, ends, strict=True):
                states[state.number] = joined.index_rows(range(end - state.num_rows, end))
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


def _write(folder: Path, states: Mapping[int, WorldState]) -> None:
    """Write a session. States that continue the same contexts, as the steps of one world do, share a file, so that the
    contexts are written once."""
    folder.mkdir(mode=PRIVATE)
    groups: dict[int, list[int]] = {}
    for number, state in states.items():
        groups.setdefault(id(state.contexts), []).append(number)
    for file, numbers in enumerate(groups.values()):
        WorldState.cat([states[number] for number in numbers]).save(folder / f"{file}.safetensors")
    files = [
        [SavedState(number=number, num_rows=states[number].batch_size).model_dump() for number in numbers]
        for numbers in groups.values()
    ]
    write_json(folder / INDEX, {"files": files})


def _parsed(kind: type[M], file: Path) -> M:
    try:
        return kind.model_validate(read_object(file))
    except ValidationError as error:
        raise OSError(f"{file} is damaged: {error}") from error
