"""How much memory a file may ask for. It is refused by what it says of its size, before anything is decoded.

A clip may take `MAX_CLIP_BYTES` when it is decoded, and one picture of it a share of that. `decoded_within` sets
another limit, which `read_video` and readers of episodes take as ``max_bytes``.
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
        size: size (height, width) that all its pictures must have, upright or not; None: any.
    """

    def __init__(self, name: str, size: tuple[int, int] | None = None) -> None:
        self._name, self._size = name, size
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
                f"{self._name} takes more than {_megabytes(limit)} MB when it is decoded, at least "
                f"{_megabytes(self._num_bytes)} MB; max_bytes, --max-bytes, allows more"
            )

    def add_picture(self, height: int, width: int, name: str) -> None:
        """Count a picture that is about to be decoded, under its own name in errors.

        Raises:
            TooLargeError: if it is larger than one picture may be, or the clip would take more than it may.
            ValueError: if it has another size than it must have.
        """
        if self._size is not None and sorted(self._size) != sorted((height, width)):
            raise ValueError(f"{name} is {height} x {width} pixels, not {self._size[0]} x {self._size[1]}")
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
