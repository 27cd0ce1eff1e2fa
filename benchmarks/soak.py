"""A server under everything that happens to one: many clients of all kinds, clients and servers that are killed, bombs.

    python benchmarks/soak.py --output benchmarks/results/soak.json

The server is `ivideogpt serve --state-dir`, in a process of its own. Clients live lives: a reset, steps, rollouts,
branches, observations, over HTTP or a WebSocket. What each life must bring is computed beforehand by the world alone,
and every token is compared. Some clients vanish in the middle of a call, for ever. The server is stopped by SIGTERM or
SIGKILL, and started again with the same folder; a client then goes on with its state. A state may be lost only if all
lives of the server that knew it ended by SIGKILL. Over the last part of the time the server is left alone, and its
memory is watched.

The exit status is 1 if a token was wrong, a saved state was lost, or a call got a status that it should not get.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import torch
from served import resident
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_video
from ivideogpt_hf.serving.messages import frames_to_text

PORT = 7898
NUM_LIVES = 12  # different ones
NUM_CALLS = 8  # of a life, after its reset
KINDS = ("step", "step", "step", "rollout", "fork", "index", "observe", "show")
VANISHING = 0.02  # share of the calls whose client vanishes
QUIET_SHARE = 0.4  # of the time, at the end, in which the server is left alone
START_SECONDS = 180
TRY_LATER = (429, 503)


# -- what must come out -----------------------------------------------------------------------------------------------


@dataclass
class Call:
    """A call of a life.

    Args:
        name: name of the call.
        fields: fields of its message, but for the state.
        tokens: tokens that the world alone answers; None if the call has none.
    """

    name: str
    fields: dict
    tokens: list | None = None


def make_life(world, clip, seed):
    """The calls of a life, with what the world alone answers."""
    rng, spec = random.Random(seed), world.spec
    context, start = spec.num_context_frames, seed % (len(clip) - spec.num_context_frames)
    frames = clip[start : start + context]
    state = world.reset(frames[None])
    calls = [Call("reset", {"frames": [frames_to_text(frames)]})]
    for number in range(NUM_CALLS):
        name = rng.choice(KINDS)
        rows, sampling = state.batch_size, {"seed": 100 * seed + number}
        generator = torch.Generator().manual_seed(100 * seed + number)
        tokens = None
        if name == "step":
            actions = 2 * torch.rand(rows, spec.action_dim, generator=generator) - 1
            step, state = world.step(state, actions, sampling=Sampling(**sampling))
            tokens = step.tokens.tolist()
            outputs = ["tokens", "rewards", *(["frames"] if number % 2 else [])]
            fields = {"actions": actions.tolist(), "sampling": sampling, "outputs": outputs}
        elif name == "rollout":
            actions = 2 * torch.rand(rows, 2, 3, spec.action_dim, generator=generator) - 1
            rollout = world.rollout(state, actions, sampling=Sampling(**sampling))
            tokens = rollout.tokens.flatten(0, -2).tolist()
            fields = {"actions": actions.tolist(), "sampling": sampling}
        elif name == "fork":
            fields = {"num_branches": 2 if rows < 4 else 1}
            state = state.fork(**fields)
        elif name == "index":
            fields = {"rows": [rng.randrange(rows)]}
            state = state.index(fields["rows"])
        elif name == "observe":
            observed = clip[(start + context + number) % len(clip)].expand(rows, -1, -1, -1)
            state = world.observe(state, torch.zeros(rows, spec.action_dim), observed)
            fields = {"frames": frames_to_text(observed)}
        else:
            fields = {}
        calls.append(Call(name, fields, tokens))
    return calls


# -- the server -------------------------------------------------------------------------------------------------------


class Server:
    """The server, with its lives.

    Attributes:
        life: number of its present life, from 0.
        ends: signal that ended each life before.
        memory: per life, pairs of seconds since its start and megabytes.
    """

    def __init__(self, folder, checkpoint, num_sessions):
        self.url = f"http://127.0.0.1:{PORT}"
        command = ["serve", *([checkpoint] if checkpoint else []), "--port", str(PORT), "--state-dir", str(folder)]
        limits = ["--max-sessions", str(num_sessions), "--expires-after", "120"]
        self._command = [sys.executable, "-m", "ivideogpt_hf.cli", *command, *limits]
        self._environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
        self.life, self.ends, self.memory, self.is_up = -1, [], [], asyncio.Event()

    async def start(self):
        self._process = subprocess.Popen(self._command, env=self._environment, stdout=subprocess.DEVNULL)
        self.life += 1
        self._start = time.monotonic()
        self.memory.append([])
        async with httpx.AsyncClient() as http:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get(f"{self.url}/health", timeout=5)).status_code == 200:
                        break
                if self._process.poll() is not None or time.monotonic() > self._start + START_SECONDS:
                    raise SystemExit("the server does not start")
                await asyncio.sleep(0.2)
        self.is_up.set()
        self.note_memory()

    async def end(self, kind):
        """End a life by a signal; the seconds that it took."""
        start = time.monotonic()
        self.ends.append(kind)  # before anybody can notice
        self._process.send_signal(kind)
        await asyncio.to_thread(self._process.wait)
        self.is_up.clear()
        return time.monotonic() - start

    def note_memory(self):
        if not self.is_up.is_set():  # it loads
            return
        with suppress(OSError):
            self.memory[-1].append((time.monotonic() - self._start, resident(self._process.pid)))


# -- clients ----------------------------------------------------------------------------------------------------------


class LostError(Exception):
    """The server does not know a session or state."""


class VanishedError(Exception):
    """The client went away in the middle of a call."""


@dataclass
class Findings:
    """What was found.

    Attributes:
        calls: answered calls by name and kind of connection.
        statuses: bombs by name and status.
        wrong: descriptions of wrong tokens.
        lost: descriptions of saved states that were lost.
        unexpected: descriptions of statuses that should not be.
        counts: how often something happened.
        seconds: seconds of each answered call.
    """

    calls: Counter = field(default_factory=Counter)
    statuses: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    unexpected: list = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    seconds: list = field(default_factory=list)


class Client:
    """A client that lives one life after the other in one session.

    Args:
        server: server to call.
        lives: lives to choose from.
        over: "http" or "websocket".
        rng: source of its choices.
        findings: place for what it finds.
    """

    def __init__(self, server, lives, over, rng, findings):
        self.server, self.lives, self.over, self.rng, self.findings = server, lives, over, rng, findings
        self.session = self._socket = None
        self._http = httpx.AsyncClient(base_url=server.url, timeout=300)

    async def live(self):
        """Live a life.

        Raises:
            VanishedError: if it ended in the middle.
        """
        calls = self.rng.choice(self.lives)
        state, states, seen = None, [], set()
        for call in calls:
            if self.session is None:
                answer = await self._until_answered(lambda: self._http.post("/v1/sessions"))
                self.session, self._seen = answer["session"], {answer["life"]}
                state = None
            if state is None and call.name != "reset":
                return  # the life is lost
            fields = call.fields if state is None else call.fields | {"state": state}
            try:
                answer = await self._call(call.name, fields)
            except LostError as error:
                self._note_lost(seen or self._seen, error)
                self._leave_session()
                return
            self.findings.calls[f"{call.name}, {self.over}"] += 1
            if call.tokens is not None and answer["tokens"] != call.tokens:
                self.findings.wrong.append(f"{call.name} in life {self.server.life} of the server")
            if "state" in answer:
                state, seen = answer["state"], set()
                states.append(state)
            seen.add(answer["life"])
            self._seen.add(answer["life"])
        await self._until_answered(lambda: self._http.post(f"/v1/sessions/{self.session}/forget", json=states))

    def _note_lost(self, seen, error):
        """Note that a session or state is lost, which was seen in some lives of the server."""
        if any(self.server.ends[life : life + 1] != [signal.SIGKILL] for life in seen):
            self.findings.lost.append(f"{error}, seen in {sorted(seen)}, gone in life {self.server.life}")
        else:
            self.findings.counts["lost by SIGKILL before they were saved"] += 1

    def _leave_session(self):
        self.session = None
        if self._socket is not None:  # it belongs to the session
            self._socket.transport.abort()
            self._socket = None

    async def _call(self, name, fields):
        start = time.perf_counter()
        if self.over == "http":
            answer = await self._until_answered(
                lambda: self._http.post(f"/v1/sessions/{self.session}/{name}", json=fields)
            )
        else:
            answer = await self._until_answered(lambda: self._send(fields | {"call": name}))
        self.findings.seconds.append(time.perf_counter() - start)
        return answer

    async def _send(self, message):
        """A message over the WebSocket, answered as HTTP would."""
        from websockets.asyncio.client import connect

        if self._socket is None:
            url = f"{self.server.url.replace('http', 'ws')}/v1/sessions/{self.session}/stream"
            self._socket = await connect(url, max_size=None, open_timeout=60)
        await self._socket.send(json.dumps(message))
        answer = json.loads(await self._socket.recv())
        return httpx.Response(answer.get("status", 200), json=answer)

    async def _until_answered(self, request):
        """The answer to a request, which is sent again where the server was not there, or asked to. Seeds are in the
        message, so that the answer is the same. It comes with the number of the server's life."""
        from websockets.exceptions import InvalidStatus, WebSocketException

        while True:
            await self.server.is_up.wait()
            life = self.server.life
            try:
                response = await self._perhaps_vanish(request)
            except (httpx.TransportError, OSError, WebSocketException) as error:
                self._socket = None
                status = error.response.status_code if isinstance(error, InvalidStatus) else None
                if status == 404:
                    raise LostError(bytes(error.response.body or b"").decode()) from error
                if status is not None and status not in TRY_LATER:
                    self.findings.unexpected.append(f"{status} for a WebSocket")
                self.findings.counts["calls sent again"] += 1
                await asyncio.sleep(0.3)
                continue
            if response.status_code in TRY_LATER:
                self.findings.counts[f"calls sent again after {response.status_code}"] += 1
                await asyncio.sleep(0.3)
            elif response.status_code == 404:
                raise LostError(response.text)
            elif response.is_success:
                return (response.json() if response.content else {}) | {"life": life}
            else:
                self.findings.unexpected.append(f"{response.status_code}: {response.text[:100]}")
                raise VanishedError

    async def _perhaps_vanish(self, request):
        if self.session is None or self.rng.random() > VANISHING:
            return await request()
        with suppress(TimeoutError):
            await asyncio.wait_for(request(), 0.05 + 0.3 * self.rng.random())
        self.findings.counts["clients killed"] += 1
        raise VanishedError

    async def close(self):
        """End without a word to the server."""
        await self._http.aclose()
        if self._socket is not None:
            self._socket.transport.abort()


