"""States in a folder. Contexts, keys and values that they share are written once, and are shared again when they are
read, so that the steps of a world take no more than in memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from ..decoding.tails import TailBuffer
from ..run_folder import read_object, write_json
from .snapshots import PER_ROW, problem_of_snapshot, read_tensors, write_tensors
from .state import Contexts, WorldState, state_of

INDEX, TOKENS, CONTEXTS, TAIL = "states.json", "tokens.safetensors", "contexts-{}.safetensors", "tail-{}.safetensors"


def save_states(states: Mapping[int, WorldState], folder: Path) -> None:
    """Write states into an empty folder.

    Args:
        states: states of one world model, by number.
        folder: folder to write to.

    Raises:
        OSError: if they cannot be written.
    """
    contexts = list({id(state.contexts): state.contexts for state in states.values()}.values())
    longest_last = sorted(states.values(), key=lambda state: state.tail.length)
    tails = {id(state.tail.buffer): state.tail for state in longest_last if state.tail.buffer is not None}
    for number, shared in enumerate(contexts):
        write_tensors(shared.named(), folder / CONTEXTS.format(number))
    for number, tail in enumerate(tails.values()):
        write_tensors({"tail": tail.copy()}, folder / TAIL.format(number))
    write_tensors({str(number): state.tokens for number, state in states.items()}, folder / TOKENS)
    numbers = {id(shared): number for number, shared in enumerate(contexts)}
    numbers |= {buffer: number for number, buffer in enumerate(tails)}
    entries = {
        str(number): {name: getattr(state, name) for name in PER_ROW}
        | {"contexts": numbers[id(state.contexts)], "tail": numbers.get(id(state.tail.buffer))}
        for number, state in states.items()
    }
    write_json(folder / INDEX, entries)


def load_states(folder: Path, device: torch.device | str = "cpu") -> dict[int, WorldState]:
    """Read what `save_states` wrote.

    Raises:
        OSError: if a file is missing or damaged.
        ValueError: if what the files hold contradicts each other.
    """
    index, tokens = folder / INDEX, read_tensors(folder / TOKENS, device)[1]
    read = cache(lambda file: read_tensors(folder / file, device)[1])
    contexts_of = cache(lambda file: Contexts.of_named(read(file)))
    buffer_of = cache(lambda file: TailBuffer(read(file)["tail"], read(file)["tail"].shape[-2]))
    states: dict[int, WorldState] = {}
    for name, entry in read_object(index).items():
        if not isinstance(entry, dict) or not name.isdecimal() or name not in tokens:
            raise OSError(f"{index} is damaged: {name!r:.40} is no state of {TOKENS}")
        numbers = [entry.get("contexts"), entry.get("tail")]
        if type(numbers[0]) is not int or type(numbers[1]) not in (int, type(None)):
            raise OSError(f"{index} is damaged: the files of state {name} are {numbers!r:.40}")
        rows, first = tokens[name], CONTEXTS.format(numbers[0])
        parts, second = read(first) | {"tokens": rows}, None
        if numbers[1] is not None:
            second = TAIL.format(numbers[1])
            length = rows.shape[1] * (rows.shape[2] + 1) if rows.ndim == 3 else 0
            parts |= {key: tail[..., :length, :] if tail.ndim > 1 else tail for key, tail in read(second).items()}
        problem = problem_of_snapshot(entry, parts)
        if problem is not None:
            raise ValueError(f"{index}: state {name} does not fit {first} and {second}: {problem}")
        buffer = None if second is None else buffer_of(second)
        states[int(name)] = state_of(entry, contexts_of(first), rows, buffer)
    return states
