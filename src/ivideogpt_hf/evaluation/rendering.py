"""Results of an evaluation as tables, curves and a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cards.text import counted
from ..run_folder import write_text
from .measures import MODEL, PREDICTED_ONLY, WITH_CONTEXT
from .tables import write_table

CURVES_FILE, PAGE_FILE = "curves.png", "report.html"
CURVES_OF_PAPERS = ("curves.svg", "curves.pdf")
METHODS_TABLE, STEPS_TABLE = "methods.tex", "steps.csv"
HASH_DIGITS = 12
SHOWN_METRICS = ("psnr", "ssim", "lpips")
LABELS = {"psnr": "PSNR (dB), more is better", "ssim": "SSIM, more is better", "lpips": "LPIPS (VGG), less is better"}
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
img.video { image-rendering: pixelated }
code { font-size: .85em; overflow-wrap: anywhere }
"""

Row = Sequence[str]


def tables(results: Mapping[str, Any]) -> dict[str, list[Row]]:
    """All tables, by title: rows of text, of which the first is the heading."""
    num_samples, num_published = results["num_samples"], results["num_samples_of_protocol"]
    title = f"Best of {counted(num_samples, 'sample')}" + (
        f" (the protocol has {num_published})" if num_samples != num_published else ""
    )
    by_title: dict[str, list[Row]] = {title: _best_table(results)}
    methods = results["per_step"]
    steps = range(1, len(next(iter(methods.values()))["mse"]) + 1)
    for metric in shown_metrics(results):
        rows = [["mean over samples, by predicted frame", *map(str, steps), "mean"]]
        for name, values in methods.items():
            rows.append([name, *(_number(metric, v) for v in (*values[metric], results["mean"][name][metric]))])
        by_title[LABELS[metric]] = rows
    moving = [["", *(metric.upper() for metric in shown_metrics(results))]]
    for name, values in results["mean_of_moving_clips"].items():
        moving.append([name, *(_number(metric, values[metric]) for metric in shown_metrics(results))])
    num_moving = results["num_moving_clips"]
    by_title[f"The {counted(num_moving, 'clip')} that {'moves' if num_moving == 1 else 'move'} most"] = moving
    tokens = results["tokens"]
    rows = [
        ["", ""],
        ["tokens that repeat the frame before", f"{tokens['repetition']:.1%}"],
        ["dynamics codes in use", f"{tokens['usage']:.1%}"],
        ["perplexity of the dynamics codes", f"{tokens['perplexity']:.1f}"],
    ]
    ratios = results.get("wrong_over_right_actions_on_moving_clips", {})
    rows += [[f"squared error over that of the model, moving clips: {name}", f"{r:.2f}"] for name, r in ratios.items()]
    by_title["Tokens and actions"] = rows
    if "rewards" in results:
        by_title["Rewards"] = _reward_table(results["rewards"])
    return by_title


def shown_metrics(results: Mapping[str, Any]) -> list[str]:
    """The metrics that are shown, of those that were measured."""
    return [metric for metric in SHOWN_METRICS if metric in results["mean"][MODEL]]


def _best_table(results: Mapping[str, Any]) -> list[Row]:
    """The paper's numbers, by both ways of counting."""
    frechet = results.get("frechet", {})
    rows: list[Row] = [["", *frechet, *(metric.upper() for metric in shown_metrics(results))]]
    for rule in (PREDICTED_ONLY, WITH_CONTEXT):
        best = results["best_of_samples"][rule]
        cells = [f"{distance[rule]:.2f}" for distance in frechet.values()]
        for metric in shown_metrics(results):
            value, low, high = (_number(metric, best[metric][key]) for key in ("value", "low", "high"))
            cells.append(f"{value} [{low}, {high}]")
        rows.append([rule, *cells])
    return rows


