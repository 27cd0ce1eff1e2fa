"""Shards of a conversion: which episodes each Parquet file holds, and how one is written."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...media.decoded_bytes import decoded_within
from ...run_folder import write_aside, write_json
from ..episodes import FRAMES_PREFIX, Episode, Signature, episode_features, episode_to_row
from ..file_digests import CONTENT_KEY, update_digest
from ..readers import EpisodeError, EpisodeReader
from ..statistics import EpisodeStatistics
from .source_state import ShardSource

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
        num_shards: number of Parquet files, which the splits share as they share the episodes, up to rounding, with one
            at least for each; None chooses by the number of episodes.
        skip_bad: whether to leave out episodes that cannot be read, and list them, instead of stopping at the first.
        max_skipped: share of the episodes that may be left out so.
        hash_source: whether the source's files are known by their content, as copies of them are, in place of their
            times. All files are read for it before anything is written.
    """

    test_fraction: float = 0.05
    num_shards: int | None = None
    skip_bad: bool = False
    max_skipped: float = 0.01
    hash_source: bool = False

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


def write_shard(
    shard: Shard, source: ShardSource, reader: EpisodeReader, signature: Signature, staging: Path, skip_bad: bool
) -> Iterator[None]:
    """Write a shard's Parquet file and then its statistics, each under its name only when it is complete.

    Args:
        shard: shard to write.
        source: what it is made of.
        reader: reader of the episodes.
        signature: cameras and action width that all episodes must have.
        staging: folder where the conversion lies while it runs.
        skip_bad: whether to leave out episodes that cannot be read.

    Yields:
        None after each episode.

    Raises:
        EpisodeError: at the first episode that cannot be read, unless ``skip_bad``.
        OSError: if a file of the source changes meanwhile, or the disk is full.
    """
    statistics = EpisodeStatistics()
    target = staging / DATA / f"{shard.name}.parquet"
    # Not aside among the shards: what a kill leaves there would be published with them.
    with write_aside(target, folder=staging) as partial, ShardWriter(partial, signature) as writer:
        for index in shard.indices:
            try:
                episode = reader[index]
                with decoded_within(reader.options.max_bytes):  # encoded images are decoded to be checked
                    writer.write(episode, index)
                    statistics.add(episode)
            except EpisodeError as error:
                if not skip_bad:
                    raise
                # The card shows it, and goes to the Hub.
                statistics.skip(reader.episode_ids[index], reader.without_place(str(error)))
            yield
        source.check_unchanged({file for index in shard.indices for file in reader.files_of(index)})
    if not statistics.num_episodes:
        target.unlink()
    write_json(staging / f"{shard.name}.json", statistics.to_json() | {"source": source.record})


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
        self._digest = hashlib.blake2b(digest_size=16)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._flush()
            self._writer.add_key_value_metadata({CONTENT_KEY: self._digest.hexdigest()})
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
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            update_digest(self._digest, table)
            self._writer.write_table(table)
            self._rows, self._num_bytes = [], 0
