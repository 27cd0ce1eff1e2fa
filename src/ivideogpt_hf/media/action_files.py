"""Files of actions: csv, tsv, json, jsonl, npy and npz."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..run_folder import parse_json
from . import numpy_files
from .action_tables import CLIP_COLUMN, FRAME_COLUMN, MAX_COLUMNS, ActionTable, plain_name
from .alignment import ActionAlignment

if TYPE_CHECKING:
    from pandas import DataFrame, Series  # type: ignore[import-untyped]  # its types are another package

ACTION_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz")
ACTION_KEYS = ("actions", "action")
FIRST_KEY = "is_first"
# Columns that count rows or time, or tell how an episode goes, and are no actions.
NO_ACTION = re.compile(
    r"(index|step|step_index|time_?steps?|t|frame_?(index|idx|id|number|no)|episode|episode_index|(time|timestamps?)"
    r"([ _]?[(\[]?(s|sec|seconds|ms|us|ns)[)\]]?)?|rewards?|done|terminal|terminated|truncated|success|is_(first|last"
    r"|terminal))",
    re.IGNORECASE,
)
NUMBER = r"[+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"
POINT_NUMBER = NUMBER.replace(".,", ".")
WITH_THOUSANDS = r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+"
UNNAMED = re.compile(r"(?:Unnamed: [0-9]+)?")  # as pandas writes and reads it
MISSING = ("nan", "na", "n/a", "null", "none", "inf", "infinity")
MAX_EXACT_INTEGER = 2**24  # float32 holds every integer up to this one
MAX_FLOAT = float(np.finfo(np.float32).max)


def read_action_table(path: Path, alignment: ActionAlignment | None = None) -> ActionTable:
    """Read a file of actions.

    - csv, tsv: a line per row, in UTF-8, or in UTF-16 with a byte order mark. A line of names comes first. Without it
      the first line must be numbers that are not all integers, because integers may as well be names, as in what
      `DataFrame.to_csv` writes. Lines before the table that begin with "#" are comments. Cells are separated by tabs
      if the first line has any, else by semicolons if it has any, else by commas. Decimal commas are read where no
      cell has a point. An unnamed first column that counts from 0 is pandas' index, and is left out with a note.
    - json: a list of rows, each a list of numbers, or an object with a number for each name. jsonl: a row per line.
    - npy, npz: an array (R, A) of numbers; npz under "actions" or "action".

    Args:
        path: file to read.
        alignment: place of row t: "after" frame t (it leads to frame t + 1), or "before" frame t (it led to frame t);
            None: what a flag of the file tells, else "after".

    Raises:
        OSError: if the file is missing or corrupt.
        ValueError: if the content is no table of finite numbers, or can be read in more than one way; says which line
            and column.
    """
    suffix = path.suffix.lower()
    if suffix not in ACTION_SUFFIXES:
        raise ValueError(f"actions are read from npy, npz, csv, tsv, json or jsonl, not from {path.name}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if suffix in (".npy", ".npz"):
        array, is_first = _read_arrays(path)
        actions = check_actions(array, str(path))
        return ActionTable(path, actions, alignment=alignment or flagged_alignment(is_first, actions))
    text = _read_text(path)
    table = _read_json(path, text) if suffix in (".json", ".jsonl") else _read_csv(path, text)
    if table.frames is not None and alignment == "before":
        raise ValueError(
            f"{path} binds rows to frames by a column {FRAME_COLUMN!r}, which action_alignment 'before' would move: "
            f"write the frame that each action follows, and leave action_alignment out"
        )
    return replace(table, alignment=alignment)


def check_actions(values: np.ndarray, name: str) -> np.ndarray:
    """Actions (R, A) as float32.

    Raises:
        ValueError: unless they are finite numbers that float32 can hold.
    """
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold a table of numbers with rows of one width, got the dtype {values.dtype}")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have shape (T, A), got {values.shape}")
    with np.errstate(over="ignore"):
        actions = values.astype(np.float32)
    infinite = np.argwhere(~np.isfinite(actions))
    if len(infinite):
        row, column = infinite[0]
        raise ValueError(
            f"{name} contain NaN or infinite values, first in row {row}, column {column}: {values[row, column]} "
            f"(rows count from 0; numbers are stored as float32)"
        )
    check_exact(values, actions, name)
    return actions


def check_exact(values: np.ndarray, numbers: np.ndarray, name: str) -> None:
    """Raise ValueError if an integer is another number as float32.

    Args:
        values: rows of one number or several.
        numbers: the same as float32.
        name: name of the rows, for errors.
    """
    if values.dtype.kind not in "iu":
        return
    inexact = np.argwhere((np.abs(values.astype(np.float64)) > MAX_EXACT_INTEGER) & (numbers != values))
    if len(inexact):
        place = ", ".join(f"{axis} {index}" for axis, index in zip(("row", "column"), inexact[0], strict=False))
        raise ValueError(
            f"{name} hold the integer {values[tuple(inexact[0])]} in {place}, which float32 cannot hold exactly; scale "
            f"such numbers"
        )


def flagged_alignment(is_first: np.ndarray | None, actions: np.ndarray) -> ActionAlignment | None:
    """What Dreamer's flag tells: it stands in files whose row t led to frame t, and whose first action is zero.

    Raises:
        ValueError: if the flag marks several episodes, or the first action is not zero.
    """
    if is_first is None or len(actions) != len(is_first):
        return None
    rows = np.flatnonzero(is_first)
    if len(rows) and rows[-1] > 0:
        raise ValueError(f"{FIRST_KEY} is true in row {rows[-1]}: the file holds several episodes, split it there")
    if np.any(actions[0]):
        raise ValueError(
            f"it has {FIRST_KEY} as Dreamer's files, but its first action is not zero as theirs: say with "
            f"action_alignment, --action-alignment, whether row t of the actions comes before or after frame t"
        )
    return "before"


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The actions of a file, and Dreamer's flag if it has that."""
    with numpy_files.opened(path) as content:
        if isinstance(content, np.ndarray):
            return content, None
        names = content.names
        found = {key: content.read(key) for key in ACTION_KEYS if key in names}
        is_first = content.read(FIRST_KEY) if FIRST_KEY in names else None
    if not found:
        raise ValueError(f"{path} must hold one of {list(ACTION_KEYS)}, it holds {names}")
    array, *others = found.values()
    if not all(np.array_equal(array, other) for other in others):
        raise ValueError(f"{path} holds {' and '.join(map(repr, found))}, which differ; leave only one of them")
    return array, is_first


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except ValueError as error:
        raise OSError(f"{path} is not text in UTF-8 or UTF-16; save it as UTF-8: {error}") from error
    if not text.strip():
        raise OSError(f"{path} is not valid {path.suffix[1:].upper()}: it is empty")
    return text


