"""Simulated environments, to collect data in and to plan in. Most need a package, which an extra installs.

To add an environment:

1. write a module here, named after the environment;
2. in it, derive a class from `Simulator`, and require the environment's package with the name of its extra;
3. add its name to `make_simulator` and `ENVIRONMENTS` below: `ivideogpt collect`, `plan` and `list` know it from there.
"""

from __future__ import annotations

from .base import Simulator, Transition

# Names that `make_simulator` takes, with an example of each family, and the extra that installs it; None: nothing.
ENVIRONMENTS = {
    "push2d": ("a disc pushes a puck on a plane", None),
    "push2d/goal-shown": ("the same, with the goal in the picture", None),
    "metaworld/<task>": ("a robot arm on a table, such as metaworld/plate-slide", "metaworld"),
    "robodesk/<task>": ("a robot arm at a desk, such as robodesk/push_red", "robodesk"),
    "pusht": ("a disc pushes a T on a plane", "pusht"),
    "<gymnasium id>": ("any environment with continuous actions that renders, such as Pendulum-v1", "gymnasium"),
}


def make_simulator(name: str, size: int) -> Simulator:
    """Make an environment that renders.

    Args:
        name: name of the environment: "metaworld/<task>", "robodesk/<task>", "pusht", "push2d", "push2d/goal-shown", or
            the id of any gymnasium environment.
        size: side of the frames, in pixels.

    Raises:
        ImportError: if its package is missing; names the extra.
        ValueError: if there is no such environment.
    """
    family, _, task = name.partition("/")
    if family == "metaworld":
        from .metaworld import MetaWorldSimulator

        return MetaWorldSimulator(task, size)
    if family == "robodesk":
        from .robodesk import RoboDeskSimulator

        return RoboDeskSimulator(task, size)
    if name == "pusht":
        from .pusht import PushTSimulator

        return PushTSimulator(size)
    if family == "push2d":
        from .push2d import Push2DSimulator

        return Push2DSimulator(size, task)
    from .gymnasium import GymnasiumSimulator

    return GymnasiumSimulator(name, size)


__all__ = ["ENVIRONMENTS", "Simulator", "Transition", "make_simulator"]
