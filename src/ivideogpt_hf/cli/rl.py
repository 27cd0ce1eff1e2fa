"""The commands that let an agent learn, and publish it: ``ivideogpt rl`` and ``rl-publish``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import CHECKPOINT_HELP

AGENTS = ("drqv2", "sac", "td3", "crossq", "tqc", "clone", "ppo")
PRESETS = ("cpu", "paper")
TRACKERS = ("none", "trackio", "tensorboard", "wandb")
# Options that only this command has, and `AgentRunSettings` does not.
OTHERS = {"run", "debug", "config", "unparsed", "without_videos"}


def add_rl_command(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add ``rl``.

    Args:
        commands: subparsers of the command line.
        parents: parent parsers: of all commands, and of a checkpoint's origin.
    """
    rl = commands.add_parser(
        "rl",
        parents=parents,
        help="let an agent learn in an environment, with or without imagined experience",
        description="Let an agent learn from images in a simulator. With a world model, which learns beside it, a part "
        "of its experience is imagined. Evaluates it in fixed episodes with Wilson's intervals of 95 %. After a kill "
        "the same command goes on where the state was saved last. "
        "Defaults that depend on the preset are shown as (cpu | paper).",
    )
    rl.add_argument(
        "environment", help="push2d/goal-shown, metaworld/<task>, robodesk/<task>, pusht, or a gymnasium id"
    )
    rl.add_argument("--output", type=Path, default=Path("outputs/rl"), help="folder to write (default: %(default)s)")
    rl.add_argument(
        "--world-model",
        default="none",
        help=f"{CHECKPOINT_HELP}. Or a yaml file of new networks, or none for no imagination (default: %(default)s)",
    )
    rl.add_argument(
        "--agent",
        choices=AGENTS,
        default="drqv2",
        help="clone imitates demonstrations; ppo acts in imagination only, and --num-steps counts imagined steps "
        "(default: %(default)s)",
    )
    rl.add_argument(
        "--preset", choices=PRESETS, default="cpu", help="sizes of the agent, and schedule (default: %(default)s)"
    )
    rl.add_argument("--demos", type=int, default=0, help="demonstrations of the scripted expert (default: %(default)s)")
    rl.add_argument("--num-steps", type=int, default=10_000, help="real steps of the agent (default: %(default)s)")
    rl.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    rl.add_argument("--label", help="name of the run's group in rl-compare (default: made of the settings)")
    rl.add_argument("--device", default="cpu", help="such as cpu or cuda (default: %(default)s)")
    _add_environment_options(rl.add_argument_group("environment and evaluation"))
    _add_agent_options(rl.add_argument_group("agent"))
    _add_imagination_options(rl.add_argument_group("imagination"))
    _add_model_options(rl.add_argument_group("training of the world model"))
    run = rl.add_argument_group("run")
    run.add_argument(
        "--save-minutes",
        type=float,
        default=5.0,
        help="minutes from one saved state to the next (default: %(default)g)",
    )
    run.add_argument(
        "--tracker",
        choices=TRACKERS,
        default="none",
        help="tracker that gets the metrics too (default: none, they are in metrics.jsonl alone)",
    )
    run.add_argument("--run-name", help="name of the run in the tracker (default: that of the folder)")
    run.add_argument("--without-videos", action="store_true", help="write no videos of evaluations")
    rl.set_defaults(run=_rl)


