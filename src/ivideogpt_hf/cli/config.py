"""Options of a command from a yaml file, in addition to those of the command line; both spellings of an option.

The training commands read their files themselves, see training/arguments.py.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..training.command_line import unknown_option

LISTS = ("+", "*")


def subcommands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


def add_config_option(command: argparse.ArgumentParser) -> None:
    """Add ``--config`` to a command, and ``--no-NAME`` for every flag, since a file may have set it."""
    for action in list(command._actions):
        if isinstance(action, argparse._StoreTrueAction):
            option = f"--no-{action.option_strings[0].removeprefix('--')}"
            suppress = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            command.add_argument(option, dest=action.dest, action="store_false", **suppress)
    command.add_argument(
        "--config",
        metavar="FILE",
        help="yaml file with a mapping of options, or a list of mappings for one run after another; the command line "
        "wins, where --no-NAME takes a flag back",
    )


def read_runs(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[argparse.Namespace]:
    """Read the runs of a command line: one, or all that the file of ``--config`` lists, in their order.

    Args:
        parser: parser of all commands.
        argv: name of the command, and the words that follow it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no mapping of options or list of mappings, or an option in it is unknown or wrong.
    """
    command = subcommands(parser).get(argv[0]) if argv else None
    if command is None or command.get_default("parses_the_rest"):
        args, args.unparsed = parser.parse_known_args(argv)
        if args.unparsed and command is None:
            parser.error(f"unrecognized arguments: {' '.join(args.unparsed)}")
        return [args]
    words = _in_kebab_case(command, argv[1:])
    line = _read_line(command, words)
    if line.get("config") is None:
        args, rest = parser.parse_known_args([argv[0], *words])
        _refuse_rest(command, rest)
        return [args]
    from ..settings import check_keys, read_options

    runs = read_options(line["config"])
    actions: dict[str, argparse.Action] = {}
    for action in command._actions:
        if action.dest not in ("help", "config"):
            actions.setdefault(action.dest, action)
    for place, settings in runs.items():
        check_keys(settings, list(actions), place)
    return [
        _parse(command, _join(words, actions, {k: v for k, v in settings.items() if k not in line}, place), place)
        for place, settings in runs.items()
    ]


def _in_kebab_case(command: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The command line with ``--num_clips`` written as ``--num-clips``, where the command has such an option."""
    options = {option for action in command._actions for option in action.option_strings}
    end = words.index("--") if "--" in words else len(words)
    kebab_words = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        kebab = name.replace("_", "-")
        kebab_words.append(f"{kebab}{equals}{value}" if kebab in options else word)
    return [*kebab_words, *words[end:]]


def _read_line(command: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """The settings of the command line alone: options with their values, and positionals with None."""
    probe = copy.deepcopy(command)
    probe.error = command.error  # type: ignore[method-assign]
    probe.print_help = command.print_help  # type: ignore[method-assign]
    positionals = [action.dest for action in probe._actions if not action.option_strings]
    probe._actions = [action for action in probe._actions if action.option_strings]
    for action in probe._actions:
        action.default, action.required = argparse.SUPPRESS, False
    end = words.index("--") if "--" in words else len(words)
    options, rest = probe.parse_known_args(words[:end])
    _refuse_rest(command, [word for word in rest if word.startswith("-")])
    return vars(options) | dict.fromkeys(positionals[: len(rest) + len(words[end + 1 :])])


def _refuse_rest(command: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """End the command if words of its line were left over. The first option among them is told."""
    options = [option for action in command._actions for option in action.option_strings]
    positionals = [action.dest for action in command._actions if not action.option_strings]
    for word in rest:
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        if word.startswith("--") and name in positionals:  # as the key of a file is called
            order = " ".join(positional.upper() for positional in positionals)
            command.error(f"{name} is given by its place, without a name: `{command.prog} {order}`")
        if word.startswith("-"):
            command.error(unknown_option(command.prog, word, options))
    if rest:
        command.error(f"unrecognized arguments: {' '.join(rest)}")


def _join(
    words: Sequence[str], actions: Mapping[str, argparse.Action], settings: Mapping[str, Any], place: str
) -> list[str]:
    """Join the words of a command line and the settings of a file to one command line."""
    options: list[str] = []
    positionals: list[str] = []
    for name, action in actions.items():  # the parser's order is that of the positionals
        if settings.get(name) is None:
            continue
        values = _as_words(action, settings[name], f"{place}: {name}")
        if not action.option_strings:
            positionals += values
        elif action.nargs in LISTS:
            options += [action.option_strings[0], *values]
        else:  # one word, so that a value may begin with a dash; a flag has no value
            options.append("=".join([action.option_strings[0], *values]) if settings[name] is not False else "")
    end = words.index("--") if "--" in words else len(words)
    positionals = [*words[end + 1 :], *positionals]
    return [*words[:end], *filter(None, options), *(["--", *positionals] if positionals else [])]


def _as_words(action: argparse.Action, value: Any, place: str) -> list[str]:
    """The words that set an option to a value on the command line; an empty list for a flag."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{place} must be true or false, got {value!r}")
        return []
    if isinstance(value, list) and action.nargs not in LISTS:
        raise ValueError(f"{place} takes one value, got the list {value}")
    values = value if isinstance(value, list) else [value]
    for item in values:
        if item is None or isinstance(item, (bool, dict, list)):
            raise ValueError(f"{place} takes numbers or text, got {item!r}; write words such as no and on in quotes")
    return [str(item) for item in values]


def _parse(command: argparse.ArgumentParser, words: list[str], place: str) -> argparse.Namespace:
    """Parse the words of a run. Errors name the file."""

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{place}: {message}")

    command.error = refuse  # type: ignore[method-assign]
    return command.parse_args(words)
