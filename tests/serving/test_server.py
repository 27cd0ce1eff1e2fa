"""The server on the wire: status codes, limits, and who is disturbed by whom (nobody)."""

import base64
import http.client
import json
import signal
import socket
import threading
import urllib.request
from contextlib import contextmanager, suppress

import httpx
import pytest

from ivideogpt_hf import RemoteWorldModel, Sampling
from ivideogpt_hf.cli import main
from ivideogpt_hf.serving.access import AccessRules
from ivideogpt_hf.serving.batching import OtherJob
from ivideogpt_hf.serving.messages import frames_to_text, text_to_frames
from ivideogpt_hf.serving.server import create_app
from ivideogpt_hf.serving.sessions import NoSessionError, Sessions, TooManyError
from ivideogpt_hf.world.slices import in_one_slice
from tests.conftest import free_port, random_actions, random_frames
from tests.serving.conftest import serving, stop, wait_for
from tests.started import Started

FRAMES = [frames_to_text(random_frames(2))]
ACTIONS = random_actions(1, 3).tolist()


class Client:
    """Speaks JSON within one session."""

    def __init__(self, url):
        self.http = httpx.Client(base_url=url, timeout=60)
        self.session = self.http.post("/v1/sessions").json()["session"]

    def call(self, name, **fields):
        return self.http.post(f"/v1/sessions/{self.session}/{name}", json=fields)

    def reset(self):
        return self.call("reset", frames=FRAMES).json()["state"]


@pytest.fixture
def client(server):
    return Client(server)


def test_health_and_metrics(server, client):
    state = client.reset()
    client.call("step", state=state, actions=ACTIONS)
    assert httpx.get(f"{server}/health").json() == {"status": "ok", "checkpoint": "tiny"}
    text = httpx.get(f"{server}/metrics").text
    assert 'ivideogpt_call_seconds_count{call="step"}' in text
    assert "ivideogpt_sessions " in text


def test_a_step_answers_with_what_was_asked_for(client):
    answer = client.call("step", state=client.reset(), actions=ACTIONS, outputs=["rewards"]).json()
    assert answer["frames"] is None
    assert answer["tokens"] is None
    assert len(answer["rewards"]) == 1


def test_worlds_begin_in_the_episode_that_came_with_the_checkpoint(world):
    starts = random_frames(4, 2)
    with serving(world, starts=starts) as (url, _):
        client = Client(url)
        assert client.http.get("/v1/spec").json()["num_starts"] == 4
        begun = client.call("begin", starts=[3, 0]).json()
        given = client.call("reset", frames=[frames_to_text(clip) for clip in starts[[3, 0]]]).json()
        fields = {"actions": ACTIONS * 2, "sampling": {"seed": 5}, "outputs": ["tokens"]}
        tokens = [client.call("step", state=answer["state"], **fields).json()["tokens"] for answer in (begun, given)]
    assert begun["frames"] == frames_to_text(starts[[3, 0], -1])
    assert tokens[0] == tokens[1]


def test_frames_come_as_bytes_for_clients_without_a_decoder(client):
    fields = {"state": client.reset(), "actions": ACTIONS, "sampling": {"seed": 3}}
    (png,) = client.call("step", **fields).json()["frames"]
    (rgb,) = client.call("step", **fields, frame_format="rgb").json()["frames"]
    assert base64.b64decode(rgb) == text_to_frames([png])[0].movedim(0, -1).numpy().tobytes()


def test_a_replaced_state_is_gone(client):
    state = client.reset()
    after = client.call("step", state=state, actions=ACTIONS, replace=True).json()["state"]
    assert client.call("step", state=state, actions=ACTIONS).status_code == 404
    assert client.call("step", state=after, actions=ACTIONS).status_code == 200


