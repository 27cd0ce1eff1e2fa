"""Data sets of tokens: clips that a VQ model has coded once, so that training need not do it again.

A folder with ``tokens.json``, which says how they were made, and ``data/<split>-*.parquet`` with one row per clip.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...extras import require_packages
from ...run_folder import read_object, write_aside
from ..file_digests import CONTENT_KEY, footer_digests, update_digest
from .dataset import Clip, ClipKey
from .order import ShuffledOrder, SourcePattern, SourceWindows
from .segments import SegmentSpec

TOKENS_FILE = "tokens.json"
TOKENS_VERSION = 1
COLUMNS = ("tokens", "actions", "action_mask", "rewards", "source", "episode")


@dataclass(frozen=True)
class TokenClips:
    """All clips of a split, as one source of an order.

    Attributes:
        windows: windows of the order, one per clip.
    """

    windows: SourceWindows


class TokenDataset(torch.utils.data.Dataset):
    """Coded clips, in the place of `SegmentDataset`: a map from `ClipKey` to a dict with ``tokens`` (L,) int64 in place
    of frames.

    Args:
        folder: folder that `ivideogpt tokenize` wrote.
        split: "train" or "validation".
        seed: seed of the order.

    Attributes:
        made: content of tokens.json.

    Raises:
        FileNotFoundError: if the folder holds no finished data set of tokens, or no such split.
        ValueError: if it was written by another version.
    """

    streaming = False

    def __init__(self, folder: str | os.PathLike[str], split: str, *, seed: int = 0) -> None:
        require_packages("datasets", purpose="a data set of tokens")
        from datasets import load_dataset

        self.made = read_tokens_file(Path(folder))
        files = sorted(str(file) for file in Path(folder).glob(f"data/{split}-*.parquet"))
        if not files:
            raise FileNotFoundError(f"{folder} has no split {split}")
        self._contents = footer_digests(files)
        self._table = load_dataset("parquet", data_files={split: files}, split=split).data
        self._columns = [name for name in COLUMNS if name in self._table.column_names]
        self.segment = SegmentSpec(**self.made["segment"])
        self.seed = seed
        self.sources = [TokenClips(SourceWindows(np.array([0, len(self._table)])))]
        self._pattern = SourcePattern([1.0], seed)

    def contents(self) -> dict[str, str]:
        """What each file is known by, under its name; see `footer_digests`."""
        return self._contents

    def order(self, epoch: int = 0) -> ShuffledOrder:
        """The order of an epoch: all clips, shuffled."""
        return ShuffledOrder([self.sources[0].windows], self._pattern, self.seed, epoch)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: ClipKey) -> Clip:
        clip: Clip = {}
        for name in self._columns:
            value = self._table.column(name)[key.window]
            if name in ("source", "episode"):
                clip[name] = value.as_py()
                continue
            numbers = value.values.to_numpy(zero_copy_only=False)
            clip[name] = torch.from_numpy(numbers.astype(np.int64) if name == "tokens" else numbers.copy())
        if "actions" in clip:
            clip["actions"] = clip["actions"].unflatten(0, (self.segment.num_frames - 1, -1))
        return clip


def read_tokens_file(folder: Path) -> dict[str, Any]:
    """How the tokens in a folder were made.

    Args:
        folder: folder that `ivideogpt tokenize` wrote.

    Returns:
        The content of tokens.json.

    Raises:
        FileNotFoundError, ValueError: see `TokenDataset`.
    """
    file = folder / TOKENS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished data set of tokens ({TOKENS_FILE} is missing); `ivideogpt tokenize` makes one "
            f"and goes on where it was stopped"
        )
    content = read_object(file)
    version = content.get("version")
    if version != TOKENS_VERSION:
        raise ValueError(f"{file} has version {version}, this package reads {TOKENS_VERSION}: write it again")
    return content


def write_tokens(file: Path, clips: Sequence[Clip]) -> None:
    """Write coded clips as Parquet, aside first: a file under its name is complete.

    Args:
        file: file to write.
        clips: coded clips, at least one, all with the same keys.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name in COLUMNS:
        if name not in clips[0]:
            continue
        if name in ("source", "episode"):
            columns[name] = pa.array([int(clip[name]) for clip in clips], pa.int32())
            continue
        kinds = {"tokens": pa.int32(), "action_mask": pa.bool_()}
        rows = [np.asarray(clip[name]).reshape(-1) for clip in clips]
        columns[name] = pa.array(rows, pa.list_(kinds.get(name, pa.float32())))
    table, digest = pa.table(columns), hashlib.blake2b(digest_size=16)
    update_digest(digest, table)
    with write_aside(file) as aside:
        pq.write_table(table.replace_schema_metadata({CONTENT_KEY: digest.hexdigest()}), aside, compression="zstd")
