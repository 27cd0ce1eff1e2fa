"""Reading of clips from files and arrays, and writing to files. PyAV and PIL are imported where they are used."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..run_folder import check_folder, make_folder
from . import numpy_files
from .decoded_bytes import DecodedBytes, decoded_within
from .files import list_images
from .pictures import iterate_pictures, open_picture, read_picture, rgb_pixels
from .pixels import MAX_PIXEL, pixels_to_uint8
from .streams import describe_video, iterate_video, path_for_ffmpeg

if TYPE_CHECKING:
    from PIL import Image

VideoSource = Any  # anything that the docstring of `read_video` lists
VIDEO_KEYS = ("frames", "image", "observation")
MOTION_JPEG_SUFFIXES = (".mjpg", ".mjpeg")
SIGNATURE_BYTES = 16
ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
MAX_FPS, MAX_GIF_FPS, MIN_FPS = 1000, 50, 0.01
SEPARATOR_PIXELS = 2


# -- reading ----------------------------------------------------------------------------------------------------------


def read_video(
    source: VideoSource,
    *,
    max_frames: int | None = None,
    resize: Callable[[Tensor], Tensor] | None = None,
    max_bytes: int | None = None,
) -> Tensor:
    """Read a clip.

    What a file is, is decided by its content. What it says of its picture (orientation, mirroring, colours, shape of
    pixels) is obeyed. Where that is impossible, and where pixels are transparent, the file is refused.

    Args:
        source: clip in one of these forms:
            - a video file (mp4, mkv, avi or another container of `media.streams.CONTAINERS`);
            - an image, or a gif, WebP, AVIF, PNG or TIFF with several: each stored picture counts as one frame,
              whatever the time that it is shown;
            - an npz file with the frames under "frames", "image" or "observation", or an npy file;
            - a folder of images, in the order of the numbers in their names;
            - a list of PIL images, of arrays or of tensors;
            - an array or tensor (T, H, W, 3) or (T, 3, H, W): integers in 0 ... 255, or floats in [0, 1];
            - an undecoded value of `datasets.Video(decode=False)`: a dict with "bytes" or "path".
        max_frames: largest number of frames to read, from the beginning. No other frames are decoded or loaded.
        resize: function from a frame (3, h, w) uint8 to one of another size, such as `WorldModelSpec.resize_frames`.
            Each frame passes it as soon as it is decoded, so that frames of full size need no memory.
        max_bytes: number of bytes that the frames may take, after ``resize``; a picture may take a sixteenth of it
            before. None: 4 GiB.

    Returns:
        Frames (T, 3, H, W) uint8, on the CPU.

    Raises:
        OSError: if a file is missing, empty or corrupt, or holds fewer frames than it states.
        ValueError: if the content is no RGB video, its frames differ in size, it cannot be shown as it asks, or would
            take more memory than it may.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, read_video
        >>> read_video(EXAMPLE_EPISODE, max_frames=4).shape
        torch.Size([4, 3, 64, 64])
    """
    with decoded_within(max_bytes):
        return _read_video(source, max_frames, resize)


def _read_video(source: VideoSource, max_frames: int | None, resize: Callable[[Tensor], Tensor] | None) -> Tensor:
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    if isinstance(source, (np.ndarray, Tensor)):
        clip = frames_from_array(source[:max_frames] if source.ndim else source)
        return clip if resize is None else torch.stack([resize(frame) for frame in clip])
    name = str(source) if isinstance(source, (str, os.PathLike)) else "the video"
    frames: list[Tensor] = []
    decoded = DecodedBytes(name)
    first_shape = None
    for frame in islice(_iterate_frames(source, max_frames), max_frames):
        first_shape = first_shape or frame.shape
        if frame.shape != first_shape:
            sizes = sorted({tuple(first_shape[1:]), tuple(frame.shape[1:])})
            raise ValueError(f"{name} holds frames of different sizes: {sizes} pixels")
        frames.append(frame if resize is None else resize(frame))
        decoded.add(frames[-1].nbytes)
    return torch.stack(frames)


def count_frames(source: VideoSource) -> int:
    """Count the frames of a clip in any form that `read_video` takes. A video file is not decoded for it.

    Raises:
        OSError: if a file is missing, corrupt, or holds no video.
        ValueError: if the source is no clip.
    """
    if isinstance(source, (np.ndarray, Tensor)) or _is_list(source):
        return len(source)
    file, name = _find_file(source)
    if isinstance(file, Path) and file.is_dir():
        return len(list_images(file))
    if not _holds_array(file, name):
        picture = _open_picture(file, name)
        if picture is None:
            return describe_video(file, name).num_frames
        picture.close()
    return len(read_video(source))


def _iterate_frames(source: VideoSource, max_frames: int | None) -> Iterator[Tensor]:
    """Frames (3, H, W) uint8 of anything but arrays, one after the other."""
    if _is_list(source):
        return _iterate_images(source)
    file, name = _find_file(source)
    if isinstance(file, Path) and file.is_dir():
        return (_frame(read_picture(image, str(image)).pixels) for image in list_images(file))
    if _holds_array(file, name):
        return iter(frames_from_array(numpy_files.read_array(Path(name), VIDEO_KEYS, max_rows=max_frames)))
    picture = _open_picture(file, name)
    return map(_frame, iterate_video(file, name) if picture is None else iterate_pictures(picture, name))


def _is_list(source: VideoSource) -> bool:
    return isinstance(source, Sequence) and not isinstance(source, str)


def _find_file(source: VideoSource) -> tuple[Path | io.BytesIO, str]:
    """The file or folder of a clip, and its name in errors."""
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            return io.BytesIO(source["bytes"]), str(source.get("path") or "the video in memory")
        if source.get("path") is None:
            raise ValueError(f"an undecoded video must have 'bytes' or 'path', got the keys {sorted(source)}")
        source = source["path"]
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"a video must be a path, images, an array or a tensor, got {type(source).__name__}")
    if not os.fspath(source):
        raise ValueError("the path of the video is an empty text: give a file or a folder of images")
    if ADDRESS.match(os.fspath(source)):
        raise FileNotFoundError(f"{source} is an address, and addresses are not read: download it, and pass the file")
    path = Path(source)
    if not path.is_dir() and not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}")
    return path, str(path)


def _holds_array(file: Path | io.BytesIO, name: str) -> bool:
    """Whether a file is numpy's, by its content, and only where that tells nothing, by its name."""
    if isinstance(file, io.BytesIO):
        signature = file.getvalue()[:SIGNATURE_BYTES]
    else:
        with file.open("rb") as content:
            signature = content.read(SIGNATURE_BYTES)
    if not signature:
        raise OSError(f"{name} is empty (0 bytes)")
    is_numpy = signature.startswith(numpy_files.SIGNATURES)
    return isinstance(file, Path) and (is_numpy or file.suffix.lower() in numpy_files.SUFFIXES)


