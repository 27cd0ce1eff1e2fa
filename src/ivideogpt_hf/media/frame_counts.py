"""The number of a clip's frames. A video is not decoded for it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from .files import NUMPY_SUFFIXES, list_images
from .pictures import open_picture
from .streams import describe_video
from .video import MOTION_JPEG_SUFFIXES, VideoSource, read_video


def count_frames(source: VideoSource) -> int:
    """Count the frames of a clip in any form that `read_video` takes.

    Raises:
        OSError: if a file is missing, corrupt, or holds no video.
        ValueError: if the source is no clip.
    """
    if isinstance(source, (np.ndarray, Tensor, list, tuple)):
        return len(source)
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        return len(list_images(Path(source)))
    file, name = _video_file(source)
    return len(read_video(source)) if file is None else describe_video(file, name).num_frames


def _video_file(source: VideoSource) -> tuple[str | io.BytesIO | None, str]:
    """The video file of a source, and its name; no file for what is decoded to be counted, such as a gif."""
    if isinstance(source, Mapping) and source.get("bytes") is not None:
        file: str | io.BytesIO = io.BytesIO(source["bytes"])
        name = str(source.get("path") or "the video in memory")
    else:
        file = name = str(source.get("path") if isinstance(source, Mapping) else source)
    if isinstance(file, str) and (Path(file).suffix.lower() in NUMPY_SUFFIXES or not Path(file).is_file()):
        return None, name
    image = None if name.lower().endswith(MOTION_JPEG_SUFFIXES) else open_picture(file, name)
    if image is not None:
        image.close()
        return None, name
    return file, name
