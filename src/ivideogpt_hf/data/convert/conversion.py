"""Episodes from a reader to a folder of Parquet shards: parallel, resumable, split over a cluster's jobs.

While a conversion runs, everything lies in ``OUT/.conversion``: each finished shard as a Parquet file beside a json
file with its statistics. When the last shard is there, the Parquet files become ``OUT/data`` by one rename, so that
nobody ever loads a part. A killed conversion goes on from the shards that it finished when the same command is given
again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...extras import require_packages
from ...run_folder import PARTIAL, claim, write_aside, write_json
from ..episodes import (
    FRAMES_PREFIX,
    SCHEMA_VERSION,
    Episode,
    Signature,
    episode_features,
    episode_to_row,
)
from ..readers import EpisodeError, EpisodeReader
from ..statistics import EpisodeStatistics, merge_statistics

STAGING = ".conversion"
IDENTITY_FILE = f"{STAGING}/conversion.json"
DATA = "data"
TRAIN, TEST = "train", "test"
# A shard of a small data set is what a kill may cost; 64 of them serve as many ranks. Large ones grow to 256 episodes.
MIN_EPISODES_PER_SHARD, MAX_EPISODES_PER_SHARD, SHARD_MULTIPLE = 16, 256, 64
# Streaming fetches whole row groups: a few megabytes are one request, and little is fetched in vain.
ROW_GROUP_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Shard:
    """A Parquet file to write.

    Attributes:
        name: file name without suffix.
        indices: indices of its episodes in the source.
    """

    name: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class ConversionSettings:
    """What determines the shards of a conversion, and nothing else.

    Attributes:
        test_fraction: share of the episodes held out as split "test". A hash of an episode's id decides, so that it
            stays in its split when other episodes come or go.
        num_shards: number of Parquet files; None chooses by the number of episodes.
        skip_bad: whether to leave out episodes that cannot be read, and list them, instead of stopping at the first.
        max_skipped: share of the episodes that may be left out so.
    """

    test_fraction: float = 0.05
    num_shards: int | None = None
    skip_bad: bool = False
    max_skipped: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be in [0, 1), got {self.test_fraction}")
        if not 0 <= self.max_skipped <= 1:
            raise ValueError(f"max_skipped must be in [0, 1], got {self.max_skipped}")
        if self.num_shards is not None and self.num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {self.num_shards}")


def is_held_out(episode_id: str, test_fraction: float) -> bool:
    """Whether an episode belongs to the test split: a function of its id alone."""
    digest = hashlib.sha256(episode_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < test_fraction * 2**64


def plan_shards(episode_ids: Sequence[str], settings: ConversionSettings) -> list[Shard]:
    """The shards of a source: a function of its episodes' ids and the settings.

    Args:
        episode_ids: ids of all episodes, in the order of the source.
        settings: shares and number of the shards.

    Raises:
        ValueError: if ids repeat, or if no episode is left for training.
    """
    if len(set(episode_ids)) < len(episode_ids):
        repeated = next(name for name in episode_ids if episode_ids.count(name) > 1)
        raise ValueError(f"the episode id {repeated!r} occurs more than once in the source")
    splits: dict[str, list[int]] = {TRAIN: [], TEST: []}
    for index, episode_id in enumerate(episode_ids):
        splits[TEST if is_held_out(episode_id, settings.test_fraction) else TRAIN].append(index)
    if not splits[TRAIN]:
        raise ValueError(
            f"all {len(episode_ids)} episodes are held out for testing; lower test_fraction ({settings.test_fraction})"
        )
    shards = []
    for split, indices in splits.items():
        share = len(indices) / len(episode_ids)
        number = _number_of_shards(len(indices), share, settings.num_shards)
        bounds = [round(i * len(indices) / number) for i in range(number + 1)] if number else []
        for i, (first, last) in enumerate(itertools.pairwise(bounds)):
            shards.append(Shard(f"{split}-{i:05d}-of-{number:05d}", tuple(indices[first:last])))
    return shards


def _number_of_shards(num_episodes: int, share: float, num_shards: int | None) -> int:
    if num_shards is not None:
        return min(num_episodes, max(1, round(num_shards * share)))
    number = math.ceil(num_episodes / MIN_EPISODES_PER_SHARD)
    if number <= SHARD_MULTIPLE:
        return number
    multiple = math.ceil(num_episodes / MAX_EPISODES_PER_SHARD / SHARD_MULTIPLE)
    return SHARD_MULTIPLE * max(1, multiple)


class Conversion:
    """One conversion of a reader's episodes into a folder.

    Args:
        reader: reader of the episodes; it is pickled for other processes.
        output: folder to write.
        settings: shares and number of the shards, and what happens to broken episodes.
        description: values that determine the result, too (source, resizing, cameras); a conversion is recognised by
            them.

    Raises:
        FileExistsError: if the folder holds anything but this very conversion.
        EpisodeError: if no episode can be read.
        ValueError: see `plan_shards`.
    """

    def __init__(
        self, reader: EpisodeReader, output: Path, settings: ConversionSettings, description: dict[str, Any]
    ) -> None:
        require_packages("datasets", purpose="a data set")
        self.reader, self.output, self.settings = reader, Path(output), settings
        self.staging = self.output / STAGING
        self.shards = plan_shards(reader.episode_ids, settings)
        ids = hashlib.sha256("\n".join(reader.episode_ids).encode()).hexdigest()
        plan = {"test_fraction": settings.test_fraction, "num_shards": settings.num_shards}
        identity = {"schema_version": SCHEMA_VERSION, "episodes": ids, **plan, **description}
        self._signature = reader.signature  # before a folder is made: that nothing can be read shows here
        claim(self.output, IDENTITY_FILE, identity, noun="conversion")
        if not self.is_published:
            (self.staging / DATA).mkdir(parents=True, exist_ok=True)

    @property
    def is_published(self) -> bool:
        """Whether ``OUT/data`` is there, with all shards."""
        return (self.output / DATA).is_dir()

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard has been written."""
        return (self.staging / f"{shard.name}.json").is_file()

    def run(self, *, job: tuple[int, int] = (0, 1), num_workers: int = 1) -> EpisodeStatistics | None:
        """Write the shards that are missing or lack bad episodes, those of one job of a cluster's array.

        Args:
            job: (i, n) of the job in the array; it writes the shards i, i + n, i + 2 n, ...
            num_workers: number of processes.

        Returns:
            The statistics of all shards, with the data in place; None if other jobs have not finished theirs.

        Raises:
            EpisodeError: at the first episode that cannot be read, unless ``skip_bad``.
            ValueError: if more episodes than ``max_skipped`` were left out.
            OSError: if the disk is full or a process was killed; what is finished stays.
        """
        number, num_jobs = job
        if not 0 <= number < num_jobs:
            raise ValueError(f"a job i of n needs 0 <= i < n, got {number} of {num_jobs}")
        shards = [] if self.is_published else self.shards[number::num_jobs]
        shards = [shard for shard in shards if not self.is_done(shard) or self._statistics_of(shard).skipped]
        try:
            self._write_shards(shards, num_workers)
        except OSError as error:
            num_done = sum(map(self.is_done, self.shards))
            raise OSError(
                f"{error}; {num_done} of {len(self.shards)} shards are complete in {self.output}, and the same command "
                f"goes on from there"
            ) from error
        if not all(map(self.is_done, self.shards)):
            return None
        statistics = self._statistics()
        self._check_skipped(statistics)
        self._publish()
        return statistics

    def _write_shards(self, shards: Sequence[Shard], num_workers: int) -> None:
        from tqdm import tqdm

        total = sum(len(shard.indices) for shard in shards)
        if not shards:
            return
        setup = (self.reader, self._signature, self.staging, self.settings.skip_bad)
        with tqdm(total=total, unit="episode", desc="writing", disable=None) as bar:
            if num_workers <= 1 or len(shards) == 1:
                for shard in shards:
                    for _ in write_shard(shard, *setup):
                        bar.update()
                return
            # spawn: simulators and video decoders do not survive a fork
            context = multiprocessing.get_context("spawn")
            ticks = context.Queue()
            setup = (ticks, *setup)
            workers = min(num_workers, len(shards))
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up, initargs=setup) as pool:
                pending = {pool.submit(_write_in_worker, shard) for shard in shards}
                try:
                    while pending:
                        finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                        for future in finished:
                            future.result()
                        while not ticks.empty():
                            bar.update(ticks.get())
                except BrokenProcessPool as error:
                    raise OSError("a converting process was killed, perhaps for want of memory") from error
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)

    def _statistics(self) -> EpisodeStatistics:
        return merge_statistics([self._statistics_of(shard) for shard in self.shards])

    def _statistics_of(self, shard: Shard) -> EpisodeStatistics:
        file = self.staging / f"{shard.name}.json"
        return EpisodeStatistics.from_json(json.loads(file.read_text(encoding="utf-8")))

    def _check_skipped(self, statistics: EpisodeStatistics) -> None:
        share = len(statistics.skipped) / len(self.reader)
        if share > self.settings.max_skipped:
            names = "; ".join(statistics.skipped.values())
            raise ValueError(
                f"{len(statistics.skipped)} of {len(self.reader)} episodes could not be read ({share:.1%}, allowed are "
                f"{self.settings.max_skipped:.1%}): {names}"
            )
        if statistics.num_episodes == 0:
            raise ValueError("no episode could be read")

    def _publish(self) -> None:
        """Make all shards visible at once."""
        if self.is_published:
            return
        try:
            (self.staging / DATA).rename(self.output / DATA)
        except FileNotFoundError:  # another job of the array was faster
            if not self.is_published:
                raise
        for partial in self.staging.glob(f"*{PARTIAL}"):
            partial.unlink(missing_ok=True)


