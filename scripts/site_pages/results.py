"""Tables of results, rendered from the JSON files that commands wrote."""

import json
from pathlib import Path
from typing import Any

from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER, METRICS_FILE
from ivideogpt_hf.rl.results.comparison import compare_runs, comparison_as_text
from ivideogpt_hf.rl.results.finished_runs import Run, make_run

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks/results", ROOT / "docs"

STEPS = (1, 2, 3, 5, 7, 10)
# Rows of the evaluation's tables, by the names that it writes.
ROWS = {
    "model": "the model",
    "repeat the last frame": "repeating the last frame",
    "VQ reconstruction (ceiling)": "its VQ model's reconstruction, the ceiling",
    "model, actions of another clip": "the model with another clip's actions",
    "model, zero actions": "the model with zero actions",
}
DIGITS = {"psnr": 1, "ssim": 3, "lpips": 3}


def row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def embedded_evaluation() -> dict[str, Any]:
    """The evaluation of the embedded model."""
    return json.loads((DEFAULT_FOLDER / METRICS_FILE).read_text(encoding="utf-8"))["evaluation"]


def by_predicted_frame(metric: str) -> str:
    """A metric of the embedded model and of what it is compared with, by predicted frame."""
    evaluation = embedded_evaluation()
    lines = [row(f"{metric.upper()} of predicted frame", *map(str, STEPS), "mean"), row(*["---"] * (len(STEPS) + 2))]
    for name, label in ROWS.items():
        values = [evaluation["per_step"][name][metric][step - 1] for step in STEPS]
        values.append(evaluation["mean"][name][metric])
        lines.append(row(label, *(f"{value:.{DIGITS[metric]}f}" for value in values)))
    return "\n".join(lines)


def rewards_by_task() -> str:
    """The correlation of predicted and true rewards, by task."""
    rewards = embedded_evaluation()["rewards"]["correlation_per_task"]
    lines = [row("task", "correlation of rewards"), row("---", "---")]
    lines += [row(task, f"{value:.2f}") for task, value in sorted(rewards.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def planned_tasks() -> list[dict[str, Any]]:
    """What `ivideogpt plan` measured of the embedded model, task by task."""
    files = sorted(RESULTS.glob("embedded_plan_*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def success_of_plans() -> str:
    """The success of each controller in each task, with Wilson's interval of 95 %."""
    names = ("random", "zero", "shuffled", "model", "simulator")
    lines = [row("task, and actions of an instance", *names), row(*["---"] * (len(names) + 1))]
    for task in planned_tasks():
        rates = (task["controllers"][name] for name in names)
        cells = (f"{rate['success_rate']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})" for rate in rates)
        lines.append(row(f"{task['task'].partition('/')[2]}, {task['num_steps']}", *cells))
    return "\n".join(lines)


def recorded_agents(task: str) -> list[Run]:
    """The runs of agents that were written down for a task."""
    content = json.loads((RESULTS / f"agents_{task}.json").read_text(encoding="utf-8"))
    return [make_run(Path(name), **run) for name, run in content["runs"].items()]


def compared_agents(task: str) -> str:
    """The comparison of a task's agents."""
    return comparison_as_text(compare_runs(recorded_agents(task)))


TABLES = {
    "embedded_psnr": lambda: by_predicted_frame("psnr"),
    "embedded_ssim": lambda: by_predicted_frame("ssim"),
    "embedded_lpips": lambda: by_predicted_frame("lpips"),
    "embedded_rewards": rewards_by_task,
    "embedded_plans": success_of_plans,
    "agents_plate_slide": lambda: compared_agents("plate_slide"),
    "agents_button_press": lambda: compared_agents("button_press"),
}
