"""Data sets in this package's own schema, read as episodes: to look at them, or to convert them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...extras import require_packages
from ...run_folder import naming
from ..episodes import (
    FRAMES_PREFIX,
    Episode,
    cameras_in,
    check_columns,
    check_same_cameras,
    check_version,
    episode_features,
    episode_from_row,
)
from .base import FileReader

DATA = "data"


class ParquetReader(FileReader):
    """Parquet files with the columns of `ivideogpt_hf.data.episodes`, in natural order of their names.

    They lie in one folder: those of several data sets are not read as one.
    """

    name = "parquet"
    description = "Parquet files in this package's episode schema"
    suffixes = (".parquet",)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        files = cls.find_files(path)
        if not files:
            return False
        require_packages("datasets", purpose="reading Parquet")
        import pyarrow.parquet as pq

        with naming(files[0]):
            return set(episode_features(())) <= set(pq.read_schema(files[0]).names)

    @classmethod
    def is_all_of(cls, path: Path) -> bool:
        """Whether the data set is what a file or folder is there for, and does not lie somewhere below other data."""
        return path.is_file() or all(file.parent in (path, path / DATA) for file in cls.find_files(path))

    def _list_episodes(self) -> list[str]:
        require_packages("datasets", purpose="reading Parquet")
        import pyarrow.parquet as pq

        self._places: list[tuple[Path, int, int]] = []  # file, row group, row in it
        self._available: list[str] | None = None
        ids: list[str] = []
        files = self.find_files(self.path)
        folders = sorted({str(file.parent) for file in files})
        if len(folders) > 1:
            raise ValueError(
                f"{self.path} holds several data sets: {', '.join(folders)}; name the folder of one, or train on all "
                f"with a mixture"
            )
        for file in files:
            with naming(file):
                parquet = pq.ParquetFile(file)
                self._check_schema(parquet.schema_arrow, file)
                for group in range(parquet.num_row_groups):
                    table = parquet.read_row_group(group, columns=["episode_id", "schema_version"])
                    for version in table["schema_version"].unique().to_pylist():
                        check_version(version, str(file))
                    ids += table["episode_id"].to_pylist()
                    self._places += [(file, group, row) for row in range(len(table))]
        return ids

    def files_of(self, index: int) -> list[Path]:
        return [self._places[index][0]]

    def _check_schema(self, schema: Any, file: Path) -> None:
        """Raise ValueError unless a file has the schema's columns and types, and the other files' cameras."""
        check_columns(schema.names, str(file))
        cameras = cameras_in(schema.names)
        if self._available is not None:
            check_same_cameras(cameras, self._available, str(file))
        self._available = cameras
        expected = episode_features(cameras).arrow_schema
        for column in expected.names:
            if not _same_kind(schema.field(column).type, expected.field(column).type):
                raise ValueError(
                    f"column {column!r} of {file} has the type {schema.field(column).type}, the schema has "
                    f"{expected.field(column).type}"
                )

    def _read(self, index: int) -> Episode:
        import pyarrow.parquet as pq

        file, group, row = self._places[index]
        available = self._available or []
        cameras = available if self.options.cameras is None else self._select_cameras(available)
        columns = [*episode_features(()), *(FRAMES_PREFIX + camera for camera in cameras)]
        table = pq.ParquetFile(file).read_row_group(group, columns=columns)
        return episode_from_row(table.slice(row, 1).to_pylist()[0], cameras)


def _same_kind(first: Any, second: Any) -> bool:
    """Whether values of two types are read alike; widths of numbers and offsets do not matter."""
    import pyarrow.types as types

    def is_list(kind: Any) -> bool:
        return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)

    if is_list(first) and is_list(second):
        return _same_kind(first.value_type, second.value_type)
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_struct)
    if any(kind(first) and kind(second) for kind in kinds):
        return True
    return all(types.is_string(kind) or types.is_large_string(kind) for kind in (first, second))
