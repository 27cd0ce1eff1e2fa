"""The released checkpoints: their ids on the Hub, and what is done with ids of the family that are not there."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable
from typing import TypeVar

from ..hub.errors import NotCachedError, NotOnHubError

Found = TypeVar("Found")

# What people call all of them. The Hub has no repository of this name.
FAMILY_ID = "thuml/ivideogpt"
# Which of them this name means: the one that was trained on all robots, of the ordinary size.
GENERAL_ID = "thuml/ivideogpt-oxe-64-act-free"
RELEASED_IDS = (
    GENERAL_ID,
    "thuml/ivideogpt-oxe-64-act-free-medium",
    "thuml/ivideogpt-oxe-64-goal-cond",
    "thuml/ivideogpt-oxe-256-act-free",
    "thuml/ivideogpt-bair-64-act-free",
    "thuml/ivideogpt-bair-64-act-cond",
    "thuml/ivideogpt-robonet-64-act-cond",
    "thuml/ivideogpt-vp2-robosuite-64-act-cond",
    "thuml/ivideogpt-vp2-robodesk-64-act-cond",
)
NUM_NEAREST = 3

logger = logging.getLogger(__name__)


def with_released_id(name: str, ask: Callable[[str], Found]) -> Found:
    """Ask the Hub for a checkpoint, and for the family's general one where `FAMILY_ID` is no repository.

    Args:
        name: Hub id.
        ask: function of a Hub id that raises `NotOnHubError` where there is no such repository, and `NotCachedError`
            where the Hub is not asked.

    Returns:
        What ``ask`` returns.

    Raises:
        FileNotFoundError: if there is no such repository; for a name of the family, with the nearest released ids.
        OSError: as ``ask`` raises it.
    """
    try:
        return ask(name)
    except (NotOnHubError, NotCachedError) as error:
        if name.casefold() != FAMILY_ID:
            nearest = nearest_released_ids(name) if isinstance(error, NotOnHubError) else []
            if not nearest:
                raise
            raise FileNotFoundError(f"{error}; released are {', '.join(nearest)}") from error
        found = ask(GENERAL_ID)
        _tell_general_id()
        return found


def nearest_released_ids(name: str) -> list[str]:
    """The released ids that are most like a name, the likest first; all of them where nothing tells which.

    The list is empty for a name that is not of the family: its repository's name has to begin with the family's.
    """
    repository = name.casefold().rsplit("/", 1)[-1].replace("_", "-")
    family = _repository(FAMILY_ID)
    if not repository.startswith(family):
        return []
    released = {_repository(released_id): released_id for released_id in RELEASED_IDS}
    if repository == family:
        return list(released.values())
    nearest = difflib.get_close_matches(repository, released, n=NUM_NEAREST, cutoff=0)
    return [released[repository] for repository in nearest]


def _repository(hub_id: str) -> str:
    return hub_id.rsplit("/", 1)[-1]


@functools.cache  # one line, however often the checkpoint is loaded
def _tell_general_id() -> None:
    logger.warning(
        f"{FAMILY_ID} is a family of checkpoints and no repository: {GENERAL_ID} is loaded; released are "
        f"{', '.join(RELEASED_IDS)}"
    )
