"""Runs of agents, of every kind: the entrance."""

from __future__ import annotations

from ...extras import require_packages

require_packages("stable_baselines3", "accelerate", purpose="reinforcement learning")

from ...planning.trials import require_trial_packages  # noqa: E402
from ..results.finished_runs import PPO_NAME  # noqa: E402
from .agent_run import AgentRun  # noqa: E402
from .baselines import CloneRun, DreamingRun  # noqa: E402
from .settings import CLONE, AgentRunSettings  # noqa: E402

__all__ = ["AgentRunSettings", "run_agent"]

# Agents whose runs are of another kind.
KINDS: dict[str, type[AgentRun]] = {CLONE: CloneRun, PPO_NAME: DreamingRun}


def run_agent(settings: AgentRunSettings) -> int | None:
    """Let an agent learn, and write what became of it. The same call goes on after a stop, or finds that it is done.

    The folder then holds run.json (settings), evaluations.jsonl, metrics.jsonl, videos/, state/ (all that is needed to
    go on), agent.zip and world_model/, a checkpoint. Everything in it is written aside and renamed.

    Args:
        settings: settings of the run.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        ImportError: if a package is missing; names the extra.
        FileExistsError: if the folder holds another run.
        BlockingIOError: if another process writes the folder.
        ValueError, OSError: if environment, demonstrations, world model or data do not fit or cannot be read.
        NonFiniteLossError: if a loss of the world model is not finite.

    Example:
        >>> from pathlib import Path
        >>> from ivideogpt_hf.rl.runs.entrance import AgentRunSettings, run_agent
        >>> settings = AgentRunSettings(
        ...     environment="push2d/goal-shown",
        ...     output=Path("push"),
        ...     num_steps=20,
        ...     max_steps=10,
        ...     evaluate_every=20,
        ...     num_evaluation_episodes=2,
        ... )
        >>> run_agent(settings)
        >>> sorted(path.name for path in Path("push").iterdir())  # doctest: +ELLIPSIS
        ['agent.zip', 'evaluations.jsonl', ..., 'run.json', 'state', 'videos']
    """
    require_packages("stable_baselines3", "accelerate", purpose="reinforcement learning")
    require_trial_packages()
    run = KINDS.get(settings.agent, AgentRun)(settings)
    try:
        return run.run()
    finally:
        run.close()
