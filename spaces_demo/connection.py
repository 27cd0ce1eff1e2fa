"""The connection over which a page plays: one WebSocket for each page that is open, and each message gets an answer.

Gradio begins games and serves files. All that is done in a game comes over this connection, since a frame over a queue
of events takes longer than to predict it. While a key is held, the page says which action it will ask for next. That
frame is begun before it is asked for, and thrown away if something else is asked for.

The event loop does none of the model's work: one thread does it for all visitors, in the order in which they ask. A
second thread would only take the first one's cores.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Literal

import gradio as gr
from game import branch, restart, undo
from gradio.context import LocalContext
from page import frames_message, game_message, moment_message
from play import (
    STORE,
    TEMPERATURE,
    WORLDS,
    Expected,
    dreamed_actions,
    expect_action,
    make_room,
    play_action,
    sampling_of,
)
from pydantic import BaseModel, Field, ValidationError
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from store import EXPIRES_SECONDS

from ivideogpt_hf.cli.threads import count_cores
from ivideogpt_hf.serving.access import ANY, Access, AccessRules
from ivideogpt_hf.serving.cores import claim_cores
from ivideogpt_hf.serving.defaults import LOOPBACK_NAMES
from ivideogpt_hf.serving.limits import TRY_LATER, BodyLimits, ByteBudget, LimitBody
from ivideogpt_hf.serving.websockets import answer_messages

PATH = "/play"
MAX_CONNECTIONS = 64
MAX_ANSWER_BYTES = 256 * 2**20
MAX_ACTIONS = 64  # numbers of one action
# A page that asks for nothing is let go when its game expires.
LIMITS = BodyLimits(max_bytes=4096, max_values=128, seconds=EXPIRES_SECONDS, silent_seconds=EXPIRES_SECONDS)
MODEL = ThreadPoolExecutor(1, "model")
# Elsewhere than on a Space, the browser is mostly on this machine, and needs a core to show what is computed.
MODEL.submit(claim_cores, None if "SPACE_ID" in os.environ else max(1, count_cores() - 1)).result()


class Ask(BaseModel):
    """What a page asks for.

    Attributes:
        kind: "show" the game; "act"; "expect" an action that will be played next; actions of a "dream"; "undo";
            "restart"; "branch" off at a frame; play another "line".
        game: key of the game.
        action: action that is played or expected; None if the checkpoint takes none.
        temperature: temperature of the sampling.
        seed: seed of the sampling.
        index: number of the frame or of the line.
    """

    kind: Literal["show", "act", "expect", "dream", "undo", "restart", "branch", "line"]
    game: str
    action: list[float] | None = Field(default=None, max_length=MAX_ACTIONS)
    temperature: float = Field(default=TEMPERATURE, ge=0, le=2)
    seed: int = 0
    index: int = 0


class Player:
    """One page that plays, at its end of the connection.

    Args:
        socket: accepted WebSocket.
    """

    def __init__(self, socket: WebSocket) -> None:
        # ZeroGPU finds in the request on whose behalf it computes.
        self._context = copy_context()
        self._context.run(LocalContext.request.set, gr.Request(socket))
        self._expecting: Future[None] | None = None
        self._expected: Expected | None = None

    async def answer(self, message: str | bytes) -> bytes:
        """Answer a message."""
        self.expect_no_more()
        try:
            ask = Ask.model_validate_json(message)
        except ValidationError as error:
            return frames_message("error", text=str(error.errors(include_input=False)[0]["msg"]))
        if ask.kind == "expect":
            self._expecting = self._submit(self._expect, ask)
            return frames_message("expecting")
        answer = self._submit(self._do, ask)
        if ask.kind == "act":
            self._submit(_make_room, ask)
        return await asyncio.wrap_future(answer)

    def expect_no_more(self) -> None:
        """Do not begin what is expected, if it was not begun yet."""
        if self._expecting is not None:
            self._expecting.cancel()

    def _submit(self, function: Callable[[Ask], bytes | None], ask: Ask) -> Future[bytes | None]:
        return MODEL.submit(self._context.run, function, ask)

    # -- in the model's thread, one after the other ---------------------------------------------------------------

    def _expect(self, ask: Ask) -> None:
        try:
            self._expected = expect_action(ask.game, ask.action, sampling_of(ask.temperature, ask.seed))
        except (ValueError, OSError):  # it is told when it is asked for
            self._expected = None

    def _do(self, ask: Ask) -> bytes:
        expected, self._expected = self._expected, None
        try:
            if ask.kind == "act":
                sampling = sampling_of(ask.temperature, ask.seed)
                return moment_message(play_action(ask.game, ask.action, sampling, expected))
            if ask.kind == "dream":
                return frames_message("dream", actions=dreamed_actions(ask.game, ask.seed))
            return _change(ask)
        except (ValueError, OSError, gr.Error) as error:  # the last kind is ZeroGPU's
            return frames_message("error", text=str(error))


def _make_room(ask: Ask) -> None:
    with suppress(ValueError, OSError):  # it is told when a frame is asked for
        make_room(ask.game)


def _change(ask: Ask) -> bytes:
    """Do what needs no frame."""
    choice, game = STORE.get(ask.game)
    if ask.kind == "undo":
        undo(game)
        return frames_message("cut", line=game.active, length=len(game.line))
    if ask.kind == "line":
        game.active = min(max(ask.index, 0), len(game.lines) - 1)
        return frames_message("line", active=game.active)
    if ask.kind == "restart":
        restart(game)
    elif ask.kind == "branch":
        branch(game, ask.index)
        STORE.update(ask.game, choice, game)  # a branch copies states
    return game_message(WORLDS.get(choice), game)


class Players:
    """ASGI application for the WebSockets of all pages."""

    def __init__(self) -> None:
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        if self._num_open >= MAX_CONNECTIONS:
            await socket.close(TRY_LATER, f"{MAX_CONNECTIONS} pages play already. Try again later.")
            return
        self._num_open += 1
        player = Player(socket)
        try:
            await answer_messages(socket, player.answer, asyncio.Event())
        finally:
            player.expect_no_more()
            self._num_open -= 1


def play_route(host: str | None) -> WebSocketRoute:
    """The address of the connection, for pages of this server alone.

    Args:
        host: address that the server listens on; None: that of a Space. A server for this machine only answers to no
            other machine's name.
    """
    space = os.environ.get("SPACE_HOST")
    rules = AccessRules(
        allowed_hosts=() if host in LOOPBACK_NAMES else (ANY,),
        allowed_origins=() if space is None else (f"https://{space}",),
    )
    budget = ByteBudget(MAX_CONNECTIONS * 2 * LIMITS.max_bytes, "messages", "try again later")
    answers = ByteBudget(MAX_ANSWER_BYTES, "answers that nobody takes", "try again later")
    return WebSocketRoute(PATH, Access(LimitBody(Players(), LIMITS, budget, answers), rules))