async def keep_living(server, lives, over, rng, findings):
    """One client after the other, each until it vanishes."""
    while True:
        client = Client(server, lives, over, rng, findings)
        try:
            while True:
                await client.live()
        except (VanishedError, LostError):
            pass
        finally:
            await client.close()


# -- bombs ------------------------------------------------------------------------------------------------------------


def png(width, height, content):
    """A PNG file whose header may lie."""
    out = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    out.seek(0, io.SEEK_END)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b"")):
        out.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return base64.b64encode(out.getvalue()).decode()


def bombs(world):
    """Requests by name: a call, and its body as text. All must be refused."""
    width, num_frames = world.spec.action_dim, world.spec.num_context_frames
    zeros = [0.0] * width
    long_stream = png(*reversed(world.spec.frame_size), zlib.compress(bytes(64 * 2**20)))
    pixels = png(30000, 30000, zlib.compress(bytes(1000)))
    return {
        "a stream of 64 MB in a small picture": ("reset", json.dumps({"frames": [[long_stream] * num_frames]})),
        "a picture of 900 megapixels": ("reset", json.dumps({"frames": [[pixels] * num_frames]})),
        "an action of 10**400": ("step", f'{{"state": STATE, "actions": [[{"1" + "0" * 400}{", 0" * (width - 1)}]]}}'),
        "lists 20000 deep": ("step", '{"state": STATE, "actions": ' + "[" * 20000 + "]" * 20000 + "}"),
        "3000 steps": ("rollout", json.dumps({"actions": [[zeros] * 3000]})[:-1] + ', "state": STATE}'),
        "256 futures of 100 steps": (
            "rollout",
            json.dumps({"actions": [[zeros] * 100], "num_samples": 256})[:-1] + ', "state": STATE}',
        ),
        "10**9 branches": ("fork", '{"state": STATE, "num_branches": 1000000000}'),
        "no JSON": ("step", "{" * 100),
    }


