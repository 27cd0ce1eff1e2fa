"""Several replicas of a served model: which of them live, which has the least to do, and whose a session is.

A session's name begins with the number of its replica, so nothing has to be remembered: a fleet that is started again
with the same folders finds all sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import httpx

from .connections import HEAD_SECONDS
from .replica import LOAD

LOGGER = logging.getLogger("uvicorn.error")
LOOK_SECONDS = 1.0
LOOK_TIMEOUT = 10.0
NUM_MISSES = 3  # looks in a row without an answer, after which a replica is taken for dead
CONNECT_SECONDS = 5.0
RETRY_SECONDS = 2.0
SEPARATOR = "."
T = TypeVar("T")


class LostReplicaError(Exception):
    """No replica answers for a session now; another one takes its place soon."""


class ReplicaProcess(Protocol):
    """What a replica runs in."""

    async def start(self) -> str:
        """Start it, in place of what may be left of an earlier one; returns its address when it serves."""
        ...

    async def stop(self) -> None:
        """Let its calls end, and save its sessions."""
        ...


class Member:
    """A replica as its fleet sees it.

    Args:
        number: its number, from 0.
        process: what it runs in.

    Attributes:
        url: its address; None while there is none.
        lost: event that is set when the replica that has this address is lost.
        num_sessions: number of its sessions at the last look, and those that were opened since.
    """

    def __init__(self, number: int, process: ReplicaProcess) -> None:
        self.number, self.process = number, process
        self.url: str | None = None
        self.lost = asyncio.Event()
        self.num_sessions = 0

    async def start(self) -> None:
        """Start it, or another one in its place."""
        self.url = await self.process.start()
        self.lost = asyncio.Event()

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """What some work gives, if the replica lives as long.

        Raises:
            LostReplicaError: if it is lost before.
        """
        working, lost = asyncio.ensure_future(work), asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise LostReplicaError(self.number)
            return working.result()
        finally:
            working.cancel()
            lost.cancel()


class Fleet:
    """The replicas of a served model. A dead one is replaced; what takes its place goes on with its sessions.

    Args:
        processes: what each replica runs in.
        token: token that they ask for.

    Attributes:
        members: the replicas.
        sessions: None: replicas have the sessions, and save them.
        stopping: event that is set when the server stops.
    """

    sessions = None

    def __init__(self, processes: Sequence[ReplicaProcess], token: str) -> None:
        self.members = [Member(number, process) for number, process in enumerate(processes)]
        self.stopping = asyncio.Event()
        self.headers = {"Authorization": f"Bearer {token}"}
        # A connection is not used again when the replica may just be closing it.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=HEAD_SECONDS / 2)
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        self._http = httpx.AsyncClient(headers=self.headers, limits=limits, timeout=timeout, trust_env=False)
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all replicas.

        Raises:
            OSError, ValueError: if one cannot be started.
        """
        await _all(member.start() for member in self.members)
        self._watchers = [asyncio.create_task(self._watch(member)) for member in self.members]

    async def drain(self, seconds: float | None) -> None:
        """Take no calls any more, and stop all replicas, each of which lets its calls end. They know how long these may
        take."""
        self.stopping.set()
        for watcher in self._watchers:
            watcher.cancel()
        await _all(member.process.stop() for member in self.members if member.url is not None)
        await self._http.aclose()

    def least_loaded(self) -> Member:
        """The living replica with the fewest sessions.

        Raises:
            LostReplicaError: if none lives.
        """
        living = [member for member in self.members if member.url is not None]
        if not living:
            raise LostReplicaError
        return min(living, key=lambda member: member.num_sessions)

    def find(self, session: str) -> tuple[Member, str]:
        """The replica of a session, and the name that it knows the session by. Of a session that never was, any replica
        says so."""
        number, _, name = session.partition(SEPARATOR)
        member = {str(member.number): member for member in self.members}.get(number)
        return (self.least_loaded(), session) if member is None or not name else (member, name)

    async def ask(self, member: Member, method: str, path: str, **content: Any) -> httpx.Response:
        """Ask a replica.

        Args:
            member: replica to ask.
            method: method of the request.
            path: path of the request.
            content: other arguments of httpx.

        Raises:
            LostReplicaError: if it is lost before it has answered.
        """
        if member.url is None:
            raise LostReplicaError(member.number)
        try:
            return await member.unless_lost(self._http.request(method, f"{member.url}{path}", **content))
        except httpx.TransportError as error:
            raise LostReplicaError(member.number) from error

    async def _watch(self, member: Member) -> None:
        """Look after a replica, and replace it when it is dead."""
        num_misses = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                answer = await self._http.get(f"{member.url}{LOAD}", timeout=LOOK_TIMEOUT)
                member.num_sessions = answer.raise_for_status().json()["sessions"]
                num_misses = 0
            except httpx.HTTPError as error:  # where nobody listens, nobody will
                num_misses = NUM_MISSES if isinstance(error, httpx.ConnectError) else num_misses + 1
            if num_misses >= NUM_MISSES:
                await self._replace(member)
                num_misses = 0

    async def _replace(self, member: Member) -> None:
        member.url = None
        member.lost.set()
        LOGGER.warning("replica %d is lost, and is started again", member.number)
        while member.url is None:
            try:
                await member.start()
            except Exception as error:  # whatever it is, the next try may succeed, and the others serve meanwhile
                LOGGER.warning("replica %d cannot be started: %s", member.number, error)
                await asyncio.sleep(RETRY_SECONDS)
        LOGGER.warning("replica %d serves again", member.number)


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Do several works at once, each to its end, and then raise the first error."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for error in results:
        if isinstance(error, BaseException):
            raise error
