"""The connection of a page: what is begun early changes nothing, visitors are kept apart, and everything is bounded."""

import json
import struct
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

pytest.importorskip("gradio")
pytest.importorskip("httpx")
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from ivideogpt_hf import Sampling
from tests.conftest import random_frames
from tests.spaces import conftest  # noqa: F401 (finds the Space's modules)

import connection  # isort: skip
import game as games  # isort: skip
import page as pages  # isort: skip
import play  # isort: skip
from worlds import Choice, LoadingRules, Worlds  # isort: skip

RIGHT, UP = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
SPACE = "user-space.hf.space"
ADDRESS = "ws://127.0.0.1/play"
CHOICE = Choice("default", "default")


@pytest.fixture(autouse=True)
def _small_world(world, tmp_path, monkeypatch):
    world.save_pretrained(tmp_path / "small")
    worlds = Worlds(LoadingRules(), default=str(tmp_path / "small"), device="cpu")
    for module in (play, connection):
        monkeypatch.setattr(module, "WORLDS", worlds)


@pytest.fixture
def predicted(monkeypatch):
    """The actions of all frames that are predicted."""
    actions, predict = [], games.next_moment

    def next_moment(world, now, action, sampling):
        actions.append(action)
        return predict(world, now, action, sampling)

    monkeypatch.setattr(games, "next_moment", next_moment)
    return actions


def new_game(seed=0):
    return play.new_game(CHOICE, random_frames(2, seed=seed))[0]


class Page:
    """The other end of a connection."""

    def __init__(self, socket, key, **sampling):
        self.socket, self.asks = socket, {"game": key, **sampling}

    def __call__(self, kind, **content):
        """Ask, and return what is said in the answer, and its pictures."""
        self.socket.send_text(json.dumps(self.asks | {"kind": kind} | content))
        data = self.socket.receive_bytes()
        (length,) = struct.unpack("<I", data[:4])
        return json.loads(data[4 : 4 + length]), data[4 + length :]


@contextmanager
def connected(key=None, host=None, headers=None, **sampling):
    with served(host) as client, client.websocket_connect(ADDRESS, headers=headers or {}) as socket:
        yield Page(socket, key or new_game(), **sampling)


def served(host=None):
    """A server, with one event loop for all who connect to it."""
    return TestClient(Starlette(routes=[connection.play_route(host)]))


@contextmanager
def closing_because(reason):
    """The server ends the connection within a block."""
    with pytest.raises(WebSocketDisconnect) as ended:
        yield
    assert reason in ended.value.reason


def frames_of(asks, **sampling):
    """What a game answers to actions and undos; without what it answers to what is expected."""
    with connected(**sampling) as page:
        answers = [page(kind, action=action) for kind, action in asks]
        connection.MODEL.submit(int).result()  # nothing is begun any more
    return [answer for answer, (kind, _) in zip(answers, asks, strict=True) if kind != "expect"]


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 0.5, "seed": 3}, {"temperature": 2, "seed": 9}]
)
def test_frames_that_are_begun_early_are_those_that_are_begun_late(sampling):
    """A held key, another key in its place, and steps that are taken back meanwhile."""
    asks = [
        *[("act", RIGHT), ("expect", RIGHT), ("act", RIGHT), ("expect", RIGHT), ("act", UP), ("expect", UP)],
        *[("undo", None), ("act", UP), ("expect", RIGHT), ("undo", None), ("undo", None), ("act", RIGHT)],
        *[("act", UP), ("expect", UP), ("act", UP), ("expect", RIGHT), ("expect", UP), ("act", UP)],
    ]
    early = frames_of(asks, **sampling)
    assert early == frames_of([ask for ask in asks if ask[0] != "expect"], **sampling)
    assert len({pixels for said, pixels in early if said["kind"] == "moment"}) > 3


def test_the_time_between_two_keys_is_used_to_reanchor():
    key, world = new_game(), play.WORLDS.get(CHOICE).world
    limit = world.spec.max_future_frames
    with connected(key, temperature=0) as page:
        for _ in range(limit):
            page("act", action=RIGHT)
        connection.MODEL.submit(int).result()
        assert play.STORE.get(key)[1].now.state.num_frames == (0,)
        _, pixels = page("act", action=UP)
    actions = torch.tensor([[*[RIGHT] * limit, UP]])
    with pytest.warns(UserWarning, match="re-anchored"):
        expected = world.rollout(random_frames(1, 2), actions, sampling=Sampling(greedy=True)).frames[0, -1]
    assert pixels == expected.movedim(0, -1).contiguous().numpy().tobytes()


def test_what_a_held_key_expects_is_predicted_once(predicted):
    frames_of([("act", RIGHT), ("expect", RIGHT), ("act", RIGHT), ("expect", UP), ("act", RIGHT)])
    assert predicted.count(RIGHT) == 3
    assert len(predicted) <= 4  # what is thrown away was perhaps begun


def test_another_seed_throws_away_what_was_begun(predicted):
    with connected(temperature=1, seed=0) as page:
        page("expect", action=UP)
        connection.MODEL.submit(int).result()
        with_other_seed = page("act", action=UP, seed=1)
        page("undo")
        assert page("act", action=UP, seed=1) == with_other_seed
    assert len(predicted) == 3


@pytest.mark.parametrize("temperature", [1e-38, 1e-320])
def test_what_is_nearly_the_likeliest_is_refused(temperature):
    with connected() as page:
        said, _ = page("act", action=RIGHT, temperature=temperature)
    assert (said["kind"], "at least 1e-06" in said["text"]) == ("error", True)


