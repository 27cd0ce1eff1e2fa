"""The client: an episode in an imagined world, over a WebSocket."""

from typing import Any

from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.types import State

from .models import WorldAction, WorldObservation


class WorldEnv(EnvClient[WorldAction, WorldObservation, State]):
    """An imagined world. Each client has a session of its own on the server.

    `reset` takes ``seed``, and ``start``, the number of the frame of episode.npz that the episode begins at.

    Example::

        with WorldEnv(base_url="http://127.0.0.1:8000").sync() as env:
            result = env.reset(seed=0)
            while not result.done:
                result = env.step(WorldAction(values=[0.0, 1.0, 0.0, 0.0]))
                print(result.observation.pixels.shape, result.reward)
    """

    def _step_payload(self, action: WorldAction) -> dict[str, Any]:
        return action.model_dump()

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[WorldObservation]:
        done, reward = payload["done"], payload["reward"]
        observation = WorldObservation(**payload["observation"], done=done, reward=reward)
        return StepResult(observation=observation, reward=reward, done=done, metadata=observation.metadata)

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)
