"""Errors of the Hugging Face Hub, worded once for checkpoints, data sets and files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESS = re.compile(r"^[a-z]+://", re.IGNORECASE)
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
# Words for the content of each kind of repository.
NOUNS = {"model": "checkpoint", "dataset": "data set"}
# Where a thing of each kind is looked for before the Hub is asked, if not in folders and the cache alone.
PLACES = {"checkpoint": "folder, cached checkpoint or embedded model", "file": "file or cached file"}
LOG_IN = "log in with `hf auth login`, or use a token"
FORBIDDEN = (401, 403)


class NotOnHubError(FileNotFoundError):
    """Nothing of this name is on this machine or on the Hub."""


class NotCachedError(OSError):
    """Nothing of this name is on this machine, and the Hub was not asked or did not answer."""


def check_hub_id(name: str, noun: str) -> None:
    """Refuse a name that cannot be an id on the Hub.

    Args:
        name: name under which nothing was found on this machine.
        noun: word for what it should be, such as "data set".

    Raises:
        FileNotFoundError: if the name does not have the form "owner/name".
    """
    if not HUB_ID.match(name):
        raise no_hub_id(name, noun)


def no_hub_id(name: str, noun: str) -> NotOnHubError:
    """The error for a name that is neither on this machine nor has the form of a name on the Hub."""
    if ADDRESS.match(name):
        may_be_served = noun == NOUNS["model"] and "//huggingface.co/" not in name
        served = f"; RemoteWorldModel({name!r}) plays what is served there" if may_be_served else ""
        return NotOnHubError(f"{name} is an address, and no {noun}: pass a folder, or an id on the Hub{served}")
    form = "owner/name/path" if noun == "file" else "owner/name"
    return NotOnHubError(f"there is no {noun} {name} here, and it is no Hub id of the form {form!r} either")


def check_new_id(repo_id: str) -> None:
    """Check that a repository can have an id, before anything is made that is to be uploaded to it.

    Raises:
        ValueError: if it cannot.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} can be no repository on the Hub, give owner/name: {error}") from error


@contextmanager
def hub_errors(name: str, noun: str, *, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of huggingface_hub into OSErrors that say what to do.

    Args:
        name: name of the repository or file that is asked for.
        noun: word for it, such as "checkpoint".
        revision: branch, tag or commit that is asked for.

    Raises:
        FileNotFoundError: if the Hub has nothing of this name, or access is not allowed; `NotOnHubError` if the
            repository itself is missing.
        OSError: if the Hub refuses or cannot be reached; `NotCachedError` if nothing was downloaded before either.
    """
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    try:
        yield
    except errors.HFValidationError as error:
        raise no_hub_id(name, noun) from error
    except errors.GatedRepoError as error:
        raise OSError(f"the {noun} {name} is gated: ask for access at its page on the Hub, then {LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise NotOnHubError(
            f"there is no {noun} {name} here, and none on the Hub that you may use; check the name, and if it is "
            f"private, {LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"the {noun} {name} has no revision {revision!r} on the Hub") from error
    except errors.LocalEntryNotFoundError as error:
        places = PLACES.get(noun, f"folder or cached {noun}")
        raise NotCachedError(
            f"no {places} is named {name!r}. The Hub was not reachable, or HF_HUB_OFFLINE or local_files_only is set"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"the {noun} {name} is not on the Hub, though its repository is") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; {LOG_IN}, as somebody who may do this" if status in FORBIDDEN else ""
        raise OSError(f"the Hub refused the {noun} {name}: {error}{hint}") from error
    except errors.LocalTokenNotFoundError as error:
        raise OSError(f"the Hub wants to know who asks for the {noun} {name}: {LOG_IN}") from error
    except (httpx.TransportError, errors.OfflineModeIsEnabled) as error:
        raise OSError(f"the Hub cannot be reached for the {noun} {name}: {error}") from error
