"""Fair shares of the model: whose turn it is among clients that wait."""

from __future__ import annotations

from collections.abc import Iterable


class FairShares:
    """Counts the frames that each client was given, so that the client who was given the fewest comes next.

    A client that was quiet has saved nothing up: it counts as one that was given the share of a client that was always
    there. So nobody waits for ever, and the counts of clients that are gone are forgotten.
    """

    def __init__(self) -> None:
        self._share = 0.0
        self._ahead: dict[str, float] = {}  # clients that were given more than the share

    def __len__(self) -> int:
        return len(self._ahead)

    def given(self, client: str) -> float:
        """Number of frames that a client counts as having been given; the smallest number comes next."""
        return self._ahead.get(client, self._share)

    def charge(self, costs: Iterable[tuple[str, int]], num_clients: int) -> None:
        """Note what clients were given.

        Args:
            costs: pairs of a client and a number of frames.
            num_clients: number of clients that were served or wait.
        """
        total = 0
        for client, num_frames in costs:
            self._ahead[client] = self.given(client) + num_frames
            total += num_frames
        self._share += total / num_clients
        self._ahead = {client: given for client, given in self._ahead.items() if given > self._share}
