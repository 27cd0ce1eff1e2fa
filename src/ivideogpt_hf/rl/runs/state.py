"""The state of an agent, and of all random numbers, as tensors and numbers that a file of weights can hold."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...extras import require_packages

require_packages("stable_baselines3", purpose="reinforcement learning")

from stable_baselines3.common.base_class import BaseAlgorithm  # noqa: E402
from stable_baselines3.common.save_util import recursive_getattr  # noqa: E402

COUNTS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


def agent_state(agent: BaseAlgorithm) -> dict[str, Any]:
    """All that changes in an agent but its buffer: weights, optimisers, counts, and where it stands."""
    _, variables = agent._get_torch_save_params()
    noise = getattr(agent, "action_noise", None)
    return {
        "parameters": agent.get_parameters(),
        "variables": {name: recursive_getattr(agent, name).detach().clone() for name in variables},
        "attributes": {name: getattr(agent, name) for name in COUNTS if hasattr(agent, name)},
        "last_obs": None if agent._last_obs is None else torch.from_numpy(np.array(agent._last_obs)),
        "last_episode_starts": (
            None if agent._last_episode_starts is None else torch.from_numpy(np.array(agent._last_episode_starts))
        ),
        "successes": [float(success) for success in agent.ep_success_buffer or ()],
        "action_space": agent.action_space.np_random.bit_generator.state,
        "noise": None if noise is None else with_tensors(vars(noise)),
        "logged": {
            "values": {name: float(value) for name, value in agent.logger.name_to_value.items() if _is_number(value)},
            "counts": {name: int(count) for name, count in agent.logger.name_to_count.items()},
        }
        if hasattr(agent, "_logger")
        else None,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def load_agent_state(agent: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Put into an agent what `agent_state` gave for one with the same arguments."""
    agent.set_parameters(state["parameters"], exact_match=True, device=agent.device)
    for name, value in state["variables"].items():
        recursive_getattr(agent, name).data.copy_(value)
    for name, value in state["attributes"].items():
        setattr(agent, name, value)
    last, starts = state["last_obs"], state["last_episode_starts"]
    agent._last_obs = None if last is None else last.numpy()
    agent._last_episode_starts = None if starts is None else starts.numpy()
    # What `learn` would make anew if it was not there.
    agent.ep_info_buffer = deque(maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(state["successes"], maxlen=agent._stats_window_size)
    agent.action_space.np_random.bit_generator.state = state["action_space"]
    noise = getattr(agent, "action_noise", None)
    for name, value in (state["noise"] or {}).items():
        setattr(noise, name, value.numpy() if isinstance(value, Tensor) else value)


def read_state(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """A state that a run wrote with `torch.save`. Only tensors and numbers are built from it.

    Args:
        file: file to read.
        names: names that the state must have.

    Raises:
        OSError: if the file cannot be read, or holds something else.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged pickle brings about
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(f"{file} is no state that a run can go on from: {reason}") from error
    missing = [name for name in names if name not in state] if isinstance(state, dict) else list(names)
    if missing:
        raise OSError(f"{file} is no state that a run can go on from: it lacks {', '.join(missing)}")
    return state


def with_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with tensors in place of arrays and of what else a file of weights cannot hold."""
    kept: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            kept[name] = torch.from_numpy(value.copy())
        elif isinstance(value, (int, float, str, bool, type(None), Tensor)):
            kept[name] = value
    return kept


def random_state() -> dict[str, Any]:
    """The states of all generators of this process that agents of stable-baselines3 draw from."""
    version, numbers, gaussian = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(numbers), gaussian],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    version, numbers, gaussian = state["python"]
    random.setstate((version, tuple(numbers), gaussian))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def unchanged_random_numbers() -> Iterator[None]:
    """Random numbers go on after the block as if it had not been."""
    state = random_state()
    try:
        yield
    finally:
        load_random_state(state)


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
