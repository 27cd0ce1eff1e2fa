"""Decoding and encoding of images: any picture by Pillow, and PNG files of ours several times as fast.

For a frame as small as 64 x 64, Pillow needs most of its time for other things than decompression. Our PNG files are
ordinary ones (RFC 2083) with two restrictions: they have one chunk of data, and every row has the filter Up. So the
rows of all frames of a clip can be added up together. Any other PNG, and any other format, is decoded by Pillow, see
`pictures.py`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from .decoded_bytes import DecodedBytes
from .pictures import FORMATS, Picture, read_picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">I4sIIBBBBBI")  # length, "IHDR", width, height, depth, colour type, 3 methods, checksum
CHUNK = struct.Struct(">I4s")
RGB_8 = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, no interlacing
END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
UP = 2
CHANNELS = 3
CLIP_NAME = "the clip of these images"
# A higher level makes robot video smaller by a few per cent and is written in twice the time.
COMPRESSION_LEVEL = 3


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image (H, W, 3) uint8 as PNG.

    Raises:
        ValueError: if shape or dtype are others.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != CHANNELS or not image.size:
        raise ValueError(f"an image must be uint8 of shape (H, W, 3), got {image.dtype} {tuple(image.shape)}")
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


def decode_images(
    images: Sequence[bytes], *, size: tuple[int, int] | None = None, formats: Sequence[str] = FORMATS
) -> np.ndarray:
    """Decode images of one size to frames (T, H, W, 3) uint8, as `pictures.rgb_pixels` does.

    Args:
        images: encoded images.
        size: size (height, width) that they must have, by which others are refused before they are decoded; None: any.
        formats: formats that are read, of `pictures.FORMATS`.

    Raises:
        ValueError: if there are no images, or one is corrupt, refused by `pictures.rgb_pixels`, or of another size than
            the first; or if they are larger than `decoded_bytes.py` allows, before the one that is too much is decoded.
    """
    if not images:
        raise ValueError("there are no images to decode")
    frames = _decode_our_png(images, size)
    return np.stack([picture.pixels for picture in _decode(images, size, formats)]) if frames is None else frames


def images_to_store(images: Sequence[bytes]) -> list[bytes]:
    """Encoded images as a data set stores them, so that any program shows of each what `decode_images` decodes.

    An image with an orientation, a colour profile or a palette is encoded again, as PNG. All others stay as they are.

    Raises:
        ValueError: as `decode_images`.
    """
    if _decode_our_png(images) is not None:
        return list(images)
    decoded = _decode(images)
    return [
        data if picture.is_plain else encode_png(picture.pixels) for data, picture in zip(images, decoded, strict=True)
    ]


def _decode(
    images: Sequence[bytes], size: tuple[int, int] | None = None, formats: Sequence[str] = FORMATS
) -> list[Picture]:
    decoded: list[Picture] = []
    clip = DecodedBytes(CLIP_NAME, size)
    for index, data in enumerate(images):
        try:
            decoded.append(read_picture(data, "an image", clip=clip, formats=formats))
        except (OSError, ValueError) as error:
            raise ValueError(f"frame {index}: {error}") from error
        own_size, first_size = decoded[-1].pixels.shape[:2], decoded[0].pixels.shape[:2]
        if own_size != first_size:
            raise ValueError(f"frame {index} is {own_size} pixels, the first is {first_size}")
    return decoded


def _decode_our_png(images: Sequence[bytes], size: tuple[int, int] | None = None) -> np.ndarray | None:
    """Decode to frames (T, H, W, 3). Returns None if one of the images is not written as `encode_png` does.

    Raises:
        ValueError: if they are larger than `decoded_bytes.py` allows, or than they state.
    """
    sizes, rows, clip = set(), [], DecodedBytes(CLIP_NAME, size)
    first = len(SIGNATURE) + HEADER.size + CHUNK.size
    for index, data in enumerate(images):
        if len(data) < first or not data.startswith(SIGNATURE) or not data.endswith(END):
            return None
        _, _, width, height, *kind, _ = HEADER.unpack_from(data, len(SIGNATURE))
        length, name = CHUNK.unpack_from(data, first - CHUNK.size)
        if tuple(kind) != RGB_8 or name != b"IDAT" or first + length + 4 + len(END) != len(data):
            return None
        clip.add_picture(height, width, f"frame {index}")
        sizes.add((height, width))
        num_bytes = height * (1 + CHANNELS * width)
        content = _inflate(memoryview(data)[first : first + length], num_bytes)
        if content is None or len(content) < num_bytes:
            return None
        if len(content) > num_bytes:
            raise ValueError(f"frame {index}: its data do not end after the {height} x {width} pixels that it states")
        rows.append(content)
    if len(sizes) != 1:
        return None
    height, width = sizes.pop()
    filtered = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), height, 1 + CHANNELS * width)
    if (filtered[:, :, 0] != UP).any():
        return None
    pixels = filtered[:, :, 1:].copy()
    for row in range(1, height):  # one row of all frames at once is faster than a cumulative sum
        pixels[:, row] += pixels[:, row - 1]
    return pixels.reshape(len(rows), height, width, CHANNELS)


def _inflate(data: memoryview, num_bytes: int) -> bytes | None:
    """Decompress a zlib stream that should hold so many bytes, and one more where it holds more; None if it is damaged.

    A stream may be a thousand times as large as its file.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, num_bytes + 1)
    except zlib.error:  # the checksum is verified, too
        return None
    return content if stream.eof or len(content) > num_bytes else None
