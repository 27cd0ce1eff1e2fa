"""Who may ask a server."""

import base64
import re
import socket
import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ivideogpt_hf.cli import main
from ivideogpt_hf.serving.connections import ImpatientProtocol
from tests.serving.conftest import serving

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def guarded(world):
    """The address of a server that asks for a token, and lets pages of one origin call."""
    with serving(world, token="secret", access={"allowed_origins": ["https://lab.example"]}) as (url, _):
        yield url


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 201),
        ("LOCALHOST.", 201),
        ("[::1]:8000", 201),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("192.168.0.1", 403),
        ("", 403),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_served(server, host, status):
    answer = httpx.post(f"{server}/v1/sessions", headers={"Host": host})
    assert answer.status_code == status
    assert status == 201 or "--allowed-host" in answer.text


def test_other_hosts_can_be_allowed(world):
    with serving(world, access={"allowed_hosts": ["Robot"], "takes_addresses": True}) as (url, _):
        hosts = ("robot:80", "192.168.0.1", "evil.example")
        assert [httpx.get(f"{url}/v1/spec", headers={"Host": host}).status_code for host in hosts] == [200, 200, 403]


def test_pages_of_other_origins_are_refused(server):
    def status(origin):
        return httpx.post(f"{server}/v1/sessions", headers={"Origin": origin}).status_code

    assert [status(origin) for origin in (server, "http://evil.example", "null", "http://[", "http://localhost")] == [
        201,
        403,
        403,
        403,
        403,
    ]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_web_sockets_of_strangers_are_refused(server, headers):
    session = httpx.post(f"{server}/v1/sessions").json()["session"]
    address = f"{server.replace('http', 'ws')}/v1/sessions/{session}/stream"
    uri = address if "Origin" in headers else address.replace("127.0.0.1", "evil.example")
    connection = socket.create_connection(tuple(server.removeprefix("http://").split(":")))
    with connection, pytest.raises(InvalidStatus, match="403"):
        connect(uri, sock=connection, origin=headers.get("Origin"))


@pytest.mark.parametrize("path", ["/v1/spec", "/metrics", "/docs", "/openapi.json", "//v1/spec"])
def test_everything_that_tells_something_needs_the_token(guarded, path):
    assert httpx.get(guarded + path).status_code in (401, 404)
    assert httpx.get(guarded + path, headers={"Authorization": "Bearer wrong"}).status_code in (401, 404)
    assert httpx.get(guarded + path, headers={"Authorization": "Bearer s\u00e9cret".encode("latin-1")}).is_client_error
    assert path.startswith("//") or httpx.get(guarded + path, headers=TOKEN).status_code == 200


def test_browsers_are_asked_for_the_token_of_the_documentation_and_cannot_call_by_it(guarded):
    basic = {"Authorization": "Basic " + base64.b64encode(b"anybody:secret").decode()}
    assert httpx.get(f"{guarded}/docs").headers["WWW-Authenticate"].startswith("Basic")
    assert httpx.get(f"{guarded}/docs", headers=basic).status_code == 200
    assert httpx.post(f"{guarded}/v1/sessions", headers=basic).status_code == 401


def test_documentation_and_metrics_can_be_opened(world):
    with serving(world, token="secret", access={"open_docs": True}) as (url, _):
        assert [httpx.get(url + path).status_code for path in ("/docs", "/metrics", "/v1/spec")] == [200, 200, 401]


def test_a_web_socket_needs_the_token(guarded):
    session = httpx.post(f"{guarded}/v1/sessions", headers=TOKEN).json()["session"]
    address = f"{guarded.replace('http', 'ws')}/v1/sessions/{session}/stream"
    with pytest.raises(InvalidStatus, match="403"), connect(address):
        pass
    with connect(address, additional_headers=TOKEN) as opened:
        opened.send('{"call": "show", "state": 9}')
        assert '"status":404' in opened.recv().replace(" ", "")


def test_allowed_pages_may_call_and_others_get_no_leave(guarded):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    def preflight(origin):
        return httpx.options(f"{guarded}/v1/sessions", headers={"Origin": origin} | asked)

    assert preflight("https://lab.example").headers["Access-Control-Allow-Origin"] == "https://lab.example"
    assert "Access-Control-Allow-Origin" not in preflight("http://evil.example").headers
    answer = httpx.post(f"{guarded}/v1/sessions", headers={"Origin": "https://lab.example"} | TOKEN)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://lab.example"


def test_the_documentation_asks_for_the_token_and_needs_nothing_of_the_net(guarded):
    page = httpx.get(f"{guarded}/docs", headers=TOKEN).text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 2
    assert not re.search(r"https?://", page)
    for asset in assets:
        assert httpx.get(guarded + asset).status_code == 200  # no header can be given with a script
    document = httpx.get(f"{guarded}/openapi.json", headers=TOKEN).json()
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
    paths = document["paths"]
    assert all({name: []} in call["security"] for path in paths if "/v1/" in path for call in paths[path].values())


def test_the_root_says_what_this_is(server):
    answer = httpx.get(server).json()
    assert answer["checkpoint"] == "tiny"
    assert answer["documentation"] == "/docs"


@pytest.mark.parametrize("beginning", [b"", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_connections_that_ask_nothing_are_closed(server, monkeypatch, beginning):
    monkeypatch.setattr(ImpatientProtocol, "head_seconds", 0.2)
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as idle:
        idle.sendall(beginning)
        while idle.recv(1000):
            pass


def test_a_request_that_does_not_arrive_is_given_up(world):
    with serving(world, request_seconds=0.2) as (url, _):

        def slowly():
            yield b"["
            time.sleep(1)
            yield b"]"

        session = httpx.post(f"{url}/v1/sessions").json()["session"]
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{url}/v1/sessions/{session}/forget", content=slowly(), headers=headers)
        assert answer.status_code == 408


def test_a_silent_web_socket_is_closed(world):
    with serving(world, expires_after=0.3) as (url, _):
        session = httpx.post(f"{url}/v1/sessions").json()["session"]
        address = f"{url.replace('http', 'ws')}/v1/sessions/{session}/stream"
        with connect(address) as opened, pytest.raises(ConnectionClosed, match="no message within"):
            opened.recv(timeout=20)


def test_tls_needs_both_files(tmp_path, capsys):
    assert main(["serve", "--tls-certificate", str(tmp_path / "cert.pem")]) == 2
    assert "--tls-key" in capsys.readouterr().err
    assert main(["serve", "--tls-certificate", "no.pem", "--tls-key", "no.pem"]) == 2
    assert "there is no file no.pem" in capsys.readouterr().err


def test_a_certificate_that_is_none_is_told_with_its_name(tmp_path, capsys):
    (tmp_path / "cert.pem").write_text("no certificate")
    assert main(["serve", *[f"--tls-{part}={tmp_path / 'cert.pem'}" for part in ("certificate", "key")]]) == 2
    assert re.search(r"cert\.pem must be a certificate and its private key, in PEM", capsys.readouterr().err)
