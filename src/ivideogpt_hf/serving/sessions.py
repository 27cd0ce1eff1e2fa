"""Sessions: the states of each client, within limits, until the client has been quiet for too long."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Mapping
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
    """The states of one client.

    Attributes:
        last_used: time of the last call.
        states: states by number.
        numbers: numbers for new states.
        num_calls: number of calls that are being answered.
    """

    last_used: float
    numbers: itertools.count
    states: dict[int, WorldState] = field(default_factory=dict)
    num_calls: int = 0


class Sessions:
    """All sessions of a server. Every method may be called from any thread.

    Args:
        max_sessions: number of sessions at a time.
        max_states: number of states of one session.
        expires_after: seconds without a call after which a session is forgotten.
        now: clock that gives the time in seconds.
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
        self._first_number = 0
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_states(self) -> int:
        """Number of states in all sessions."""
        with self._lock:
            return sum(len(session.states) for session in self._sessions.values())

    def kept(self) -> list[WorldState]:
        """The states in all sessions."""
        with self._lock:
            return [state for session in self._sessions.values() for state in session.states.values()]

    def open(self) -> str:
        """Begin a session; its name cannot be guessed.

        Raises:
            TooManyError: if the server has as many sessions as it may.
        """
        self.expire()
        with self._lock:
            if len(self._sessions) >= self.max_sessions:
                raise TooManyError(f"this server keeps {self.max_sessions} sessions at a time, and all are in use")
            name = secrets.token_urlsafe(16)
            self._sessions[name] = self._new()
            return name

    def close(self, name: str) -> None:
        """End a session.

        Raises:
            NoSessionError: if there is no such session.
        """
        with self._lock:
            if self._sessions.pop(name, None) is None:
                raise NoSessionError(name)

    def expire(self) -> int:
        """Forget the sessions that have been quiet for too long, unless a call of theirs is being answered. Returns
        their number."""
        with self._lock:
            limit = self._now() - self.expires_after
            expired = [
                name for name, session in self._sessions.items() if session.last_used < limit and not session.num_calls
            ]
            for name in expired:
                del self._sessions[name]
            return len(expired)

    def begin_call(self, name: str) -> None:
        """Mark a session as used. It does not expire until `end_call`.

        Raises:
            NoSessionError: if there is no such session.
        """
        with self._lock:
            session = self._find(name)
            session.num_calls += 1
            session.last_used = self._now()

    def end_call(self, name: str) -> None:
        """Mark a call as answered."""
        with self._lock:
            session = self._sessions.get(name)
            if session is not None:
                session.num_calls -= 1
                session.last_used = self._now()

    def get(self, name: str, state: int) -> WorldState:
        """Get a state by its number.

        Raises:
            NoSessionError, NoStateError: if there is no such session or state.
        """
        with self._lock:
            states = self._find(name).states
            if state not in states:
                raise NoStateError(state)
            return states[state]

    def check(self, name: str) -> None:
        """Check that there is such a session.

        Raises:
            NoSessionError: if there is none.
        """
        with self._lock:
            self._find(name)

    def check_room(self, name: str) -> None:
        """Check that a session has room for one more state.

        Raises:
            NoSessionError: if there is no such session.
            TooManyError: if the session has as many states as it may.
        """
        with self._lock:
            self._check_room(self._find(name))

    def put(self, name: str, state: WorldState, *, replacing: int | None = None) -> int:
        """Store a state, perhaps in place of another one; returns its number.

        Raises:
            NoSessionError: if the session has ended meanwhile.
            TooManyError: if the session has as many states as it may.
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
        """Forget states. Numbers of states that are not there are ignored.

        Raises:
            NoSessionError: if there is no such session.
        """
        with self._lock:
            session = self._find(name)
            for state in states:
                session.states.pop(state, None)

    def all_states(self) -> dict[str, dict[int, WorldState]]:
        """The states of all sessions, by session and number."""
        with self._lock:
            return {name: dict(session.states) for name, session in self._sessions.items()}

    def take_up(self, sessions: Mapping[str, Mapping[int, WorldState]], first_number: int) -> None:
        """Go on with the sessions of an earlier server, before the first call.

        Args:
            sessions: states by session and number.
            first_number: number for the first new state of each session, larger than any that was ever given.

        Raises:
            ValueError: if they are more sessions or states than this server may have.
        """
        num_states = max(map(len, sessions.values()), default=0)
        if len(sessions) > self.max_sessions or num_states > self.max_states:
            raise ValueError(
                f"the saved sessions are {len(sessions)}, of up to {num_states} states, and this server keeps "
                f"{self.max_sessions} of up to {self.max_states}: give it larger limits"
            )
        with self._lock:
            self._first_number = first_number
            for name, states in sessions.items():
                self._sessions[name] = self._new()
                self._sessions[name].states.update(states)

    def _new(self) -> Session:
        return Session(self._now(), itertools.count(self._first_number))

    def _find(self, name: str) -> Session:
        if name not in self._sessions:
            raise NoSessionError(name)
        return self._sessions[name]

    def _check_room(self, session: Session) -> None:
        if len(session.states) >= self.max_states:
            raise TooManyError(f"a session keeps {self.max_states} states at most: forget some, or step with replace")