def test_messages_are_json():
    with pytest.raises(ValueError, match="JSON compliant"):
        pages.frames_message("moment", reward=float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        pages.message("moment", reward=float("nan"))


def test_what_is_expected_leaves_the_game_as_it_is():
    with connected() as page:
        before = page("show")
        page("expect", action=RIGHT)
        assert page("show") == before


def test_a_dropped_connection_loses_nothing():
    key = new_game()
    with connected(key) as page:
        _, seen = page("act", action=RIGHT)
        page("expect", action=RIGHT)
    with connected(key) as page:
        said, pixels = page("show")
        assert [len(line) for line in said["lines"]] == [2]
        assert pixels.endswith(seen)
        assert page("act", action=RIGHT)[0]["index"] == 2


def test_visitors_at_the_same_time_do_not_meet():
    asks = [("act", RIGHT), ("expect", RIGHT), ("act", RIGHT), ("expect", UP), ("act", UP)]
    alone = []
    for seed in range(2):
        with connected(new_game(seed)) as page:
            alone.append([page(kind, action=action) for kind, action in asks])
    with served() as client, client.websocket_connect(ADDRESS) as first, client.websocket_connect(ADDRESS) as second:
        one, other = Page(first, new_game(0)), Page(second, new_game(1))
        together = [(one(kind, action=action), other(kind, action=action)) for kind, action in asks]
    assert alone[0] != alone[1]
    assert list(zip(*together, strict=True)) == list(map(tuple, alone))


def test_the_model_has_a_thread_of_its_own(monkeypatch):
    """The event loop goes on meanwhile."""
    threads, predict = [], games.next_moment

    def next_moment(*args):
        threads.append(threading.current_thread().name)
        return predict(*args)

    monkeypatch.setattr(games, "next_moment", next_moment)
    frames_of([("act", RIGHT), ("expect", RIGHT), ("act", RIGHT)])
    assert {name.partition("_")[0] for name in threads} == {"model"}


def test_who_does_not_know_the_key_gets_nothing():
    with connected(key="guessed") as page:
        said, pixels = page("show")
    assert "has expired" in said["text"]
    assert not pixels


@pytest.mark.parametrize(
    "message",
    ["no json", '{"kind": "act"}', '{"kind": "forget", "game": "a"}', '{"kind": "act", "game": "a", "seed": "x"}'],
)
def test_what_is_no_ask_is_told(message):
    with connected() as page:
        page.socket.send_text(message)
        assert b'"kind": "error"' in page.socket.receive_bytes()
        assert page("show")[0]["kind"] == "game"


def test_an_action_that_does_not_fit_is_told():
    with connected() as page:
        assert "action" in page("act", action=[1.0])[0]["text"]


def test_dreamed_actions_are_within_what_a_line_has_room_for(monkeypatch):
    monkeypatch.setattr(games, "MAX_LINE_FRAMES", 4)
    with connected() as page:
        actions = page("dream", seed=5)[0]["actions"]
        assert len(actions) == 3
        assert page("dream", seed=5)[0]["actions"] == actions != page("dream", seed=6)[0]["actions"]
        for action in actions:
            page("act", action=action)
        assert page("dream")[0]["actions"] == []
        assert "has 4 frames" in page("act", action=RIGHT)[0]["text"]


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("127.0.0.1", {}),
        ("127.0.0.1", {"Origin": "http://127.0.0.1"}),
        ("0.0.0.0", {"Host": "lab.example", "Origin": "http://lab.example"}),
        (None, {"Host": "10.0.0.7:7860", "Origin": f"https://{SPACE}"}),
    ],
)
def test_the_servers_own_pages_connect(host, headers, monkeypatch):
    monkeypatch.setenv("SPACE_HOST", SPACE)
    with connected(host=host, headers=headers) as page:
        assert page("show")[0]["kind"] == "game"


@pytest.mark.parametrize(
    ("host", "headers", "reason"),
    [
        ("127.0.0.1", {"Origin": "https://evil.example"}, "may not call"),
        ("127.0.0.1", {"Host": "evil.example", "Origin": "http://evil.example"}, "does not answer to"),  # DNS rebinding
        (None, {"Host": "10.0.0.7:7860", "Origin": "https://evil.example"}, "may not call"),
    ],
)
def test_other_pages_do_not_connect(host, headers, reason, monkeypatch):
    monkeypatch.setenv("SPACE_HOST", SPACE)
    with closing_because(reason), connected(host=host, headers=headers):
        pass


def test_a_message_that_is_too_large_ends_the_connection():
    with connected() as page, closing_because("4096 bytes"):
        page("act", action=[0.0] * 2000)


def test_a_page_that_asks_for_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(connection, "LIMITS", replace(connection.LIMITS, silent_seconds=0.01))
    with connected() as page, closing_because("no message within"):
        page.socket.receive_bytes()


def test_the_number_of_pages_is_bounded(monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 1)
    with served() as client:
        with (
            client.websocket_connect(ADDRESS),
            client.websocket_connect(ADDRESS) as second,
            closing_because("1 pages play already"),
        ):
            second.receive_bytes()
        with client.websocket_connect(ADDRESS) as third:
            assert Page(third, new_game())("show")[0]["kind"] == "game"


def test_a_gpu_of_a_space_is_asked_for_on_behalf_of_the_visitor(monkeypatch):
    """ZeroGPU reads the token of the visitor in the headers of Gradio's request."""
    from gradio.context import LocalContext

    tokens, predict = [], games.next_moment

    def next_moment(*args):
        tokens.append(LocalContext.request.get().headers.get("x-ip-token"))
        return predict(*args)

    monkeypatch.setattr(games, "next_moment", next_moment)
    for token in ("mine", "yours"):
        with connected(headers={"X-IP-Token": token}) as page:
            page("act", action=RIGHT)
    assert tokens == ["mine", "yours"]
