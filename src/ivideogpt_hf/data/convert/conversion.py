"""Episodes from a reader to a folder of Parquet shards: parallel, resumable, split over a cluster's jobs.

While a conversion runs, everything lies in ``OUT/.conversion``: each finished shard as a Parquet file beside a json
file with its statistics. When the last shard is there, the Parquet files become ``OUT/data`` by one rename, so that
nobody ever loads a part. A killed conversion goes on from the shards that it finished when the same command is given
again.

Beside each shard stands what its source's files were. Where they have changed, the same command says so. An update
writes the whole new set into ``OUT/.conversion/1`` (then 2, and so on). Shards whose files are as they were come from
the old set, byte for byte. The new set then takes the place of ``OUT/data``. The highest folder without ``data`` is the
one whose shards are published.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...extras import require_packages
from ...run_folder import (
    PARTIAL,
    claim,
    describe_changes,
    link_file,
    lock,
    read_object,
    recover_folder,
    replace_folder,
    write_aside,
    write_json,
)
from ..episodes import SCHEMA_VERSION
from ..readers import EpisodeReader
from ..statistics import EpisodeStatistics, merge_statistics
from .shards import DATA, TEST, TRAIN, ConversionSettings, Shard, plan_shards, write_shard
from .source_state import ShardSource, SourceState

STAGING = ".conversion"
IDENTITY_FILE = f"{STAGING}/conversion.json"


class Conversion:
    """One conversion of a reader's episodes into a folder.

    Args:
        reader: reader of the episodes; it is pickled for other processes.
        output: folder to write.
        settings: shares and number of the shards, and what happens to broken episodes.
        description: values that determine the result, too (source, resizing, cameras); a conversion is recognised by
            them.
        update: whether to take in what has changed in the source since it was converted.

    Attributes:
        source: files of the source, as they are now.

    Raises:
        FileExistsError: if the folder holds anything but this very conversion, or the source has changed since, unless
            ``update``.
        EpisodeError: if no episode can be read.
        ValueError: if the folder lies in the source; also see `plan_shards`.
    """

    def __init__(
        self,
        reader: EpisodeReader,
        output: Path,
        settings: ConversionSettings,
        description: dict[str, Any],
        *,
        update: bool = False,
    ) -> None:
        require_packages("datasets", purpose="a data set")
        self.reader, self.output, self.settings = reader, Path(output), settings
        self.shards = plan_shards(reader.episode_ids, settings)
        self.source = SourceState(reader, by_content=settings.hash_source)  # before anything is read
        if self.source.files and self.output.resolve().is_relative_to(Path(reader.path).resolve()):
            raise ValueError(
                f"{self.output} lies in the source {reader.path}, whose episodes are looked for in all its folders: "
                f"give a folder outside"
            )
        self._signature = reader.signature  # before a folder is made: that nothing can be read shows here
        self._sources = {shard.name: self.source.shard(shard.indices, self._signature) for shard in self.shards}
        claim(self.output, IDENTITY_FILE, self._identity(description), noun="conversion", identity_of=self._compared)
        self._recover()
        self._generation = self._find_generation()
        if self._is_stale():
            if not update:
                raise FileExistsError(self._describe_change())
            if self.is_published:
                self._begin_update()
        if not self.is_published:
            (self.staging / DATA).mkdir(parents=True, exist_ok=True)
            self._drop_stale()

    def _identity(self, description: dict[str, Any]) -> dict[str, Any]:
        plan: dict[str, Any] = {"test_fraction": self.settings.test_fraction, "num_shards": self.settings.num_shards}
        if self.settings.hash_source:
            plan["hash_source"] = True
        if not self.source.files:
            plan["episodes"] = hashlib.sha256("\n".join(self.reader.episode_ids).encode()).hexdigest()
        return {"schema_version": SCHEMA_VERSION, **plan, **description}

    def _compared(self, identity: dict[str, Any]) -> dict[str, Any]:
        """What a conversion is recognised by. Where there are files, the shards' records tell of the episodes, which
        may come and go; earlier versions noted their ids always."""
        return {name: value for name, value in identity.items() if name != "episodes" or not self.source.files}

    # -- the published set and the next one ---------------------------------------------------------------------------

    @property
    def is_published(self) -> bool:
        """Whether ``OUT/data`` is there, with all shards."""
        return (self.output / DATA).is_dir()

    @property
    def staging(self) -> Path:
        """The folder of the shards' records, and of the shards until they are published."""
        return self._folder(self._generation)

    def _folder(self, generation: int) -> Path:
        return self.output / STAGING / str(generation) if generation else self.output / STAGING

    def _generations(self) -> list[int]:
        return sorted([0, *(int(path.name) for path in self._folder(0).iterdir() if path.name.isdecimal())])

    def _find_generation(self) -> int:
        """The set that is published, or else the first one."""
        if not self.is_published:
            return 0
        return max((n for n in self._generations() if not (self._folder(n) / DATA).is_dir()), default=0)

    def _recover(self) -> None:
        """Mend what a kill left of a publication, unless another process is publishing now."""
        if any(self.output.glob(f"{DATA}.*{PARTIAL}")):
            with suppress(BlockingIOError), lock(self.output):
                recover_folder(self.output / DATA)

    def _records(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Name of each shard in a folder -> its statistics and its source."""
        files = (file for split in (TRAIN, TEST) for file in folder.glob(f"{split}-*.json"))
        return {file.stem: read_object(file) for file in files}

    def _is_current(self, name: str, record: dict[str, Any]) -> bool:
        """Whether a shard is one of those to write, and made of the source as it is."""
        if name not in self._sources:
            return False
        # Earlier versions noted no source; without files there was nothing but the episodes' ids, which are compared.
        return record.get("source", None if self.source.files else self._sources[name].record) == (
            self._sources[name].record
        )

    def _is_stale(self) -> bool:
        """Whether shards are there that are made of another state of the source."""
        records = self._records(self.staging)
        if self.is_published:
            return set(records) != set(self._sources) or not all(self._is_current(*item) for item in records.items())
        # Shards that lack bad episodes are written again anyway.
        return not all(
            self._is_current(name, record) or (name in self._sources and record["skipped"])
            for name, record in records.items()
        )

    def _describe_change(self) -> str:
        records = self._records(self.staging)
        if not records or any("source" not in record for record in records.values()):
            return (
                f"{self.output} does not say what the files of {self.reader.path} were when it was converted (earlier "
                f"versions did not note it), so whether they have changed since cannot be known: convert all of them "
                f"again with --update (update=True), or give another folder"
            )
        before = {name: stamp for record in records.values() for name, stamp in record["source"]["files"].items()}
        now = self.source.files
        if not self.is_published:  # of the shards that are not there, nothing is known
            sources = [self._sources[name].record["files"] for name in records if name in self._sources]
            known = set(before).union(*sources)
            now = {name: stamp for name, stamp in now.items() if name in known}
        changes = describe_changes(before, now) or "the same files hold other episodes"
        return (
            f"{self.reader.path} has changed since it was converted to {self.output}: {changes}; take in what changed "
            f"with --update (update=True), or give another folder"
        )

    def _begin_update(self) -> None:
        """Make room for the shards of the new state, and keep those that stay as they are."""
        old, self._generation = self.staging, self._generation + 1
        self._make_staging()
        self._drop_stale()
        self._adopt(old)

    def _make_staging(self) -> None:
        """Make the folder of a new set. It never lacks ``data``, which would mean that it is published."""
        aside = self.staging.with_name(f"{self.staging.name}.{os.getpid()}{PARTIAL}")
        (aside / DATA).mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # it is there, from another job or before a kill
            aside.rename(self.staging)
        shutil.rmtree(aside, ignore_errors=True)

    def _drop_stale(self) -> None:
        """Delete unpublished shards that are made of another state of the source."""
        for name, record in self._records(self.staging).items():
            if not self._is_current(name, record):  # the record first: a shard without one is written again
                (self.staging / f"{name}.json").unlink(missing_ok=True)
        for file in (self.staging / DATA).glob("*.parquet"):
            if file.stem not in self._sources:
                file.unlink(missing_ok=True)

    def _adopt(self, old: Path) -> None:
        """Take the published shards whose episodes and files are as they were, under the names that they have now."""
        records = self._records(old)
        names = {json.dumps(record.get("source"), sort_keys=True): name for name, record in records.items()}
        for shard in self.shards:
            name = names.get(json.dumps(self._sources[shard.name].record, sort_keys=True))
            if name is None or self.is_done(shard):
                continue
            published = self.output / DATA / f"{name}.parquet"
            if published.is_file():  # there is none where all episodes were left out
                target = self.staging / DATA / f"{shard.name}.parquet"
                with write_aside(target, folder=self.staging) as partial:
                    link_file(published, partial)
            write_json(self.staging / f"{shard.name}.json", records[name])

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard has been written, from the source as it is."""
        file = self.staging / f"{shard.name}.json"
        return file.is_file() and self._is_current(shard.name, read_object(file))

    # -- writing ------------------------------------------------------------------------------------------------------

    def run(
        self, *, job: tuple[int, int] = (0, 1), num_workers: int = 1, pool: Executor | None = None
    ) -> EpisodeStatistics | None:
        """Write the shards that are missing or lack bad episodes, those of one job of a cluster's array.

        Args:
            job: (i, n) of the job in the array; it writes the shards i, i + n, i + 2 n, ...
            num_workers: number of processes.
            pool: executor that writes each shard by one call, in place of these processes. Its processes may be on
                other machines that see the same files. A call that is made again writes the shard again.

        Returns:
            The statistics of all shards, with the data in place; None if other jobs have not finished theirs, or one
            of them is just putting the data in place.

        Raises:
            EpisodeError: at the first episode that cannot be read, unless ``skip_bad``.
            ValueError: if more episodes than ``max_skipped`` were left out.
            OSError: if the disk is full or a process was killed; what is finished stays.
        """
        number, num_jobs = job
        if not 0 <= number < num_jobs:
            raise ValueError(f"a job i of n needs 0 <= i < n, got {number} of {num_jobs}")
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        shards = self.shards[number::num_jobs] if (self.staging / DATA).is_dir() else []
        shards = [shard for shard in shards if not self.is_done(shard) or self._statistics_of(shard).skipped]
        try:
            self._write_shards(shards, num_workers, pool)
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
        return statistics if self._publish() else None

    def _write_shards(self, shards: Sequence[Shard], num_workers: int, pool: Executor | None) -> None:
        from tqdm import tqdm

        total = sum(len(shard.indices) for shard in shards)
        if not shards:
            return
        setup = (self.reader, self._signature, self.staging, self.settings.skip_bad)
        with tqdm(total=total, unit="episode", desc="writing", disable=None) as bar:
            if pool is not None:
                write = functools.partial(_write_by_setup, setup)
                shard_of = {pool.submit(write, shard, self._sources[shard.name]): shard for shard in shards}
                for future in as_completed(shard_of):
                    future.result()
                    bar.update(len(shard_of[future].indices))
                return
            if num_workers == 1 or len(shards) == 1:
                for shard in shards:
                    for _ in write_shard(shard, self._sources[shard.name], *setup):
                        bar.update()
                return
            # spawn: simulators and video decoders do not survive a fork
            context = multiprocessing.get_context("spawn")
            ticks = context.Queue()
            setup = (ticks, *setup)
            workers = min(num_workers, len(shards))
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up, initargs=setup) as processes:
                pending = {processes.submit(_write_in_worker, shard, self._sources[shard.name]) for shard in shards}
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
                    processes.shutdown(wait=True, cancel_futures=True)

    def _statistics(self) -> EpisodeStatistics:
        return merge_statistics([self._statistics_of(shard) for shard in self.shards])

    def _statistics_of(self, shard: Shard) -> EpisodeStatistics:
        file = self.staging / f"{shard.name}.json"
        return EpisodeStatistics.from_json(read_object(file))

    def _check_skipped(self, statistics: EpisodeStatistics) -> None:
        share = len(statistics.skipped) / len(self.reader)
        if share > self.settings.max_skipped:
            names = "; ".join(statistics.skipped.values())
            raise ValueError(
                f"{len(statistics.skipped)} of {len(self.reader)} episodes could not be read ({share:.1%}, allowed are "
                f"{self.settings.max_skipped:.1%}): {names}; max_skipped, --max-skipped, allows more"
            )
        if statistics.num_episodes == 0:
            raise ValueError("no episode could be read")

    def _publish(self) -> bool:
        """Make all shards visible at once. Returns whether they are, and no other job is about to do so."""
        new, data = self.staging / DATA, self.output / DATA
        if not new.is_dir():
            return True
        if self._generation == 0:
            try:
                new.rename(data)
            except FileNotFoundError:  # another job of the array was faster
                if not self.is_published:
                    raise
        else:
            try:
                with lock(self.output):
                    if new.is_dir():
                        replace_folder(data, new)
            except BlockingIOError:
                return False
        self._clean()
        return True

    def _clean(self) -> None:
        """Delete what earlier sets and kills left."""
        for partial in self.staging.glob(f"*{PARTIAL}"):
            partial.unlink(missing_ok=True)
        if self._generation:
            for name in self._records(self._folder(0)):
                (self._folder(0) / f"{name}.json").unlink(missing_ok=True)
        for generation in self._generations():
            if 0 < generation < self._generation:
                shutil.rmtree(self._folder(generation), ignore_errors=True)


# -- other processes ---------------------------------------------------------------------------------------------------

_WORKER: tuple[Any, ...] = ()


def _set_up(*setup: Any) -> None:
    global _WORKER
    _WORKER = setup


def _write_in_worker(shard: Shard, source: ShardSource) -> None:
    ticks, *setup = _WORKER
    for _ in write_shard(shard, source, *setup):
        ticks.put(1)


def _write_by_setup(setup: tuple[Any, ...], shard: Shard, source: ShardSource) -> None:
    for _ in write_shard(shard, source, *setup):
        pass
