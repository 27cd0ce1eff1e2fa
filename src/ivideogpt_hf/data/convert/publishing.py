"""Upload of a converted data set to the Hub."""

from __future__ import annotations

from pathlib import Path

from ...hub.errors import hub_errors
from .conversion import DATA, STAGING


def push_dataset(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a finished conversion as one commit; an interrupted upload goes on when it is called again.

    Returns:
        The repository's address.

    Raises:
        ValueError: if the folder holds no finished conversion, or the Hub would refuse the card; nothing is uploaded
            then.
        OSError: if the Hub refuses or cannot be reached, or the upload breaks off.
    """
    from huggingface_hub import DatasetCard, HfApi

    if not (folder / DATA).is_dir():
        raise ValueError(f"{folder} holds no finished conversion: there is no folder {DATA} in it")
    api = HfApi()
    with hub_errors(repo_id):
        card = DatasetCard.load(folder / "README.md")
        try:
            card.validate()
        except ValueError as error:
            raise ValueError(f"the Hub would refuse the card: {error}") from error
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        try:
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                repo_type="dataset",
                ignore_patterns=[f"{STAGING}/*"],
                delete_patterns=[f"{DATA}/*"],
                commit_message="Upload episodes",
            )
        except RuntimeError as error:  # what huggingface_hub makes of a large file that does not arrive
            raise OSError(f"the upload to {repo_id} broke off: do the same again ({error})") from error
    return str(address)
