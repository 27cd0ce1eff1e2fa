"""Several replicas behind one address: each session stays where it was opened, and a dead replica is replaced."""

import asyncio
import json
import signal
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ivideogpt_hf import RemoteWorldModel, Sampling
from ivideogpt_hf.cli import main
from ivideogpt_hf.serving import fleet as fleets
from ivideogpt_hf.serving.access import AccessRules
from ivideogpt_hf.serving.client import LostSessionError
from ivideogpt_hf.serving.connections import connection_options
from ivideogpt_hf.serving.defaults import ServerLimits
from ivideogpt_hf.serving.fleet import Fleet
from ivideogpt_hf.serving.proxy import create_proxy
from ivideogpt_hf.serving.replica import Replica, Served
from ivideogpt_hf.serving.stopping import StoppingServer
from tests.conftest import free_port, random_actions, random_frames
from tests.serving.conftest import wait_for
from tests.started import Started

FRAMES = random_frames(1, 2)
INNER = "between head and replicas"


class InThread:
    """A replica in this process."""

    def __init__(self, world, folder, **limits):
        self.world, self.folder, self.limits = world, folder, ServerLimits(**limits)

    async def start(self):
        self.replica = Replica(lambda: Served(self.world, "tiny", None), self.limits, self.folder, INNER)
        return await asyncio.to_thread(self.replica.start)

    async def stop(self):
        await asyncio.to_thread(self.replica.stop)


PROGRAM = """
import time
from pathlib import Path
from ivideogpt_hf import WorldModel
from ivideogpt_hf.run_folder import write_text
from ivideogpt_hf.serving.replica import Replica, Served
from ivideogpt_hf.serving.defaults import ServerLimits
folder = Path({folder!r})
load = lambda: Served(WorldModel.from_pretrained(folder / "model"), "tiny", None)
replica = Replica(load, ServerLimits(), folder / "state", {token!r}, num_threads=1, save_seconds=0.05)
write_text(folder / "url", replica.start())
time.sleep(1000)
"""


class Forked:
    """A replica in a process of its own, which can be killed."""

    def __init__(self, world, folder):
        world.save_pretrained(folder / "model")
        self.folder = folder

    async def start(self):
        (self.folder / "url").unlink(missing_ok=True)
        code = PROGRAM.format(folder=str(self.folder), token=INNER)
        self.process = Started(code=code, log=self.folder / "log")
        await asyncio.to_thread(self.process.wait_for, (self.folder / "url").exists)
        return (self.folder / "url").read_text()

    async def stop(self):
        self.process.process.kill()


@contextmanager
def leading(processes, **access):
    """A server in front of replicas; its address, and the fleet. Then stop, as SIGTERM makes it stop."""
    started, left, port = threading.Event(), [], free_port()

    async def run():
        fleet = Fleet(processes, INNER)
        await fleet.start()
        app = await create_proxy(fleet, AccessRules(**access), ServerLimits())
        config = uvicorn.Config(app, port=port, log_level="error", **connection_options(2**20))
        left.append((fleet, StoppingServer(config, fleet)))
        started.set()
        await left[0][1].serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(180)
    fleet, server = left[0]
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}", fleet
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def two(world, tmp_path_factory):
    """The address of two replicas of the tiny world, and their fleet."""
    folder = tmp_path_factory.mktemp("state")
    with leading([InThread(world, folder / name) for name in "ab"]) as both:
        yield both


def tokens_of(world, seed, num_steps=3):
    """What a world predicts for a client."""
    state, tokens = world.reset(FRAMES), []
    for number in range(num_steps):
        step, state = world.step(state, random_actions(1, 3, seed=seed), sampling=Sampling(seed=seed + number))
        tokens.append(step.tokens)
    return torch.cat(tokens)


def test_sessions_are_shared_out_and_nothing_is_mixed(world, two):
    url, fleet = two
    clients = [RemoteWorldModel(url) for _ in range(6)]
    assert [sum(client._session.startswith(f"{number}.") for client in clients) for number in (0, 1)] == [3, 3]
    results = {}
    threads = [
        threading.Thread(target=lambda seed=seed, client=client: results.update({seed: tokens_of(client, seed)}))
        for seed, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[seed].equal(tokens_of(world, seed)) for seed in range(6))
    for client in clients:
        client.close()
    wait_for(lambda: [member.num_sessions for member in fleet.members] == [0, 0])


def test_errors_are_those_of_one_server(two):
    url, _ = two
    with RemoteWorldModel(url) as client:
        state = client.reset(FRAMES)
        with pytest.raises(ValueError, match="width 3, got width 2"):
            client.step(state, random_actions(1, 2))
        client._session = client._session[:-2]
        state.session = client._session
        with pytest.raises(LostSessionError):
            client.step(state, random_actions(1, 3))
    for name in ("nothing", "0.nothing", "7.nothing", "0.", "9" * 5000):
        answer = httpx.post(f"{url}/v1/sessions/{name}/step", json={"state": 0})
        assert (answer.status_code, answer.json()["lost"]) == (404, True)
    assert httpx.get(f"{url}/v1/nothing").status_code == 404


def test_a_websocket_is_that_of_the_sessions_replica(world, two):
    url, _ = two
    client = RemoteWorldModel(url)
    state = client.reset(FRAMES)
    call = {"call": "step", "state": state.number, "actions": random_actions(1, 3).tolist(), "outputs": ["tokens"]}
    with connect(f"{url.replace('http', 'ws')}/v1/sessions/{client._session}/stream") as socket, client:
        socket.send(json.dumps(call | {"sampling": {"seed": 4}}))
        answer = json.loads(socket.recv())
        socket.send("{")
        assert json.loads(socket.recv())["status"] == 422
    step, _ = world.step(world.reset(FRAMES), random_actions(1, 3), sampling=Sampling(seed=4))
    assert answer["tokens"] == step.tokens.tolist()


