"""What clients may use of a server's memory."""

import asyncio
import base64
import json
import socket
import struct
import threading
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ivideogpt_hf.media.images import encode_png
from ivideogpt_hf.serving import messages
from ivideogpt_hf.serving.connections import (
    ANSWER_SECONDS,
    HEAD_SECONDS,
    MAX_CONNECTIONS,
    ImpatientProtocol,
    ImpatientWebSocket,
    connection_options,
)
from ivideogpt_hf.serving.defaults import ServerLimits
from ivideogpt_hf.serving.limits import MAX_SOCKETS, BodyLimits, ByteBudget, LimitBody, NoRoomError
from ivideogpt_hf.serving.messages import frames_to_text
from ivideogpt_hf.serving.state_room import StateRoom
from ivideogpt_hf.world.state import WorldState, num_bytes_of
from tests.conftest import build_world, free_port, random_actions, random_frames
from tests.serving.conftest import serving, wait_for
from tests.serving.test_server import ACTIONS, FRAMES, Client

MEGABYTE = 2**20
SECURITY = Path(__file__).parents[2] / "SECURITY.md"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height, width, data):
    """A PNG file of any stated size and content."""
    header = chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def as_text(data):
    return base64.b64encode(data).decode()


def bombs(size):
    inflated = zlib.compress(bytes(100 * MEGABYTE), 9)
    return {
        "a stream beyond its size": png(*size, inflated),
        "a huge header": png(60_000, 60_000, b"x"),
        "a large header": png(4000, 4000, zlib.compress(bytes(4000 * 12_001), 9)),
        "another size": encode_png(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()),
        "a gif": b"GIF89a" + struct.pack("<HH", 64, 64) + bytes(20),
    }


@pytest.mark.parametrize("kind", bombs((1, 1)))
def test_pictures_that_are_not_frames_are_refused_before_they_are_decoded(client_of_tiny, world, kind):
    bomb = as_text(bombs(world.spec.frame_size)[kind])
    tracemalloc.start()
    try:
        answer = client_of_tiny.call("reset", frames=[[bomb] * 2])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400, answer.text
    assert peak < 20 * MEGABYTE


@pytest.fixture
def client_of_tiny(server):
    return Client(server)


@pytest.mark.parametrize("body", [b"[" + b"[]," * 300_000 + b"0]", b'{"state":0,"rows":[' + b"0," * 300_000 + b"0]}"])
def test_json_of_many_values_is_refused_before_it_is_parsed(client_of_tiny, body):
    path = f"/v1/sessions/{client_of_tiny.session}/index"
    answer = client_of_tiny.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "values" in answer.text


@pytest.mark.parametrize("fields", [{"k" * 10**6: 0}, {f"k{i}": 0 for i in range(1000)}])
def test_a_refusal_does_not_repeat_what_was_sent(client_of_tiny, fields):
    answer = client_of_tiny.call("reset", **fields)
    assert answer.status_code == 422
    assert len(answer.content) < 5000


