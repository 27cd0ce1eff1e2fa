"""From a decoded frame of a video to pixels. What a file says of its picture is obeyed or refused:

- A display matrix that rotates by quarter turns or mirrors is applied. Any other is refused.
- Pixels that are not square are resized to square ones, if the width changes by 1 % or more.
- Matrix and range of the colours are obeyed. HDR, wide gamuts, greyscale, transparent pixels and more than 12 bits are
  refused.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from .decoded_bytes import check_picture

OPAQUE, FIXED_POINT, MAX_BITS = 255, 1 << 16, 12
# Numbers of ISO/IEC 23091-2 (H.273), as every container has them.
MATRICES = {0, 1, 2, 3, 4, 5, 6, 7, 9}  # those that swscale converts; 2: not stated, BT.601 as in all of ffmpeg
HDR_TRANSFERS = {8: "linear light", 9: "logarithmic", 10: "logarithmic", 16: "HDR (PQ)", 18: "HDR (HLG)"}
WIDE_PRIMARIES = {9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3"}
INTERLACED_ORDERS = (2, 3, 4, 5)  # AVFieldOrder: top or bottom field first; 1 is progressive, 0 unknown


class FrameReader:
    """Turns decoded frames of one stream into pixels.

    Args:
        stream: stream of the video.
        name: name of the file in errors.

    Raises:
        ValueError: if the stream has an alpha channel that is stored beside it.
    """

    def __init__(self, stream: Any, name: str) -> None:
        self._name = name
        self._aspect = stream.sample_aspect_ratio or 1
        self._checked: tuple[Any, ...] | None = None
        self._shape: tuple[int, ...] | None = None
        self._turn = _Turn()
        self._rotation: int | None = None
        self._has_alpha = False
        if any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()):
            raise ValueError(_transparent(name))
        if stream.codec_context.field_order in INTERLACED_ORDERS:
            warnings.warn(
                f"{name} is interlaced: its frames show two times, line by line; ffmpeg -i {name} -vf bwdif OUT.mp4 "
                f"separates them",
                stacklevel=2,
            )

    def read(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            ValueError: if the frame has transparent pixels, cannot be shown in RGB of 8 bits, is oriented by
                other than quarter turns, is too large, or has another size than the first.
        """
        kind = (frame.format.name, frame.colorspace, frame.color_trc, frame.color_primaries)
        if kind != self._checked:
            self._check_kind(frame)
            self._checked = kind
        width = round(frame.width * self._aspect)
        if abs(width - frame.width) < 0.01 * frame.width:
            width = frame.width
        check_picture(frame.height, width, self._name)  # pixels may be stated to be very wide
        image = frame.to_ndarray(format="rgba" if self._has_alpha else "rgb24", width=width)
        if self._has_alpha:
            if (image[..., 3] != OPAQUE).any():
                raise ValueError(_transparent(self._name))
            image = image[..., :3]
        if frame.rotation != self._rotation:
            # Once, since a frame that was asked for its side data waits for the garbage collector.
            self._rotation, self._turn = frame.rotation, self._read_turn(frame)
        image = self._turn.apply(image)
        if self._shape not in (None, image.shape):
            raise ValueError(f"{self._name} changes its size from {self._shape[:2]} to {image.shape[:2]} pixels")
        self._shape = image.shape
        return image

    def _check_kind(self, frame: Any) -> None:
        pixel_format = frame.format
        components = pixel_format.components
        self._has_alpha = pixel_format.has_palette or any(component.is_alpha for component in components)
        has_colour = pixel_format.has_palette or sum(not component.is_alpha for component in components) >= 3
        primaries = WIDE_PRIMARIES.get(frame.color_primaries)
        if not has_colour:
            problem = f"is greyscale ({pixel_format.name}), perhaps depth"
        elif max(component.bits for component in components) > MAX_BITS:
            problem = f"has more than {MAX_BITS} bits per channel ({pixel_format.name})"
        elif frame.color_trc in HDR_TRANSFERS:
            problem = f"is {HDR_TRANSFERS[frame.color_trc]}"
        elif primaries is not None:
            problem = f"has colours of {primaries}"
        elif frame.colorspace not in MATRICES:
            problem = f"has an unusual colour matrix (number {frame.colorspace} of H.273)"
        else:
            return
        raise ValueError(f"{self._name} {problem}; convert it to video of 8 bits with colours of BT.709")

    def _read_turn(self, frame: Any) -> _Turn:
        """What the display matrix asks for: it maps a place (x, y) to (a x + c y, b x + d y), and shifts it."""
        from av.sidedata.sidedata import Type

        data = frame.side_data.get(Type.DISPLAYMATRIX)
        if data is None:
            return _Turn()
        a, b, _, c, d, *_ = (float(value) / FIXED_POINT for value in np.frombuffer(bytes(data), dtype=np.int32))
        is_turned = bool(np.abs(np.array([b, c])).min() > 0.5)
        along, across = ((c, b), (a, d)) if is_turned else ((a, d), (b, c))
        if not np.allclose(np.abs(along), 1, atol=1e-3) or not np.allclose(across, 0, atol=1e-3):
            raise ValueError(
                f"{self._name} asks to be shown turned by other than quarter turns, or scaled (display matrix {a:.3g}, "
                f"{b:.3g}, {c:.3g}, {d:.3g}); encode it upright, which ffmpeg does"
            )
        return _Turn(is_turned, is_upside_down=along[1] < 0, is_mirrored=along[0] < 0)


class _Turn(NamedTuple):
    """One of the eight orientations of a picture."""

    is_transposed: bool = False
    is_upside_down: bool = False
    is_mirrored: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The picture (H, W, 3) as it is shown."""
        if self.is_transposed:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.is_upside_down else 1, :: -1 if self.is_mirrored else 1]


def _transparent(name: str) -> str:
    return (
        f"{name} has transparent pixels, and does not say what lies behind them; put it onto a background, for example "
        f"with ffmpeg's filter overlay"
    )
