"""What both networks do otherwise than `PreTrainedModel`: loading from safetensors only, and upload of one network on
its own, with its code and a card, as one commit.

This module cannot use `ivideogpt_hf.hub`. It is published with checkpoints as remote code, which has to run where the
package is not installed. So it imports nothing of the package but its siblings.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.utils import httpx
from transformers import PreTrainedModel

from .remote_code import add_code

CARD = """---
{metadata}
---

# {name}

{description} On its own, one of the two networks of an iVideoGPT world model:

```python
from ivideogpt_hf import {class_name}

network = {class_name}.from_pretrained("{repo_id}")  # {num_parameters:,} parameters
```

`WorldModel.push_to_hub` and `ivideogpt publish` upload both networks together, to be played and planned in.

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
    """Replaces the upload of `PreTrainedModel`, which leaves an empty card and no code, and its loading."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, but only from safetensors: a pickle is never read.

        A network from a subfolder of a folder on this machine is named by the subfolder, so that what refers to it by
        its name, as an adapter's config does, finds it again.
        """
        options = kwargs | {"use_safetensors": True}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **options)  # type: ignore[misc]
        network = loaded[0] if isinstance(loaded, tuple) else loaded
        part = os.path.join(os.fspath(pretrained_model_name_or_path or ""), kwargs.get("subfolder") or "")
        if os.path.isdir(part):
            network.name_or_path = network.config._name_or_path = part
        return loaded

    @staticmethod
    def _load_pretrained_model(
        model: PreTrainedModel, state_dict: Any, checkpoint_files: list[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Read weights as transformers does, but none of pickles, which an index may name in spite of
        ``use_safetensors``.

        Raises:
            ValueError: if a file is no safetensors file.
        """
        for file in checkpoint_files or []:
            if not str(file).endswith(".safetensors"):
                raise ValueError(f"{file} is no safetensors file: pickles are never loaded")
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

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
        **saving: Any,
    ) -> str:
        """Upload weights, config, code and a card. The Auto classes load them with ``trust_remote_code=True``. A card
        that is already in the repository stays.

        Args:
            repo_id: Hub id of the repository, which is created if there is none.
            private: whether a new repository is private.
            token: token for the Hub.
            revision: branch to commit to.
            create_pr: whether to open a pull request instead.
            commit_message: message of the commit.
            saving: further arguments of `save_pretrained`.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            OSError: if the Hub refuses the upload or cannot be reached.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **saving)
            add_code(Path(folder) / "config.json", type(self).__name__)
            if not api.file_exists(repo_id, "README.md", revision=revision):
                self._card(repo_id).save(Path(folder) / "README.md")
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Upload {type(self).__name__}",
            )
        return commit.pr_url or commit.commit_url

    def _card(self, repo_id: str) -> ModelCard:
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
            num_parameters=sum(parameter.numel() for parameter in self.parameters()),
        )
        return ModelCard(content)
