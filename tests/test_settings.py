"""Dataclasses from yaml files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ivideogpt_hf.settings import as_yaml, check_keys, fill, packaged_folder, read_yaml


@dataclass(frozen=True)
class Room:
    doors: int


@dataclass(frozen=True)
class House:
    """Its annotations are text here, as in all modules that postpone them."""

    name: "str"
    rooms: "Sequence[Room]" = ()
    height: "float | None" = None
    colour: 'Literal["white", "red"]' = "white"
    notes: "list[str]" = field(default_factory=list)
    prices: "str | Mapping[str, Sequence[float]]" = "none"
    anything: "dict[str, Any]" = field(default_factory=dict)
    inhabited: "bool" = True


def test_a_dataclass_is_filled(tmp_path):
    file = tmp_path / "house.yaml"
    file.write_text(
        "name: Oak\nrooms: [{doors: 2}, {doors: 1}]\nheight: 7\ncolour: red\nnotes: [old]\n"
        "prices: {now: [1, 2.5]}\nanything: {a: 1, b: [x]}\ninhabited: no\n"
    )
    house = fill(House, read_yaml(file), str(file))
    assert house == House(
        "Oak", [Room(2), Room(1)], 7, "red", ["old"], {"now": [1, 2.5]}, {"a": 1, "b": ["x"]}, inhabited=False
    )


def test_what_is_not_there_has_its_default():
    assert fill(House, {"name": "Oak"}, "house.yaml") == House("Oak")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a"], "house.yaml must be a mapping of keys to values, not [a]"),
        (None, "house.yaml must be a mapping of keys to values, not null"),
        ({"nmae": "x"}, "house.yaml has the unknown key 'nmae'; did you mean 'name'?"),
        ({"name": "x", "zzz": 1}, "house.yaml has the unknown key 'zzz'; allowed are name, rooms, height, colour"),
        ({"name": "x", 3: 1}, "house.yaml has the unknown key 3; allowed are name"),
        ({}, "house.yaml lacks the key 'name'"),
        ({"name": 3}, "house.yaml: name must be text, not 3"),
        ({"name": None}, "house.yaml: name must be text, not null"),
        ({"name": "x", "height": "1e-3"}, "house.yaml: height must be a number or null, not the text '1e-3'"),
        ({"name": "x", "height": True}, "house.yaml: height must be a number or null, not true"),
        ({"name": "x", "inhabited": 1}, "house.yaml: inhabited must be true or false, not 1"),
        ({"name": "x", "colour": "blue"}, "house.yaml: colour must be one of 'white', 'red', not the text 'blue'"),
        ({"name": "x", "notes": "old"}, "house.yaml: notes must be a list, each entry text, not the text 'old'"),
        ({"name": "x", "notes": [{"old": "x"}]}, "house.yaml: notes must be a list, each entry text, not [{old: x}]"),
        ({"name": "x", "prices": 3}, "prices must be text or a mapping to a list, each entry a number, not 3"),
        ({"name": "x", "prices": {"now": 3}}, "prices must be text or a mapping to a list"),
        ({"name": "x", "anything": [1]}, "house.yaml: anything must be a mapping, not [1]"),
        ({"name": "x", "rooms": 3}, "house.yaml: rooms must be a list of mappings, not 3"),
        ({"name": "x", "rooms": [{"doors": 1}, 7]}, "house.yaml: rooms, entry 2 must be a mapping of keys to values"),
        ({"name": "x", "rooms": [{"doors": 1.5}]}, "rooms, entry 1: doors must be a whole number, not 1.5"),
        ({"name": "x", "notes": "long " * 100}, "not the text 'long long"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_named(content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        fill(House, content, "house.yaml")
    assert len(str(caught.value)) < 200


def test_keys_can_be_checked_alone():
    check_keys({"a": 1}, ["a", "b"], "config")
    with pytest.raises(ValueError, match="config has the unknown key 'c'; allowed are a, b"):
        check_keys({"c": 1}, ["a", "b"], "config")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not valid YAML"),
        (b"- a\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"a: \xff", "YAML"),
        (b"a: 1\nb: 2\na: 3\n", "is not valid YAML: a is set twice, in line 1 and in line 3"),
        (b"b: {a: 1, a: 1}", "a is set twice, in line 1 and in line 1"),
    ],
)
def test_a_file_without_a_mapping_is_named(tmp_path, content, message):
    (tmp_path / "house.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"house\.yaml .*{message}"):
        read_yaml(tmp_path / "house.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no yaml file .*house\.yaml"):
        read_yaml(tmp_path / "house.yaml")


def test_what_is_written_is_read(tmp_path):
    content = {"b": [1, 2.5], "a": {"x": None}}
    (tmp_path / "house.yaml").write_text(as_yaml(content))
    assert read_yaml(tmp_path / "house.yaml") == content
    assert as_yaml(content).startswith("b:")


@pytest.mark.parametrize("name", ["model_cards", "spaces_demo"])
def test_packaged_folders_are_there(name):
    assert any(packaged_folder(name).iterdir())