def test_a_websocket_gives_the_same_answers(server, client):
    from websockets.sync.client import connect

    state = client.reset()
    fields = {"state": state, "actions": ACTIONS, "sampling": {"seed": 3}}
    expected = client.call("step", **fields).json()
    with connect(f"{server.replace('http', 'ws')}/v1/sessions/{client.session}/stream") as socket:
        socket.send(json.dumps({"call": "step"} | fields))
        answer = json.loads(socket.recv())
        assert answer | {"state": 0} == expected | {"state": 0}
        for bad, status in (({"call": "step", "state": 99, "actions": ACTIONS}, 404), ({"call": "dance"}, 422)):
            socket.send(json.dumps(bad))
            assert json.loads(socket.recv())["status"] == status


def big_image():
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 100).decode()


@pytest.mark.parametrize(
    ("name", "fields", "status", "message"),
    [
        ("step", {"actions": [[1.0, 2.0]]}, 400, "width 3"),
        ("step", {"actions": [[1.0, 2.0, "x"]]}, 422, "valid number"),
        ("step", {"actions": [[1.0, 2.0], [1.0]]}, 400, "table of numbers"),
        ("step", {"actions": ACTIONS, "speed": 9}, 422, "Extra inputs"),
        ("step", {"actions": ACTIONS, "state": 99}, 404, "no state 99"),
        ("step", {"actions": ACTIONS, "sampling": {"temperature": 1e-38}}, 422, "equal to 0.000001"),
        ("step", {"actions": ACTIONS, "sampling": {"seed": [1, 2]}}, 400, "one per row"),
        ("rollout", {"actions": [[[0.0, 0.0, 0.0]] * 3000]}, 400, "256 steps at most"),
        ("rollout", {"actions": [[[0.0, 0.0, 0.0]] * 200], "num_samples": 20}, 400, "2048 frames at most"),
        ("rollout", {"actions": [[[0.0, 0.0, 0.0]] * 257]}, 400, "256 steps at most"),
        ("rollout", {"num_frames": 3}, 400, "actions of width 3 are missing"),
        ("fork", {"num_branches": 0}, 422, "greater than or equal to 1"),
        ("index", {"rows": [7]}, 400, "rows must be"),
        ("index", {"rows": [True]}, 422, "valid integer"),
        ("observe", {"frames": ["no base64!"]}, 400, "base64"),
        ("observe", {"frames": [big_image()]}, 400, ""),
        ("reset", {"frames": [FRAMES[0][:1]]}, 400, "needs 2 context frames"),
        ("reset", {"frames": []}, 422, "at least 1 item"),
        ("begin", {"starts": [0]}, 400, "starts must be below 0"),
        ("begin", {"starts": [-1]}, 422, "greater than or equal to 0"),
    ],
)
def test_bad_calls_get_the_right_status_and_a_reason(client, name, fields, status, message):
    state = client.reset()
    given = {} if name in ("reset", "begin") else {"state": state}
    answer = client.call(name, **(given | fields))
    assert answer.status_code == status, answer.text
    assert message in answer.text


@pytest.mark.parametrize("body", [b"{", b'{"state": 0, "actions": [[NaN, 0, 0]]}', b"\xff\xfe", b""])
def test_malformed_bodies_are_refused(client, body):
    path = f"/v1/sessions/{client.session}/step"
    answer = client.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_an_unknown_session_is_not_found(client):
    client.session = "other"
    assert client.call("reset", frames=FRAMES).status_code == 404


def test_a_huge_upload_is_refused_before_it_is_read(server, client):
    host = server.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest("POST", f"/v1/sessions/{client.session}/reset")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_an_upload_of_unknown_length_is_cut_off(world):
    with serving(world, max_bytes=10_000) as (url, _):
        client = Client(url)
        parts = (b"x" * 5000 for _ in range(10))
        answer = client.http.post(f"/v1/sessions/{client.session}/reset", content=parts)
        assert answer.status_code == 413
        assert client.http.get("/health").status_code == 200


def test_states_and_sessions_are_limited(world):
    with serving(world, max_states=2, max_sessions=1) as (url, _):
        client = Client(url)
        state = client.reset()
        client.reset()
        refused = client.call("step", state=state, actions=ACTIONS)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert client.call("step", state=state, actions=ACTIONS, replace=True).status_code == 200
        assert client.http.post("/v1/sessions").status_code == 429


