"""An agent on the Hub: what is uploaded, and what its card says."""

import json
import shutil

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("accelerate")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from ivideogpt_hf.cli import main
from ivideogpt_hf.rl.runs.publish import prepare_agent
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.rl.runs.test_run import IMAGINED, checkpoint, start  # noqa: F401 (the first is a fixture)
from tests.started import HUB_PORT, Started
from tests.training.conftest import _fresh_accelerate  # noqa: F401 (it is a fixture)


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("finished") / "run"
    start(IMAGINED, folder, world_model=checkpoint, num_steps=12, demos=1, max_steps=20)
    return folder


def test_the_card_names_world_model_steps_and_results(finished, capsys):
    with prepare_agent(finished, "tester/pusher") as publication:
        names = ["README.md", "agent.zip", "curves.png", "episode.gif", "evaluations.jsonl", "run.json"]
        assert sorted(publication.files) == names
        text = publication.card.content
        result = publication.card.data.eval_results[0]
    settings = json.loads((finished / "run.json").read_text())
    assert f"12 real steps, and from 18 that the world model {settings['world_model']} imagined" in text
    assert "1 demonstrations" in text
    assert "from ivideogpt_hf.rl.agents.drqv2 import DrQv2" in text
    assert "![Success against steps](curves.png)" in text
    last = json.loads((finished / "evaluations.jsonl").read_text().splitlines()[-1])
    assert result.metric_value == last["success"]
    assert f"[{last['low']:.2f}, {last['high']:.2f}]" in text
    assert main(["rl-publish", str(finished), "tester/pusher", "--dry-run"]) == 0
    assert "agent.zip" in capsys.readouterr().out


def test_a_run_that_is_not_finished_is_refused(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "agent.zip").unlink()
    with pytest.raises(ValueError, match=r"is not finished: agent\.zip is missing"), prepare_agent(run, "a/b"):
        pass


def test_it_is_uploaded(finished, tmp_path):
    hub = FakeHub(port=HUB_PORT)
    process = Started("rl-publish", finished, "tester/pusher", "--token", TOKEN, log=tmp_path / "log")
    code = process.wait()
    hub.close()
    assert code == 0, process.output
    assert "tester/pusher" in process.output.splitlines()[-1]