def _open_picture(file: Path | io.BytesIO, name: str) -> Image.Image | None:
    """An image or moving picture; None if the file is a video. Motion JPEG is a video of one JPEG after the other."""
    return None if name.lower().endswith(MOTION_JPEG_SUFFIXES) else open_picture(file, name)


def _frame(pixels: np.ndarray) -> Tensor:
    """(3, H, W) from pixels (H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _iterate_images(images: Sequence[Any]) -> Iterator[Tensor]:
    """Frames of PIL images, arrays or tensors of one dtype."""
    from PIL import Image

    if not len(images):
        raise ValueError("the list holds no frames")
    dtype = None
    for i, image in enumerate(images):
        name = f"frame {i} of the list"
        if isinstance(image, Image.Image):
            image = rgb_pixels(image, name)
        elif not isinstance(image, (np.ndarray, Tensor)):
            raise ValueError(f"{name} must be an image, an array or a tensor, got {type(image).__name__}")
        frame = _as_tensor(image)
        dtype = dtype or frame.dtype
        if frame.dtype != dtype:
            raise ValueError(
                f"the list holds frames of different sizes or dtypes: {name} is {frame.dtype}, not {dtype}"
            )
        yield frames_from_array(frame[None])[0]


def _as_tensor(frames: Any) -> Tensor:
    if isinstance(frames, Tensor):
        return frames.detach().cpu()
    array = np.array(frames)  # a copy: torch takes neither negative strides nor, without a warning, read-only memory
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise ValueError(f"frames must hold numbers, got an array of dtype {array.dtype}") from error


def frames_from_array(frames: np.ndarray | Tensor) -> Tensor:
    """Convert frames (T, H, W, 3) or (T, 3, H, W) to (T, 3, H, W) uint8.

    Integers must be in 0 ... 255. Floats must be in [0, 1], and are rounded to 256 levels.

    Raises:
        ValueError: if shape, dtype or range are others, or there are NaN.
    """
    frames = _as_tensor(frames)
    if frames.ndim != 4 or (frames.shape[-1] == 3) == (frames.shape[1] == 3):
        raise ValueError(
            f"frames must have shape (T, H, W, 3) or (T, 3, H, W) with 3 colour channels, got {tuple(frames.shape)}"
        )
    if not len(frames):
        raise ValueError("the video holds no frames")
    if frames.shape[1] != 3:
        frames = frames.movedim(-1, 1)
    return pixels_to_uint8(frames).contiguous()


# -- writing ----------------------------------------------------------------------------------------------------------


def side_by_side(*clips: Tensor) -> Tensor:
    """Put clips (T, 3, H, W) uint8 of one size next to each other, with a white line between.

    Returns:
        A clip (T, 3, H, N * W + (N - 1) * 2) uint8, on the CPU.

    Raises:
        ValueError: if a clip has another shape or dtype, or the clips differ in length or size.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, read_video, side_by_side
        >>> frames = read_video(EXAMPLE_EPISODE, max_frames=4)
        >>> side_by_side(frames, 255 - frames).shape
        torch.Size([4, 3, 64, 130])
    """
    for clip in clips:
        _check_clip(clip)
    shapes = {tuple(clip.shape) for clip in clips}
    if len(shapes) != 1:
        raise ValueError(f"clips to put side by side must have one length and size, got {sorted(shapes)}")
    separator = torch.full((*clips[0].shape[:3], SEPARATOR_PIXELS), MAX_PIXEL, dtype=torch.uint8)
    parts = [part for clip in clips for part in (separator, clip.cpu())]
    return torch.cat(parts[1:], dim=-1)


def _check_clip(frames: Tensor) -> None:
    if not isinstance(frames, Tensor):
        raise ValueError(f"frames must be a tensor, got {type(frames).__name__}; read_video makes one")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
        raise ValueError(f"frames must be uint8 of shape (T, 3, H, W), got {frames.dtype} {tuple(frames.shape)}")


def check_video_path(path: str | os.PathLike[str], fps: float = 10) -> None:
    """Check that `write_video` can write a file of this name at this rate, before its frames are made.

    Raises:
        ValueError: if the suffix is unknown, or fps is out of range.
        NotADirectoryError: if a file is where the video's folder would be.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise ValueError(f"video is written as .mp4 or .gif, not as {Path(path).name}")
    max_fps = MAX_GIF_FPS if suffix == ".gif" else MAX_FPS  # browsers slow a gif down that is faster
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= fps <= max_fps:
        raise ValueError(f"fps of a {suffix} file must be a number from {MIN_FPS} to {max_fps}, got {fps!r}")
    check_folder(Path(path).parent)