# -- one shard --------------------------------------------------------------------------------------------------------

_WORKER: tuple[Any, ...] = ()


def _set_up(*setup: Any) -> None:
    global _WORKER
    _WORKER = setup


def _write_in_worker(shard: Shard) -> None:
    ticks, *setup = _WORKER
    for _ in write_shard(shard, *setup):
        ticks.put(1)


def write_shard(
    shard: Shard, reader: EpisodeReader, signature: Signature, staging: Path, skip_bad: bool
) -> Iterator[None]:
    """Write a shard's Parquet file and then its statistics, each under its name only when it is complete.

    Args:
        shard: shard to write.
        reader: reader of the episodes.
        signature: cameras and action width that all episodes must have.
        staging: folder where the conversion lies while it runs.
        skip_bad: whether to leave out episodes that cannot be read.

    Yields:
        None after each episode.

    Raises:
        EpisodeError: at the first episode that cannot be read, unless ``skip_bad``.
    """
    statistics = EpisodeStatistics()
    target = staging / DATA / f"{shard.name}.parquet"
    # Not aside among the shards: what a kill leaves there would be published with them.
    with write_aside(target, folder=staging) as partial, ShardWriter(partial, signature) as writer:
        for index in shard.indices:
            try:
                episode = reader[index]
                writer.write(episode, index)
                statistics.add(episode)
            except EpisodeError as error:
                if not skip_bad:
                    raise
                statistics.skip(reader.episode_ids[index], str(error))
            yield
    if not statistics.num_episodes:
        target.unlink()
    write_json(staging / f"{shard.name}.json", statistics.to_json())


class ShardWriter:
    """A Parquet file of episodes, in row groups of a few megabytes, so that memory does not grow with the file.

    Args:
        path: file to write.
        signature: cameras and action width that all episodes must have.
    """

    def __init__(self, path: Path, signature: Signature) -> None:
        import pyarrow.parquet as pq

        self._signature = signature
        self._schema = episode_features(signature.cameras).arrow_schema
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, episode: Episode, index: int) -> None:
        """Add an episode.

        Args:
            episode: episode to add.
            index: number of the episode in the source.

        Raises:
            EpisodeError: if its images are broken, or its cameras or action width differ from the other episodes'.
        """
        try:
            if episode.signature != self._signature:
                raise ValueError(f"it has {episode.signature}, other episodes have {self._signature}")
            row = episode_to_row(episode, index)
        except ValueError as error:
            raise EpisodeError(f"episode {episode.episode_id!r}: {error}") from error
        self._rows.append(row)
        images = (image for camera in self._signature.cameras for image in row[FRAMES_PREFIX + camera])
        self._num_bytes += sum(len(image["bytes"]) for image in images)
        if self._num_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._num_bytes = [], 0
