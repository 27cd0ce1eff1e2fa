"""Data sets on the Hub: what is an id, and what went wrong when one cannot be had."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def check_hub_id(name: str) -> None:
    """Raise FileNotFoundError where a name that is no folder cannot be an id on the Hub either."""
    if not HUB_ID.match(name):
        raise FileNotFoundError(
            f"there is no file or folder {name}, and it is no Hub id (name/name) either; paths in a mixture begin at "
            f"its root"
        )


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Say in one way what the Hub's many errors mean.

    Raises:
        FileNotFoundError: if there is no such data set, or one may not see it.
        OSError: if the Hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
    from huggingface_hub.utils import httpx

    try:
        yield
    except GatedRepoError as error:
        raise OSError(
            f"the data set {repo_id} is gated: accept its terms on the Hub, and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no folder {repo_id} here and no data set {repo_id} on the Hub that you may see; log in with "
            f"`hf auth login` if it is private"
        ) from error
    except (httpx.TransportError, OfflineModeIsEnabled) as error:
        raise OSError(f"the Hub cannot be reached for the data set {repo_id}: {error}") from error