def write_video(frames: Tensor, path: str | os.PathLike[str], *, fps: float = 10, scale: int = 1) -> Path:
    """Write a clip as mp4 (H.264) or gif, by the suffix of the path. Missing folders are made.

    Every frame is written, also one that equals the frame before.

    Args:
        frames: frames (T, 3, H, W) uint8.
        path: file to write.
        fps: number of frames per second, from 0.01 to 1000, or to 50 for a gif. A gif has times in 1/100 s: each frame
            begins at the nearest one.
        scale: side of the square that each pixel is enlarged to. H.264 needs even sizes, so an odd side gets its last
            line of pixels twice.

    Raises:
        ValueError: if shape or dtype are others, the suffix is unknown, or fps or scale are out of range.
        OSError: if the file or its folder cannot be written.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, read_video, write_video
        >>> write_video(read_video(EXAMPLE_EPISODE, max_frames=4), "clip.gif", scale=2).name
        'clip.gif'
    """
    path = Path(path)
    _check_clip(frames)
    check_video_path(path, fps)
    if isinstance(scale, bool) or not isinstance(scale, Integral) or scale < 1:
        raise ValueError(f"scale must be an integer of at least 1, got {scale!r}")
    make_folder(path.parent)
    images = frames.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3).movedim(1, -1).numpy()
    if path.suffix.lower() == ".gif":
        _write_gif(images, path, fps)
    else:
        _write_mp4(images, path, fps)
    return path


def _write_gif(images: np.ndarray, path: Path, fps: float) -> None:
    """Write a file frame by frame. Pillow's own way would merge equal frames into one."""
    from PIL import GifImagePlugin, Image

    # All frames share one palette. With one palette for each, colours would flicker.
    palette = Image.fromarray(images.reshape(-1, *images.shape[2:])).quantize(256)
    indexed = [Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    starts = [round(100 * frame / fps) for frame in range(len(images) + 1)]
    header, _ = GifImagePlugin.getheader(indexed[0].copy(), info={"loop": 0})
    with path.open("wb") as file:
        file.writelines(header)
        for frame, image in enumerate(indexed):
            box = (0, 0, *image.size) if frame == 0 else _changed_box(indexed[frame - 1], image)
            duration = 10 * (starts[frame + 1] - starts[frame])
            file.writelines(GifImagePlugin.getdata(image.crop(box), box[:2], duration=duration))
        file.write(b";")


def _changed_box(before: Any, image: Any) -> tuple[int, int, int, int]:
    """The box of an image that differs from the one before; a single pixel if none does."""
    changed = np.asarray(before) != np.asarray(image)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return 0, 0, 1, 1
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write_mp4(images: np.ndarray, path: Path, fps: float) -> None:
    import av

    height, width = images.shape[1:3]
    images = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(path_for_ffmpeg(path), "w") as container:
        rate = Fraction(float(fps)).limit_denominator(100_000)  # 30000 / 1001 comes back from its float
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
