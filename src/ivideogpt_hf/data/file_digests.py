"""By what the content of Parquet files is known, whoever copied them, and without reading them.

A file that this package wrote holds a digest of its rows in its footer. Of others, the footer tells the sizes and the
ranges of the columns' values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTENT_KEY = "ivideogpt_content"
# A Parquet file ends with its footer, the length of the footer, and a mark of four bytes.
LENGTH_BYTES, MARK_BYTES = 4, 4


def update_digest(digest: Any, table: Any) -> None:
    """Let a digest of hashlib know all values of a pyarrow table.

    Args:
        digest: digest to update.
        table: rows that are written next.
    """
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                digest.update(b"" if buffer is None else buffer)


def footer_digests(files: Sequence[str | Path]) -> dict[str, str]:
    """What local Parquet files are known by.

    Args:
        files: Parquet files with different names.

    Returns:
        Name of each file without its folder -> a digest of its size and its footer.
    """
    return {Path(file).name: _footer_digest(Path(file)) for file in files}


def _footer_digest(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(-min(size, LENGTH_BYTES + MARK_BYTES), 2)  # it may be no Parquet file
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        stream.seek(-min(size, length + LENGTH_BYTES + MARK_BYTES), 2)
        return hashlib.blake2b(stream.read(), digest_size=16, salt=size.to_bytes(16, "little")).hexdigest()