def test_a_full_queue_pushes_back(world):
    with serving(world, max_waiting=1) as (url, service):
        client, go = Client(url), threading.Event()
        state = client.reset()
        service.batcher.submit(OtherJob(in_one_slice(go.wait)))
        wait_for(lambda: not service.batcher.num_waiting)
        service.batcher.submit(OtherJob(in_one_slice(lambda: None)))
        assert client.call("step", state=state, actions=ACTIONS).status_code == 429
        go.set()
        wait_for(lambda: not service.batcher.num_waiting)
        assert client.call("step", state=state, actions=ACTIONS).status_code == 200


def test_quiet_sessions_expire_and_busy_ones_do_not():
    time = [0.0]
    sessions = Sessions(max_sessions=2, max_states=5, expires_after=10, now=lambda: time[0])
    quiet, busy = sessions.open(), sessions.open()
    sessions.begin_call(busy)
    with pytest.raises(TooManyError):
        sessions.open()
    time[0] = 11
    assert sessions.expire() == 1
    with pytest.raises(NoSessionError):
        sessions.begin_call(quiet)
    sessions.end_call(busy)
    time[0] = 15
    assert sessions.expire() == 0
    time[0] = 22
    sessions.open()  # makes room by itself
    assert len(sessions) == 1


def test_a_client_that_vanishes_disturbs_nobody(world, server, client):
    host, port = server.removeprefix("http://").split(":")
    body = json.dumps({"state": client.reset(), "actions": ACTIONS}).encode()
    for _ in range(5):
        with socket.create_connection((host, int(port))) as gone:
            path = f"/v1/sessions/{client.session}/step"
            gone.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    with RemoteWorldModel(server) as other:
        state = other.reset(random_frames(1, 2))
        other.step(state, random_actions(1, 3))
    assert client.call("step", state=client.reset(), actions=ACTIONS).status_code == 200


@contextmanager
def noted_jobs(service):
    """The futures of the jobs that a server's model gets."""
    futures, submit = [], service.batcher.submit

    def noted(job):
        futures.append(job.future)
        return submit(job)

    service.batcher.submit = noted
    yield futures
    service.batcher.submit = submit


@contextmanager
def busy_model(service):
    """Keep the model's thread busy during the block."""
    go = threading.Event()
    service.batcher.submit(OtherJob(in_one_slice(go.wait)))
    wait_for(lambda: not service.batcher.num_waiting)
    try:
        yield
    finally:
        go.set()


def stream_of(url, client):
    from websockets.sync.client import connect

    return connect(f"{url.replace('http', 'ws')}/v1/sessions/{client.session}/stream")


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_nobody_waits_for_a_client_that_is_gone(world, kind):
    with serving(world) as (url, service):
        client = Client(url)
        call = {"state": client.reset(), "actions": random_actions(1, 60, 3).tolist()}
        with busy_model(service), noted_jobs(service) as futures:
            if kind == "http":
                with pytest.raises(httpx.ReadTimeout):
                    client.http.post(f"/v1/sessions/{client.session}/rollout", json=call, timeout=0.2)
            else:
                with stream_of(url, client) as socket:
                    socket.send(json.dumps(call | {"call": "rollout"}))
                    wait_for(lambda: futures)
            wait_for(lambda: futures and futures[0].cancelled())


def test_a_call_that_takes_too_long_is_refused(world):
    with serving(world, max_call_seconds=1e-9) as (url, _):
        client = Client(url)
        answer = client.call("reset", frames=FRAMES)
        assert (answer.status_code, "fewer or shorter" in answer.text) == (413, True)


def test_a_step_of_many_worlds_is_done_in_slices_and_is_the_same(server, client, world):
    state = client.call("fork", state=client.reset(), num_branches=70).json()["state"]
    actions = random_actions(70, 3)
    fields = {"actions": actions.tolist(), "sampling": {"seed": 4}, "outputs": ["tokens"]}
    answer = client.call("step", state=state, **fields).json()
    alone = world.reset(random_frames(2)[None]).fork(70)
    assert answer["tokens"] == world.step(alone, actions, sampling=Sampling(seed=4))[0].tokens.tolist()