async def throw_bombs(server, world, lives, rng, findings):
    """One bomb after the other, and rollouts of the largest size that nobody waits for."""
    requests, width = bombs(world), world.spec.action_dim
    while True:
        client = Client(server, lives, "http", rng, findings)
        name = rng.choice([*requests, "hog"])
        try:
            session = (await client._http.post("/v1/sessions")).raise_for_status().json()["session"]
            path = f"/v1/sessions/{session}"
            response = await client._http.post(f"{path}/reset", json=lives[0][0].fields)
            state = response.raise_for_status().json()["state"]
            if name == "hog":
                hog = {"state": state, "actions": [[[0.0] * width] * 100], "num_samples": 20}
                with suppress(httpx.ReadTimeout):
                    await client._http.post(f"{path}/rollout", json=hog, timeout=2)
                findings.counts["rollouts of 2000 frames that nobody waited for"] += 1
            else:
                call, body = requests[name]
                json_header = {"Content-Type": "application/json"}
                body = body.replace("STATE", str(state))
                response = await client._http.post(f"{path}/{call}", content=body, headers=json_header)
                findings.statuses[f"{name}: {response.status_code}"] += 1
                if not 400 <= response.status_code < 500 and response.status_code not in TRY_LATER:
                    findings.unexpected.append(f"{response.status_code} for {name}")
            await client._http.delete(path)
        except httpx.HTTPError:  # the server was killed
            await server.is_up.wait()
        await client.close()
        await asyncio.sleep(1 + rng.random())


