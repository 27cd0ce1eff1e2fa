"""How much memory a file may ask for. It is refused by what it says of its size, before anything is decoded.

A clip may take `MAX_CLIP_BYTES` when it is decoded, and one picture of it a share of that. `decoded_within` sets another
limit, which `read_video` and readers of episodes take as ``max_bytes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

MAX_CLIP_BYTES = 4 * 2**30
# A picture of a clip of 4 GiB may have 89 million pixels. Pillow warns of larger ones, too.
PICTURE_SHARE = 16
CHANNELS = 3

_max_bytes: ContextVar[int] = ContextVar("max_bytes", default=MAX_CLIP_BYTES)


class TooLargeError(ValueError):
    """A file would take more memory than it may."""


@contextmanager
def decoded_within(max_bytes: int | None) -> Iterator[None]:
    """Set the limit within a block.

    Args:
        max_bytes: number of bytes that a decoded clip may take; None leaves the limit as it is.

    Raises:
        ValueError: if the number is not positive.
    """
    if max_bytes is None:
        yield
        return
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
    token = _max_bytes.set(max_bytes)
    try:
        yield
    finally:
        _max_bytes.reset(token)


def max_picture_pixels() -> int:
    """Number of pixels that one picture may have."""
    return max(1, _max_bytes.get() // PICTURE_SHARE // CHANNELS)


class DecodedBytes:
    """Adds up what the parts of one clip take when they are decoded.

    Args:
        name: name of the clip in errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count a part that is about to be decoded.

        Raises:
            TooLargeError: if the clip would take more than it may.
        """
        self._num_bytes += num_bytes
        limit = _max_bytes.get()
        if self._num_bytes > limit:
            raise TooLargeError(
                f"{self._name} takes more than {_megabytes(limit)} MB when it is decoded ({_megabytes(self._num_bytes)} "
                f"MB and perhaps more); max_bytes, --max-bytes, allows more"
            )

    def add_picture(self, height: int, width: int, name: str) -> None:
        """Count a picture that is about to be decoded, under its own name in errors.

        Raises:
            TooLargeError: if it is larger than one picture may be, or the clip would take more than it may.
        """
        check_picture(height, width, name)
        self.add(prod((height, width, CHANNELS)))


def check_picture(height: int, width: int, name: str) -> None:
    """Refuse a picture that is larger than one may be.

    Raises:
        TooLargeError: if it is.
    """
    if height * width > max_picture_pixels():
        raise TooLargeError(
            f"{name} is {height} x {width} pixels; a picture may have {max_picture_pixels()}: make it smaller; "
            f"max_bytes, --max-bytes, allows more"
        )


def _megabytes(num_bytes: int) -> int:
    return -(-num_bytes // 10**6)
