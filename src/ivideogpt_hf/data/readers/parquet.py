"""Data sets in this package's own schema, read as episodes: to look at them, or to convert them again."""

from __future__ import annotations

from pathlib import Path

from ...extras import require_packages
from ..episodes import (
    FRAMES_PREFIX,
    Episode,
    cameras_in,
    check_columns,
    check_version,
    episode_features,
    episode_from_row,
)
from .base import FileReader


class ParquetReader(FileReader):
    """Parquet files with the columns of `ivideogpt_hf.data.episodes`, in natural order of their names."""

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

        return set(episode_features(())) <= set(pq.read_schema(files[0]).names)

    def _list_episodes(self) -> list[str]:
        require_packages("datasets", purpose="reading Parquet")
        import pyarrow.parquet as pq

        self._places: list[tuple[Path, int, int]] = []  # file, row group, row in it
        ids: list[str] = []
        for file in self.find_files(self.path):
            parquet = pq.ParquetFile(file)
            check_columns(parquet.schema_arrow.names, str(file))
            self._available = cameras_in(parquet.schema_arrow.names)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=["episode_id", "schema_version"])
                for version in table["schema_version"].unique().to_pylist():
                    check_version(version, str(file))
                ids += table["episode_id"].to_pylist()
                self._places += [(file, group, row) for row in range(len(table))]
        return ids

    def files_of(self, index: int) -> list[Path]:
        return [self._places[index][0]]

    def _read(self, index: int) -> Episode:
        import pyarrow.parquet as pq

        file, group, row = self._places[index]
        cameras = self._select_cameras(self._available)
        columns = [*episode_features(()), *(FRAMES_PREFIX + camera for camera in cameras)]
        table = pq.ParquetFile(file).read_row_group(group, columns=columns)
        return episode_from_row(table.slice(row, 1).to_pylist()[0], cameras)
