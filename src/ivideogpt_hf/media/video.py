"""Reading of video from files and arrays, and writing to files. PyAV and PIL are imported where they are used."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import natural_key, read_numpy
from .pixels import MAX_PIXEL, pixels_to_uint8

VideoSource = Any  # anything that the docstring of `read_video` lists
VIDEO_KEYS = ("frames", "image", "observation")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SEPARATOR_PIXELS = 2


# -- reading ----------------------------------------------------------------------------------------------------------


def read_video(source: VideoSource, *, max_frames: int | None = None) -> Tensor:
    """Read a clip.

    Args:
        source: clip in one of these forms:
            - a video file (mp4, or any other format that PyAV reads);
            - a gif, in which a frame that is shown n times as long as the shortest one counts as n frames;
            - an npz file with the frames under "frames", "image" or "observation", or an npy file;
            - a folder of images, in natural order of their names;
            - a list of PIL images, of arrays or of tensors;
            - an array or tensor (T, H, W, 3) or (T, 3, H, W): integers in 0 ... 255, or floats in [0, 1];
            - an undecoded value of `datasets.Video(decode=False)`: a dict with "bytes" or "path".
        max_frames: largest number of frames to read, from the beginning. No other frames of a video file or a folder
            are decoded.

    Returns:
        Frames (T, 3, H, W) uint8, on the CPU.

    Raises:
        OSError: if a file is missing, empty or corrupt.
        ValueError: if the content is no RGB video.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    if isinstance(source, Mapping):
        return _read_undecoded(source, max_frames)[:max_frames]
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source), max_frames)[:max_frames]
    if isinstance(source, Sequence):
        return _from_images(source[:max_frames], "the list")
    if isinstance(source, (np.ndarray, Tensor)):
        return frames_from_array(source[:max_frames])
    raise ValueError(f"a video must be a path, images, an array or a tensor, got {type(source).__name__}")


def _read_path(path: Path, max_frames: int | None) -> Tensor:
    if path.is_dir():
        return _read_folder(path, max_frames)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        return frames_from_array(read_numpy(path, VIDEO_KEYS))
    if suffix == ".gif":
        return _read_gif(path)
    return _decode(str(path), str(path), max_frames)


def _read_undecoded(value: Mapping[str, Any], max_frames: int | None) -> Tensor:
    if value.get("bytes") is not None:
        return _decode(io.BytesIO(value["bytes"]), value.get("path") or "the video in memory", max_frames)
    if value.get("path") is not None:
        return _read_path(Path(value["path"]), max_frames)
    raise ValueError(f"an undecoded video must have 'bytes' or 'path', got the keys {sorted(value)}")


def _decode(file: str | io.BytesIO, name: str, max_frames: int | None) -> Tensor:
    return frames_from_array(np.stack(list(islice(iterate_video(file, name), max_frames))))


def iterate_video(file: Any, name: str, *, start: float = 0.0) -> Iterator[np.ndarray]:
    """Decode a video frame by frame, in the order in which it is shown, and rotated as its rotation tag says.

    Args:
        file: path or binary file.
        name: name of the file in errors.
        start: time of the first frame, in seconds of the file's clock. What comes long before it is not decoded.

    Yields:
        A frame (H, W, 3) uint8.

    Raises:
        OSError: if the file cannot be decoded or holds no frames.
    """
    import av

    has_frames = False
    try:
        with av.open(file) as container:
            stream = container.streams.video[0]
            tolerance = 0.5 / float(stream.average_rate or 1)
            if start > 0:
                container.seek(round(start / stream.time_base), stream=stream)  # goes to the key frame before it
            for frame in container.decode(stream):
                if start > 0 and frame.time < start - tolerance:
                    continue
                has_frames = True
                image = frame.to_ndarray(format="rgb24")
                yield np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"{name} cannot be decoded as video, it is corrupt or holds none: {error}") from error
    if not has_frames:
        raise OSError(f"{name} holds no frames")


