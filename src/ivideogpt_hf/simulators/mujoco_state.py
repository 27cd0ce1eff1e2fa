"""Keeping and restoring the state of environments on MuJoCo, exactly."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

PLAIN = (bool, int, float, str, np.ndarray, np.generic, type(None))


@dataclass(frozen=True)
class MujocoState:
    """Of the simulation, and of the Python object around it."""

    integration: np.ndarray
    attributes: dict[str, Any]


def keep(environment: Any, model: Any, data: Any) -> MujocoState:
    """Copy all that the future depends on: positions, velocities, activations, warm starts, controls, and the
    environment's attributes that are plain values."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integration, kind)
    plain = {name: copy.deepcopy(value) for name, value in vars(environment).items() if _is_plain(value)}
    return MujocoState(integration, plain)


def restore(state: MujocoState, environment: Any, model: Any, data: Any) -> None:
    """Put everything back, and compute what follows from it."""
    import mujoco

    mujoco.mj_setState(model, data, state.integration, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    # The forward pass warms the solver up anew; the next step must begin as the kept one did.
    mujoco.mj_setState(model, data, state.integration, mujoco.mjtState.mjSTATE_INTEGRATION)
    vars(environment).update(copy.deepcopy(state.attributes))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