# -- csv --------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, text: str) -> ActionTable:
    import pandas as pd

    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), len(lines))
    if first == len(lines):
        raise ValueError(f"{path} has no rows")
    outside_quotes = re.sub(r'"[^"]*"', "", lines[first])
    separator = next((mark for mark in "\t;" if mark in outside_quotes), "\t" if path.suffix.lower() == ".tsv" else ",")
    num_columns = lines[first].count(separator) + 1
    if num_columns > MAX_COLUMNS:
        raise ValueError(f"{path} has {num_columns} columns; at most {MAX_COLUMNS} are read")
    try:
        cells = pd.read_csv(
            io.StringIO("\n".join(lines[first:])),
            sep=separator,
            header=None,
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except pd.errors.ParserError as error:
        ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if ragged is None:
            raise OSError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
        raise ValueError(
            f"{path}, line {int(ragged[2]) + first}: {ragged[3]} cells, but the first line has {ragged[1]}. If numbers "
            f"have decimal commas, write points, put the numbers into quotes, or separate cells by semicolons"
        ) from error
    cells = cells.apply(lambda column: column.str.strip())
    cells.index += first + 1  # lines, for errors
    cells = _without_empty_lines(path, cells)
    header = cells.iloc[0].tolist()
    if _is_header(path, header, cells):
        return _table(path, header, cells.iloc[1:], "line")
    return _table(path, None, cells, "line")


def _without_empty_lines(path: Path, cells: DataFrame) -> DataFrame:
    """The lines up to the last one with content."""
    is_empty = cells.eq("").all(axis=1)
    if is_empty.all():
        raise ValueError(f"{path} has no rows")
    cells = cells.loc[: is_empty[~is_empty].index[-1]]
    if is_empty[cells.index].any():
        raise ValueError(f"{path}, line {is_empty.idxmax()} is empty; was a row lost? Take such lines out")
    return cells


def _is_header(path: Path, first: list[str], cells: DataFrame) -> bool:
    """Whether the first line holds names.

    Raises:
        ValueError: if it may as well hold numbers.
    """
    numbers = [cell for cell in first if re.fullmatch(NUMBER, cell)]
    integers = [cell for cell in numbers if re.fullmatch("[+-]?[0-9]+", cell)]
    place = f"{path}, line {cells.index[0]}"
    if len(numbers) == len(first):
        if len(integers) == len(first):
            example = ",".join(f"a{i}" for i in range(len(first)))
            raise ValueError(
                f"{place} holds {', '.join(first)}: names of columns, as pandas writes them, or the first row, or "
                f"numbers with decimal commas? Begin the file with a line of names, such as {example}"
            )
        return False
    for cell in filter(None, first):
        if cell not in numbers and (cell.lower().lstrip("+-") in MISSING or not any(map(str.isalpha, cell))):
            raise ValueError(f"{place} holds {cell!r}, which is neither a number nor the name of a column")
    # An empty cell is never a number, and these names are ours. But a row may begin with a clip of the name "clip".
    reserved = [i for i, name in enumerate(first) if name.lower() in (CLIP_COLUMN, FRAME_COLUMN)]
    is_certain = UNNAMED.fullmatch(first[0]) or any(not cells[i].iloc[1:].eq(first[i]).any() for i in reserved)
    if numbers and not (is_certain and len(integers) == len(numbers)):
        raise ValueError(
            f"{place} mixes numbers and text: {', '.join(first)}. It must hold the name of each column, and the first "
            f"row comes after it"
        )
    return True


# -- json -------------------------------------------------------------------------------------------------------------


def _read_json(path: Path, text: str) -> ActionTable:
    import pandas as pd

    if path.suffix.lower() == ".jsonl":
        lines = enumerate(text.rstrip().split("\n"), start=1)
        rows = [_parse_json(line, f"{path}, line {number},") for number, line in lines]
    else:
        rows = _parse_json(text, str(path))
    kinds = {type(row) for row in rows} if isinstance(rows, list) else set()
    if kinds not in ({list}, {dict}):
        raise ValueError(
            f"{path} must be a list of rows of shape (T, A), each a list of numbers, or each an object with a number "
            f"for each name, as DataFrame.to_json(orient='records') writes it"
        )
    names = list(rows[0]) if kinds == {dict} else None
    if len(rows[0]) > MAX_COLUMNS:
        raise ValueError(f"{path} has rows of {len(rows[0])} numbers; at most {MAX_COLUMNS} are read")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]) or (names is not None and set(row) != set(names)):
            expected = f"{len(rows[0])} numbers" if names is None else f"the names {', '.join(names)}"
            raise ValueError(f"{path}, row {number}: rows of one width are needed, but this one has not {expected}")
    table = [row if names is None else [row[name] for name in names] for row in rows]
    table = [[cell.strip() if isinstance(cell, str) else json.dumps(cell) for cell in row] for row in table]
    return _table(path, names, pd.DataFrame(table, dtype=str), "row")