def add_rl_publish_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``rl-publish``.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
    """
    publish = commands.add_parser(
        "rl-publish",
        parents=[common],
        help="upload the agent of a finished run with a card",
        description="Upload the agent of a finished run to the Hub as one commit, with its curve, a video, and a card. "
        "The card names world model, real and imagined steps, all settings, and every evaluation.",
    )
    publish.add_argument("run_folder", metavar="run", type=Path, help="folder of a finished run")
    publish.add_argument("repo", help="Hub id, owner/name; it is created where it does not exist")
    publish.add_argument("--private", action="store_true", help="make a new repository private")
    publish.add_argument("--token", help="Hub token (default: the one you are logged in with)")
    publish.add_argument("--dry-run", action="store_true", help="show files and card, and upload nothing")
    publish.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> None:
    from ..hub.errors import check_new_id
    from ..rl.runs.publish import prepare_agent, publish_agent

    check_new_id(args.repo)
    with prepare_agent(args.run_folder, args.repo) as publication:
        for name, size in publication.files.items():
            print(f"{size / 1e6:10.3f} MB  {name}")
        if args.dry_run:
            print(f"\n{publication.card.content}")
            return
        print(publish_agent(publication, args.repo, private=args.private or None, token=args.token))


def _add_environment_options(group: Any) -> None:
    group.add_argument("--frame-size", type=int, help="side of frames in pixels (default: the world model's, or 64)")
    group.add_argument("--num-stack", type=int, default=3, help="frames that the agent sees (default: %(default)s)")
    group.add_argument("--action-repeat", type=int, default=2, help="simulator steps per action (default: %(default)s)")
    group.add_argument("--max-steps", type=int, default=100, help="actions of an episode (default: %(default)s)")
    group.add_argument(
        "--success-bonus",
        type=float,
        default=10.0,
        help="reward of a step in which the task is solved (default: %(default)g)",
    )
    group.add_argument(
        "--evaluate-every", type=int, default=500, help="steps between evaluations (default: %(default)s)"
    )
    group.add_argument(
        "--num-evaluation-episodes",
        type=int,
        default=10,
        help="always the same episodes (default: %(default)s)",
    )


def _add_agent_options(group: Any) -> None:
    group.add_argument("--learning-starts", type=int, help="random steps before the first update (500 | 2000)")
    group.add_argument("--batch-size", type=int, help="transitions of an update (64 | 256)")
    group.add_argument("--gradient-steps", type=int, help="updates after each step (1, 3 with a model | 2)")
    group.add_argument("--learning-rate", type=float, help="learning rate (2e-4 | 1e-4)")
    group.add_argument(
        "--clone-updates", type=int, default=2000, help="updates of --agent clone (default: %(default)s)"
    )


def _add_imagination_options(group: Any) -> None:
    group.add_argument(
        "--real-ratio",
        type=float,
        help="share of real transitions in a batch; with 0, the agent learns from imagination alone (a third | a half)",
    )
    group.add_argument("--first-step", type=int, help="real steps before the first update of the model (500 | 2000)")
    group.add_argument("--imagine-every", type=int, help="steps from one round of rollouts to the next (100 | 100)")
    group.add_argument("--num-starts", type=int, help="rollouts of a round (32 | 32)")
    group.add_argument("--horizon", type=int, help="steps of a rollout (10 | 10)")
    group.add_argument(
        "--max-imagined", type=int, default=20_000, help="imagined steps that are kept (default: %(default)s)"
    )
    group.add_argument(
        "--max-imagined-age", type=int, help="updates of the model until a rollout expires (default: never)"
    )
    group.add_argument(
        "--truncate-quantile",
        type=float,
        help="cut rollouts before the first frame whose log-probability is below this quantile (default: keep all)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of rollouts (default: %(default)s)",
    )


def _add_model_options(group: Any) -> None:
    group.add_argument("--warmup-updates", type=int, help="first updates of the transformer (100 | 1000)")
    group.add_argument("--warmup-vq-updates", type=int, help="first updates of the VQ model (0 | 1000)")
    group.add_argument("--transformer-every", type=int, help="steps between updates, 0: never (25 | 5)")
    group.add_argument("--vq-every", type=int, help="steps between updates of the VQ model, 0: never (0 | 20)")
    group.add_argument("--model-batch-size", type=int, help="clips of an update (4 | 16)")
    group.add_argument("--model-learning-rate", type=float, help="learning rate of both (6e-4, VQ model 1e-4 | 1e-4)")
    group.add_argument(
        "--mixed-precision",
        choices=("no", "bf16"),
        default="no",
        help="precision of the model's updates (default: %(default)s)",
    )
    group.add_argument(
        "--lpips-weights",
        help="weights of LPIPS: safetensors file, or owner/name/file on the Hub",
    )
    group.add_argument("--data", help="data set or mixture whose frames and actions are mixed in (default: none)")
    group.add_argument("--data-root", help="folder in which the paths of a mixture's yaml begin")
    group.add_argument("--data-share", type=float, default=0.0, help="share of its clips, in [0, 1) (default: 0)")


def _rl(args: argparse.Namespace) -> int | None:
    from ..rl.runs.entrance import AgentRunSettings, run_agent
    from .arguments import be_quiet

    be_quiet()
    options = {name: value for name, value in vars(args).items() if name not in OTHERS}
    settings = AgentRunSettings(**options, videos=not args.without_videos)
    code = run_agent(settings)
    if code is None:
        print(
            f"{args.output}: evaluations.jsonl, videos, agent.zip; ivideogpt rl-compare {args.output} draws the curve"
        )
    return code
