"""Uploads to the Hub: new repositories, folders as one commit, and checks of cards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NOUNS, hub_errors

if TYPE_CHECKING:
    from huggingface_hub import RepoCard

CARD_FILE = "README.md"
# Names of files with wildcards, one or several; None: no choice.
Patterns = Sequence[str] | None


def create_repository(
    repo_id: str, kind: str, *, private: bool | None = None, token: str | bool | None = None
) -> tuple[str, str]:
    """Create a repository where there is none.

    Args:
        repo_id: Hub id, owner/name; without an owner, the user's own.
        kind: kind of the repository: "model" or "dataset".
        private: whether a new repository is private.
        token: token for the Hub; None: the one that the user is logged in with.

    Returns:
        The id of the repository, with its owner, and its address.

    Raises:
        OSError: see `hub_errors`.
    """
    from huggingface_hub import HfApi

    with hub_errors(repo_id, NOUNS[kind]):
        address = HfApi(token=token).create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
    return address.repo_id, str(address)


def upload_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    kind: str,
    *,
    commit_message: str,
    commit_description: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    keep_card: bool = False,
    tags_of_kept_card: Sequence[str] = (),
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    delete_patterns: Patterns = None,
) -> str:
    """Upload the files of a folder as one commit.

    Args:
        folder: folder to upload.
        repo_id: id of a repository that exists.
        kind: kind of the repository: "model" or "dataset".
        commit_message, commit_description, revision, create_pr, token: arguments of
            `huggingface_hub.HfApi.upload_folder`.
        keep_card: whether a card that is in the repository already stays, since somebody may have edited it.
        tags_of_kept_card: tags that such a card gets all the same.
        allow_patterns: names of the files that are uploaded, with wildcards; None: all.
        ignore_patterns: names of files that are not uploaded, with wildcards.
        delete_patterns: names of files, with wildcards, that are deleted on the Hub unless the folder holds them.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        OSError: if the upload breaks off; see also `hub_errors`.
    """
    from huggingface_hub import HfApi, RepoCard

    api, ignored = HfApi(token=token), _as_list(ignore_patterns) or []
    with hub_errors(repo_id, NOUNS[kind], revision=revision):
        if keep_card and api.file_exists(repo_id, CARD_FILE, repo_type=kind, revision=revision):
            if tags_of_kept_card:
                there = api.hf_hub_download(repo_id, CARD_FILE, repo_type=kind, revision=revision)
                kept = RepoCard.load(there, repo_type=kind)
                add_tags(kept, tags_of_kept_card)
                kept.save(Path(folder) / CARD_FILE)
            else:
                ignored.append(CARD_FILE)
        try:
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type=kind,
                folder_path=os.fspath(folder),
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
                commit_description=commit_description,
                allow_patterns=_as_list(allow_patterns),
                ignore_patterns=ignored,
                delete_patterns=_as_list(delete_patterns),
            )
        except RuntimeError as error:  # huggingface_hub raises it when a large file does not arrive
            raise OSError(
                f"the upload to {repo_id} broke off, and nothing of it is visible there ({error}); try again: only "
                f"what is missing will be sent"
            ) from error
    return commit.pr_url or commit.commit_url


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    **options: Any,
) -> str:
    """Upload a checkpoint as one commit. The repository is created if there is none.

    Args:
        folder: folder to upload.
        repo_id: id of the repository.
        private: whether a new repository is private.
        token: token for the Hub; None: the one that the user is logged in with.
        options: other arguments of `upload_folder`, whose result is returned.

    Raises:
        OSError: see `upload_folder`.
    """
    repo_id, _ = create_repository(repo_id, "model", private=private, token=token)
    return upload_folder(folder, repo_id, "model", token=token, **options)


def _as_list(patterns: Patterns) -> list[str] | None:
    """Patterns as a list, of which huggingface_hub takes one as text, too."""
    return [patterns] if isinstance(patterns, str) else None if patterns is None else list(patterns)


def upload_in_background(
    folder: str | os.PathLike[str], repo_id: str, kind: str, *, commit_message: str
) -> Future[str]:
    """Begin an upload in a thread, which leaves a card that is there already as it is. The future has the result or the
    error of `upload_folder`."""
    from huggingface_hub import HfApi

    return HfApi().run_as_future(upload_folder, folder, repo_id, kind, commit_message=commit_message, keep_card=True)


def add_tags(card: RepoCard, tags: Sequence[str]) -> None:
    """Add tags to a card's metadata, unless it has them."""
    if tags:
        card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or ()), *tags]))


def validate_card(card: RepoCard, repo_id: str) -> None:
    """Ask the Hub whether it takes a card's metadata.

    Raises:
        ValueError: if the Hub refuses the metadata; says why.
        OSError: if the Hub cannot be reached.
    """
    with hub_errors(repo_id, "card of"):
        try:
            card.validate()
        except ValueError as error:
            raise ValueError(f"the Hub would refuse the card: {error}") from error