def _parse_json(text: str, name: str) -> Any:
    """Parse JSON, with its numbers as text, as they are written."""
    numbers: dict[str, Any] = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str)
    return parse_json(text, name, object_pairs_hook=_unique, **numbers)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]
    if repeated:
        raise ValueError(f"an object has the name {repeated[0]!r} twice")
    return dict(pairs)


# -- columns ----------------------------------------------------------------------------------------------------------


def _table(path: Path, header: list[str] | None, cells: DataFrame, place: str) -> ActionTable:
    """A table of text cells, whose index numbers its lines or rows."""
    notes: list[str] = []
    if cells.empty:
        raise ValueError(f"{path} has no rows")
    if header is None:
        if place == "line" and _is_pandas_index(cells[0], None):
            raise ValueError(
                f"{path}: the first column counts rows, so it may be an index; begin the file with a line of names"
            )
        return ActionTable(path, _numbers(path, cells, place, notes), notes=tuple(notes))
    names = ["" if UNNAMED.fullmatch(name) else name for name in header]
    cells.columns = range(len(names))
    while names and not names[-1] and cells[len(names) - 1].eq("").all():
        cells = cells.drop(columns=len(names) - 1)  # every line ends with a separator
        names.pop()
    reserved = {name: _reserved_column(path, names, name) for name in (CLIP_COLUMN, FRAME_COLUMN)}
    clips = _clips(path, cells, reserved[CLIP_COLUMN], place)
    columns = [i for i in range(len(names)) if i not in reserved.values()]
    if columns and columns[0] == 0 and not names[0] and _is_pandas_index(cells[0], clips):
        columns.pop(0)
        notes.append(
            f"{path.name}: the first column has no name and counts rows, as pandas' index does; it is no action"
        )
    _check_names(path, names, columns)
    frames = None if reserved[FRAME_COLUMN] is None else _frames(path, cells[reserved[FRAME_COLUMN]], place)
    numbers = cells[columns].set_axis([names[i] for i in columns], axis="columns")
    actions = _numbers(path, numbers, place, notes)
    return ActionTable(path, actions, tuple(numbers.columns), clips, frames, notes=tuple(notes))


