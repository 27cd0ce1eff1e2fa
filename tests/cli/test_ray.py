"""Ray for real: tasks that are killed lose nothing, and a killed replica is replaced."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

pytest.importorskip("ray", reason="make test-ray")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

from ivideogpt_hf import RemoteWorldModel, Sampling
from ivideogpt_hf.cli.ray_cluster import ray_tasks
from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings
from ivideogpt_hf.data.readers import open_episodes
from ivideogpt_hf.training.arguments import DataArguments, TokenizeArguments
from ivideogpt_hf.training.tokenizing import tokenize
from tests.conftest import build_vq_model, free_port, random_actions, random_frames
from tests.data.files import make_dataset, write_npz_folder
from tests.serving.conftest import wait_for
from tests.started import Started


@pytest.fixture(scope="module")
def pool():
    with ray_tasks("local") as tasks:
        yield tasks


def once_killed(function, marker, *args):
    """Do something, in a process that is killed the first time, when it is nearly done."""
    result = function(*args)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


class Killing:
    """An executor of which each call is killed once."""

    def __init__(self, pool, folder):
        self.pool, self.folder, self.num_calls = pool, folder, 0

    def submit(self, function, *args):
        self.num_calls += 1
        return self.pool.submit(once_killed, function, self.folder / f"killed-{self.num_calls}", *args)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.parquet")}


def test_an_error_is_raised_as_it_is(pool):
    with pytest.raises(ValueError, match=r"^invalid literal for int"):
        pool.submit(int, "no number").result()


def test_a_conversion_whose_tasks_are_killed_is_that_of_one_process(pool, tmp_path):
    source = write_npz_folder(tmp_path / "source", [6] * 6)
    settings, wanted = ConversionSettings(num_shards=3), tmp_path / "wanted"
    Conversion(open_episodes(source), wanted, settings, {}).run()
    killing = Killing(pool, tmp_path)
    statistics = Conversion(open_episodes(source), tmp_path / "out", settings, {}).run(pool=killing)
    assert (statistics.num_episodes, len(list(tmp_path.glob("killed-*")))) == (6, killing.num_calls)
    assert files_of(tmp_path / "out") == files_of(wanted)


def test_tokens_whose_tasks_are_killed_are_those_of_one_process(pool, tmp_path):
    make_dataset(tmp_path / "dataset", [9] * 4)
    build_vq_model().save_pretrained(tmp_path / "model/tokenizer")
    data = DataArguments(data=str(tmp_path / "dataset"), num_frames=4, augmentation="none", validation_split=None)
    names, killing = [tmp_path / "wanted", tmp_path / "out"], Killing(pool, tmp_path)
    options = [{}, {"pool": killing, "num_parts": 2}]
    for name, option in zip(names, options, strict=True):
        settings = TokenizeArguments(output_dir=str(name), vq_model=str(tmp_path / "model"), num_passes=2)
        tokenize(settings, data, **option)
    assert len(list(tmp_path.glob("killed-*"))) == 2
    assert files_of(names[0]) == files_of(names[1])


def replicas_of(process):
    """The actors of a server, as process ids."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
    found = []
    for pid, name in names.items():
        ancestor = pid
        while ancestor in parents and ancestor != process:
            ancestor = parents[ancestor]
        if ancestor == process and b"Replica" in name:
            found.append(pid)
    return found


def test_a_killed_replica_of_the_command_is_replaced(world, tmp_path):
    world.save_pretrained(tmp_path / "model")
    port, state_dir = free_port(), tmp_path / "state"
    words = ["serve", tmp_path / "model", "--port", port, "--state-dir", state_dir, "--replicas", 2]
    server, url = Started(*words, log=tmp_path / "log"), f"http://127.0.0.1:{port}"

    def replicas():
        with suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health").json().get("replicas")

    try:
        server.wait_for(lambda: replicas() == ["ok", "ok"], 300)
        clients = [RemoteWorldModel(url) for _ in range(2)]
        states = [client.reset(random_frames(1, 2)) for client in clients]
        assert {client._session[:2] for client in clients} == {"0.", "1."}
        for client in clients:
            folder = state_dir / f"replica-{client._session[0]}/sessions" / client._session[2:]
            server.wait_for(lambda folder=folder: list(folder.glob("*.safetensors")))
        before = replicas_of(server.process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        server.wait_for(lambda: "starting" in (replicas() or []))
        server.wait_for(lambda: replicas() == ["ok", "ok"], 300)
        assert len(set(replicas_of(server.process.pid)) - set(before)) == 1
        wanted, _ = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=Sampling(seed=2))
        for client, state in zip(clients, states, strict=True):
            step, _ = client.step(state, random_actions(1, 3), sampling=Sampling(seed=2))
            assert step.tokens.equal(wanted.tokens)
        server.send(signal.SIGTERM)
        server.wait(120)
        for client in clients:  # the state after the step was saved at the end
            folder = state_dir / f"replica-{client._session[0]}/sessions" / client._session[2:]
            assert len(json.loads((folder / "states.json").read_text())) == 2
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), 60)
    finally:
        if server.process.is_alive():
            server.send(signal.SIGTERM)
