"""The entry point of the command line, ``ivideogpt COMMAND``. It imports nothing heavy at its start."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..training.command_line import register_types
from ..training.memory import is_out_of_memory
from .arguments import USAGE_ERROR, OneLineParser, checkpoint_arguments
from .completion import add_completion_option
from .config import add_config_option, read_runs, subcommands
from .convert import add_convert_command
from .data import add_data_commands
from .evaluate import add_evaluation_commands
from .info import add_info_command
from .listing import add_list_command
from .plan import add_plan_command
from .predict import add_predict_command
from .publish import add_hub_commands
from .rl import add_rl_command, add_rl_publish_command
from .rl_compare import add_rl_compare_command
from .serve import add_serving_commands
from .threads import choose_threads
from .train import add_training_commands

# As a shell reports a process that SIGINT or SIGPIPE ended.
INTERRUPTED, NO_READER = 130, 141
# Seconds before a progress bar shows, of any library: bars of what takes a moment say nothing.
BAR_DELAY = 2
# Where torchao is installed, other libraries import it, and these warn of its parts for other machines at each start.
TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands. Each command sets ``run`` to the function that executes it."""
    parser = OneLineParser(prog="ivideogpt", description="iVideoGPT, the interactive world model.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_completion_option(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    model, device = checkpoint_arguments()

    add_predict_command(commands, [common, model, device])
    add_convert_command(commands, [common, model])
    add_data_commands(commands, common)
    add_training_commands(commands, common)
    add_evaluation_commands(commands, common, [model, device])
    add_plan_command(commands, common, [model, device])
    add_rl_command(commands, [common, model])
    add_rl_compare_command(commands, common)
    add_rl_publish_command(commands, common)
    add_hub_commands(commands, common)
    add_serving_commands(commands, common, [model, device])

    add_list_command(commands, common)
    add_info_command(commands, [common, model, device])
    for command in subcommands(parser).values():
        register_types(command)
        if not command.get_default("parses_the_rest"):  # training commands have their own option
            add_config_option(command)
    return parser


def quiet_libraries() -> None:
    """Silence what other libraries say when they are imported, and their bars of what takes a moment."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TQDM_DELAY", str(BAR_DELAY))  # tqdm reads it when it is imported


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words of the command line; None: those of this process.

    Returns:
        The exit code: 0; 2 after an error, which is printed in one line; 130 after Ctrl-C; 141 where nobody reads what
        is printed, as before ``| head``; or a code of the command's own.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    choose_threads()
    quiet_libraries()
    try:
        for args in read_runs(build_parser(), argv):
            debug = args.debug
            if code := args.run(args):
                return code
        print(end="", flush=True)  # else Python does so when nothing can be done about an error any more
    except KeyboardInterrupt:
        if debug:
            raise
        print("ivideogpt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _is_output_unread():
            return NO_READER
        is_known = not isinstance(error, RuntimeError) or is_out_of_memory(error)
        if debug or not is_known:
            raise
        reason = " ".join(str(error).split())
        if isinstance(error, RuntimeError):
            reason = f"there is not enough memory: {reason}"
        elif not reason:
            reason = "there is not enough memory" if isinstance(error, MemoryError) else type(error).__name__
        print(f"ivideogpt: error: {reason}", file=sys.stderr)
        return USAGE_ERROR
    return 0


def _is_output_unread() -> bool:
    """Whether nobody reads stdout any more. What is left in it is then thrown away, so that Python's own end does not
    complain of it."""
    try:
        print(flush=True)  # a broken pipe may also be that to another process or machine
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
