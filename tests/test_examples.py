"""The programs in examples/ run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_stock_agent_trains_in_imagined_worlds():
    pytest.importorskip("stable_baselines3")
    argv = [sys.executable, EXAMPLES / "train_agent.py", "--num-steps", "64", "--num-worlds", "4", "--horizon", "4"]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"steps: 64 +reward of an episode: \S+ -> \S+", done.stdout)
