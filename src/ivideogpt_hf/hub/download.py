"""Downloads from the Hub: repositories, single files, and lists of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import NOUNS, hub_errors, no_hub_id

# Scheme of the Hub's files in fsspec.
SCHEME = "hf://"


def download_repository(
    repo_id: str,
    kind: str,
    *,
    patterns: Sequence[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Download a repository into the cache. When the Hub cannot be reached, the cache is used.

    Args:
        repo_id: Hub id, owner/name.
        kind: kind of the repository: "model" or "dataset".
        patterns: names of the files to download, with wildcards; None: all.
        revision, token, cache_dir, local_files_only, force_download: arguments of `huggingface_hub.snapshot_download`.

    Returns:
        The local folder.

    Raises:
        OSError: see `hub_errors`.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(repo_id, NOUNS[kind], revision=revision):
        folder = snapshot_download(
            repo_id,
            repo_type=kind,
            allow_patterns=None if patterns is None else list(patterns),
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            local_files_only=local_files_only,
            force_download=force_download,
        )
    return Path(folder)


def find_file(name: str | os.PathLike[str]) -> Path:
    """Find a file on this machine, or download it from a model repository on the Hub.

    Args:
        name: path, or "owner/name/path" on the Hub.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: see `hub_errors`.
    """
    from huggingface_hub import hf_hub_download

    if Path(name).is_file():
        return Path(name)
    parts = os.fspath(name).split("/", 2)
    if len(parts) < 3:
        raise no_hub_id(os.fspath(name), "file")
    owner, repository, path = parts
    with hub_errors(os.fspath(name), "file"):
        return Path(hf_hub_download(f"{owner}/{repository}", path))


def list_files(repo_id: str, kind: str) -> list[str]:
    """Paths of all files in a repository.

    Raises:
        OSError: see `hub_errors`.
    """
    from huggingface_hub import HfApi

    with hub_errors(repo_id, NOUNS[kind]):
        return HfApi().list_repo_files(repo_id, repo_type=kind)


def find_addresses(repo_id: str, pattern: str) -> list[str]:
    """Sorted fsspec addresses of the files in a data set's repository that match a pattern.

    Raises:
        OSError: see `hub_errors`.
    """
    from huggingface_hub import HfFileSystem

    with hub_errors(repo_id, NOUNS["dataset"]):
        return [f"{SCHEME}{file}" for file in sorted(HfFileSystem().glob(f"datasets/{repo_id}/{pattern}"))]


def check_access(repo_id: str, kind: str) -> None:
    """Ask the Hub whether one may read the files of a repository.

    Args:
        repo_id: owner/name.
        kind: "model" or "dataset".

    Raises:
        OSError: if one may not, or the repository does not exist; see `hub_errors`.
    """
    from huggingface_hub import HfApi

    with hub_errors(repo_id, NOUNS[kind]):
        HfApi().auth_check(repo_id, repo_type=kind)


def size_of_files(repo_id: str, suffix: str) -> int:
    """Total size in bytes of the files in a model repository whose names end in ``suffix``.

    Raises:
        OSError: see `hub_errors`.
    """
    from huggingface_hub import HfApi

    with hub_errors(repo_id, NOUNS["model"]):
        info = HfApi().model_info(repo_id, files_metadata=True)
    return sum(file.size or 0 for file in info.siblings or [] if file.rfilename.endswith(suffix))
