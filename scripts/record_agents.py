"""Writes down what agents learnt: benchmarks/results/agents_TASK.json, and docs/agents_TASK.png with the curves.

    python -m scripts.record_agents configs/rl/2_plate_slide.yaml

The runs are those of the file, as far as they are finished. A run whose folder is gone stays as it was written down.
"""

import argparse
import json
from pathlib import Path

import yaml

from ivideogpt_hf.checkpoints.layout import read_json
from ivideogpt_hf.provenance import describe_date
from ivideogpt_hf.rl.comparison import compare_runs, comparison_as_text, draw_comparison
from ivideogpt_hf.rl.finished_runs import read_evaluations, read_run
from scripts.site_pages.results import DOCS, RESULTS, recorded_agents

NOT_RECORDED = ("command", "versions")


def record(config):
    """Write the finished runs of a file of runs down, and draw their curves.

    Args:
        config: path of a yaml file with runs of `ivideogpt rl`, all in one task.
    """
    folders = [Path(run["output"]) for run in yaml.safe_load(config.read_text(encoding="utf-8"))]
    (task,) = {folder.parent.name for folder in folders}
    file = RESULTS / f"agents_{task}.json"
    runs = read_json(file)["runs"] if file.is_file() else {}
    for folder in folders:
        try:
            settings = read_run(folder).settings
        except (FileNotFoundError, ValueError) as error:
            print(error)
            continue
        settings = {name: value for name, value in settings.items() if name not in NOT_RECORDED}
        runs[folder.name] = {"settings": settings, "evaluations": read_evaluations(folder)}
    runs = {folder.name: runs[folder.name] for folder in folders if folder.name in runs}
    head = json.dumps({"command": f"ivideogpt rl --config {config}", "date": describe_date()}, indent=1)[: -len("\n}")]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items())  # one for each run
    file.write_text(f'{head},\n "runs": {{\n{lines}\n }}\n}}\n', encoding="utf-8")
    comparison = compare_runs(recorded_agents(task))
    draw_comparison(comparison, DOCS / f"agents_{task}.png")
    print(comparison_as_text(comparison))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="yaml file of runs of `ivideogpt rl`")
    record(parser.parse_args().config)
