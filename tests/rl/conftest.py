"""What several tests of agents need."""

import pytest

from tests.rl.written_runs import write_run


@pytest.fixture
def write(tmp_path):
    number = iter(range(100))
    return lambda success, **more: write_run(tmp_path / f"run{next(number)}", success, **more)
