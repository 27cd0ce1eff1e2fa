"""scripts/film_playground.py says what it does. To film, it needs the playground and a browser."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/film_playground.py"


def test_it_says_what_it_does():
    pytest.importorskip("playwright")
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "docs/playground.gif" in done.stdout
