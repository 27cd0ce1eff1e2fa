"""What a person checks before training on a data set: numbers, a picture, and a card for the Hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...cards.text import counted
from ...media.files import readable
from ...run_folder import write_json
from ..action_timing import EARLIER, LATER
from ..drawing import Strip, contact_sheet
from ..episodes import SCHEMA_VERSION, decode_frames
from ..readers.parquet import ParquetReader
from ..statistics import EpisodeStatistics, Moments
from .dataset_card import SHEET_FILE, DatasetText, render_dataset_card
from .shards import DATA, TEST, TRAIN

REPORT_FILE = "report.json"
SHEET_EPISODES = 6
SAME_RATE = 1.02  # rates of one camera differ by less
LINES_PER_NOTE = 3  # of remarks that differ in their numbers
RATES_SHOWN = 4
LARGE_ACTION = 10.0  # actions are added to embeddings through a linear layer, which learns best from about -1 to 1


def write_dataset_report(
    output: Path,
    statistics: EpisodeStatistics,
    card: DatasetText | None = None,
    notes: Sequence[str] = (),
    source: dict[str, Any] | None = None,
) -> str:
    """Write report.json, contact_sheet.png and the data set card README.md beside the shards.

    Args:
        output: folder of the data set.
        statistics: statistics of its episodes.
        card: text of a person about the data set; None takes the defaults.
        notes: remarks about the source as a whole.
        source: state of the source's files, as `SourceState.summary` gives it; None where it has none.

    Returns:
        The report as text.
    """
    files = sorted((output / DATA).glob("*.parquet"))
    report = summarize_episodes(statistics) | {"splits": {split: _count(files, split) for split in (TRAIN, TEST)}}
    report["notes"] = [readable(note) for note in (*notes, *report["notes"])]
    report["source"] = source
    write_json(output / REPORT_FILE, report)
    _draw_sheet(output, statistics)
    text = render_report(report)
    sizes = {split: sum(f.stat().st_size for f in files if f.name.startswith(f"{split}-")) for split in (TRAIN, TEST)}
    render_dataset_card(output, report, text, sizes, card).save(output / "README.md")
    return text


def summarize_episodes(statistics: EpisodeStatistics) -> dict[str, Any]:
    """The statistics as plain values, with what is suspicious under "warnings"."""
    lengths = np.array(sorted(statistics.lengths.elements()))
    num_successes, num_failures = statistics.successes["true"], statistics.successes["false"]
    num_outcomes = num_successes + num_failures
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "num_episodes": statistics.num_episodes,
        "num_frames": statistics.num_frames,
        "episode_frames": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": round(float(lengths.mean()), 2),
            "max": int(lengths.max()),
        },
        "frame_sizes": dict(sorted(statistics.sizes.items())),
        "rates": dict(statistics.rates.most_common()),
        "success_rate": num_successes / num_outcomes if num_outcomes else None,
        "rewards": _spread(statistics.rewards),
        "returns": _spread(statistics.returns),
        "actions": _actions(statistics),
        "skipped": statistics.skipped,
    }
    report["notes"] = _group_notes(statistics.notes)
    if statistics.timing.best_step == LATER:
        report["notes"].append(
            "motion follows the actions one step later: a delay of the robot, or actions that are one row early"
        )
    report["warnings"] = _warnings(statistics, report)
    return report


def _group_notes(notes: Counter[str]) -> list[str]:
    """A line per remark. Remarks that differ only in their numbers share one, where there are many."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for note, count in sorted(notes.items(), key=lambda item: (-item[1], item[0])):
        groups.setdefault(re.sub(r"\d+(\.\d+)?", "#", note), []).append((note, count))
    lines = []
    for _, group in sorted(groups.items()):
        shown = group if len(group) <= LINES_PER_NOTE else group[: LINES_PER_NOTE - 1]
        lines += [f"{note} (in {counted(count, 'episode')})" for note, count in shown]
        others = group[len(shown) :]
        if others:
            total = sum(count for _, count in others)
            lines.append(f"{others[0][0]}, and the like with other numbers (in {counted(total, 'episode')})")
    return lines


def _spread(moments: Moments) -> dict[str, float] | None:
    if moments.count == 0:
        return None
    values = {"mean": moments.mean, "std": moments.std, "min": moments.low, "max": moments.high}
    return {name: _rounded(value[0]) for name, value in values.items()}


def _rounded(number: float) -> float:
    """A number to as many digits as float32 has, since its unit may be large: actions in metres may be millionths."""
    return float(f"{number:.7g}")


