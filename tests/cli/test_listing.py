"""`ivideogpt list`: what it names exists."""

import pytest

from ivideogpt_hf.checkpoints.family import RELEASED_IDS
from ivideogpt_hf.cli import main
from ivideogpt_hf.cli.plan import PLANNERS
from ivideogpt_hf.simulators import ENVIRONMENTS, make_simulator


def listed(kind, capsys):
    assert main(["list", kind]) == 0
    return [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]


def test_checkpoints_and_planners_are_those_that_there_are(capsys):
    assert listed("checkpoints", capsys) == ["default", "push2d", *RELEASED_IDS]
    assert listed("planners", capsys) == list(PLANNERS)


def test_environments_that_need_nothing_can_be_made(capsys):
    assert listed("environments", capsys) == list(ENVIRONMENTS)
    for name in [name for name, (_, extra) in ENVIRONMENTS.items() if extra is None]:
        make_simulator(name, 16).close()


def test_collect_names_the_environment_that_needs_nothing(capsys):
    with pytest.raises(SystemExit):
        main(["collect", "--help"])
    assert "push2d" in capsys.readouterr().out
