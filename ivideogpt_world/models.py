"""What client and server say to each other."""

import base64
import io

import numpy as np
from openenv.core.env_server.types import Action, Observation
from PIL import Image
from pydantic import FiniteFloat


class WorldAction(Action):
    """An action of the robot, within the bounds that the model was trained with."""

    values: list[FiniteFloat]


class WorldObservation(Observation):
    """The newest frame. The metadata has the number of the episode's start and the frame's log-probability."""

    frame: str
    """base64 of a PNG file."""

    @property
    def pixels(self) -> np.ndarray:
        """The frame, (H, W, 3) uint8."""
        return np.array(Image.open(io.BytesIO(base64.b64decode(self.frame))).convert("RGB"))