def test_what_all_replicas_tell(two):
    url, _ = two
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "checkpoint": "tiny", "replicas": ["ok", "ok"]}
    assert httpx.get(f"{url}/v1/spec").json()["action_dim"] == 3
    assert "/v1/sessions/{session}/step" in httpx.get(f"{url}/openapi.json").text
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    assert {'ivideogpt_replica_up{replica="0"} 1.0', 'ivideogpt_replica_up{replica="1"} 1.0'} <= set(lines)
    assert sum(line.startswith("ivideogpt_waiting{") for line in lines) == 2


def test_the_head_asks_for_the_token(world, tmp_path):
    with leading([InThread(world, tmp_path / "a")], token="secret") as (url, fleet):
        assert httpx.get(f"{url}/v1/spec").status_code == 401
        assert httpx.get(f"{url}/v1/spec", headers={"Authorization": "Bearer secret"}).status_code == 200
        inside = f"{fleet.members[0].url}/v1/spec"
        assert httpx.get(inside, headers={"Authorization": "Bearer secret"}).status_code == 401


PATHS = (
    "/x/../v1/spec",
    "/./v1/load",
    "/%2e/v1/spec",
    "/x/%2e%2e/v1/spec",
    "/x/../metrics",
    "/x/../docs",
    "/..%2fdocs",
)


def test_paths_mean_the_same_behind_the_head(world, tmp_path):
    """A client that removes dot segments would ask a replica for another path than was asked for, with its token."""

    def status(url, path):
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=20) as connection:
            token = "" if path in PATHS else "Authorization: Bearer secret\r\n"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n".encode())
            return int(connection.recv(12)[9:])

    with leading([InThread(world, tmp_path / "a")], token="secret") as (url, _):
        assert [status(url, path) for path in PATHS] == [404] * len(PATHS)
        assert [status(url, f"/v1/sessions/{name}") for name in ("0...", "0.../load", "../spec")] == [404] * 3
        assert httpx.get(url).status_code == 200


def test_the_head_refuses_web_sockets_without_a_session(two):
    for session in ("0.none", "none"):
        with pytest.raises(InvalidStatus, match="404"):
            connect(f"{two[0].replace('http', 'ws')}/v1/sessions/{session}/stream")


def test_the_next_fleet_goes_on_with_the_sessions(world, tmp_path):
    processes = [InThread(world, tmp_path / name) for name in "ab"]
    with leading(processes) as (url, _):
        clients = [RemoteWorldModel(url) for _ in range(2)]
        states = [client.reset(FRAMES) for client in clients]
    with leading(processes) as (again, _):
        for client, state in zip(clients, states, strict=True):
            client._http.base_url = again
            step, _ = client.step(state, random_actions(1, 3), sampling=Sampling(seed=2))
            wanted, _ = world.step(world.reset(FRAMES), random_actions(1, 3), sampling=Sampling(seed=2))
            assert step.tokens.equal(wanted.tokens)


def test_a_killed_replica_is_replaced_and_its_saved_sessions_go_on(world, tmp_path, monkeypatch):
    forked = Forked(world, tmp_path)
    with leading([forked, InThread(world, tmp_path / "other")]) as (url, fleet):
        mine, other = RemoteWorldModel(url), RemoteWorldModel(url)
        state, others = mine.reset(FRAMES), other.reset(FRAMES)
        # Not before: a look that began before a session was opened would not count it, and the next one would go there.
        monkeypatch.setattr(fleets, "LOOK_SECONDS", 0.05)
        socket = connect(f"{url.replace('http', 'ws')}/v1/sessions/{mine._session}/stream")
        inner = mine._session.removeprefix("0.")
        wait_for(lambda: list((tmp_path / "state/sessions" / inner).glob("contexts-*")))
        before = fleet.members[0].url
        forked.process.send(signal.SIGKILL)
        wait_for(lambda: fleet.members[0].url is None)
        step = {"state": state.number, "actions": random_actions(1, 3).tolist()}
        answer = httpx.post(f"{url}/v1/sessions/{mine._session}/step", json=step)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd.code == 1012
        assert httpx.get(f"{url}/health").json()["replicas"] == ["starting", "ok"]
        assert httpx.post(f"{url}/v1/sessions").json()["session"].startswith("1.")
        other.step(others, random_actions(1, 3))
        wait_for(lambda: fleet.members[0].url not in (None, before), 60)
        again, _ = mine.step(state, random_actions(1, 3), sampling=Sampling(seed=2))
    wanted, _ = world.step(world.reset(FRAMES), random_actions(1, 3), sampling=Sampling(seed=2))
    assert again.tokens.equal(wanted.tokens)


def test_a_call_ends_when_its_client_is_gone(world, tmp_path):
    process = InThread(world, tmp_path / "a")
    with leading([process]) as (url, _), RemoteWorldModel(url) as client:
        service = process.replica._server._service
        state = client.reset(FRAMES)
        call = {"state": state.number, "actions": torch.zeros(1, 200, 3).tolist(), "num_samples": 8}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/sessions/{client._session}/rollout", json=call, timeout=0.2)
        wait_for(lambda: not service.batcher._begun and not service.batcher._waiting, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray-address", "auto"], "--ray-address is for --replicas N"),
        (["--replicas", "0"], "--replicas must be at least 1, got 0"),
        (["--replicas", "2", "--ray-address", "auto"], "--ray-address needs --state-dir"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, capsys):
    assert main(["serve", *words]) == 2
    assert message in capsys.readouterr().err
