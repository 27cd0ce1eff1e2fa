"""Ids of the released checkpoints: the family's name, and names that are nearly right."""

import re
from pathlib import Path

import pytest

from ivideogpt_hf.cards.text import CARDS
from ivideogpt_hf.checkpoints.family import (
    FAMILY_ID,
    GENERAL_ID,
    RELEASED_IDS,
    nearest_released_ids,
    with_released_id,
)
from ivideogpt_hf.hub.errors import NotCachedError, NotOnHubError

README = Path(__file__).parents[2] / "README.md"


def hub_of(*names, error=NotOnHubError):
    """A function that finds these names only."""

    def ask(name):
        if name not in names:
            raise error(f"there is no checkpoint {name} here")
        return name

    return ask


def test_the_family_is_its_general_member():
    assert with_released_id(FAMILY_ID, hub_of(GENERAL_ID)) == GENERAL_ID


def test_a_repository_of_the_familys_name_is_used():
    assert with_released_id(FAMILY_ID, hub_of(FAMILY_ID, GENERAL_ID)) == FAMILY_ID


def test_the_hub_does_not_tell_cases_apart():
    assert with_released_id("thuml/iVideoGPT", hub_of(GENERAL_ID)) == GENERAL_ID


def test_without_the_hub_the_family_is_what_was_downloaded():
    assert with_released_id(FAMILY_ID, hub_of(GENERAL_ID, error=NotCachedError)) == GENERAL_ID


def test_another_error_of_the_hub_is_no_missing_repository():
    def refuse(name):
        raise OSError(f"the Hub refused the checkpoint {name}")

    with pytest.raises(OSError, match=r"refused the checkpoint thuml/ivideogpt$"):
        with_released_id(FAMILY_ID, refuse)


def test_other_missing_checkpoints_are_told_as_they_are():
    with pytest.raises(NotOnHubError, match=r"there is no checkpoint user/arm here$"):
        with_released_id("user/arm", hub_of())


def test_a_missing_id_of_the_family_gets_the_nearest_ones():
    with pytest.raises(FileNotFoundError, match=r"; released are thuml/ivideogpt-robonet-64-act-cond, "):
        with_released_id("thuml/ivideogpt-robonet-act-cond", hub_of())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("thuml/ivideogpt-oxe-256", "thuml/ivideogpt-oxe-256-act-free"),
        ("ivideogpt-bair-64-act-free", "thuml/ivideogpt-bair-64-act-free"),
        ("someone/iVideoGPT_OXE_64_goal_cond", "thuml/ivideogpt-oxe-64-goal-cond"),
        ("thuml/ivideogpt-oxe-64-act-free-large", "thuml/ivideogpt-oxe-64-act-free"),
    ],
)
def test_the_likest_released_id_comes_first(name, nearest):
    first, *others = nearest_released_ids(name)
    assert first == nearest
    assert len(others) == 2


def test_the_bare_family_gets_all():
    assert nearest_released_ids("ivideogpt") == list(RELEASED_IDS)


def test_the_readme_and_the_cards_know_the_same_ids():
    table = re.findall(r"^\| `(thuml/[\w-]+)`", README.read_text(encoding="utf-8"), re.MULTILINE)
    cards = [f"thuml/{file.stem}" for file in CARDS.glob("ivideogpt-*.yaml")]
    assert set(table) == set(cards) == set(RELEASED_IDS)
