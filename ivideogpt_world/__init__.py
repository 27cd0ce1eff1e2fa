"""The client of this environment: `WorldEnv`, with `WorldAction` and `WorldObservation`."""

from .client import WorldEnv
from .models import WorldAction, WorldObservation

__all__ = ["WorldAction", "WorldEnv", "WorldObservation"]
