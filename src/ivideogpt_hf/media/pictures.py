"""Pictures of every kind as RGB pixels: what their files say of themselves is obeyed, or refused.

This is the one home of the step from a picture to pixels, for single files, folders, encoded images in data sets,
moving pictures and images in memory:

- An orientation in EXIF or XMP is applied. A value outside 1 ... 8 says nothing.
- A picture with transparent pixels is refused, since its file does not say what lies behind them. An alpha channel that
  is opaque everywhere is left out.
- A colour profile other than sRGB is converted to sRGB. A PNG with another gamma or other primaries is refused.
- A picture of more pixels than `decoded_bytes.py` allows is refused before it is decoded.
- A palette is replaced by its colours. Greyscale, CMYK, 16 bits and all other modes are refused.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from .decoded_bytes import DecodedBytes, check_picture

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
ORIENTATION = 0x0112  # tag of EXIF
OPAQUE = 255
DEEP = re.compile(";16[BLN]")  # end of Pillow's name of a layout with 16 bits per channel, of any byte order
# A profile is that of sRGB if it moves no colour by more levels than rounding does.
ROUNDED_LEVELS = 2
GAMMA, SRGB_PRIMARIES = 1 / 2.2, (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PNG_TOLERANCE = 0.01


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8, sRGB, upright.
        is_plain: whether the pixels are those that the file stores, so that any program shows the same.
    """

    pixels: np.ndarray
    is_plain: bool