# -- all of it --------------------------------------------------------------------------------------------------------


async def disturb(server, rng, seconds, restart_every):
    """Stop and start the server until the quiet part; rows on its lives."""
    end, rows = time.monotonic() + (1 - QUIET_SHARE) * seconds, []
    kinds = [signal.SIGTERM, signal.SIGKILL]
    rng.shuffle(kinds)
    while True:
        await asyncio.sleep(restart_every * (0.7 + 0.6 * rng.random()))
        if time.monotonic() > end:
            return rows
        if len(rows) >= len(kinds):
            kinds.append(rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)))
        rows.append({"ended by": kinds[len(rows)].name, "seconds to end": await server.end(kinds[len(rows)])})
        await server.start()
        print(json.dumps(rows[-1]), flush=True)


async def watch_memory(server):
    while True:
        server.note_memory()
        await asyncio.sleep(2)


async def soak(args, world, lives, folder):
    rng, findings = random.Random(args.seed), Findings()
    server = Server(folder, args.checkpoint, 4 * args.clients)
    await server.start()
    kinds = [("http", "websocket")[number % 2] for number in range(args.clients)]
    rngs = [random.Random(1000 * args.seed + number) for number in range(args.clients)]
    clients = [keep_living(server, lives, over, own, findings) for over, own in zip(kinds, rngs, strict=True)]
    others = [throw_bombs(server, world, lives, rng, findings), watch_memory(server)]
    tasks = [asyncio.create_task(work) for work in (*clients, *others)]
    seconds, start = 60 * args.minutes, time.monotonic()
    try:
        stops = asyncio.create_task(disturb(server, rng, seconds, args.restart_every))
        while time.monotonic() < start + seconds or not stops.done():
            for task in (*tasks, stops):
                if task.done() and task is not stops:
                    task.result()
            await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        rows = [*stops.result(), {"ended by": "SIGTERM", "seconds to end": await server.end(signal.SIGTERM)}]
    finally:
        with suppress(ProcessLookupError):
            server._process.kill()
    return report(args, world, server, findings, rows)


def report(args, world, server, findings, rows):
    for row, memory in zip(rows, server.memory, strict=True):
        row |= {"seconds": memory[-1][0], "largest MB": max(size for _, size in memory)}
    quiet = [size for _, size in server.memory[-1]]
    quarter = max(1, len(quiet) // 4)
    seconds = sorted(findings.seconds)
    return {
        "minutes": args.minutes,
        "clients": args.clients,
        "frame_size": list(world.spec.frame_size),
        "parameters": sum(p.numel() for part in (world.vq_model, world.transformer) for p in part.parameters()),
        "threads": torch.get_num_threads(),
        "calls": dict(sorted(findings.calls.items())),
        "call_seconds": {"p50": median(seconds), "p95": seconds[int(0.95 * len(seconds))]},
        "wrong_tokens": findings.wrong,
        "lost_saved_states": findings.lost,
        "unexpected_statuses": dict(Counter(findings.unexpected)),
        "counts": dict(sorted(findings.counts.items())),
        "bombs": dict(sorted(findings.statuses.items())),
        "servers": rows,
        "last_server_mb": {
            "second quarter": median(quiet[quarter : 2 * quarter] or quiet),
            "last quarter": median(quiet[-quarter:]),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--restart-every", type=float, default=90, help="seconds, about")
    parser.add_argument("--checkpoint", help="folder or Hub id (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    world = WorldModel.from_pretrained(args.checkpoint) if args.checkpoint else WorldModel.default()
    clip = world.spec.resize_frames(read_video(EXAMPLE_EPISODE))
    lives = [make_life(world, clip, seed) for seed in range(NUM_LIVES)]
    print(f"{len(lives)} lives computed", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(soak(args, world, lives, Path(folder) / "state"))
    print(json.dumps(result, indent=2))
    write_results(args.output, result)
    if result["wrong_tokens"] or result["lost_saved_states"] or result["unexpected_statuses"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
