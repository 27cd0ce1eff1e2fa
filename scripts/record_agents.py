"""Writes down what agents learnt: benchmarks/results/agents_TASK.json, and docs/agents_TASK.png with the curves.

    python -m scripts.record_agents configs/rl/2_plate_slide.yaml

The runs are those of the file, as far as they are finished. One whose folder is gone stays as it was written down.
"""

import argparse
import json
from pathlib import Path

import yaml

from ivideogpt_hf.checkpoints.layout import read_json
from ivideogpt_hf.provenance import describe_date
from ivideogpt_hf.rl.results.comparison import compare_runs, comparison_as_text, draw_comparison
from ivideogpt_hf.rl.results.finished_runs import NOT_SETTINGS, make_run, read_evaluations, read_run
from ivideogpt_hf.run_folder import write_text
from scripts.site_pages.results import DOCS, RESULTS, ROOT


def record(config):
    """Write the finished runs of a file of runs down, and draw their curves.

    Args:
        config: path of a yaml file with runs of `ivideogpt rl`, all in one task.
    """
    config = config.resolve().relative_to(ROOT)
    folders = [Path(run["output"]) for run in yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))]
    tasks = {folder.parent.name for folder in folders}
    if len(tasks) > 1:
        raise ValueError(f"{config} has runs in several tasks, {', '.join(sorted(tasks))}: give each a file of its own")
    (task,) = tasks
    file = RESULTS / f"agents_{task}.json"
    before = read_json(file)["runs"] if file.is_file() else {}
    written = {}
    for folder in folders:
        if folder.is_dir():
            try:
                settings = read_run(folder).settings
            except (FileNotFoundError, ValueError) as error:  # it has just begun, or goes on
                print(error)
                continue
            settings = {name: value for name, value in settings.items() if name not in NOT_SETTINGS - {"seed"}}
            written[folder.name] = {"settings": settings, "evaluations": read_evaluations(folder)}
        elif folder.name in before:
            written[folder.name] = before[folder.name]
    comparison = compare_runs([make_run(Path(name), **run) for name, run in written.items()])
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in written.items())  # one for each run
    command = json.dumps(f"ivideogpt rl --config {config}")
    content = f'{{\n "command": {command},\n "date": "{describe_date()}",\n "runs": {{\n{lines}\n }}\n}}\n'
    write_text(file, content)
    draw_comparison(comparison, DOCS / f"agents_{task}.png")
    print(comparison_as_text(comparison))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="yaml file of runs of `ivideogpt rl`")
    record(parser.parse_args().config)