@pytest.mark.parametrize("num_digits", [400, 5000])
def test_numbers_without_bounds_are_refused(client_of_tiny, num_digits):
    state = client_of_tiny.reset()
    for name in ("step", "rollout"):
        text = json.dumps({"state": state, "actions": "X"}).replace('"X"', f"[[[{'9' * num_digits}]]]")
        path = f"/v1/sessions/{client_of_tiny.session}/{name}"
        answer = client_of_tiny.http.post(path, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text


def test_requests_together_are_bounded(world):
    with serving(world, max_request_bytes=1000) as (url, _):
        client = Client(url)
        answer = client.call("reset", frames=FRAMES)
        assert answer.status_code == 503
        assert "--max-request-bytes" in answer.text
        assert client.call("show", state=3).status_code == 404  # nothing of it is left


def test_messages_that_wait_for_an_answer_count_among_the_requests():
    budget, used = ByteBudget(100, "requests", "wait"), []
    texts = iter(["x" * 10, "y" * 20])

    async def receive():
        return {"type": "websocket.receive", "text": next(texts)}

    async def send(message):
        used.append(budget.used)

    async def app(scope, receive, send):
        await receive()
        await receive()  # read ahead
        used.append(budget.used)
        await send({"type": "websocket.send", "text": "answer"})

    limits = BodyLimits(max_bytes=50, max_values=10, seconds=1, silent_seconds=1)
    answers = ByteBudget(100, "answers", "wait")
    asyncio.run(LimitBody(app, limits, budget, answers)({"type": "websocket"}, receive, send))
    assert used == [30, 20]
    assert budget.used == 0


class Unread:
    """A server whose answers are larger than what systems keep of a connection, and clients that take none."""

    SIZE = 40 * MEGABYTE

    def __init__(self, monkeypatch, seconds):
        for protocol in (ImpatientProtocol, ImpatientWebSocket):
            monkeypatch.setattr(protocol, "answer_seconds", seconds)
        self.answers = ByteBudget(self.SIZE // 2, "answers", "wait")
        limits = BodyLimits(max_bytes=1000, max_values=10, seconds=9, silent_seconds=9, max_sockets=2)
        self.app = LimitBody(self.answer, limits, ByteBudget(1000, "requests", "wait"), self.answers)

    async def answer(self, scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": "x" * self.SIZE})
        elif scope["type"] == "http":
            if scope["method"] == "POST":
                await Request(scope, receive).body()
            await Response("x" * (self.SIZE if scope["path"] == "/big" else 5))(scope, receive, send)

    @contextmanager
    def serving(self):
        port = free_port()
        options = {"log_level": "error", "lifespan": "off", **connection_options(99)}
        server = uvicorn.Server(uvicorn.Config(ExceptionMiddleware(self.app), port=port, **options))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        self.connections = server.server_state.connections
        try:
            yield port
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)

    def ask(self, port, kind):
        """Ask for a large answer, and take nothing of it."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        if kind == "http":
            client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        else:  # by hand, since a client takes what comes
            client.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            client.recv(4096)
            client.sendall(b"\x81\x81\0\0\0\0a")
        return client


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_answers_that_nobody_takes_count_and_are_given_up(monkeypatch, kind):
    server = Unread(monkeypatch, seconds=1.5)
    with server.serving() as port:
        clients = [server.ask(port, kind) for _ in range(2)]
        wait_for(lambda: server.answers.used >= server.SIZE)
        refused = httpx.post(f"http://127.0.0.1:{port}/", content=b"[]")
        assert (refused.status_code, "answers may take" in refused.text) == (503, True)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        wait_for(lambda: not server.answers.used and len(server.connections) == 0)
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"[]").status_code == 200
        for client in clients:
            client.close()


def test_an_answer_that_is_taken_slowly_arrives(monkeypatch):
    server = Unread(monkeypatch, seconds=20)
    with server.serving() as port, server.ask(port, "http") as client:
        num_bytes = 0
        while num_bytes < server.SIZE:
            num_bytes += len(client.recv(2**20))
        wait_for(lambda: server.answers.used == 0)
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: b"200 OK" in client.recv(2**16))


def test_web_sockets_are_fewer_than_connections(monkeypatch):
    server = Unread(monkeypatch, seconds=20)
    with server.serving() as port:
        opened = [connect(f"ws://127.0.0.1:{port}/") for _ in range(2)]
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"ws://127.0.0.1:{port}/")
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        opened[0].close()
        with connect(f"ws://127.0.0.1:{port}/"):
            pass
        opened[1].close()


def test_a_web_socket_without_a_session_is_refused(server, caplog):
    for _ in range(3):
        with pytest.raises(InvalidStatus, match="404"):
            connect(f"{server.replace('http', 'ws')}/v1/sessions/none/stream")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_frames_together_are_bounded(world):
    with serving(world, max_frame_bytes=3 * 3 * 16 * 16) as (url, service):
        height, width = world.spec.frame_size
        service._frames.limit = 2 * 3 * height * width
        client = Client(url)
        state = client.reset()
        answer = client.call("reset", frames=FRAMES * 2)
        assert answer.status_code == 400
        assert "--max-frame-bytes" in answer.text
        assert client.call("step", state=state, actions=ACTIONS).status_code == 200
        assert service._frames.used == 0


def test_states_are_bounded_by_bytes_and_forgetting_makes_room(world):
    size = world.reset(random_frames(1, 2)).num_bytes
    with serving(world, max_state_bytes=int(2.5 * size)) as (url, service):
        client = Client(url)
        states = [client.reset(), client.reset()]
        refused = client.call("reset", frames=FRAMES)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "--max-state-bytes" in refused.text
        assert "forget states" in refused.text
        alone = client.call("reset", frames=FRAMES * 3)
        assert (alone.status_code, "ask for less" in alone.text) == (400, True)
        client.http.post(f"/v1/sessions/{client.session}/forget", json=states[:1])
        assert client.call("reset", frames=FRAMES).status_code == 200
        assert num_bytes_of(service.sessions.kept()) <= 2.5 * size


def test_what_states_share_counts_once(world):
    state = world.reset(random_frames(1, 2))
    branches = state.fork(4)
    assert num_bytes_of([state, state, branches]) < state.num_bytes + 10_000
    other = world.reset(random_frames(1, 2))
    assert num_bytes_of([state, other]) == 2 * state.num_bytes


def test_a_call_adds_no_more_than_the_room_that_is_kept_for_it(world):
    """For every kind of call that leaves a state, at every age of the state."""
    room = StateRoom(world, 2**40, list)
    contexts = messages.ResetCall(frames=[["x"] * 2] * 3)
    state = world.reset(random_frames(3, 2))
    assert room.needed(contexts, []) >= state.num_bytes
    for _ in range(world.spec.max_future_frames + 2):
        rows, forked = [0, 0, 2], state.fork(3)
        made = [
            (messages.ForkCall(state=0, num_branches=3), [state], forked),
            (messages.IndexCall(state=0, rows=rows), [state], state.index(rows)),
            (messages.CatCall(states=[0, 1]), [state, forked], WorldState.cat([state, forked])),
            (messages.StepCall(state=0), [state], world.step(state, random_actions(3, 3))[1]),
            (messages.StepCall(state=1), [forked], world.step(forked, random_actions(9, 3))[1]),
        ]
        for call, before, after in made:
            added = num_bytes_of([*before, after]) - num_bytes_of(before)
            assert added <= room.needed(call, before), call
        state = world.step(state, random_actions(3, 3))[1]
    frames = random_frames(3)
    observed = world.observe(state, torch.zeros(3, 3), frames)
    call = messages.ObserveCall(state=0, frames=frames_to_text(frames))
    assert num_bytes_of([state, observed]) - state.num_bytes <= room.needed(call, [state])


def test_room_is_given_back_when_a_call_fails(world):
    room = StateRoom(world, 2**40, list)
    call = messages.ResetCall(frames=[["x"] * 2])
    with pytest.raises(KeyError), room.reserved(call, []):
        raise KeyError
    assert room._budget.used == 0
    room._budget.limit = room.needed(call, []) + 1
    with room.reserved(call, []), pytest.raises(NoRoomError), room.reserved(call, []):
        pass


@pytest.mark.parametrize(
    ("message", "code"), [("x" * 20_000, 1009), ("[" + "[]," * 100_000, 1009), (b"\xff\xfe", 1007)]
)
def test_a_web_socket_that_asks_for_too_much_is_closed(world, message, code):
    with serving(world, max_bytes=500_000 if message[1:2] == "[" else 10_000) as (url, _):
        session = httpx.post(f"{url}/v1/sessions").json()["session"]
        with connect(f"{url.replace('http', 'ws')}/v1/sessions/{session}/stream", max_size=None) as socket:
            socket.send(message, text=None if isinstance(message, bytes) else True)
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=20)
        assert closed.value.rcvd.code == code


def test_a_web_socket_never_sends_what_is_no_json():
    """Weights that are not finite predict what JSON has no word for."""
    world = build_world(action_dim=3, predict_reward=True)
    torch.nn.init.constant_(world.transformer.reward_linear.bias, float("nan"))
    with serving(world) as (url, _):
        session = httpx.post(f"{url}/v1/sessions").json()["session"]
        with connect(f"{url.replace('http', 'ws')}/v1/sessions/{session}/stream") as socket:
            socket.send(json.dumps({"call": "reset", "frames": FRAMES}))
            state = json.loads(socket.recv(timeout=20))["state"]
            socket.send(json.dumps({"call": "step", "state": state, "actions": [[0.0, 0.0, 0.0]]}))
            assert "not finite" in json.loads(socket.recv(timeout=20))["error"]


def test_an_answer_that_no_json_holds_is_an_error_of_the_server():
    world = build_world(action_dim=3, predict_reward=True)
    torch.nn.init.constant_(world.transformer.reward_linear.bias, float("nan"))
    with serving(world) as (url, service):
        session = httpx.post(f"{url}/v1/sessions").json()["session"]
        state = httpx.post(f"{url}/v1/sessions/{session}/reset", json={"frames": FRAMES}).json()["state"]
        for call, actions in (("step", [[0.0] * 3]), ("rollout", [[[0.0] * 3]])):
            answer = httpx.post(f"{url}/v1/sessions/{session}/{call}", json={"state": state, "actions": actions})
            assert (answer.status_code, "not finite" in answer.json()["detail"]) == (500, True)
        assert service.sessions.num_states == 1  # none is kept that the client has no number of


def test_binary_messages_of_a_web_socket_are_read_as_text(server):
    session = httpx.post(f"{server}/v1/sessions").json()["session"]
    with connect(f"{server.replace('http', 'ws')}/v1/sessions/{session}/stream") as socket:
        socket.send(b'{"call": "show", "state": 9}')
        assert json.loads(socket.recv(timeout=20))["status"] == 404


def test_the_table_of_limits_in_security_md_is_that_of_the_code():
    limits = ServerLimits()
    rows = [line.split(" | ") for line in SECURITY.read_text(encoding="utf-8").splitlines()]
    (_, *cells) = (row[1] for row in rows if len(row) == 3)  # the first one is the heading
    assert cells == [
        f"{limits.max_bytes >> 20} MiB, and as many values of JSON as the largest call has",
        f"{limits.max_request_bytes >> 20} MiB, `--max-request-bytes`",
        f"{limits.max_frame_bytes >> 30} GiB, `--max-frame-bytes`",
        f"{limits.max_state_bytes >> 30} GiB, `--max-state-bytes`",
        f"{limits.max_frame_bytes >> 30} GiB, `--max-frame-bytes`",
        f"{limits.max_sessions}, {limits.max_states}, {limits.max_waiting}",
        f"{MAX_CONNECTIONS}, {MAX_SOCKETS}",
        f"{limits.request_seconds:g} s, its head {HEAD_SECONDS:g} s",
        f"{ANSWER_SECONDS:g} s",
    ]