def video_rate(path: Path) -> float | None:
    """Number of frames per second of a video file; None if the file does not say."""
    import av

    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
    return None if rate is None else float(rate)


def _read_gif(path: Path) -> Tensor:
    from PIL import Image, ImageSequence

    frames, durations = [], []
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                frames.append(np.asarray(frame.convert("RGB")))
                durations.append(frame.info.get("duration", 0))
    except Exception as error:  # Pillow raises many kinds on a broken file
        raise OSError(f"{path} is not a readable gif, it is corrupt or incomplete: {error}") from error
    # Gif writers store equal frames as one frame that is shown longer. Each is needed, since each action has a frame.
    shortest = min(filter(None, durations), default=1)
    repeats = [max(1, round(duration / shortest)) for duration in durations]
    return frames_from_array(np.repeat(np.stack(frames), repeats, axis=0))


def _read_folder(path: Path, max_frames: int | None) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    files.sort(key=lambda file: natural_key(file.name))
    if not files:
        raise FileNotFoundError(f"the folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    images = []
    for file in files[:max_frames]:
        try:
            with Image.open(file) as image:
                image.load()
                images.append(image)
        except (UnidentifiedImageError, OSError) as error:
            raise OSError(f"{file} is not a readable image: {error}") from error
    return _from_images(images, str(path))


def _from_images(images: Sequence[Any], name: str) -> Tensor:
    """Stack PIL images, arrays or tensors of one size."""
    from PIL import Image

    if not images:
        raise ValueError(f"{name} holds no frames")
    for i, image in enumerate(images):
        if not isinstance(image, (Image.Image, np.ndarray, Tensor)):
            raise ValueError(f"frame {i} of {name} must be an image, an array or a tensor, got {type(image).__name__}")
        if isinstance(image, Image.Image) and image.mode != "RGB":
            raise ValueError(f"frame {i} of {name} has mode {image.mode}, not RGB; image.convert('RGB') makes it RGB")
    frames = [_as_tensor(image) for image in images]
    kinds = {(tuple(frame.shape), str(frame.dtype)) for frame in frames}
    if len(kinds) > 1:
        raise ValueError(f"{name} holds frames of different sizes or dtypes: {sorted(kinds)}")
    return frames_from_array(torch.stack(frames))


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


def write_video(frames: Tensor, path: str | os.PathLike[str], *, fps: int = 10, scale: int = 1) -> Path:
    """Write a clip as mp4 (H.264) or gif, by the suffix of the path. Missing folders are made.

    Args:
        frames: frames (T, 3, H, W) uint8.
        path: file to write.
        fps: number of frames per second.
        scale: side of the square that each pixel is enlarged to. H.264 needs even sizes, so an odd side gets its last
            line of pixels twice.

    Raises:
        ValueError: if shape or dtype are others, or the suffix is unknown.
    """
    path = Path(path)
    _check_clip(frames)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise ValueError(f"video is written as .mp4 or .gif, not as {path.name}")
    if fps < 1 or scale < 1:
        raise ValueError(f"fps and scale must be at least 1, got {fps} and {scale}")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = frames.cpu().repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3).movedim(1, -1).numpy()
    if path.suffix.lower() == ".gif":
        _write_gif(images, path, fps)
    else:
        _write_mp4(images, path, fps)
    return path


def _write_gif(images: np.ndarray, path: Path, fps: int) -> None:
    from PIL import Image

    # All frames share one palette. With one palette for each, colours would flicker.
    palette = Image.fromarray(images.reshape(-1, *images.shape[2:])).quantize(256)
    first, *next_images = (
        Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE) for image in images
    )
    first.save(path, save_all=True, append_images=next_images, duration=round(1000 / fps), loop=0, optimize=False)


def _write_mp4(images: np.ndarray, path: Path, fps: int) -> None:
    import av

    height, width = images.shape[1:3]
    images = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
