"""The agent of a finished run on the Hub: the agent, its run, its curve, a video, and a card that names them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...evaluation.rendering import CURVES_FILE
from ...evaluation.tables import as_markdown
from ...extras import require_packages
from ...hub.upload import push_folder, validate_card
from ...publish import Publication
from ...run_folder import RUN_FILE
from ..results.comparison import compare_runs, draw_comparison
from ..results.finished_runs import EVALUATIONS_FILE, PPO_NAME, Run, read_evaluations, read_run
from .agent_run import AGENT_FILE, VIDEO_FOLDER
from .settings import CLONE, NO_WORLD

VIDEO_FILE = "episode.gif"
CLASSES = {
    "drqv2": ("ivideogpt_hf.rl.agents.drqv2", "DrQv2"),
    CLONE: ("ivideogpt_hf.rl.agents.drqv2", "DrQv2"),
    PPO_NAME: ("stable_baselines3", "PPO"),
    "sac": ("stable_baselines3", "SAC"),
    "td3": ("stable_baselines3", "TD3"),
    "tqc": ("sb3_contrib", "TQC"),
    "crossq": ("sb3_contrib", "CrossQ"),
}
CARD = """---
{metadata}
---

# {name}

An agent that acts on images in {environment}. {made}

![Success against steps]({curve})

```python
from huggingface_hub import hf_hub_download
from {module} import {kind}

agent = {kind}.load(hf_hub_download("{repo_id}", "{file}"))
actions, _ = agent.predict(observations, deterministic=True)  # (n, {channels}, height, width) uint8, oldest frame first
```

The file is one of stable-baselines3, which runs code when it is loaded: load it only if you trust its author.

## How it was made

{settings}

## Results

{num_episodes} episodes, the same in each evaluation, on which nothing was trained. Intervals are Wilson's of 95 %.

{evaluations}
{video}"""


@contextmanager
def prepare_agent(folder: Path, repo_id: str) -> Iterator[Publication]:
    """Put together what `publish_agent` uploads.

    Args:
        folder: folder of a finished run of ``ivideogpt rl``.
        repo_id: Hub id of the repository.

    Raises:
        ImportError: without scipy or matplotlib; names the extra.
        OSError: if the folder holds no run.
        ValueError: if the run is not finished, or its environment does not tell success.
    """
    require_packages("scipy", "matplotlib", purpose="the curve of an agent")
    run = read_run(folder)
    if run.settings["agent"] not in CLASSES:
        raise ValueError(
            f"{folder / RUN_FILE} is not what a run of an agent writes: agent must be one of {', '.join(CLASSES)}, got "
            f"{run.settings['agent']!r}"
        )
    if not (folder / AGENT_FILE).is_file():
        raise ValueError(f"{folder} is not finished: {AGENT_FILE} is missing; let the same command end first")
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        for file in (AGENT_FILE, RUN_FILE, EVALUATIONS_FILE):
            shutil.copy(folder / file, stage / file)
        videos = sorted((folder / VIDEO_FOLDER).glob("*.gif"))
        if videos:
            shutil.copy(videos[-1], stage / VIDEO_FILE)
        draw_comparison(compare_runs([run]), stage / CURVES_FILE)
        card = _card(run, repo_id, has_video=bool(videos))
        card.save(stage / "README.md")
        files = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        yield Publication(stage, files, card)


def publish_agent(
    publication: Publication, repo_id: str, *, private: bool | None = None, token: str | bool | None = None
) -> str:
    """Upload a prepared agent as one commit; returns its address.

    Args:
        publication: result of `prepare_agent`.
        repo_id: Hub id of the repository, which is created if there is none.
        private: whether a new repository is private.
        token: token for the Hub; None: the one that the user is logged in with.

    Raises:
        ValueError: if the Hub would refuse the card; nothing is uploaded then.
        OSError: if the Hub refuses, or cannot be reached.
    """
    validate_card(publication.card, repo_id)
    return push_folder(publication.folder, repo_id, commit_message="Upload an agent", private=private, token=token)


def _card(run: Run, repo_id: str, *, has_video: bool) -> ModelCard:
    settings, evaluations = run.settings, read_evaluations(run.folder)
    module, kind = CLASSES[settings["agent"]]
    success = evaluations[-1]["success"]
    data = ModelCardData(
        library_name="stable-baselines3",
        pipeline_tag="reinforcement-learning",
        tags=["ivideogpt", settings["agent"]],
        model_name=repo_id.rsplit("/", 1)[-1],
        eval_results=[
            EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement learning",
                dataset_type=settings["environment"],
                dataset_name=settings["environment"],
                metric_type="success_rate",
                metric_name="success rate",
                metric_value=success,
            )
        ],
    )
    shown = {
        name: value for name, value in settings.items() if name not in ("command", "versions") and value is not None
    }
    content = CARD.format(
        metadata=data.to_yaml(),
        name=repo_id.rsplit("/", 1)[-1],
        environment=settings["environment"],
        made=_describe(run),
        curve=CURVES_FILE,
        module=module,
        kind=kind,
        repo_id=repo_id,
        file=AGENT_FILE,
        channels=3 * settings["num_stack"],
        settings=as_markdown([{"setting": name, "value": str(value)} for name, value in shown.items()]),
        num_episodes=run.num_episodes,
        evaluations=as_markdown([_row(evaluation) for evaluation in evaluations]),
        video=f"\n![An episode]({VIDEO_FILE})\n" if has_video else "",
    )
    return ModelCard(content)


def _describe(run: Run) -> str:
    """How the agent came about, in two sentences."""
    settings, steps = run.settings, f"{run.settings['num_steps']:,}"
    demos = f" {settings['demos']} demonstrations were its beginning." if settings["demos"] else ""
    if settings["agent"] == CLONE:
        return f"It imitates {settings['demos']} demonstrations, and took no step of its own."
    if run.dreams:
        return f"All of its {steps} steps were imagined by the world model {settings['world_model']}.{demos}"
    if settings["world_model"] == NO_WORLD:
        return f"It learnt from {steps} real steps, without a world model.{demos}"
    return (
        f"It learnt from {steps} real steps, and from {run.imagined_steps:,} that the world model "
        f"{settings['world_model']} imagined, which learnt beside it.{demos}"
    )


def _row(evaluation: dict[str, Any]) -> dict[str, str]:
    interval = f"[{evaluation['low']:.2f}, {evaluation['high']:.2f}]"
    return {
        "step": f"{evaluation['step']:,}",
        "imagined steps": f"{evaluation['imagined_steps']:,}",
        "success": f"{evaluation['success']:.2f} {interval}",
        "return": f"{evaluation['return']:.2f}",
    }
