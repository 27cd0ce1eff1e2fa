"""Random access to the episodes of a data set in our schema: memory-mapped Arrow, or Parquet fetched when needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import require_packages
from ...hub.download import SCHEME, check_access, find_addresses
from ...hub.errors import check_hub_id, hub_errors
from ...run_folder import naming
from ..episodes import FRAMES_PREFIX, PATHS_ONLY, cameras_in, check_columns, check_same_cameras, check_version
from ..file_digests import footer_digests

METADATA = ["schema_version", "num_frames"]
OPENING_THREADS = 16
FINGERPRINTED_EPISODES = 8


class EpisodeStore(ABC):
    """Episodes of one split, by index.

    Attributes:
        name: name of the data set and split, for errors.
        num_frames: (N,) int64, number of frames of each episode.
        cameras: names of the cameras.
        groups: (file, first episode, last episode + 1) of each row group; None without streaming.
        contents: what each file of a folder is known by, under its name, see `footer_digests`; none on the Hub.
    """

    contents: dict[str, str]
    name: str
    num_frames: np.ndarray
    cameras: list[str]
    groups: list[tuple[int, int, int]] | None = None

    @abstractmethod
    def _column(self, episode: int, column: str) -> Any:
        """A value of an episode's row as a pyarrow scalar."""

    def images(self, episode: int, camera: str, frames: Sequence[int]) -> list[bytes]:
        """The encoded images of some frames; no other frame is touched.

        Args:
            episode: index of the episode.
            camera: name of the camera.
            frames: indices of the frames.

        Raises:
            ValueError: if the data set holds the paths of images, and not the images.
        """
        values = self._column(episode, FRAMES_PREFIX + camera).values.field("bytes")
        images = [values[frame].as_py() for frame in frames]
        if None in images:
            raise ValueError(f"episode {episode} of {self.name} {PATHS_ONLY.format(camera=camera)}")
        return images

    def actions(self, episode: int) -> np.ndarray | None:
        """(T - 1, A) float32; None where the episode has no actions."""
        scalar = self._column(episode, "actions")
        if not scalar.is_valid:
            return None
        num_rows = len(scalar.values)  # none in an episode of a single frame: then nothing tells their width
        return _numbers(scalar.values.flatten()).reshape(num_rows, -1 if num_rows else 0)

    def rewards(self, episode: int) -> np.ndarray | None:
        """(T - 1,) float32; None where the episode has no rewards."""
        scalar = self._column(episode, "rewards")
        return _numbers(scalar.values) if scalar.is_valid else None

    def metadata(self, episode: int, column: str) -> Any:
        """Any other column of an episode, as a Python value."""
        return self._column(episode, column).as_py()

    def fingerprint(self) -> str:
        """A hash of the content, wherever it lies: of all lengths, and of pixels and actions of a few episodes."""
        digest = hashlib.blake2b(self.num_frames.astype("<i8").tobytes(), digest_size=16)
        count = len(self.num_frames)
        for episode in sorted({count * part // FINGERPRINTED_EPISODES for part in range(FINGERPRINTED_EPISODES)}):
            for camera in self.cameras:
                digest.update(self.images(episode, camera, [0])[0])
            actions = self.actions(episode)
            digest.update(b"" if actions is None else actions.tobytes())
        return digest.hexdigest()


def _numbers(array: Any) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def open_store(path: str, split: str, *, streaming: bool = False) -> EpisodeStore:
    """Open a data set in our schema.

    Args:
        path: folder, or id of a data set on the Hub.
        split: name of the split, such as "train".
        streaming: whether to read row groups of the Parquet files as they are needed, from the folder or from the Hub,
            and store nothing. False has `datasets` download and convert the data set to memory-mapped Arrow files once.

    Raises:
        FileNotFoundError: if there is no such data set or split.
        OSError: if the Hub refuses or cannot be reached.
        ValueError: if it is not in our schema, or in another version of it.
    """
    require_packages("datasets", purpose="a data set")
    if not Path(path).is_dir():
        try:
            check_hub_id(path, "data set")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; paths in a mixture begin at its root") from error
    return ParquetStore(path, split) if streaming else ArrowStore(path, split)


class ArrowStore(EpisodeStore):
    """Memory-mapped Arrow, by ``datasets.load_dataset``.

    Args:
        path: folder, or id on the Hub.
        split: name of the split.
    """

    def __init__(self, path: str, split: str) -> None:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError

        self.name, self.contents = f"{path}, split {split}", {}
        try:
            if Path(path).is_dir():
                # By its files: a folder's name alone would find what was cached of it before it was converted again.
                files = split_files(path, split)
                with naming(path):
                    self.contents = footer_digests(files)
                    self._dataset = load_dataset("parquet", data_files={split: files}, split=split)
            else:
                self._dataset = load_dataset(path, split=split)
        except DatasetNotFoundError as error:
            check_access(path, "dataset")  # which of the Hub's reasons it was, `datasets` does not pass on
            raise FileNotFoundError(f"there is no data set {path}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be loaded: {error}") from error
        check_columns(self._dataset.column_names, self.name)
        self.cameras = cameras_in(self._dataset.column_names)
        for version in self._dataset.data.column("schema_version").unique().to_pylist():
            check_version(version, self.name)
        self.num_frames = self._dataset.data.column("num_frames").to_numpy().astype(np.int64)

    def _column(self, episode: int, column: str) -> Any:
        return self._dataset.data.column(column)[episode]


class ParquetStore(EpisodeStore):
    """Parquet files, of which only the row groups that are needed are fetched; the last few are kept.

    Args:
        path: folder, or id on the Hub.
        split: name of the split, to which the files ``data/<split>-*.parquet`` belong.
    """

    def __init__(self, path: str, split: str) -> None:
        self.name = f"{path}, split {split}"
        self._files = split_files(path, split)
        self.contents = footer_digests(self._files) if Path(path).is_dir() else {}
        self._footers: dict[int, Any] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._columns: list[str] | None = None  # until `keep` says which: then columns are read one by one
        self._last_column: tuple[int, str, Any] = (-1, "", None)
        self.max_cached_groups = 1
        with hub_errors(path, "data set"), ThreadPoolExecutor(OPENING_THREADS) as pool:
            footers, cameras, parts = zip(*pool.map(self._read_metadata, range(len(self._files))), strict=True)
        self.cameras = cameras[0]
        for name, others in zip(self._files, cameras, strict=True):
            check_same_cameras(others, self.cameras, name)
        self._footers = dict(enumerate(footers))
        self.num_frames = np.concatenate([values for part in parts for values in part]).astype(np.int64)
        self.groups = []
        self._places: list[tuple[int, int]] = []  # of each group: file, number in the file
        first = 0
        for file, part in enumerate(parts):
            for number, values in enumerate(part):
                self.groups.append((file, first, first + len(values)))
                self._places.append((file, number))
                first += len(values)
        self._starts = np.array([group[1] for group in self.groups])

    def _read_metadata(self, file: int) -> tuple[Any, list[str], list[np.ndarray]]:
        """A file's footer, its cameras, and the lengths of its episodes per row group; fetches the footer and two
        columns."""
        name = self._files[file]
        # What the Hub refuses is told by `hub_errors`.
        with nullcontext() if name.startswith(SCHEME) else naming(name), self._open(file) as parquet:
            check_columns(parquet.schema_arrow.names, self._files[file])
            cameras, lengths = cameras_in(parquet.schema_arrow.names), []
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=METADATA)
                for version in table["schema_version"].unique().to_pylist():
                    check_version(version, self._files[file])
                lengths.append(table["num_frames"].to_numpy())
            return parquet.metadata, cameras, lengths

    def _open(self, file: int) -> Any:
        """Open a file; its footer is fetched once. Files stay open no longer than for one read: an open one would keep
        what was read of it, and does not survive a fork."""
        import fsspec
        import pyarrow.parquet as pq

        name, footer = self._files[file], self._footers.get(file)
        if name.startswith(SCHEME):
            stream = fsspec.open(name, "rb", cache_type="none").open()
            return pq.ParquetFile(stream, metadata=footer, pre_buffer=True)
        if footer is not None and footer_digests([name]) != {Path(name).name: self.contents[Path(name).name]}:
            raise OSError(f"{name} has changed since it was opened: begin again to read the new data")
        return pq.ParquetFile(name, metadata=footer)

    def keep(self, columns: Sequence[str], max_cached_groups: int) -> None:
        """Say which columns are needed, and how many row groups are in use at a time.

        Args:
            columns: names of the columns that are read and kept together.
            max_cached_groups: number of row groups that are kept.
        """
        self._columns, self.max_cached_groups = list(columns), max_cached_groups

    def _column(self, episode: int, column: str) -> Any:
        group = int(np.searchsorted(self._starts, episode, side="right")) - 1
        row = episode - self.groups[group][1]
        if self._columns is None or column not in self._columns:
            if self._last_column[:2] != (group, column):
                self._last_column = (group, column, self._read_group(group, [column])[column])
            return self._last_column[2][row]
        if group not in self._cache:
            self._cache[group] = self._read_group(group, self._columns)
            while len(self._cache) > self.max_cached_groups:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group][column][row]

    def _read_group(self, group: int, columns: list[str]) -> Any:
        file, number = self._places[group]
        with self._open(file) as parquet:
            return parquet.read_row_group(number, columns=columns)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be fetched again."""
        return self.__dict__ | {"_cache": OrderedDict(), "_last_column": (-1, "", None)}


def split_files(path: str, split: str) -> list[str]:
    """The Parquet files of a split, in a folder or on the Hub."""
    pattern = f"data/{split}-*.parquet"
    if Path(path).is_dir():
        files = sorted(str(file) for file in Path(path).glob(pattern))
    else:
        files = find_addresses(path, pattern)
    if not files:
        raise FileNotFoundError(f"{path} has no files {pattern}, neither as a folder nor as a data set on the Hub")
    return files
