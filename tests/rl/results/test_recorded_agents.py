"""What agents learnt is written down, and stays when its folder is gone."""

import shutil

import pytest
import yaml

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from scripts import record_agents
from scripts.site_pages import results
from tests.rl.written_runs import write_run


def test_a_run_whose_folder_is_gone_stays(tmp_path, monkeypatch):
    for module in (record_agents, results):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(record_agents, "DOCS", tmp_path)
    monkeypatch.setattr(record_agents, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    folders = [write_run(tmp_path / f"outputs/task/alone-{seed}", [0.0, 0.5], seed=seed) for seed in range(2)]
    unfinished = write_run(tmp_path / "outputs/task/alone-2", [0.1], seed=2, num_steps=9000)
    config = tmp_path / "task.yaml"
    entries = [{"output": str(folder.relative_to(tmp_path))} for folder in (*folders, unfinished)]
    config.write_text(yaml.safe_dump(entries))
    record_agents.record(config)
    before = results.recorded_agents("task")
    assert [run.settings["seed"] for run in before] == [0, 1]
    assert (tmp_path / "agents_task.png").is_file()
    shutil.rmtree(folders[0])
    write_run(folders[1].with_name("again"), [0.0, 0.9], seed=1)
    shutil.rmtree(folders[1])
    folders[1].with_name("again").rename(folders[1])
    record_agents.record(config)
    assert [run.success.tolist() for run in results.recorded_agents("task")] == [[0.0, 0.5], [0.0, 0.9]]
    assert not any("command" in run.settings for run in before)
