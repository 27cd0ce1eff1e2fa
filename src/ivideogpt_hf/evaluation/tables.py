"""Tables of results as text: Markdown, CSV, and LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..run_folder import make_folder, write_text
from .measures import FRAME_METRICS

SUFFIXES = (".md", ".csv", ".tex")
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}

Row = Mapping[str, Any]


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, with columns in the order in which they first appear, and metrics last."""
    cells = [_columns(rows), *([_cell(row.get(name)) for name in _columns(rows)] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def as_csv(rows: Sequence[Row]) -> str:
    """The table as comma-separated values, with numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_latex(rows: Sequence[Row]) -> str:
    """The table as a LaTeX ``tabular`` with the rules of the package booktabs."""
    columns = _columns(rows)
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    heading, *body = (" & ".join(_escape(cell) for cell in line) + r" \\" for line in lines)
    form = "".join("r" if name in FRAME_METRICS else "l" for name in columns)
    parts = [
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(parts)


def check_table_path(path: Path) -> None:
    """Raise ValueError unless a table can be written to a file of this name."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a table is written as {', '.join(SUFFIXES)}, not as {path.name}")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write a table to a file, whose suffix says how.

    Raises:
        ValueError: if the suffix is none of `SUFFIXES`.
    """
    check_table_path(path)
    write = {".md": as_markdown, ".csv": as_csv, ".tex": as_latex}[path.suffix]
    make_folder(path.parent)
    write_text(path, write(rows).rstrip("\n") + "\n")


def _columns(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return sorted(columns, key=lambda name: name in FRAME_METRICS)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