def _reserved_column(path: Path, names: Sequence[str], reserved: str) -> int | None:
    columns = [i for i, name in enumerate(names) if name.lower() == reserved]
    if len(columns) > 1:
        raise ValueError(f"{path} has several columns {reserved!r}: {', '.join(str(i + 1) for i in columns)}")
    return columns[0] if columns else None


def _check_names(path: Path, names: Sequence[str], columns: Sequence[int]) -> None:
    """Raise ValueError unless these columns have names of their own, which are those of actions."""
    chosen = [names[i] for i in columns]
    if not chosen:
        raise ValueError(f"{path} has no column of actions, it has {', '.join(names)}")
    for i in columns:
        if not names[i]:
            raise ValueError(
                f"{path}: column {i + 1} has no name. Give it one, or take it out; DataFrame.to_csv(index=False) "
                f"writes no index"
            )
        if chosen.count(names[i]) > 1:
            raise ValueError(f"{path} has {chosen.count(names[i])} columns {names[i]!r}; give each its own name")
        if NO_ACTION.fullmatch(names[i]):
            raise ValueError(
                f"{path}: the column {names[i]!r} counts rows or time, or is a reward or a flag, and no action by its "
                f"name. Take it out, or call it {FRAME_COLUMN!r} if it numbers the frames of a clip from 0"
            )


def _clips(path: Path, cells: DataFrame, column: int | None, place: str) -> np.ndarray | None:
    if column is None:
        return None
    empty = cells[column].eq("")
    if empty.any():
        raise ValueError(f"{path}, {place} {empty.idxmax()}: {CLIP_COLUMN!r} is empty; it names the clip of the row")
    plain = {name: plain_name(name) for name in cells[column].unique()}
    return np.array([plain[name] for name in cells[column]], dtype=object)


def _frames(path: Path, column: Series, place: str) -> np.ndarray:
    wrong = ~column.str.fullmatch(r"[0-9]{1,9}(?:\.0*)?")
    if wrong.any():
        raise ValueError(
            f"{path}, {place} {wrong.idxmax()}: {column[wrong.idxmax()]!r} is no frame; frames are counted 0, 1, 2, ..."
        )
    return column.astype(float).to_numpy().astype(np.int64)


def _is_pandas_index(column: Series, clips: Collection[str] | None) -> bool:
    """Whether a column counts 0, 1, 2, ... in the file, or in each clip."""
    counts = [list(map(str, range(len(column))))]
    if clips is not None:
        counts.append(column.groupby(np.asarray(clips)).cumcount().map(str).tolist())
    return column.tolist() in counts


def _numbers(path: Path, cells: DataFrame, place: str, notes: list[str]) -> np.ndarray:
    """Cells as (R, A) float32. Decimal commas are read if no cell has a point."""

    def refuse(bad: DataFrame, reason: str) -> None:
        if bad.to_numpy().any():
            row, column = np.argwhere(bad.to_numpy())[0]
            name = cells.columns[column] if isinstance(cells.columns[column], str) else int(column) + (place == "line")
            raise ValueError(
                f"{path}, {place} {cells.index[row]}, column {name!r}: {cells.iat[row, column]!r} {reason}"
            )

    points = cells
    if not _match(cells, POINT_NUMBER).to_numpy().all():
        refuse(cells.eq(""), "is empty: a number is missing")
        has_comma = cells.apply(lambda column: column.str.contains(",", regex=False))
        if has_comma.to_numpy().any():
            if cells.apply(lambda column: column.str.contains(".", regex=False)).to_numpy().any():
                refuse(has_comma, "has a comma where other numbers have a point; write all with decimal points")
            if (_match(cells, WITH_THOUSANDS) == has_comma).to_numpy().all():
                refuse(has_comma, "may have a decimal comma, or one for thousands; write all with decimal points")
            notes.append(f"{path.name}: numbers have decimal commas")
        refuse(
            ~_match(cells, NUMBER),
            "is not a finite number; write numbers such as 1, -0.5 or 2e-3, and 1 and 0 for true and false",
        )
        points = cells.apply(lambda column: column.str.replace(",", ".", regex=False))
    values = points.astype(float)
    reason = "is a number that float32 cannot hold; scale such numbers"
    refuse(values.abs() > MAX_FLOAT, reason)
    is_inexact = (values.abs() > MAX_EXACT_INTEGER) & (values.astype(np.float32) != values)
    if is_inexact.to_numpy().any():  # but a number with a fraction is rounded anyway
        refuse(is_inexact & _match(cells, "[+-]?[0-9]+"), reason)
    return values.to_numpy().astype(np.float32)


def _match(cells: DataFrame, pattern: str) -> DataFrame:
    """Which cells match a pattern."""
    return cells.apply(lambda column: column.str.fullmatch(pattern))
