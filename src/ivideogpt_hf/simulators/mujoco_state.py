"""Saving and restoring the exact state of environments on MuJoCo."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

# What the resets of tasks change in a model: where things are that no joint moves, such as buttons and goals.
MOVED_PARTS = ("body_pos", "body_quat", "site_pos", "site_quat")
PLAIN_TYPES = (bool, int, float, str, np.ndarray, np.generic, type(None))


@dataclass(frozen=True)
class MujocoState:
    """State of an environment.

    Attributes:
        integration: state of the simulation, as MuJoCo integrates it.
        attributes: attributes of the Python object around it that are plain values.
    """

    integration: np.ndarray
    attributes: dict[str, Any]


def save_state(environment: Any, model: Any, data: Any) -> MujocoState:
    """Copy everything that the future depends on: positions, velocities, activations, warm starts, controls, and the
    environment's attributes that are plain values."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integration, kind)
    attributes = {name: copy.deepcopy(value) for name, value in vars(environment).items() if _is_plain(value)}
    return MujocoState(integration, attributes)


def restore_state(state: MujocoState, environment: Any, model: Any, data: Any) -> None:
    """Restore a state, and compute what follows from it."""
    import mujoco

    mujoco.mj_setState(model, data, state.integration, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    # The forward pass changes the solver's warm start. The next step must begin with the saved one.
    mujoco.mj_setState(model, data, state.integration, mujoco.mjtState.mjSTATE_INTEGRATION)
    vars(environment).update(copy.deepcopy(state.attributes))


@dataclass(frozen=True)
class MujocoEnvironmentState:
    """State of an environment between episodes, whose resets may also move what no joint moves.

    Attributes:
        state: state of the simulation, and attributes that are plain values.
        parts: places and rotations of the model's bodies and sites.
        names: names of all attributes of the Python object.
    """

    state: MujocoState
    parts: dict[str, np.ndarray]
    names: frozenset[str]


def save_environment(environment: Any) -> MujocoEnvironmentState:
    """Copy what a reset or an episode changes in an environment with a ``model`` and ``data``."""
    model = environment.model
    parts = {name: getattr(model, name).copy() for name in MOVED_PARTS}
    return MujocoEnvironmentState(save_state(environment, model, environment.data), parts, frozenset(vars(environment)))


def restore_environment(saved: MujocoEnvironmentState, environment: Any) -> None:
    """Put back what `save_environment` copied, and remove attributes that came later."""
    for name, values in saved.parts.items():
        getattr(environment.model, name)[...] = values
    for name in vars(environment).keys() - saved.names:
        delattr(environment, name)
    restore_state(saved.state, environment, environment.model, environment.data)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, np.ndarray):
        return not _is_of_mujoco(value)
    return isinstance(value, PLAIN_TYPES)


def _is_of_mujoco(array: np.ndarray) -> bool:
    """Whether an array is a view of the simulation's own memory. It changes with the simulation, and a copy would not:
    some of Meta-world's tasks compute rewards from such "initial" positions."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None
