"""The command that plans: ``ivideogpt plan``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.layout import DEFAULT, EMBEDDED
from .arguments import CHECKPOINT_HELP, checkpoint_folder, embedded_checkpoint, load_world

if TYPE_CHECKING:
    from ..planning.controllers import Controller, MakeObjective
    from ..planning.planners import Planner
    from ..planning.tasks import PlanningTask
    from ..world.world_model import WorldModel

CONTROLLERS = ("random", "zero", "shuffled", "model", "simulator")
PLANNERS = {
    "cem": "the cross-entropy method",
    "icem": "the improved cross-entropy method: noise correlated in time, and elites that are kept",
    "mppi": "model predictive path integral: candidates weighted by their costs",
    "random": "random shooting: the best of candidates between the bounds",
    "vp2": "MPPI with the settings of the benchmark VP2",
}
# Environments without an embedded checkpoint that have a recipe in configs/.
RECIPES = ("pusht", "robodesk")
OBJECTIVES = ("rewards", "pixels", "lpips")


def add_plan_command(commands: Any, common: argparse.ArgumentParser, checkpoint: list[argparse.ArgumentParser]) -> None:
    """Add ``plan``.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
        checkpoint: parent parsers of commands that load a checkpoint.
    """
    plan = commands.add_parser(
        "plan",
        parents=[common, *checkpoint],
        help="measure how well one can plan in a checkpoint",
        description="Let five controllers act in the same instances of a task. They act at random, do nothing, plan in "
        "the model with shuffled actions, plan in the world model, and plan in the true simulator. The command prints "
        "success rates with Wilson's intervals of 95 %. After a kill, the same command goes on.",
    )
    plan.add_argument("environment", help="push2d, metaworld/<task>, pusht or robodesk/<task>")
    plan.add_argument("--checkpoint", help=f"{CHECKPOINT_HELP} (default: that of the environment, else default)")
    plan.add_argument("--output", type=Path, default=Path("outputs/plan"), help="folder to write")
    plan.add_argument("--controllers", nargs="+", choices=CONTROLLERS, default=list(CONTROLLERS))
    plan.add_argument("--num-instances", type=int, default=30, help="number of instances (default: %(default)s)")
    plan.add_argument(
        "--first-seed", type=int, default=500_000, help="seed of the first instance (default: %(default)s)"
    )
    plan.add_argument("--num-steps", type=int, default=20, help="actions of an instance (default: %(default)s)")
    plan.add_argument(
        "--action-repeat",
        type=int,
        default=1,
        help="simulator steps per action, as in training",
    )
    plan.add_argument("--objective", choices=OBJECTIVES, help="default: pixels where the task has a goal, else rewards")
    plan.add_argument(
        "--frames",
        choices=("all", "last"),
        default="last",
        help="predicted frames that are compared with the goal (default: %(default)s)",
    )
    plan.add_argument(
        "--temperature", type=float, default=1.0, help="temperature of the predictions (default: %(default)g)"
    )
    plan.add_argument("--lpips-weights", help="for --objective lpips: safetensors file, or owner/name/file on the Hub")
    search = plan.add_argument_group("planner")
    search.add_argument(
        "--planner", choices=tuple(PLANNERS), default="icem", help="vp2: that benchmark's MPPI (default: %(default)s)"
    )
    search.add_argument(
        "--num-candidates", type=int, default=32, help="candidates per iteration (default: %(default)s)"
    )
    search.add_argument(
        "--num-iterations", type=int, help="number of iterations (2 for cem and icem, else the planner's own)"
    )
    search.add_argument("--horizon", type=int, default=8, help="actions of a candidate (default: %(default)s)")
    search.add_argument("--num-elites", type=int, help="elites of cem and icem (default: a tenth of the candidates)")
    search.add_argument(
        "--std", type=float, nargs="+", help="standard deviation of the noise, per action dimension or one for all"
    )
    search.add_argument("--gamma", type=float, help="inverse temperature of mppi")
    search.add_argument(
        "--replan-every", type=int, default=1, help="actions of a plan to execute (default: %(default)s)"
    )
    search.add_argument("--first-action-zero", action="store_true", help="take an action of zeros first, as VP2 does")
    search.add_argument("--chunk-size", type=int, help="candidates to roll out at a time (default: all)")
    plan.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> None:
    from ..cards.text import counted
    from ..checkpoints.loading import checkpoint_identity
    from ..planning.tasks import make_task
    from ..planning.trials import Trials, require_trial_packages, trials_as_text
    from ..run_folder import check_folder

    require_trial_packages()
    check_folder(args.output)
    args.checkpoint = args.checkpoint or _embedded_for(args.environment) or DEFAULT
    world = load_world(args)
    if world.spec.frame_size[0] != world.spec.frame_size[1]:
        raise ValueError(f"simulators render squares, the checkpoint takes {world.spec.frame_size}")
    for name, minimum in {"num_instances": 1, "num_steps": 1, "first_seed": 0}.items():
        if getattr(args, name) < minimum:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {minimum}, got {getattr(args, name)}")
    task = make_task(args.environment, world.spec.frame_size[0], args.action_repeat)
    low, high = task.bounds
    if world.spec.action_dim != len(low):
        raise ValueError(
            f"actions of {args.environment} are {len(low)} wide, the checkpoint takes {world.spec.action_dim or 'none'}"
            f"{_advice(args)}"
        )
    _warn_of_other_data(args)
    seeds = range(args.first_seed, args.first_seed + args.num_instances)
    task.reset(seeds[0])
    objective = args.objective or ("rewards" if task.goal is None else "pixels")
    if args.lpips_weights is not None and objective != "lpips":
        raise ValueError(f"--lpips-weights is for --objective lpips, not for {objective}")
    planner = _planner(args, low, high)
    make_objective, networks = _make_objective(args, objective, task, world)
    controllers = _controllers(args, world, planner, make_objective)
    for controller in controllers.values():  # a wrong setting is told here, before the folder is claimed by it
        controller.reset(task, seeds[0])
    settings = {name: getattr(args, name) for name in ("replan_every", "first_action_zero", "frames", "temperature")}
    description = {
        "checkpoint": args.checkpoint,
        **checkpoint_identity(world.vq_model, world.transformer, world.processor),
        "planner": type(planner).__name__,
        "planner_settings": vars(planner),
        "objective": objective,
        **networks,
        **settings,
    }
    results = Trials(task, controllers, seeds, args.num_steps, args.output, description).run()
    task.close()
    print(trials_as_text(results))
    parts = {"candidate": planner.num_candidates, "iteration": planner.num_iterations, "action": planner.horizon}
    budget = " x ".join(counted(number, noun) for noun, number in parts.items())
    print(f"\na plan: {budget}, at most; a new one after {args.replan_every} of {counted(args.num_steps, 'action')}")
    print(f"{args.output}: {counted(args.num_instances, 'instance')}, videos of the first ones")


def _family(environment: str) -> str:
    """The environment without its task."""
    return environment.partition("/")[0]


def _embedded_for(environment: str) -> str | None:
    """The name of the embedded checkpoint whose data were collected in the environment; None without one."""
    return next((name for name, embedded in EMBEDDED.items() if embedded.environment == _family(environment)), None)


def _advice(args: argparse.Namespace) -> str:
    """Which checkpoint can plan in the environment instead: the end of an error."""
    embedded, family, known = embedded_checkpoint(args), _family(args.environment), _embedded_for(args.environment)
    only = "" if embedded is None else f": it is embedded, and was trained on {embedded.environment} only"
    if known is not None:
        return f"{only}; leave --checkpoint out, and {known!r} is taken, which was trained on {family}"
    if family not in RECIPES:
        return f"{only}; train one on data of {args.environment}, and name it by --checkpoint"
    return (
        f"{only}; configs/{family}/run.sh of the repository makes one for {family}, then pass --checkpoint "
        f"outputs/{family}/world"
    )


def _warn_of_other_data(args: argparse.Namespace) -> None:
    """Say so where the record of the checkpoint's training names no data of this environment. Names are all it has."""
    from ..cards.training import sources_of
    from ..checkpoints.origins import read_training

    embedded = embedded_checkpoint(args)
    if embedded is not None:
        paths = [embedded.environment]
    else:
        paths = [source["path"] for source in sources_of(read_training(checkpoint_folder(args)))]
    words = {_plain(word) for word in args.environment.split("/")}
    if paths and not any(word in _plain(path) for word in words for path in paths):
        print(
            f"ivideogpt: warning: the checkpoint was trained on {', '.join(paths)}; unless these are data of "
            f"{args.environment}, its plans mean nothing there",
            file=sys.stderr,
        )


