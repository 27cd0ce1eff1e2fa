"""Folders as finished runs of agents leave them."""

import json

SETTINGS = {
    "environment": "push2d",
    "agent": "drqv2",
    "world_model": None,
    "demos": 0,
    "num_steps": 3000,
    "num_stack": 3,
    "label": "",
}


def write_run(folder, success, *, seed=0, steps=None, num_episodes=10, **settings):
    """A run with an evaluation every 1,000 steps."""
    folder.mkdir(parents=True)
    steps = [1000 * (i + 1) for i in range(len(success))] if steps is None else steps
    record = SETTINGS | {"num_steps": steps[-1]} | settings | {"seed": seed, "command": f"ivideogpt rl {folder}"}
    (folder / "run.json").write_text(json.dumps(record))
    lines = [
        {
            "step": step,
            "imagined_steps": 10 * step,
            "success": rate,
            "low": 0.0,
            "high": 1.0,
            "num_episodes": num_episodes,
            "return": 5.0,
            "seconds": step / 10,
        }
        for step, rate in zip(steps, success, strict=True)
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
