"""The web application, over HTTP and WebSocket; uvicorn runs it."""

import os

import uvicorn
from openenv.core.env_server.http_server import create_app

from ivideogpt_hf import WorldModelEnv, WorldModelVectorEnv

from ..models import WorldAction, WorldObservation
from .environment import WorldEnvironment

MAX_SESSIONS = 64

# One model for all sessions, and the starts that came with it.
_worlds = WorldModelVectorEnv(os.environ["IVIDEOGPT_CHECKPOINT"], num_envs=1)


def make_environment() -> WorldEnvironment:
    """Make the world of one session."""
    return WorldEnvironment(WorldModelEnv(_worlds.world, _worlds.start_frames))


app = create_app(
    make_environment, WorldAction, WorldObservation, env_name="ivideogpt_world", max_concurrent_envs=MAX_SESSIONS
)


def main() -> None:
    """Run the server."""
    uvicorn.run(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
