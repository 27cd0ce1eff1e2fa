"""Readers of episodes, one small module per format; `open_episodes` finds the right one by looking at the source.

To add a format:

1. write a module here, named after the format;
2. in it, derive a class from `EpisodeReader`, or from `FileReader` where episodes are files in a folder: `name` and
   `description`, `recognizes` (is this my format?), `_list_episodes` (their ids) and `_read` (one `Episode`, made by
   `_make_episode`, which knows what row belongs to which frame);
3. add the class to `READERS` below: `open_episodes`, ``--reader`` and error messages know it from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...hub.download import download_repository, list_files
from ...hub.errors import check_hub_id
from ...media.alignment import ActionAlignment
from ...media.files import is_hidden
from ..read_options import Fit, ReadOptions
from .base import EpisodeError, EpisodeReader
from .hdf5 import HDF5Reader
from .lerobot import INFO_FILE, LeRobotReader
from .npz import NpzReader
from .parquet import ParquetReader
from .rlds import RLDSReader
from .stacked_npz import StackedNpzReader
from .video_folder import VideoFolderReader

READERS: tuple[type[EpisodeReader], ...] = (
    LeRobotReader,
    ParquetReader,
    NpzReader,
    StackedNpzReader,
    HDF5Reader,
    RLDSReader,
    VideoFolderReader,
)


def open_episodes(
    source: str | os.PathLike[str],
    *,
    reader: str | None = None,
    cameras: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    fps: float | None = None,
    action_key: str | None = None,
    action_alignment: ActionAlignment | None = None,
    action_low: Sequence[float] | None = None,
    action_high: Sequence[float] | None = None,
    max_bytes: int | None = None,
) -> EpisodeReader:
    """Open the episodes of a source.

    Args:
        source: file, folder, or id of a data set on the Hub (LeRobot v3.0, or this package's schema), which is
            downloaded.
        reader: name of the reader; None finds it by looking at the source.
        cameras, size, fit, fps, action_key, action_alignment, action_low, action_high, max_bytes: see `ReadOptions`.

    Returns:
        A reader: ``len``, iteration and indexing.

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: if the source is empty, the format is not recognised, several are, there are no episodes, or an
            option is not allowed.
        ImportError: if a package that the format needs is missing; names the extra.

    Example:
        >>> import numpy as np
        >>> from ivideogpt_hf.data.readers import open_episodes
        >>> np.savez("episode.npz", frames=np.zeros((5, 16, 16, 3), np.uint8), actions=np.zeros((4, 2), np.float32))
        >>> episodes = open_episodes("episode.npz")
        >>> len(episodes), episodes[0].num_frames, episodes[0].action_dim
        (1, 5, 2)
    """
    options = ReadOptions(cameras, size, fit, fps, action_key, action_alignment, action_low, action_high, max_bytes)
    if not os.fspath(source):
        raise ValueError("the source is an empty text: give a file, a folder, or an id on the Hub")
    path = Path(source)
    if path.name in ("", ".."):  # the folder's name, and those of the files beside it, are needed
        path = path.resolve()
    if not path.exists():
        check_hub_id(str(source), "data set")
        path = _download(str(source), cameras)
    if reader is not None:
        readers = {kind.name: kind for kind in READERS}
        if reader not in readers:
            raise ValueError(f"there is no reader {reader!r}; there are {sorted(readers)}")
        return readers[reader](path, options)
    return _recognize(path)(path, options)


def _recognize(path: Path) -> type[EpisodeReader]:
    # LeRobot folders hold Parquet and mp4 files, and ours a picture: these two are asked about first, and alone.
    if LeRobotReader.recognizes(path):
        return LeRobotReader
    if ParquetReader.recognizes(path) and ParquetReader.is_all_of(path):
        return ParquetReader
    if path.is_dir():
        nested = sorted(str(info.parents[1]) for info in path.rglob(INFO_FILE.as_posix()) if not is_hidden(info, path))
        if nested:
            raise ValueError(f"{path} holds LeRobot data sets in folders: {', '.join(nested)}; name the folder of one")
    kinds = [kind for kind in READERS if kind.recognizes(path)]
    if not kinds:
        formats = "; ".join(f"{kind.name}: {kind.description}" for kind in READERS)
        raise ValueError(f"{path} holds no episodes in a format that is read: {formats}")
    if len(kinds) > 1:
        names = ", ".join(kind.name for kind in kinds)
        raise ValueError(f"{path} holds several formats ({names}): name the one to read with reader=, --reader")
    return kinds[0]


def _download(repo_id: str, cameras: Sequence[str] | None) -> Path:
    """A data set's files from the Hub; of a LeRobot data set only the wanted cameras' videos."""
    patterns = None
    if cameras is not None and INFO_FILE.as_posix() in list_files(repo_id, "dataset"):
        patterns = ["meta/*", "data/*", *(f"videos/*{camera}/*" for camera in cameras)]
    return download_repository(repo_id, "dataset", patterns=patterns)


__all__ = ["READERS", "EpisodeError", "EpisodeReader", "ReadOptions", "open_episodes"]
