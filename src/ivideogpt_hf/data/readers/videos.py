"""Video files as readers decode them: at the size and rate that were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...media.decoded_bytes import DecodedBytes
from ...media.streams import describe_video, iterate_video, read_frames_at, resample_frames
from ..fitting import Size, fit_frames
from ..read_options import ReadOptions


class VideoFrames(NamedTuple):
    """Frames that come from a video file.

    Attributes:
        pixels: frames (T, H, W, 3) uint8, of the size that was asked for.
        source_size: (height, width) of the file's frames.
        fps: number of frames per second; None where it is not one number.
        notes: remarks for the report.
    """

    pixels: np.ndarray
    source_size: Size
    fps: float | None = None
    notes: Sequence[str] = ()


def decode_video(file: Any, name: str, options: ReadOptions) -> VideoFrames:
    """Decode a video file.

    Args:
        file: path or binary file.
        name: name of the file in errors.
        options: size and rate that are asked for.

    Raises:
        OSError, ValueError: as in `iterate_video`.
    """
    info = describe_video(file, name)
    images = iterate_video(file, name)
    notes = ["interlaced: a frame shows two times"] if info.is_interlaced else []
    fps = None if info.is_variable or info.rate is None else info.rate
    if info.is_variable:
        intervals = np.diff(info.times)
        notes.append(
            f"uneven: {intervals.min():.3g} to {intervals.max():.3g} s between frames; --fps makes it even"
            if options.fps is None
            else "uneven in the source"
        )
    if options.fps is not None and (fps is None or not np.isclose(fps, options.fps)):
        rate = "an uneven rate" if fps is None else f"{fps:.4g} frames per second"
        notes.append(f"resampled from {rate} to {options.fps:.4g}")
        images = _choose(images, resample_frames(info.times, options.fps).tolist())
        fps = options.fps
    return VideoFrames(*_stack(images, options), fps, notes)


def decode_video_at(
    file: Any, name: str, times: Sequence[float], options: ReadOptions, *, tolerance: float
) -> VideoFrames:
    """Decode the frames that a video file shows at some times; see `read_frames_at`.

    Args:
        file: path or binary file.
        name: name of the file in errors.
        times: ascending times in seconds of the file's clock.
        options: size that is asked for.
        tolerance: largest distance in seconds between a time and its frame's.

    Raises:
        OSError, ValueError: as in `read_frames_at`.
    """
    return VideoFrames(*_stack(read_frames_at(file, name, times, tolerance=tolerance), options))


def _stack(images: Iterable[np.ndarray], options: ReadOptions) -> tuple[np.ndarray, Size]:
    """Frames, resized on the way, so that a long video of large frames need not fit into memory; and their size."""
    source_size, frames, clip = (0, 0), [], DecodedBytes("its video")
    for image in images:
        source_size = image.shape[:2]
        frames.append(fit_frames(image[None], options.size or source_size, options.fit or "squash")[0])
        clip.add(frames[-1].nbytes)
    return np.stack(frames), source_size


def _choose(images: Iterator[np.ndarray], indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The images of ascending indices, which may repeat."""
    position, image = -1, None
    for index in indices:
        while position < index:
            image, position = next(images), position + 1
        if image is not None:
            yield image
    for _ in images:  # a file that is cut off says so only at its end
        pass
