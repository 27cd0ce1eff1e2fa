"""The number of a clip's frames, without decoding a video."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from .files import read_numpy
from .video import IMAGE_SUFFIXES, VIDEO_KEYS, VideoSource, read_video


def count_frames(source: VideoSource) -> int:
    """Count the frames of a clip in any form that `read_video` takes.

    Raises:
        OSError: if a file is missing, corrupt, or holds no video.
        ValueError: if the source is no clip.
    """
    if isinstance(source, Mapping) and source.get("bytes") is not None:
        return _count_packets(io.BytesIO(source["bytes"]), source.get("path") or "the video in memory")
    if isinstance(source, Mapping):
        source = source.get("path")
    if not isinstance(source, (str, os.PathLike)):
        return len(source) if isinstance(source, (np.ndarray, Tensor, list, tuple)) else len(read_video(source))
    path = Path(source)
    if path.is_dir():
        return sum(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    if path.suffix.lower() in (".npz", ".npy"):
        return len(read_numpy(path, VIDEO_KEYS))
    if path.suffix.lower() == ".gif" or not path.is_file():
        return len(read_video(path))
    return _count_packets(str(path), str(path))


def _count_packets(file: str | io.BytesIO, name: str) -> int:
    import av

    try:
        with av.open(file, "r") as container:
            return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"{name} cannot be decoded as video, it is corrupt or holds none: {error}") from error
