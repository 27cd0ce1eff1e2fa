"""Encoded images to pixels and back: any RGB image by Pillow, and our own PNG files several times as fast.

A 64 x 64 frame is so small that Pillow spends most of its time around the decompression. Our PNG files are ordinary
ones (RFC 2083), with one chunk of data and the same filter, Sub or Up, in every row, so that the frames of a clip can
be unfiltered together by a cumulative sum. Any other PNG, and any other format, is decoded by Pillow.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">I4sIIBBBBBI")  # length, "IHDR", width, height, depth, colour type, 3 methods, checksum
CHUNK = struct.Struct(">I4s")
RGB_8 = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, no interlacing
END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
UP = 2
# A higher level makes robot video smaller by a few per cent and is written in twice the time.
COMPRESSION_LEVEL = 3


def encode_png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 to PNG."""
    height, width, channels = image.shape
    rows = np.empty((height, 1 + width * channels), dtype=np.uint8)
    rows[:, 0] = UP
    rows[:, 1:] = image.reshape(height, width * channels)
    rows[1:, 1:] -= rows[:-1, 1:].copy()
    header = struct.pack(">II5B", width, height, *RGB_8)
    data = zlib.compress(rows.tobytes(), COMPRESSION_LEVEL)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + END


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def decode_images(images: Sequence[bytes]) -> np.ndarray:
    """Encoded RGB images of one size to (T, H, W, 3) uint8.

    Raises:
        ValueError: if one is corrupt, not RGB, or of another size than the first.
    """
    frames = _decode_our_png(images)
    if frames is not None:
        return frames
    decoded = []
    for index, data in enumerate(images):
        try:
            decoded.append(_decode_by_pillow(data))
        except ValueError as error:
            raise ValueError(f"frame {index}: {error}") from error
        if decoded[-1].shape != decoded[0].shape:
            raise ValueError(f"frame {index} is {decoded[-1].shape[:2]} pixels, the first is {decoded[0].shape[:2]}")
    return np.stack(decoded)


def _decode_our_png(images: Sequence[bytes]) -> np.ndarray | None:
    """Frames (T, H, W, 3), or None if one of the images is not as `encode_png` writes it."""
    sizes, rows = set(), []
    first = len(SIGNATURE) + HEADER.size + CHUNK.size
    for data in images:
        if len(data) < first or not data.startswith(SIGNATURE) or not data.endswith(END):
            return None
        _, _, width, height, *kind, _ = HEADER.unpack_from(data, len(SIGNATURE))
        length, name = CHUNK.unpack_from(data, first - CHUNK.size)
        if tuple(kind) != RGB_8 or name != b"IDAT" or first + length + 4 + len(END) != len(data):
            return None
        sizes.add((height, width))
        try:
            rows.append(zlib.decompress(memoryview(data)[first : first + length]))  # which verifies its checksum
        except zlib.error:
            return None
    if len(sizes) != 1:
        return None
    height, width = sizes.pop()
    if {len(row) for row in rows} != {height * (1 + 3 * width)}:
        return None
    filtered = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), height, 1 + 3 * width)
    if (filtered[:, :, 0] != UP).any():
        return None
    pixels = filtered[:, :, 1:].copy()
    for row in range(1, height):  # of all frames at once: quicker than a cumulative sum
        pixels[:, row] += pixels[:, row - 1]
    return pixels.reshape(len(rows), height, width, 3)


def _decode_by_pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode != "RGB":
                raise ValueError(f"an image has mode {image.mode}, not RGB")
            return np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on broken PNG chunks
        raise ValueError(f"an image cannot be decoded: {error}") from error
