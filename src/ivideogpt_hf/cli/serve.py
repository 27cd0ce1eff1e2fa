"""The commands that serve: ``ivideogpt serve | play``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ..extras import require_packages
from ..serving import TOKEN_VARIABLE
from .arguments import DEFAULT, load_world

SHUTDOWN_SECONDS = 60
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
        description="Serve the playground, the page that is also a Hugging Face Space: drive a checkpoint with keys or "
        "buttons, undo, branch, and let it dream.",
    )
    play.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, for this machine only)"
    )
    play.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    play.add_argument("--mcp", action="store_true", help="serve an MCP tool as well")
    play.set_defaults(run=_play)

    serve = commands.add_parser(
        "serve",
        parents=[common, *checkpoint],
        help="serve a checkpoint to many clients",
        description="Serve a checkpoint over HTTP and WebSocket: many clients, whose steps are batched on one model. "
        "`ivideogpt_hf.RemoteWorldModel(url)` is the client; /docs describes the calls. SIGTERM lets calls that are "
        "being answered end.",
    )
    serve.add_argument("checkpoint", nargs="?", help="folder or Hub id (default: the embedded one)")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, for this machine only)"
    )
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serve.add_argument(
        "--serving-token", help=f"token that clients must show (default: the environment variable {TOKEN_VARIABLE})"
    )
    serve.add_argument("--open", action="store_true", help="serve beyond this machine without a token")
    serve.add_argument("--max-sessions", type=int, default=64, help="sessions at a time (default: %(default)s)")
    serve.add_argument("--max-states", type=int, default=64, help="states of a session (default: %(default)s)")
    serve.add_argument("--max-waiting", type=int, default=256, help="calls that may wait (default: %(default)s)")
    serve.add_argument(
        "--expires-after",
        type=float,
        default=600.0,
        help="seconds without calls after which a session ends (default: 600)",
    )
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    token = args.serving_token or os.environ.get(TOKEN_VARIABLE)
    if args.host not in LOOPBACK and token is None and not args.open:
        raise ValueError(
            f"anybody who reaches {args.host} could use the model: pass --serving-token, or --open to allow that"
        )
    require_packages("fastapi", "uvicorn", "websockets", "prometheus_client", purpose="serving")
    import uvicorn

    from ..checkpoints.loading import fetch
    from ..serving.server import ServerLimits, create_app
    from ..world.starts import read_starts

    limits = ServerLimits(args.max_sessions, args.max_states, args.expires_after, args.max_waiting)
    world, name = load_world(args), args.checkpoint or DEFAULT
    starts = read_starts(fetch(name, revision=args.revision, token=args.token), world.spec.num_context_frames)
    app = create_app(world, name, starts=starts, token=token, limits=limits)
    print(f"http://{args.host}:{args.port}: serving {args.checkpoint or 'the embedded checkpoint'}", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS)


def _play(args: argparse.Namespace) -> None:
    import runpy

    from ..settings import packaged_folder

    require_packages("gradio", purpose="the playground")
    folder = packaged_folder("spaces_demo")
    sys.path.insert(0, str(folder))
    sys.argv = ["app.py", "--host", args.host, "--port", str(args.port), *(["--mcp"] if args.mcp else [])]
    runpy.run_path(str(folder / "app.py"), run_name="__main__")
