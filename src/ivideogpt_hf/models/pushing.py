"""What networks, configs and processors do otherwise than in transformers when they are saved: an upload is one commit
with code and a card, and nothing is named that is not there.

This module cannot use `ivideogpt_hf.hub`. It is published with checkpoints as remote code, which has to run where the
package is not installed. So it imports nothing of the package but its siblings.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.utils import httpx

from .remote_code import add_code

CARD_FILE = "README.md"
CARD = """---
{metadata}
---

# {name}

{description} On its own, one part of an iVideoGPT world model:

```python
from ivideogpt_hf import {class_name}

part = {class_name}.from_pretrained("{repo_id}")
```

`WorldModel.push_to_hub` and `ivideogpt publish` upload all parts together, to be played and planned in.

Training data and licence were not stated.
"""


@contextmanager
def _hub_is_reached() -> Iterator[None]:
    """Raise what the Hub's client raises without a connection as an OSError, as its other errors are."""
    try:
        yield
    except httpx.TransportError as error:
        raise OSError(f"the Hub cannot be reached: {error}") from error


class PushesWithCard:
    """Replaces how parts of transformers are saved and uploaded: there an upload leaves an empty card and no code, an
    unknown argument goes unnoticed, and a config goes on naming the code that lay beside the file that it came from."""

    _file_that_names_code = "config.json"

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        safe_serialization: bool | None = None,
        **options: Any,
    ) -> Any:
        """As in transformers. With `push_to_hub` it is uploaded as well.

        Args:
            save_directory: folder to write.
            push_to_hub: whether to upload as well, to ``repo_id`` or the user's own of the folder's name.
            safe_serialization: whether weights are safetensors, which they always are.
            options: arguments of `transformers.PreTrainedModel.save_pretrained`, and of `push_to_hub`.

        Raises:
            ValueError: if an argument is unknown, or asks for another format; nothing is written then.
            OSError: as in `push_to_hub`.
        """
        if safe_serialization is False:
            raise ValueError("weights are only saved as safetensors: leave safe_serialization out")
        pushing = {name: options.pop(name) for name in PUSHING if name in options}
        self._check_options(options)
        kept = {}
        if self._auto_class is None:  # type: ignore[attr-defined]  # else transformers saves the code of the class, too
            kept = {name: self.__dict__.pop(name) for name in ("auto_map",) if name in self.__dict__}
        try:
            saved = super().save_pretrained(save_directory, **options)  # type: ignore[misc]
        finally:
            self.__dict__.update(kept)
        if push_to_hub:
            repo_id = pushing.pop("repo_id", None) or Path(save_directory).resolve().name
            self.push_to_hub(repo_id, **pushing, **options)
        return saved

    @_hub_is_reached()
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        commit_description: str | None = None,
        tags: str | Sequence[str] = (),
        **saving: Any,
    ) -> str:
        """Upload what `save_pretrained` writes, code and a card. The Auto classes load it with
        ``trust_remote_code=True``. A card that is already in the repository stays.

        Args:
            repo_id: Hub id of the repository, which is created if there is none.
            private: whether a new repository is private.
            token: token for the Hub.
            revision: branch to commit to.
            create_pr: whether to open a pull request instead.
            commit_message, commit_description: message of the commit, and what follows it.
            tags: further tags of the card, also of one that is already there.
            saving: further arguments of `save_pretrained`.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ValueError: if an argument is unknown; nothing is uploaded then.
            OSError: if the Hub refuses the upload or cannot be reached.
        """
        self._check_options(saving)
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, **saving)
            add_code(folder / self._file_that_names_code, type(self).__name__)
            tags = [tags] if isinstance(tags, str) else list(tags or ())
            is_new = not api.file_exists(repo_id, CARD_FILE, revision=revision)
            if is_new or tags:
                there = None if is_new else api.hf_hub_download(repo_id, CARD_FILE, revision=revision)
                card = self._new_card(repo_id) if there is None else ModelCard.load(there)
                card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or ()), *tags]))
                card.save(folder / CARD_FILE)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
            )
        return commit.pr_url or commit.commit_url

    def _check_options(self, options: dict[str, Any]) -> None:
        known = inspect.signature(super().save_pretrained).parameters.keys()  # type: ignore[misc]
        known = known - {"save_directory", "push_to_hub", "kwargs"} | {"safe_serialization"}
        unknown = sorted(options.keys() - known)
        if unknown:
            raise ValueError(f"unknown arguments of save_pretrained or push_to_hub: {', '.join(unknown)}")

    def _new_card(self, repo_id: str) -> ModelCard:
        data = ModelCardData(
            library_name="ivideogpt_hf",
            pipeline_tag="image-to-video",
            license="unknown",
            tags=["ivideogpt", "world-model", "world-models", "video-prediction", "robotics", "arxiv:2405.15223"],
        )
        content = CARD.format(
            metadata=data.to_yaml(),
            name=repo_id.rsplit("/", 1)[-1],
            description=(type(self).__doc__ or "").strip().splitlines()[0],
            class_name=type(self).__name__,
            repo_id=repo_id,
        )
        return ModelCard(content)


PUSHING = [name for name in inspect.signature(PushesWithCard.push_to_hub).parameters if name not in ("self", "saving")]
