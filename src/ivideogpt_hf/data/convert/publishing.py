"""Upload of a converted data set to the Hub."""

from __future__ import annotations

from pathlib import Path

from ...hub.upload import CARD_FILE, create_repository, upload_folder, validate_card
from ...run_folder import LOCK_FILE, PARTIAL, write_text
from .conversion import STAGING
from .dataset_card import name_repository
from .shards import DATA


def push_dataset(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a finished conversion as one commit; an interrupted upload goes on when it is called again.

    Its card, README.md, names the repository from then on. Somebody's edits of that file go up with it.

    Args:
        folder: folder of the data set.
        repo_id: owner/name of the repository, which is created where there is none.
        private: whether a new repository is private.

    Returns:
        The repository's address.

    Raises:
        ValueError: if the folder holds no finished conversion, or the Hub would refuse the card; nothing is uploaded
            then.
        OSError: if the Hub refuses or cannot be reached, or the upload breaks off.
    """
    from huggingface_hub import DatasetCard

    if not (folder / DATA).is_dir():
        raise ValueError(f"{folder} holds no finished conversion: there is no folder {DATA} in it")
    card = DatasetCard.load(folder / CARD_FILE)
    validate_card(card, repo_id)
    repo_id, address = create_repository(repo_id, "dataset", private=private)
    write_text(folder / CARD_FILE, name_repository(card, repo_id).content)
    upload_folder(
        folder,
        repo_id,
        "dataset",
        commit_message="Upload episodes",
        # A kill may leave partial files, and the lock, which names this machine.
        ignore_patterns=[f"{STAGING}/*", f"*{PARTIAL}", f"*{PARTIAL}/*", LOCK_FILE],
        delete_patterns=[f"{DATA}/*"],
    )
    return address
