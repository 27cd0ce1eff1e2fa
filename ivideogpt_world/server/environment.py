"""An imagined world as an environment of OpenEnv."""

import base64
import io
from typing import Any
from uuid import uuid4

import numpy as np
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import EnvironmentMetadata, State
from PIL import Image

from ivideogpt_hf import WorldModelEnv

from ..models import WorldAction, WorldObservation


class WorldEnvironment(Environment[WorldAction, WorldObservation, State]):
    """One imagined world. Sessions share the model, which threads may do.

    Args:
        environment: world, which is only this session's.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, environment: WorldModelEnv) -> None:
        super().__init__()
        self._environment, self._state = environment, State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> WorldObservation:
        """Begin an episode; the option ``start`` is the number of a start, else it is drawn by the seed."""
        frames, info = self._environment.reset(seed=seed, options=options)
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        return WorldObservation(frame=_as_text(frames), metadata=info)

    def step(self, action: WorldAction, timeout_s: float | None = None, **kwargs: Any) -> WorldObservation:
        """Act; the episode is over after as many steps as `WorldModelEnv` takes."""
        frames, reward, terminated, truncated, info = self._environment.step(np.array(action.values, np.float32))
        self._state.step_count += 1
        return WorldObservation(
            frame=_as_text(frames), reward=reward, done=terminated or truncated, metadata=info | action.metadata
        )

    @property
    def state(self) -> State:
        """The episode's id, and the number of its steps so far."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Name and description, for the web page."""
        return EnvironmentMetadata(name="ivideogpt_world", description="A robot's camera, imagined by iVideoGPT")

    def render_web(self, observation: dict[str, Any]) -> str:
        """The frame, for the web page."""
        frame = observation["frame"]
        return f'<img src="data:image/png;base64,{frame}" style="width: 320px; image-rendering: pixelated">'


def _as_text(frames: np.ndarray) -> str:
    """base64 of a PNG file of the newest of stacked frames (3 * S, H, W) uint8."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frames[-3:].transpose(1, 2, 0))).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
