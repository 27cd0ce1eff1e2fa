"""Sessions: what each client keeps on the server, within limits, until it has been quiet for too long."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..world.state import WorldState


class NoSessionError(KeyError):
    """There is no such session, or it has expired."""


class NoStateError(KeyError):
    """There is no such state in the session."""


class TooManyError(Exception):
    """A limit is reached."""


@dataclass
class Session:
    """States by number, and when it was last used."""

    last_used: float
    states: dict[int, WorldState] = field(default_factory=dict)
    numbers: itertools.count = field(default_factory=itertools.count)
    calls: int = 0  # that are being answered


class Sessions:
    """All sessions of a server. Every method may be called from any thread.

    Args:
        max_sessions: at a time.
        max_states: of one session.
        expires_after: seconds without a call after which a session is forgotten.
        now: a clock.
    """

    def __init__(
        self,
        max_sessions: int,
        max_states: int,
        expires_after: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_sessions, self.max_states, self.expires_after = max_sessions, max_states, expires_after
        self._now = now
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_states(self) -> int:
        """Of all sessions."""
        with self._lock:
            return sum(len(session.states) for session in self._sessions.values())

    def open(self) -> str:
        """Begin a session; its name cannot be guessed.

        Raises:
            TooManyError: if the server has as many as it takes.
        """
        self.expire()
        with self._lock:
            if len(self._sessions) >= self.max_sessions:
                raise TooManyError(f"this server keeps {self.max_sessions} sessions at a time, and all are in use")
            name = secrets.token_urlsafe(16)
            self._sessions[name] = Session(self._now())
            return name

    def close(self, name: str) -> None:
        """End a session.

        Raises:
            NoSessionError: if there is none of this name.
        """
        with self._lock:
            if self._sessions.pop(name, None) is None:
                raise NoSessionError(name)

    def expire(self) -> int:
        """Forget sessions that have been quiet for too long, unless a call of theirs is being answered; how many."""
        with self._lock:
            limit = self._now() - self.expires_after
            old = [name for name, s in self._sessions.items() if s.last_used < limit and not s.calls]
            for name in old:
                del self._sessions[name]
            return len(old)

    def begin_call(self, name: str) -> None:
        """A session is used, and does not expire until `end_call`.

        Raises:
            NoSessionError: if there is none of this name.
        """
        with self._lock:
            session = self._find(name)
            session.calls += 1
            session.last_used = self._now()

    def end_call(self, name: str) -> None:
        """The call is answered."""
        with self._lock:
            session = self._sessions.get(name)
            if session is not None:
                session.calls -= 1
                session.last_used = self._now()

    def get(self, name: str, state: int) -> WorldState:
        """A state.

        Raises:
            NoSessionError, NoStateError: if there is none.
        """
        with self._lock:
            states = self._find(name).states
            if state not in states:
                raise NoStateError(state)
            return states[state]

    def check_room(self, name: str) -> None:
        """Whether one more state may be kept.

        Raises:
            NoSessionError: if there is no such session.
            TooManyError: if it has as many states as it may.
        """
        with self._lock:
            self._check_room(self._find(name))

    def put(self, name: str, state: WorldState, *, replacing: int | None = None) -> int:
        """Keep a state, perhaps in place of another one; returns its number.

        Raises:
            NoSessionError: if the session has ended meanwhile.
            TooManyError: if it has as many states as it may.
        """
        with self._lock:
            session = self._find(name)
            if replacing is not None:
                session.states.pop(replacing, None)
            self._check_room(session)
            number = next(session.numbers)
            session.states[number] = state
            return number

    def drop(self, name: str, states: list[int]) -> None:
        """Forget states; those that are not there are forgotten already.

        Raises:
            NoSessionError: if there is no such session.
        """
        with self._lock:
            session = self._find(name)
            for state in states:
                session.states.pop(state, None)

    def _find(self, name: str) -> Session:
        if name not in self._sessions:
            raise NoSessionError(name)
        return self._sessions[name]

    def _check_room(self, session: Session) -> None:
        if len(session.states) >= self.max_states:
            raise TooManyError(f"a session keeps {self.max_states} states at most: forget some, or step with replace")
