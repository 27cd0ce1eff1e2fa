"""Who may ask a server: which names it answers to, which pages may call it, and where a token is needed.

- Without a token, a request must name this machine as its host. A page of a stranger that lets its own name point here
  (DNS rebinding) does not.
- A request from a page of another origin is refused, unless that origin is allowed. Browsers tell the origin; other
  programs tell none.
- With a token, calls need it, and so do the documentation and the metrics, unless these are opened. `/` and `/health`
  never need it. Browsers ask their users for the token by HTTP Basic, as the password.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .defaults import LOOPBACK_NAMES

POLICY_VIOLATION = 1008  # a WebSocket's code
CALLS = "/v1/"
DOCUMENTS = ("/docs", "/openapi.json", "/metrics")
ANY = "*"


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused.

    Attributes:
        status: HTTP status.
        reason: reason, and what to do.
        challenge: value of WWW-Authenticate; None where no token would help.
    """

    status: int
    reason: str
    challenge: str | None = None


@dataclass(frozen=True)
class AccessRules:
    """Who may ask a server.

    Args:
        token: token that calls need; None: they need none.
        allowed_hosts: names of hosts that are served without a token, beside those of this machine; "*" is any.
        allowed_origins: origins of pages that may call, such as "https://lab.example", beside the server's own; "*" is
            any.
        takes_addresses: whether a host may also be named by any IP address.
        open_docs: whether documentation and metrics need no token.
    """

    token: str | None = None
    allowed_hosts: Collection[str] = ()
    allowed_origins: Collection[str] = ()
    takes_addresses: bool = False
    open_docs: bool = False

    def refusal(self, path: str, headers: Headers) -> Refusal | None:
        """Why a request is refused; None if it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.token is None and not self._is_served(host):
            return Refusal(
                403,
                f"this server does not answer to the host {host!r:.200}: ask for localhost, or start it with "
                f"--allowed-host NAME, or with a token",
            )
        if origin is not None and not self._may_call(origin, host):
            return Refusal(
                403, f"pages of {origin!r:.200} may not call this server: start it with --allowed-origin ORIGIN"
            )
        return self._token_refusal(path, headers.get("authorization", ""))

    def _is_served(self, host: str) -> bool:
        name = host_name(host)
        if name in LOOPBACK_NAMES or ANY in self.allowed_hosts:
            return True
        if self.takes_addresses and _is_address(name):  # no name, so no name of a stranger's
            return True
        return name in {allowed.lower() for allowed in self.allowed_hosts}

    def _may_call(self, origin: str, host: str) -> bool:
        if origin in self.allowed_origins or ANY in self.allowed_origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower() != ""
        except ValueError:  # it is no address
            return False

    def _token_refusal(self, path: str, authorization: str) -> Refusal | None:
        is_document = path.startswith(DOCUMENTS) and not self.open_docs
        if self.token is None or not (path.startswith(CALLS) or is_document):
            return None
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() == "basic" and is_document:
            shown = _password(shown)
        elif scheme.lower() != "bearer":
            shown = ""
        if hmac.compare_digest(shown.strip().encode(), self.token.encode()):
            return None
        challenge = 'Basic realm="token of the server, as password"' if is_document else "Bearer"
        return Refusal(401, "a token is needed: Authorization: Bearer TOKEN", challenge)


class Access:
    """ASGI middleware that refuses requests and WebSockets by `AccessRules`, before anything of them is read.

    Args:
        app: application that answers the others.
        rules: who may ask.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] in ("http", "websocket"):
            refusal = self.rules.refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.reason[:120]})
        else:
            headers = {} if refusal.challenge is None else {"WWW-Authenticate": refusal.challenge}
            answer = JSONResponse({"detail": refusal.reason}, refusal.status, headers | {"Connection": "close"})
            await answer(scope, receive, send)


def host_name(host: str) -> str:
    """The name in a Host header, in lower case, without a port or the brackets of an address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