@pytest.mark.parametrize("message", [b"{}", "{"])
def test_a_message_that_is_no_call_is_refused(server, client, message):
    with stream_of(server, client) as socket:
        socket.send(message)
        assert json.loads(socket.recv())["status"] == 422


def test_a_server_that_stops_lets_calls_end_and_refuses_new_ones(world):
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    with serving(world) as (url, service):
        client, answers = Client(url), []
        state = client.reset()
        with stream_of(url, client) as socket, stream_of(url, client) as idle:
            with busy_model(service):
                socket.send(json.dumps({"call": "step", "state": state, "actions": ACTIONS}))
                thread = threading.Thread(
                    target=lambda: answers.append(client.call("step", state=state, actions=ACTIONS).status_code)
                )
                thread.start()
                wait_for(lambda: service.batcher.num_waiting == 2)
                stop(url)
                wait_for(service.stopping.is_set)
                call = f"{url}/v1/sessions/{client.session}/step"
                refused = [
                    httpx.get(f"{url}/health").status_code,
                    httpx.post(f"{url}/v1/sessions").status_code,
                    httpx.post(call, json={"state": state, "actions": ACTIONS}).status_code,
                ]
                with pytest.raises(InvalidStatus) as error, stream_of(url, client):
                    pass
                with pytest.raises(ConnectionClosed) as closed:
                    idle.recv()
            assert json.loads(socket.recv())["num_rows"] == 1
            with pytest.raises(ConnectionClosed) as last:
                socket.recv()
            thread.join()
    assert answers == [200]
    assert refused == [503, 503, 503]
    assert error.value.response.status_code == 503
    assert [e.value.rcvd.code for e in (closed, last)] == [1012, 1012]


def test_calls_are_given_up_when_the_time_to_stop_is_over(world):
    with serving(world, seconds_to_stop=0.01) as (url, service):
        client, answers = Client(url), []
        call = {"state": client.reset(), "actions": random_actions(1, 250, 3).tolist(), "outputs": ["rewards"]}
        thread = threading.Thread(target=lambda: answers.append(client.call("rollout", **call)))
        with busy_model(service):
            thread.start()
            wait_for(lambda: service.batcher.num_waiting == 1)
            stop(url)
            wait_for(lambda: service.batcher._abandoned)
        thread.join()
    assert answers[0].status_code == 503


def test_sigterm_lets_steps_end_and_saves_the_session(tmp_path, world):
    world.save_pretrained(tmp_path / "model")
    port = free_port()
    words = ["serve", tmp_path / "model", "--port", port, "--state-dir", tmp_path / "state"]
    process = Started(*words, log=tmp_path / "log")
    try:
        url = f"http://127.0.0.1:{port}"

        def answers():
            with suppress(OSError):
                return urllib.request.urlopen(f"{url}/health").status == 200

        process.wait_for(answers)
        client, results = Client(url), []
        state = client.call("fork", state=client.reset(), num_branches=32).json()["state"]
        actions = random_actions(32, 60, 3).tolist()

        def roll():
            # It re-anchors on the way: long enough to be in the middle of it.
            results.append(client.call("rollout", state=state, actions=actions, outputs=["rewards"]).status_code)

        thread = threading.Thread(target=roll)
        thread.start()
        wait_for(lambda: "ivideogpt_waiting 0" in httpx.get(f"{url}/metrics").text)
        process.send(signal.SIGTERM)
        thread.join(120)
        assert results == [200]
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert [path.name for path in (tmp_path / "state/sessions").iterdir()] == [client.session]
    finally:
        process.process.kill()


def test_serving_the_world_needs_a_token_or_a_word(capsys):
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "pass --serving-token" in capsys.readouterr().err


def test_the_api_keeps_what_its_document_promises(world):
    """schemathesis makes up calls from the OpenAPI document: no status 500, and no answer that it does not describe."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    access = AccessRules(allowed_hosts=["testserver"])
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(world, "tiny", access=access))
    few = settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    for operation in schema.get_all_operations():

        @few
        @given(case=operation.ok().as_strategy())
        def check(case):
            case.call_and_validate()

        check()
