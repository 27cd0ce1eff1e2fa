"""The commands that serve: ``ivideogpt serve | play``."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import socket
import ssl
import sys
import tempfile
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import require_packages
from ..serving.defaults import LOOPBACK_NAMES, STOP_SECONDS, TOKEN_VARIABLE, ServerLimits
from .arguments import CHECKPOINT_HELP, DEFAULT, checkpoint_folder, load_world
from .ray_cluster import LOCAL, connected

if TYPE_CHECKING:
    import uvicorn

    from ..serving.access import AccessRules
    from ..serving.fleet import Fleet
    from ..serving.replica import Served

ACCESS = ("allowed_hosts", "allowed_origins", "open_docs")
# Fields of `ServerLimits` that are options.
LIMITS = {
    "max_sessions": "sessions at a time",
    "max_states": "states that a session may hold",
    "max_waiting": "calls that may wait",
    "max_state_bytes": "memory of the states of all sessions together",
    "max_frame_bytes": "memory of decoded frames together",
    "max_request_bytes": "memory of requests together",
    "expires_after": "seconds without calls after which a session ends",
    "max_call_seconds": "seconds of the model's time for one call",
}


def add_serving_commands(
    commands: Any, common: argparse.ArgumentParser, checkpoint: list[argparse.ArgumentParser]
) -> None:
    """Add the commands.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
        checkpoint: parent parsers of commands that load a checkpoint.
    """
    _add_play(commands, common)
    _add_serve(commands, [common, *checkpoint])


def _add_play(commands: Any, common: argparse.ArgumentParser) -> None:
    play = commands.add_parser(
        "play",
        parents=[common],
        help="drive a checkpoint in the browser",
        description="Serve the playground, a page that is also a Hugging Face Space. There you drive a checkpoint with "
        "keys or buttons, undo, branch, and let it dream.",
    )
    play.add_argument(
        "checkpoint", nargs="?", help=f"{CHECKPOINT_HELP}. Or the address of a served world (default: default)"
    )
    _add_address(play, 7860)
    play.add_argument("--mcp", action="store_true", help="serve tools of the Model Context Protocol as well")
    play.set_defaults(run=_play)


def _add_serve(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        parents=parents,
        help="serve a checkpoint to many clients",
        description="Serve a checkpoint over HTTP and WebSocket to many clients. Their steps are batched on one model. "
        "`ivideogpt_hf.RemoteWorldModel(url)` is the client, and /docs describes the calls. After SIGTERM, calls that "
        "are being answered may end. With --state-dir, the next server goes on with the sessions.",
    )
    serve.add_argument("checkpoint", nargs="?", help=f"{CHECKPOINT_HELP} (default: default)")
    _add_address(serve, 8000)
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
    _add_limits(serve)
    serve.add_argument(
        "--stop-after",
        type=int,
        default=STOP_SECONDS,
        help="seconds after SIGTERM when calls are given up, and the sessions are saved (default: %(default)s)",
    )
    serve.add_argument("--state-dir", type=Path, help="folder that keeps the sessions between two runs of the server")
    serve.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="serve by N models, each on a GPU or a share of the cores, as actors of Ray; limits count for each",
    )
    serve.add_argument(
        "--ray-address",
        default=LOCAL,
        metavar="ADDRESS",
        help="with --replicas: cluster of Ray to use, or auto for the one of this machine (default: start one here)",
    )
    serve.set_defaults(run=_serve)


def _add_address(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, for this machine only)"
    )
    parser.add_argument(
        "--port", type=_port, metavar="PORT", default=port, help="port to listen on (default: %(default)s)"
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, got {text!r}")
    return int(text)


def _check_address(args: argparse.Namespace) -> None:
    """Raise OSError if one cannot listen there: better now than when the model is loaded."""
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        socket.create_server((args.host, args.port), family=family).close()
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot listen on {args.host}:{args.port}: {reason}; give another --port or --host") from error


def _add_limits(serve: argparse.ArgumentParser) -> None:
    for name, noun in LIMITS.items():
        default = getattr(ServerLimits, name)
        shown = f"{default:g}"
        if name.endswith("_bytes"):
            shown = f"{default >> 30} GiB" if default >= 2**30 else f"{default >> 20} MiB"
        serve.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N",
            help=f"{noun} (default: {shown})",
        )


def _serve(args: argparse.Namespace) -> None:
    token = args.serving_token or os.environ.get(TOKEN_VARIABLE)
    if args.host not in LOOPBACK_NAMES and token is None and not args.open:
        raise ValueError(
            f"anybody who reaches {args.host} could use the model: pass --serving-token, or --open to allow that"
        )
    _check_replicas(args)
    tls = _tls_options(args)
    require_packages("fastapi", "fastapi_offline", "uvicorn", "websockets", "prometheus_client", purpose="serving")
    from ..serving.access import AccessRules

    _check_address(args)
    limits = ServerLimits(**{name: getattr(args, name) for name in LIMITS})
    access = AccessRules(token, takes_addresses=args.open, **{name: getattr(args, name) for name in ACCESS})
    serve = _serve_here if args.replicas is None else _serve_by_replicas
    serve(args, access, limits, tls)


def _serve_here(args: argparse.Namespace, access: AccessRules, limits: ServerLimits, tls: dict[str, str]) -> None:
    """Serve by one model, in this process."""
    from ..serving.cores import call_aside
    from ..serving.saved_sessions import open_saved
    from ..serving.server import create_app
    from ..serving.stopping import StoppingServer

    served = call_aside(partial(_load, args))
    app = create_app(served.world, served.name, starts=served.starts, access=access, limits=limits)
    with nullcontext() if args.state_dir is None else open_saved(args.state_dir, served.world) as saved:
        if saved is not None:
            saved.take_up(app.state.service.sessions, limits.max_state_bytes)
        config = _server_config(app, args, limits.max_bytes, tls)
        _tell_address(args, tls)
        with suppress(KeyboardInterrupt):
            StoppingServer(config, app.state.service, saved).run()


def _serve_by_replicas(
    args: argparse.Namespace, access: AccessRules, limits: ServerLimits, tls: dict[str, str]
) -> None:
    """Serve by several models, in processes and on nodes of Ray. This process loads none."""
    require_packages("httpx", "ray", purpose="serving by replicas")
    from ..run_folder import lock
    from ..serving.fleet import Fleet
    from ..serving.ray_replicas import NodeReplica, RayReplica, check_gpus, claim_folders, cores_of_each
    from ..serving.replica import Replica

    num_gpus, token = int(args.device.startswith("cuda")), secrets.token_urlsafe(32)
    with ExitStack() as stack:
        folder = args.state_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(lock(folder))
        folders = claim_folders(folder.absolute(), args.replicas)
        stack.enter_context(connected(args.ray_address))
        if num_gpus:
            check_gpus(args.replicas)
        num_cpus = cores_of_each(args.replicas)
        arguments = {"load": partial(_load, args), "limits": limits, "token": token, "num_threads": num_cpus}
        arguments["seconds_to_stop"] = args.stop_after
        kind = Replica if args.ray_address == LOCAL else NodeReplica
        processes = [
            RayReplica(kind, arguments | {"folder": folder}, num_cpus=num_cpus, num_gpus=num_gpus) for folder in folders
        ]
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve_fleet(Fleet(processes, token), args, access, limits, tls))


async def _serve_fleet(
    fleet: Fleet, args: argparse.Namespace, access: AccessRules, limits: ServerLimits, tls: dict[str, str]
) -> None:
    from ..serving.proxy import create_proxy
    from ..serving.stopping import StoppingServer

    await fleet.start()
    app = await create_proxy(fleet, access, limits)
    config = _server_config(app, args, limits.max_bytes, tls)
    config.limit_concurrency *= args.replicas
    _tell_address(args, tls)
    await StoppingServer(config, fleet).serve()


def _check_replicas(args: argparse.Namespace) -> None:
    if args.replicas is None and args.ray_address != LOCAL:
        raise ValueError("--ray-address is for --replicas N: say how many models serve")
    if args.replicas is not None and args.replicas < 1:
        raise ValueError(f"--replicas must be at least 1, got {args.replicas}")
    if args.stop_after < 0:
        raise ValueError(f"--stop-after must be 0 or more, got {args.stop_after}")
    if args.ray_address != LOCAL and args.state_dir is None:
        raise ValueError(
            "--ray-address needs --state-dir, a folder that all nodes see: what takes a dead replica's place on "
            "another node finds its sessions there"
        )


def _load(args: argparse.Namespace) -> Served:
    """Load what is served."""
    from ..serving.replica import Served
    from ..world.starts import read_starts

    world = load_world(args)
    starts = read_starts(checkpoint_folder(args), world.spec.num_context_frames)
    return Served(world, args.checkpoint or DEFAULT, starts)


def _server_config(app: Any, args: argparse.Namespace, max_bytes: int, tls: dict[str, str]) -> uvicorn.Config:
    import uvicorn

    from ..serving.connections import connection_options

    return uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        log_level="warning",
        timeout_graceful_shutdown=args.stop_after,
        **connection_options(max_bytes),
        **tls,
    )


def _tell_address(args: argparse.Namespace, tls: dict[str, str]) -> None:
    checkpoint = args.checkpoint or DEFAULT
    print(f"{'https' if tls else 'http'}://{args.host}:{args.port}: serving {checkpoint}", flush=True)


def _tls_options(args: argparse.Namespace) -> dict[str, str]:
    """uvicorn's options for https; none without a certificate."""
    files = {"ssl_certfile": args.tls_certificate, "ssl_keyfile": args.tls_key}
    given = {name: file for name, file in files.items() if file is not None}
    if len(given) == 1:
        raise ValueError("https needs both --tls-certificate and --tls-key")
    for file in given.values():
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    if given:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(args.tls_certificate, args.tls_key)
        except ssl.SSLError as error:
            names = f"{args.tls_certificate} and {args.tls_key}"
            raise ValueError(f"{names} must be a certificate and its private key, in PEM: {error}") from error
    return {name: str(file) for name, file in given.items()}


def _play(args: argparse.Namespace) -> None:
    import runpy

    from ..settings import packaged_folder

    require_packages("gradio", purpose="the playground")
    _check_address(args)
    folder = packaged_folder("spaces_demo")
    sys.path.insert(0, str(folder))
    options = ["--host", args.host, "--port", str(args.port), *(["--mcp"] if args.mcp else [])]
    sys.argv = ["app.py", *options, *(["--", args.checkpoint] if args.checkpoint else [])]
    runpy.run_path(str(folder / "app.py"), run_name="__main__")
