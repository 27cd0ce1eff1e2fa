"""Writes down how an experiment came out with several training seeds: benchmarks/results/EXPERIMENT_seeds.json.

    python -m scripts.record_seeds configs/push2d/seeds.sh

The script has left a folder for each seed, outputs/EXPERIMENT/seed_N, with what was planned and, if it was, evaluated.
"""

import argparse
from pathlib import Path

from ivideogpt_hf.checkpoints.layout import read_json
from ivideogpt_hf.provenance import describe_date
from ivideogpt_hf.run_folder import RESULTS_FILE, write_json
from scripts.site_pages.results import RESULTS, ROOT


def record(script):
    """Write the results of all seeds of an experiment down.

    Args:
        script: path of the script that trained and measured them.

    Raises:
        FileNotFoundError: if there is no seed, or one of them is not finished.
    """
    script = script.resolve().relative_to(ROOT)
    experiment = script.parent.name
    seeds = {}
    for folder in sorted((ROOT / "outputs" / experiment).glob("seed_*")):
        plan = read_json(folder / "plan" / RESULTS_FILE)
        seeds[folder.name] = {name: plan[name] for name in ("num_instances", "num_steps", "controllers")}
        if (folder / "evaluation").is_dir():
            evaluation = read_json(folder / "evaluation" / RESULTS_FILE)
            kept = ("num_clips", "mean", "wrong_over_right_actions_on_moving_clips", "gates")
            seeds[folder.name]["evaluation"] = {name: evaluation[name] for name in kept}
    if not seeds:
        raise FileNotFoundError(f"outputs/{experiment} holds no seed_N: run {script} first")
    file = RESULTS / f"{experiment}_seeds.json"
    write_json(file, {"command": f"{script}", "date": describe_date(), "seeds": seeds})
    print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path, help="script of the experiment that trains several seeds")
    record(parser.parse_args().script)
