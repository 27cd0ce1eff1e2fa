"""What both networks do otherwise than `PreTrainedModel` when they are loaded. It is published with checkpoints."""

from __future__ import annotations

import os
from typing import Any

from transformers import PreTrainedModel


class LoadsSafetensors:
    """Replaces the loading of `PreTrainedModel`: a pickle is never read."""

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