def _reward_table(rewards: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [["", ""], ["mean absolute error", f"{rewards['mean_absolute_error']:.3f}"]]
    correlations = {"all clips": rewards["correlation"], **rewards["correlation_per_task"]}
    rows += [[f"correlation, {task}", "-" if r is None else f"{r:.3f}"] for task, r in correlations.items()]
    return rows


def _number(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == "psnr" else f"{value:.4f}"


def evaluation_as_text(results: Mapping[str, Any]) -> str:
    """The results of an evaluation as text for a terminal: all tables and gates."""
    parts = []
    for title, rows in tables(results).items():
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
            if any(row)
        ]
        parts.append("\n".join([title, *(line.rstrip() for line in lines)]))
    parts.append("\n".join(f"{'yes' if passes else 'NO '}  {gate}" for gate, passes in results["gates"].items()))
    return "\n\n".join(parts)


def draw_curves(results: Mapping[str, Any], *paths: Path) -> None:
    """Draw each metric by predicted frame, with a line for each method, and a band for its interval of 95 %."""
    from matplotlib.figure import Figure

    metrics = shown_metrics(results)
    figure = Figure(figsize=(4.3 * len(metrics), 3.8), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for name, values in results["per_step"].items():
            steps = range(1, len(values[metric]) + 1)
            (line,) = axis.plot(steps, values[metric], marker=".", label=name)
            low, high = zip(*results["per_step_interval"][name][metric], strict=True)
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=LABELS[metric], xlabel="predicted frame")
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    for path in paths:
        figure.savefig(path, dpi=110)


def write_tables(folder: Path, results: Mapping[str, Any]) -> None:
    """Write tables for papers: the mean of every method as LaTeX, and that of every predicted frame as CSV."""
    metrics = shown_metrics(results)
    means = [{"method": name} | {m: values[m] for m in metrics} for name, values in results["mean"].items()]
    write_table(means, folder / METHODS_TABLE)
    steps = [
        {"method": name, "metric": metric, "predicted frame": step, "mean": mean, "low": low, "high": high}
        for name, values in results["per_step"].items()
        for metric in metrics
        for step, (mean, (low, high)) in enumerate(
            zip(values[metric], results["per_step_interval"][name][metric], strict=True), start=1
        )
    ]
    write_table(steps, folder / STEPS_TABLE)


def write_page(folder: Path, results: Mapping[str, Any], videos: Sequence[str]) -> None:
    """Write report.html, which needs no other file, and the curves.

    Args:
        folder: folder of the evaluation.
        results: content of its results.json.
        videos: names of the files in its folder videos/.
    """
    draw_curves(results, folder / CURVES_FILE, *(folder / name for name in CURVES_OF_PAPERS))
    escape = html.escape
    name, protocol = escape(results["checkpoint"]), results["protocol"]
    parts = [
        f"<h1>{name}</h1>",
        f"<p>Protocol {escape(protocol['name'])}: {protocol['num_context_frames']} context frames to "
        f"{protocol['num_future_frames']} predicted ones, {counted(results['num_clips'], 'clip')}, "
        f"{counted(results['num_samples'], 'sample')} of each at temperature {protocol['temperature']:g}. "
        f"Made by <code>{escape(results['command'])}</code>, {results['date']}. Weights "
        f"{', '.join(digest[:HASH_DIGITS] for digest in results['weights'])} (VQ model, transformer); "
        f"{escape(', '.join(f'{package} {version}' for package, version in results['versions'].items()))}.</p>",
        "<ul>"
        + "".join(
            f"<li>{'yes' if passes else '<b>no</b>'}: {escape(gate)}</li>" for gate, passes in results["gates"].items()
        )
        + "</ul>",
        f'<img src="{_data_address(folder / CURVES_FILE)}" alt="curves by predicted frame, with intervals of 95 %">',
    ]
    for title, rows in tables(results).items():
        heading, *body = ([escape(cell) for cell in row] for row in rows)
        lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body]
        top = f"<tr>{''.join(f'<th>{cell}</th>' for cell in heading)}</tr>" if any(heading) else ""
        parts.append(f"<h2>{escape(title)}</h2><table>{top}{''.join(lines)}</table>")
    parts.append("<h2>Videos</h2><p>From left: truth, reconstruction by the VQ model, predicted futures.</p>")
    parts += [
        f'<p><img class="video" src="{_data_address(folder / "videos" / video)}" alt="{escape(video)}"></p>'
        for video in videos
    ]
    page = f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{name}</title>"
    write_text(folder / PAGE_FILE, f"{page}<style>{STYLE}</style>{''.join(parts)}")


def _data_address(picture: Path) -> str:
    """A picture as an address that holds it."""
    content = base64.b64encode(picture.read_bytes()).decode()
    return f"data:image/{picture.suffix.removeprefix('.')};base64,{content}"