def open_picture(
    file: str | os.PathLike[str] | BinaryIO, name: str, formats: Sequence[str] = FORMATS
) -> Image.Image | None:
    """Open a picture by its content, whatever its name ends with; None if the file is no picture of the formats.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the picture is too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file, formats=tuple(formats))
    except UnidentifiedImageError:
        return None
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, Image.DecompressionBombError) as error:  # broken, or larger than Pillow decodes
        raise OSError(f"{name} cannot be decoded as a picture: {error}") from error
    check_picture(image.height, image.width, name)
    return image


def read_picture(
    file: str | os.PathLike[str] | bytes,
    name: str,
    *,
    clip: DecodedBytes | None = None,
    formats: Sequence[str] = FORMATS,
) -> Picture:
    """Read a file, or its bytes, that holds one picture.

    Args:
        file: file, or its content.
        name: name of the file in errors.
        clip: sum to which the picture is added before it is decoded; None: it is a clip of its own.
        formats: formats that are read, of `FORMATS`.

    Raises:
        OSError: if it is no picture, corrupt or cut off.
        ValueError: if it is too large, holds several pictures, or what `rgb_pixels` refuses.
    """
    image = open_picture(io.BytesIO(file) if isinstance(file, bytes) else file, name, formats)
    if image is None:
        raise OSError(f"{name} cannot be decoded: it is no picture ({', '.join(formats)})")
    with image:
        (clip or DecodedBytes(name)).add_picture(image.height, image.width, name)
        num_pictures = _num_pictures(image, name)
        if num_pictures > 1:
            raise ValueError(f"{name} holds {num_pictures} pictures, not one; read_video reads such a file as a clip")
        pixels = rgb_pixels(image, name)
        return Picture(pixels, image.mode == "RGB" and np.array_equal(pixels, np.asarray(image)))


def iterate_pictures(image: Image.Image, name: str) -> Iterator[np.ndarray]:
    """Decode the pictures of a file one by one: the frames of a gif, WebP, AVIF or animated PNG, the pages of a TIFF.

    Each stored picture counts as one frame, whatever the time that it is shown.

    Args:
        image: opened file; it is closed at the end.
        name: name of the file in errors.

    Yields:
        A frame (H, W, 3) uint8.

    Raises:
        OSError: if the file is corrupt or cut off.
        ValueError: if a frame is too large, or `rgb_pixels` refuses it.
    """
    with image:
        # Browsers show the first picture of an animated PNG only where nothing moves, if the file says so.
        first = int(bool(getattr(image, "default_image", False)))
        covers = _GifCover(name)
        for index in range(first, first + _num_pictures(image, name)):
            frame_name = f"frame {index - first} of {name}"
            with _readable(image, frame_name):
                image.seek(index)
            check_picture(image.height, image.width, frame_name)  # pages of a TIFF have sizes of their own
            with _readable(image, frame_name):
                image.load()
            if image.format == "GIF":
                covers.check(image, frame_name)
                yield rgb_pixels(_from_palette(image), frame_name)
            else:
                yield rgb_pixels(image, frame_name)


def rgb_pixels(image: Image.Image, name: str) -> np.ndarray:
    """The pixels (H, W, 3) uint8 that a viewer shows of an image.

    Raises:
        OSError: if the image is corrupt or cut off.
        ValueError: if it has transparent pixels, 16 bits, or is greyscale, CMYK or of another mode without RGB colours;
            or if its colour profile, gamma or primaries cannot be obeyed.
    """
    from PIL import ImageOps

    with _readable(image, name):
        is_deep = any(DEEP.search(str(tile)) for tile in getattr(image, "tile", ()))
        image.load()
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        raise ValueError(f"{name} has mode {image.mode}, not RGB; image.convert('RGB') makes it RGB")
    if is_deep:
        raise ValueError(f"{name} has 16 bits per channel; write it with 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba.getchannel("A")).min() < OPAQUE:
            raise ValueError(
                f"{name} has mode {image.mode} and transparent pixels, and does not say what lies behind them; put it "
                f"onto a background, such as Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)"
            )
        image = rgba
    return np.asarray(_to_srgb(image if image.mode == "RGB" else image.convert("RGB"), name))


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile:
        try:
            transform = _transform_to_srgb(profile)
        except ImageCms.PyCMSError as error:
            raise ValueError(
                f"{name} has a colour profile that cannot be converted to sRGB: {error}; save it as sRGB, or without "
                f"the profile"
            ) from error
        return image if transform is None else transform.apply(image)
    if "srgb" not in image.info:
        gamma = image.info.get("gamma", GAMMA)
        primaries = image.info.get("chromaticity", SRGB_PRIMARIES)
        if not np.allclose((gamma, *primaries), (GAMMA, *SRGB_PRIMARIES), rtol=0, atol=PNG_TOLERANCE):
            raise ValueError(f"{name} says that its colours are not sRGB (gamma {gamma:.3g}); save it as sRGB")
    return image


@lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes) -> Any:
    """The transform of a profile to sRGB; None if it moves no colour, so that a file of sRGB keeps its pixels."""
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except OSError as error:
        raise ImageCms.PyCMSError(str(error)) from error
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours))).astype(int) - colours
    return None if np.abs(moved).max() <= ROUNDED_LEVELS else transform


def _from_palette(image: Image.Image) -> Image.Image:
    """A frame of a gif, whose palette Pillow hides where all its colours are grey."""
    if image.mode != "L":
        return image
    return image.convert("RGBA" if "transparency" in image.info else "RGB")


class _GifCover:
    """Whether every pixel of every frame of a gif was drawn. Viewers show what lies behind the others; Pillow shows a
    colour of the palette, unless the gif has a transparent one.

    Args:
        name: name of the file in errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bare: tuple[int, int, int, int] | None = None  # box that must be drawn next

    def check(self, image: Any, frame_name: str) -> None:
        """Check the frame that the image was moved to.

        Raises:
            ValueError: if it leaves pixels that no frame has drawn.
        """
        bare = self._bare or (0, 0, *image.size) if image.tell() == 0 else self._bare
        left, top, right, bottom = image.dispose_extent or (0, 0, *image.size)
        if bare and not (left <= bare[0] and top <= bare[1] and right >= bare[2] and bottom >= bare[3]):
            raise ValueError(f"{frame_name} has transparent pixels: it does not cover the picture; write whole frames")
        self._bare = (left, top, right, bottom) if image.disposal_method == 2 else None


def _num_pictures(image: Image.Image, name: str) -> int:
    """Number of pictures of a file that are shown. The further ones of a photo are previews or depth."""
    if image.format in ("JPEG", "MPO"):
        return 1
    with _readable(image, name):
        return int(getattr(image, "n_frames", 1)) - int(bool(getattr(image, "default_image", False)))


@contextmanager
def _readable(image: Image.Image, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises many kinds on a broken file
        kind = (image.format or "image").lower()
        raise OSError(
            f"{name} cannot be decoded, it is not a readable {kind}: corrupt or incomplete ({error})"
        ) from error
