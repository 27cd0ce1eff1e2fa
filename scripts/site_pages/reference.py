"""Pages of the reference that are made from code: options of commands, training arguments, formats, messages."""

import argparse
import inspect
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import BaseModel

from ivideogpt_hf.checkpoints import layout
from ivideogpt_hf.cli.config import subcommands
from ivideogpt_hf.cli.main import build_parser
from ivideogpt_hf.data import episodes
from ivideogpt_hf.serving import messages
from ivideogpt_hf.serving.server import create_app
from ivideogpt_hf.training.arguments import REQUIRED
from ivideogpt_hf.training.tokenizing import TOKENIZE_ARGUMENTS
from ivideogpt_hf.training.train_vq import VQ_ARGUMENTS
from ivideogpt_hf.training.train_world_model import WORLD_MODEL_ARGUMENTS
from ivideogpt_hf.world.world_model import WorldModel

NOTE = "*This page is generated from the code of the package.*"


def cell(text: str) -> str:
    """A text in one line, as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- the command line -------------------------------------------------------------------------------------------------


def option_row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    """The names of an option with its values, and its help."""
    formatter = parser._get_formatter()
    names = [f"`{name}`" for name in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    text = formatter._expand_help(action) if action.help else ""
    if action.choices:
        values = ", ".join(f"`{choice}`" for choice in action.choices)
        text = f"{text}{'; ' if text else ''}one of {values}"
    elif action.option_strings and action.nargs != 0:
        names[-1] = f"`{action.option_strings[-1]} {formatter._format_args(action, action.dest.upper())}`"
    return ", ".join(names), cell(text)


def command_section(name: str, parser: argparse.ArgumentParser) -> str:
    """The section of one command."""
    lines = [f"## ivideogpt {name}", "", cell(parser.description or ""), ""]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest != "help"]
        if actions:
            title = {"positional arguments": "argument", "options": "option"}.get(group.title, f"option: {group.title}")
            lines += [table((title, "meaning"), (option_row(parser, action) for action in actions)), ""]
    if parser.get_default("parses_the_rest"):
        lines += [f"The other options of `{name}` are in [training arguments](training_arguments.md#{name}).", ""]
    return "\n".join(lines)


def command_line() -> str:
    """Every command with its options, from the parsers."""
    parser = build_parser()
    commands = subcommands(parser)
    (choices,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help for choice in choices._choices_actions}
    rows = [(f"[`ivideogpt {name}`](#ivideogpt-{name})", cell(helps[name])) for name in commands]
    head = [
        "# Command line",
        "",
        NOTE,
        "",
        "Every command explains itself with `--help`. A key of a yaml file that `--config` names is an option: "
        "`num_clips: 64` is `--num-clips 64`. What stands on the command line wins.",
        "",
        table(("command", "what it does"), rows),
        "",
    ]
    return "\n".join([*head, *(command_section(name, command) for name, command in commands.items())])


# -- arguments of trainings -------------------------------------------------------------------------------------------


def kind_of(hint: Any) -> str:
    """The type of a field as a reader writes it in yaml."""
    text = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    text = re.sub(r"Optional\[(.*)\]", r"\1 | None", text)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda m: m[1].replace(", ", " | ").replace("'", ""), text)
    return re.sub(r"[\w.]*\bSettings\b", "mapping", text).replace("None", "null")


def default_of(value: Any) -> str:
    """A default as it is written in yaml."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def arguments_table(kind: type) -> str:
    """The fields of one dataclass of arguments."""
    hints = get_type_hints(kind)
    rows = [
        (
            f"`{field.name}`",
            cell(kind_of(hints[field.name])),
            "required" if field.metadata.get("required") else f"`{default_of(field.default)}`",
            cell(field.metadata["help"].removesuffix(REQUIRED)),
        )
        for field in fields(kind)
    ]
    return table(("key", "type", "default", "meaning"), rows)


