"""Games that are being played, for all visitors: bounded in bytes, and forgotten when nobody plays them any more."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from game import Game
from worlds import Choice

EXPIRES_SECONDS = 1800
MAX_BYTES = 4 * 2**30
KEY_BYTES = 12


@dataclass
class Entry:
    """A game that is stored.

    Attributes:
        choice: checkpoint that it is played with.
        game: game.
        num_bytes: size of the game.
        used: time of the last use, in seconds of the monotonic clock.
    """

    choice: Choice
    game: Game
    num_bytes: int
    used: float


class Store:
    """Games by their keys, which cannot be guessed: who has the key plays.

    Args:
        max_bytes: number of bytes that all games may take. Beyond it, the games are forgotten that were played least
            recently.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the least recently played first
        self._lock = threading.Lock()

    @property
    def num_games(self) -> int:
        """Number of games that are stored."""
        return len(self._entries)

    def add(self, choice: Choice, game: Game) -> str:
        """Store a new game, and return its key.

        Raises:
            ValueError: if it alone takes more than all may.
        """
        key = secrets.token_urlsafe(KEY_BYTES)
        self.update(key, choice, game)
        return key

    def get(self, key: str | None) -> tuple[Choice, Game]:
        """The checkpoint and the game of a key.

        Raises:
            ValueError: if the game is gone, since nobody played it for long or others needed the room.
        """
        with self._lock:
            self._forget_unused()
            entry = self._entries.get(key) if isinstance(key, str) else None
            if entry is None:
                raise ValueError("This game has expired. Choose a scene to begin again.")
            entry.used = time.monotonic()
            self._entries.move_to_end(key)
            return entry.choice, entry.game

    def update(self, key: str | None, choice: Choice, game: Game) -> None:
        """Store a game that was played.

        Raises:
            ValueError: if it alone takes more than all may. It is forgotten then.
        """
        num_bytes = game.num_bytes
        with self._lock:
            self._entries.pop(key or "", None)
            self._forget_unused()
            if num_bytes > self.max_bytes:
                raise ValueError(
                    f"A game with this checkpoint takes {num_bytes >> 20} MB; all together may take "
                    f"{self.max_bytes >> 20} MB."
                )
            self._entries[key or ""] = Entry(choice, game, num_bytes, time.monotonic())
            while sum(entry.num_bytes for entry in self._entries.values()) > self.max_bytes:
                self._entries.popitem(last=False)

    def forget(self, key: str | None) -> None:
        """Forget a game, if it is there."""
        with self._lock:
            self._entries.pop(key or "", None)

    def _forget_unused(self) -> None:
        oldest = time.monotonic() - EXPIRES_SECONDS
        while self._entries and next(iter(self._entries.values())).used < oldest:
            self._entries.popitem(last=False)
