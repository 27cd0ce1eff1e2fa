"""The commands that serve: ``ivideogpt serve | play``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ..extras import require_packages
from ..serving import CALL_SECONDS, TOKEN_VARIABLE
from .arguments import DEFAULT, load_world

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ACCESS = ("allowed_hosts", "allowed_origins", "open_docs")


def add_serving_commands(
    commands: Any, common: argparse.ArgumentParser, checkpoint: list[argparse.ArgumentParser]
) -> None:
    """Add the commands.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
        checkpoint: parent parsers of commands that load a checkpoint.
    """
    play = commands.add_parser(
        "play",
        parents=[common],
        help="drive a checkpoint in the browser",
        description="Serve the playground, a page that is also a Hugging Face Space. There you drive a checkpoint with "
        "keys or buttons, undo, branch, and let it dream.",
    )
    play.add_argument(
        "checkpoint", nargs="?", help="folder, Hub id, or address of a served world (default: the embedded one)"
    )
    play.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, for this machine only)",
    )
    play.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    play.add_argument("--mcp", action="store_true", help="serve tools of the Model Context Protocol as well")
    play.set_defaults(run=_play)

    serve = commands.add_parser(
        "serve",
        parents=[common, *checkpoint],
        help="serve a checkpoint to many clients",
        description="Serve a checkpoint over HTTP and WebSocket to many clients. Their steps are batched on one model. "
        "`ivideogpt_hf.RemoteWorldModel(url)` is the client, and /docs describes the calls. After SIGTERM, calls that "
        "are being answered may end. With --state-dir, the next server goes on with the sessions.",
    )
    serve.add_argument("checkpoint", nargs="?", help="folder or Hub id (default: the embedded one)")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, for this machine only)",
    )
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serve.add_argument(
        "--serving-token", help=f"token that clients must show (default: the environment variable {TOKEN_VARIABLE})"
    )
    serve.add_argument("--open", action="store_true", help="serve beyond this machine without a token")
    serve.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        nargs="+",
        default=(),
        metavar="NAME",
        help="names of this host that are served without a token, besides localhost (and with --open, addresses)",
    )
    serve.add_argument(
        "--allowed-origin",
        dest="allowed_origins",
        nargs="+",
        default=(),
        metavar="ORIGIN",
        help="origins whose pages may call, such as https://lab.example (CORS)",
    )
    serve.add_argument("--open-docs", action="store_true", help="show /docs and /metrics to callers without the token")
    serve.add_argument("--tls-certificate", type=Path, metavar="FILE", help="serve https, with this certificate (PEM)")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of the certificate (PEM)")
    serve.add_argument("--max-sessions", type=int, default=64, help="sessions at a time (default: %(default)s)")
    serve.add_argument(
        "--max-states", type=int, default=64, help="states that a session may hold (default: %(default)s)"
    )
    serve.add_argument("--max-waiting", type=int, default=256, help="calls that may wait (default: %(default)s)")
    for name, default, noun in (
        ("state", "4 GiB", "the states of all sessions"),
        ("frame", "1 GiB", "decoded frames"),
        ("request", "128 MiB", "requests"),
    ):
        serve.add_argument(
            f"--max-{name}-bytes", type=int, metavar="N", help=f"memory of {noun} together (default: {default})"
        )
    serve.add_argument(
        "--expires-after",
        type=float,
        default=600.0,
        help="seconds without calls after which a session ends (default: 600)",
    )
    serve.add_argument(
        "--max-call-seconds",
        type=float,
        default=CALL_SECONDS,
        help="seconds of the model's time for one call (default: %(default)g)",
    )
    serve.add_argument(
        "--stop-after",
        type=int,
        default=60,
        help="seconds after SIGTERM when calls are given up, and the sessions are saved (default: %(default)s)",
    )
    serve.add_argument("--state-dir", type=Path, help="folder that keeps the sessions between two runs of the server")
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    token = args.serving_token or os.environ.get(TOKEN_VARIABLE)
    if args.host not in LOOPBACK and token is None and not args.open:
        raise ValueError(
            f"anybody who reaches {args.host} could use the model: pass --serving-token, or --open to allow that"
        )
    tls = _tls_options(args)
    require_packages("fastapi", "fastapi_offline", "uvicorn", "websockets", "prometheus_client", purpose="serving")
    import uvicorn

    from ..checkpoints.loading import fetch
    from ..serving.access import AccessRules
    from ..serving.connections import connection_options
    from ..serving.saved_sessions import open_saved
    from ..serving.server import create_app
    from ..serving.service import ServerLimits
    from ..serving.stopping import StoppingServer
    from ..world.starts import read_starts

    memory = {name: getattr(args, name) for name in ("max_state_bytes", "max_frame_bytes", "max_request_bytes")}
    limits = ServerLimits(
        args.max_sessions,
        args.max_states,
        args.expires_after,
        args.max_waiting,
        **{name: value for name, value in memory.items() if value is not None},
        max_call_seconds=args.max_call_seconds,
    )
    access = AccessRules(token, takes_addresses=args.open, **{name: getattr(args, name) for name in ACCESS})
    world, name = load_world(args), args.checkpoint or DEFAULT
    starts = read_starts(fetch(name, revision=args.revision, token=args.token), world.spec.num_context_frames)
    app = create_app(world, name, starts=starts, access=access, limits=limits)
    with nullcontext() if args.state_dir is None else open_saved(args.state_dir, world) as saved:
        if saved is not None:
            saved.take_up(app.state.service.sessions)
        config = uvicorn.Config(
            app,
            host=args.host,
            port=args.port,
            log_level="warning",
            timeout_graceful_shutdown=args.stop_after,
            **connection_options(limits.max_bytes),
            **tls,
        )
        scheme = "https" if tls else "http"
        print(f"{scheme}://{args.host}:{args.port}: serving {args.checkpoint or 'the embedded checkpoint'}", flush=True)
        with suppress(KeyboardInterrupt):
            StoppingServer(config, app.state.service, saved).run()


def _tls_options(args: argparse.Namespace) -> dict[str, str]:
    """uvicorn's options for https; none without a certificate."""
    files = {"ssl_certfile": args.tls_certificate, "ssl_keyfile": args.tls_key}
    given = {name: file for name, file in files.items() if file is not None}
    if len(given) == 1:
        raise ValueError("https needs both --tls-certificate and --tls-key")
    for file in given.values():
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    return {name: str(file) for name, file in given.items()}


def _play(args: argparse.Namespace) -> None:
    import runpy

    from ..settings import packaged_folder

    require_packages("gradio", purpose="the playground")
    folder = packaged_folder("spaces_demo")
    sys.path.insert(0, str(folder))
    options = ["--host", args.host, "--port", str(args.port), *(["--mcp"] if args.mcp else [])]
    sys.argv = ["app.py", *options, *(["--", args.checkpoint] if args.checkpoint else [])]
    runpy.run_path(str(folder / "app.py"), run_name="__main__")