def _plain(name: str) -> str:
    """A name without what is spelled in several ways: "plate-slide" and "plate_slide" are one."""
    return "".join(filter(str.isalnum, name.casefold()))


def _planner(args: argparse.Namespace, low: list[float], high: list[float]) -> Planner:
    from ..planning.planners import CEM, ICEM, MPPI, RandomShooting

    settings = {"num_iterations": args.num_iterations, "gamma": args.gamma, "num_elites": args.num_elites}
    settings = {name: value for name, value in settings.items() if value is not None}
    if args.std is not None:
        settings["std"] = args.std[0] if len(args.std) == 1 else args.std
    if args.planner == "vp2":
        if set(settings) != {"std"} or not isinstance(settings["std"], list) or len(settings["std"]) != len(low):
            raise ValueError("--planner vp2 needs --std with a value per action dimension, and takes nothing else")
        if {*low} != {-1.0} or {*high} != {1.0}:
            raise ValueError(
                f"--planner vp2 acts between -1 and 1, as in VP2's environments, and not between {low} and {high}: "
                f"take --planner mppi"
            )
        return MPPI.vp2(settings["std"], args.num_candidates, args.horizon)
    if args.planner in ("cem", "icem"):
        settings = {"num_elites": max(2, args.num_candidates // 10), "num_iterations": 2} | settings
    kind = {"cem": CEM, "icem": ICEM, "mppi": MPPI, "random": RandomShooting}[args.planner]
    try:
        return kind(low=low, high=high, horizon=args.horizon, num_candidates=args.num_candidates, **settings)
    except TypeError as error:
        raise ValueError(f"--planner {args.planner} does not take all of --{', --'.join(settings)}: {error}") from error


def _make_objective(
    args: argparse.Namespace, name: str, task: PlanningTask, world: WorldModel
) -> tuple[MakeObjective, dict[str, str]]:
    """What makes the objective of an instance, and hashes of the networks in it."""
    from ..planning.objectives import PerceptualError, PixelError, RewardSum

    if name == "rewards":
        if not world.spec.has_reward:
            raise ValueError("the checkpoint has no reward head: take --objective pixels in a task with a goal")
        return lambda goal: RewardSum(), {}
    if task.goal is None:
        raise ValueError(f"{task.name} has no goal image: take --objective rewards")
    if name == "pixels":
        return lambda goal: PixelError(goal[None], args.frames, "sum"), {}
    from ..checkpoints.loading import weights_hash
    from ..metrics.lpips import LPIPS

    lpips = LPIPS.from_weights(args.lpips_weights).to(world.device)
    return lambda goal: PerceptualError(goal[None], lpips, args.frames), {"lpips": weights_hash(lpips)}


def _controllers(
    args: argparse.Namespace, world: WorldModel, planner: Planner, make_objective: MakeObjective
) -> dict[str, Controller]:
    from ..planning import controllers as kinds

    loop = {"replan_every": args.replan_every, "first_action_zero": args.first_action_zero}
    options = loop | {"chunk_size": args.chunk_size, "temperature": args.temperature}
    by_name = {
        "random": kinds.RandomController(),
        "zero": kinds.ZeroController(),
        "shuffled": kinds.ShuffledController(world, planner, make_objective, **options),
        "model": kinds.ModelController(world, planner, make_objective, **options),
        "simulator": kinds.SimulatorController(planner, make_objective, **loop),
    }
    return {name: by_name[name] for name in args.controllers}
