"""Settings from yaml files: a dataclass says which keys there are and what they hold, and errors name file and key.

This is the only module that reads and writes yaml. It also knows where the files are that ship beside the code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind", bound="DataclassInstance")

MAX_YAML_BYTES, MAX_YAML_VALUES, MAX_YAML_DEPTH, MAX_YAML_MERGES = 2**19, 200_000, 64, 16
MERGE = "tag:yaml.org,2002:merge"  # what yaml's reader calls the key "<<"
# What yaml calls the values of a type.
YAML_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def packaged_folder(name: str) -> Path:
    """The folder of files that an installed package holds inside itself, and a checkout holds at its root."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parents[2] / name


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a yaml file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not valid YAML, or holds something else than a mapping.
    """
    content = _load(file)
    _check_mapping(content, str(file))
    return content


def read_options(file: Path) -> dict[str, dict[str, Any]]:
    """The options in a yaml file, for one run of a command or for several, one after another.

    Returns:
        By the words that name a run in an error, its options; dashes in their names are underscores, as in Python.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not valid YAML, holds something else than a mapping or a list of mappings, or names an
            option twice.
    """
    content = _load(file)
    runs = {str(file): content}
    if isinstance(content, list) and content:
        runs = {f"{file}, run {number} of {len(content)}": run for number, run in enumerate(content, start=1)}
    for name, run in runs.items():
        _check_mapping(run, name)
    return {name: _with_snake_keys(run, name) for name, run in runs.items()}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses a key that stands twice in a mapping, of which yaml would take the last one.

    Merges ("<<") repeat the keys of a mapping, and merges of merges would do so without bounds.
    """

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        self._refuse_doubles(node)
        merged = [value for key, value in node.value if key.tag == MERGE]
        count = sum(len(value.value) if isinstance(value, yaml.SequenceNode) else 1 for value in merged)
        if count <= MAX_YAML_MERGES:
            super().flatten_mapping(node)
        if count > MAX_YAML_MERGES or len(node.value) > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} merges too many mappings")

    def _refuse_doubles(self, node: yaml.MappingNode) -> None:
        if node in self._checked:  # the keys of mappings that it merges now stand before its own
            return
        self._checked.add(node)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise yaml.YAMLError(f"{key.value} is set twice, in line {first} and in line {line}")
            lines[key.tag, key.value] = line


def _load(file: Path) -> Any:
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no yaml file {file}")
    size = Path(file).stat().st_size
    if size > MAX_YAML_BYTES:
        raise ValueError(f"{file} has {size} bytes; at most {MAX_YAML_BYTES} are read")
    try:
        content = yaml.load(Path(file).read_bytes(), _Loader)
        num_values = _count_values(content, {}, ())
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deep, or holds itself") from error
    # A date that does not exist, a whole number of too many digits and the like are no YAMLErrors.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from error
    if num_values > MAX_YAML_VALUES:
        raise ValueError(f"{file} holds more than {MAX_YAML_VALUES} values, those included that aliases repeat")
    return content


def _count_values(content: Any, counts: dict[int, int], above: tuple[int, ...]) -> int:
    """Number of values, where each alias counts as what it stands for: so many there are when they are written out."""
    if not isinstance(content, (dict, list)):
        return 1
    if id(content) in above or len(above) > MAX_YAML_DEPTH:
        raise RecursionError
    if id(content) not in counts:
        children = content.values() if isinstance(content, dict) else content
        counts[id(content)] = 1 + sum(_count_values(child, counts, (*above, id(content))) for child in children)
    return counts[id(content)]


def _with_snake_keys(content: Mapping[Any, Any], name: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in content.items():
        option = str(key).replace("-", "_")
        if option in options:
            raise ValueError(f"{name} sets {option} twice, in two spellings")
        options[option] = value
    return options


def as_yaml(content: Any) -> str:
    """Plain values as the text of a yaml file, keys in their order."""
    return yaml.safe_dump(content, sort_keys=False)


def fill(kind: type[Kind], content: Any, name: str) -> Kind:
    """Make a dataclass from the content of a yaml file. A list of dataclasses is filled from a list of mappings.

    Args:
        kind: dataclass whose fields are the keys, and whose annotations say what the keys hold.
        content: value that yaml gave.
        name: name of the file, for errors.

    Raises:
        ValueError: if the content is no mapping, a key is unknown or missing, or a value is of the wrong kind.
    """
    _check_mapping(content, name)
    items = [item for item in fields(kind) if item.init]
    check_keys(content, [item.name for item in items], name)
    for item in items:
        if item.name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{name} lacks the key {item.name!r}")
    hints = get_type_hints(kind)
    return kind(**{key: _fill_value(hints[key], value, f"{name}: {key}") for key, value in content.items()})


def check_keys(content: Iterable[Any], allowed: Sequence[str], name: str) -> None:
    """Refuse unknown keys.

    Raises:
        ValueError: if a key is not allowed; it says which similar key there is, or else all keys.
    """
    for key in content:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(allowed)}"
            raise ValueError(f"{name} has the unknown key {key!r}; {hint}")


def _check_mapping(content: Any, name: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a mapping of keys to values, not {_written(content)}")


def _fill_value(hint: Any, value: Any, name: str) -> Any:
    arguments = get_args(hint)
    if (
        isinstance(value, list)
        and len(arguments) == 1
        and is_dataclass(arguments[0])
        and isinstance(arguments[0], type)
    ):
        return [fill(arguments[0], entry, f"{name}, entry {i + 1}") for i, entry in enumerate(value)]
    if not _fits(value, hint):
        raise ValueError(f"{name} must be {_describe(hint)}, not {_written(value)}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether yaml's value is what an annotation stands for. A whole number is a number, true is neither."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is not None and issubclass(origin, Mapping):
        keys, values = arguments
        return isinstance(value, dict) and all(_fits(key, keys) and _fits(value[key], values) for key in value)
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_fits(entry, arguments[0]) for entry in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """What an annotation stands for, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping" if arguments[1] is Any else f"a mapping to {_describe(arguments[1])}"
    if origin is not None and issubclass(origin, Sequence):
        argument = arguments[0]
        return "a list of mappings" if is_dataclass(argument) else f"a list, each entry {_describe(argument)}"
    return YAML_WORDS.get(hint, str(hint))


def _written(value: Any) -> str:
    """A value as it stands in the file, shortened; text in quotes, since yaml takes 1e-3 for text."""
    if isinstance(value, str):
        text = f"the text {value!r}"
    else:
        text = " ".join(yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").split())
    return text if len(text) <= 80 else f"{text[:77]}..."
