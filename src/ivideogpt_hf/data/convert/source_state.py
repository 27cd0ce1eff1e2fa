"""What the files of a source were when a conversion read them: by this it knows later what has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..readers import EpisodeReader


class FileTimes(NamedTuple):
    """Size in bytes and time of the last modification in nanoseconds."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class ShardSource:
    """What one shard is made of.

    Attributes:
        record: what is noted beside the shard, as JSON: its episodes, and the state of each file that they depend on.
        times: size and time of each of these files; None where there is none.
    """

    record: dict[str, Any]
    times: dict[Path, FileTimes | None]

    def check_unchanged(self, files: Collection[Path]) -> None:
        """Check that no file has changed, come or gone since.

        Args:
            files: files that the episodes depend on now.

        Raises:
            OSError: if one has; what was read may be a mixture of the old file and the new one.
        """
        for file in sorted(set(files) ^ set(self.times)):
            raise OSError(f"{file} came or went while it was converted: wait until nothing writes there")
        for file, times in self.times.items():
            if _times_of(file) != times:
                raise OSError(f"{file} changed while it was converted: wait until nothing writes there")


class SourceState:
    """The files of a source, as they are now.

    Args:
        reader: reader of the source.
        by_content: whether a file is known by a hash of its content, which a copy shares, in place of its time.

    Attributes:
        times: size and time of each file; None where a reader expects a file that is not there.
        files: what each file is known by, under its name: [size, time in nanoseconds] or [size, hash].
    """

    def __init__(self, reader: EpisodeReader, *, by_content: bool = False) -> None:
        self._reader, self.by_content = reader, by_content
        self._files_of = [reader.files_of(index) for index in range(len(reader))]
        files = {file for files in self._files_of for file in files}
        self.times = {file: _times_of(file) for file in files}
        root = Path(reader.path).parent if Path(reader.path).is_file() else Path(reader.path)
        self._names = {file: _name_of(file, root) for file in files}
        self.files = {self._names[file]: self._stamp(file) for file in files}

    def _stamp(self, file: Path) -> list[Any] | None:
        times = self.times[file]
        if times is None or not self.by_content:
            return None if times is None else list(times)
        with file.open("rb") as content:
            return [times.size, hashlib.file_digest(content, "blake2b").hexdigest()[:32]]

    def shard(self, indices: Sequence[int], signature: Iterable[Any]) -> ShardSource:
        """What a shard is made of.

        Args:
            indices: indices of its episodes in the source.
            signature: cameras and action width that all episodes must have.
        """
        files = sorted({file for index in indices for file in self._files_of[index]}, key=self._names.__getitem__)
        record = {
            "episodes": {self._reader.episode_ids[index]: index for index in indices},
            "signature": list(signature),
            **({"common": self._reader.common} if self._reader.common else {}),
            "files": {self._names[file]: self.files[self._names[file]] for file in files},
        }
        return ShardSource(json.loads(json.dumps(record)), {file: self.times[file] for file in files})

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The state in a few numbers, as JSON; None where the episodes come from no files."""
        known = [times for times in self.times.values() if times is not None]
        if not known:
            return None
        digest = hashlib.blake2b(repr(sorted(self.files.items())).encode(), digest_size=16)
        newest = datetime.fromtimestamp(max(times.mtime_ns for times in known) // 10**9, UTC)
        return {
            "num_files": len(known),
            "num_bytes": sum(times.size for times in known),
            "last_change": newest.isoformat(),
            "digest": digest.hexdigest(),
            "digest_of": "names and contents" if self.by_content else "names, sizes and times",
        }


def _name_of(file: Path, root: Path) -> str:
    """A file's name below the source, so that it does not depend on where that lies."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _times_of(file: Path) -> FileTimes | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return FileTimes(status.st_size, status.st_mtime_ns)