def _actions(statistics: EpisodeStatistics) -> list[dict[str, Any]] | None:
    """A row per dimension."""
    moments = statistics.actions
    if moments.count == 0:
        return None
    rows = []
    for i in range(len(moments.mean)):
        row: dict[str, Any] = {"name": statistics.action_names[i] if statistics.action_names else str(i)}
        values = {"mean": moments.mean, "std": moments.std, "min": moments.low, "max": moments.high}
        row |= {name: _rounded(value[i]) for name, value in values.items()}
        row["constant"] = bool(moments.is_constant[i])
        if statistics.out_of_bounds is not None:
            row |= {"low": statistics.action_low[i], "high": statistics.action_high[i]}
            row["out_of_bounds"] = statistics.out_of_bounds[i] / moments.count
        rows.append(row)
    return rows


def _warnings(statistics: EpisodeStatistics, report: dict[str, Any]) -> list[str]:
    warnings = []
    for row in report["actions"] or ():
        if row["constant"]:
            warnings.append(f"action {row['name']} is constant")
        if row.get("out_of_bounds"):
            warnings.append(f"action {row['name']} is out of its bounds in {row['out_of_bounds']:.1%} of the steps")
        largest = max(abs(row["min"]), abs(row["max"]))
        if largest > LARGE_ACTION:
            warnings.append(
                f"action {row['name']} is as large as {largest:.4g}, and models learn best from about -1 to 1: train "
                f"with action_normalization in a mixture"
            )
    for camera, number in statistics.blank.items():
        if number:
            warnings.append(f"camera {camera} begins with a picture of one colour in {counted(number, 'episode')}")
    if len({size.split()[-1] for size in statistics.sizes}) > 1:
        warnings.append(f"frames have different sizes: {', '.join(sorted(statistics.sizes))}")
    rates = sorted(map(float, statistics.rates))
    if rates and rates[-1] > SAME_RATE * rates[0]:
        warnings.append(f"episodes have different rates: {_list_rates(statistics.rates)}; --fps resamples")
    if 1 in statistics.lengths:
        warnings.append(f"{counted(statistics.lengths[1], 'episode')} of a single frame")
    if statistics.timing.best_step == EARLIER:
        warnings.append(
            "motion goes together with the actions of one step later: the actions may be one row late; look at "
            "--action-alignment"
        )
    return warnings


def _list_rates(rates: Counter[str]) -> str:
    """Such as "30 fps in 2, 2.2 in 1"; the commonest come first."""
    (first, count), *others = rates.most_common()
    parts = [f"{first} fps in {count}", *(f"{rate} in {count}" for rate, count in others[: RATES_SHOWN - 1])]
    rest = sum(count for _, count in others[RATES_SHOWN - 1 :])
    return ", ".join([*parts, *([f"others in {rest}"] if rest else [])])


def render_report(report: dict[str, Any]) -> str:
    """The report as text for a terminal or a card."""
    frames = report["episode_frames"]
    splits = ", ".join(f"{number} {split}" for split, number in report["splits"].items() if number)
    sizes = ", ".join(f"{size} in {counted(number, 'episode')}" for size, number in report["frame_sizes"].items())
    lines = [
        f"{counted(report['num_episodes'], 'episode')} ({splits}), {counted(report['num_frames'], 'frame')}",
        f"episode length: {frames['min']} to {frames['max']} frames, median {frames['median']:g}",
        f"frames: {sizes}",
    ]
    if report["actions"]:
        lines.append(f"{'action':>14} {'mean':>10} {'std':>10} {'min':>10} {'max':>10}")
        for row in report["actions"]:
            numbers = " ".join(f"{row[name]:>10.4g}" for name in ("mean", "std", "min", "max"))
            lines.append(f"{row['name'][:14]:>14} {numbers}")
    else:
        lines.append("no actions")
    if report["rewards"]:
        lines.append(f"reward: mean {report['rewards']['mean']:.4g}, return: mean {report['returns']['mean']:.4g}")
    if report["success_rate"] is not None:
        lines.append(f"success rate: {report['success_rate']:.1%}")
    source = report["source"]
    if source is not None:
        lines.append(
            f"source: {counted(source['num_files'], 'file')}, {source['num_bytes']} bytes, "
            f"last changed {source['last_change']}, digest {source['digest']} (of {source['digest_of']})"
        )
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"skipped: {reason}" for reason in report["skipped"].values()]
    lines += [f"check: {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def _count(files: list[Path], split: str) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in files if file.name.startswith(f"{split}-"))


def _draw_sheet(output: Path, statistics: EpisodeStatistics) -> None:
    """A row for each of a few episodes spread over the data set, and for each camera."""
    reader = ParquetReader(output / DATA)
    indices = np.unique(np.linspace(0, len(reader) - 1, min(SHEET_EPISODES, len(reader))).round().astype(int))
    reach = None
    if statistics.actions.count:
        reach = np.maximum(abs(statistics.actions.low), abs(statistics.actions.high))
    strips = []
    for index in indices:
        episode = reader[int(index)]
        for camera, frames in episode.frames.items():
            title = f"{episode.episode_id} {camera}"
            strips.append(Strip(title, decode_frames(frames), episode.actions, episode.rewards, reach))
    contact_sheet(strips, output / SHEET_FILE)
