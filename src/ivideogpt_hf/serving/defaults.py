"""What holds unless a server is told otherwise, for commands, servers and clients. The module is quick to import."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

# The environment variable with the token that a server asks for, and that clients show.
TOKEN_VARIABLE = "IVIDEOGPT_SERVER_TOKEN"
# Names of this machine by which nobody else reaches it.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# Seconds that a client waits for an answer, and that a server's model may spend on one call.
CALL_SECONDS = 300.0
# Seconds that calls have to end in when a server stops.
STOP_SECONDS = 60


@dataclass(frozen=True)
class ServerLimits:
    """Limits of a server.

    Args:
        max_sessions: number of sessions at a time.
        max_states: number of states of a session.
        expires_after: seconds without a call after which a session is forgotten.
        max_waiting: number of calls that may wait for the model; more get status 429.
        max_bytes: largest size of a request.
        max_request_bytes: largest size of all requests together that are being read or answered.
        max_frame_bytes: largest size of all decoded frames together, of calls and of answers.
        max_state_bytes: largest size of the states of all sessions together; what they share counts once.
        request_seconds: number of seconds in which a request must arrive.
        max_call_seconds: number of seconds of the model's time that one call may take.

    Raises:
        ValueError: if a limit is not above 0, or not finite.
    """

    max_sessions: int = 64
    max_states: int = 64
    expires_after: float = 600.0
    max_waiting: int = 256
    max_bytes: int = 32 * 2**20
    max_request_bytes: int = 128 * 2**20
    max_frame_bytes: int = 2**30
    max_state_bytes: int = 4 * 2**30
    request_seconds: float = 30.0
    max_call_seconds: float = CALL_SECONDS

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < math.inf:
                raise ValueError(f"{item.name} must be a finite number above 0, got {value}")