def training_arguments() -> str:
    """What can be set in a training, from the dataclasses."""
    commands = {"train-vq": VQ_ARGUMENTS, "train": WORLD_MODEL_ARGUMENTS, "tokenize": TOKENIZE_ARGUMENTS}
    kinds = list(dict.fromkeys(kind for kinds in commands.values() for kind in kinds))
    lines = [
        "# Training arguments",
        "",
        NOTE,
        "",
        "A key `num_frames` of a yaml file is the option `--num-frames` of the command. The command line wins over the "
        "file.",
        "",
    ]
    for name, kinds_of_command in commands.items():
        links = ", ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in kinds_of_command)
        lines += [f"## {name}", "", f"`ivideogpt {name}` takes the arguments of {links}.", ""]
    for kind in kinds:
        text = inspect.getdoc(kind) or ""
        lines += [f"## {kind.__name__}", "", text, "", arguments_table(kind), ""]
    return "\n".join(lines)


# -- formats ----------------------------------------------------------------------------------------------------------


def in_markdown(docstring: str) -> str:
    """A module's docstring without its first line, whose literal blocks are in reStructuredText."""
    _, _, text = docstring.partition("\n\n")
    return re.sub(r"``([^`]+)``", r"`\1`", text.replace("::\n", ":\n")).strip()


def episode_schema() -> str:
    """The columns of a data set, from the module that defines them."""
    lines = ["# Episode schema", "", NOTE, "", in_markdown(inspect.getdoc(episodes) or "")]
    lines += ["", f"The present schema is version {episodes.SCHEMA_VERSION}.", ""]
    return "\n".join(lines)


def checkpoint_layouts() -> str:
    """The files of a checkpoint, from the module that defines them."""
    text = in_markdown(inspect.getdoc(layout) or "").partition("This module loads no network")[0]
    return "\n".join(["# Checkpoint layouts", "", NOTE, "", text, ""])


# -- messages of the server -------------------------------------------------------------------------------------------


def schema_text(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(schema_text(kind) for kind in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        items = schema_text(schema["items"]) if schema.get("items") else "anything"
        most = f" (at most {schema['maxItems']})" if "maxItems" in schema else ""
        return f"list{most} of {items}"
    bounds = [
        f"{words} {schema[key]}"
        for key, words in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if key in schema and abs(schema[key]) < 1e15
    ]
    return " ".join([schema.get("description") or schema.get("type", "anything"), *bounds])


def message_section(model: type[BaseModel]) -> str:
    """One message with its fields."""
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else f"`{default_of(field.get('default'))}`"
        rows.append((f"`{name}`", schema_text(field), cell(default)))
    text = re.sub(r"``([^`]+)``", r"`\1`", inspect.getdoc(model) or "")
    return "\n".join([f"### {model.__name__}", "", text, "", table(("field", "type", "default"), rows), ""])


def serving_messages() -> str:
    """Addresses and messages of the server, from the application and its models."""
    paths = create_app(WorldModel.default(), "default").openapi()["paths"]
    rows = [
        (f"`{method.upper()} {path}`", cell((call.get("description") or call["summary"]).split("\n\n")[0]))
        for path, calls in paths.items()
        for method, call in calls.items()
    ]
    models = [
        model
        for _, model in inspect.getmembers(messages, inspect.isclass)
        if issubclass(model, BaseModel) and model.__module__ == messages.__name__ and model.model_fields
    ]
    order = inspect.getsource(messages)
    models.sort(key=lambda model: order.index(f"class {model.__name__}("))
    return "\n".join(
        [
            "# Serving messages",
            "",
            NOTE,
            "",
            "Messages are JSON. Frames are PNG files in base64. The WebSocket "
            "`/v1/sessions/{session}/stream` takes the same calls, each with its field `call`. A running server "
            "describes itself at `/docs`.",
            "",
            "## Addresses",
            "",
            table(("address", "what it does"), rows),
            "",
            "## Messages",
            "",
            *(message_section(model) for model in models),
        ]
    )


PAGES = {
    "command_line": command_line,
    "training_arguments": training_arguments,
    "episode_schema": episode_schema,
    "checkpoint_layouts": checkpoint_layouts,
    "serving_messages": serving_messages,
}
