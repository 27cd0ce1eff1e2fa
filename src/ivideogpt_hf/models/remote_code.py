"""The code of a checkpoint's parts, copied beside their weights, for `trust_remote_code=True`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

# What the Auto classes look for, and where it is, for each class that is saved.
AUTO_CLASSES = {
    "IVideoGPTVQConfig": {"AutoConfig": "configuration_ivideogpt_vq.IVideoGPTVQConfig"},
    "IVideoGPTConfig": {"AutoConfig": "configuration_ivideogpt.IVideoGPTConfig"},
    "IVideoGPTVQModel": {
        "AutoConfig": "configuration_ivideogpt_vq.IVideoGPTVQConfig",
        "AutoModel": "modeling_ivideogpt_vq.IVideoGPTVQModel",
    },
    "IVideoGPTForCausalLM": {
        "AutoConfig": "configuration_ivideogpt.IVideoGPTConfig",
        "AutoModel": "modeling_ivideogpt.IVideoGPTForCausalLM",
        "AutoModelForCausalLM": "modeling_ivideogpt.IVideoGPTForCausalLM",
    },
    "IVideoGPTVideoProcessor": {
        "AutoProcessor": "processing_ivideogpt.IVideoGPTVideoProcessor",
        "AutoVideoProcessor": "processing_ivideogpt.IVideoGPTVideoProcessor",
    },
}


def module_of(class_name: str) -> str:
    """The module, without suffix, that defines a class of `AUTO_CLASSES`."""
    return next(path.split(".")[0] for path in AUTO_CLASSES[class_name].values() if path.endswith(f".{class_name}"))


def copy_code(folder: Path, modules: Iterable[str]) -> list[str]:
    """Copy modules of this folder, and all that they import of it.

    Args:
        folder: folder to copy to.
        modules: names of modules, without suffix.

    Returns:
        The sorted names of all modules that were copied, without suffix.
    """
    source = Path(__file__).parent
    files = {source / f"{module}.py" for module in modules}
    files |= {Path(file) for start in files.copy() for file in get_relative_import_files(start)}
    for file in files:
        shutil.copy(file, folder / file.name)
    return sorted(file.stem for file in files)


def add_code(config_file: Path, class_name: str) -> None:
    """Copy the code of a class beside its saved config, and name it there.

    Args:
        config_file: config that `save_pretrained` wrote.
        class_name: name of the class that was saved, one of `AUTO_CLASSES`.
    """
    copy_code(config_file.parent, [module_of(class_name)])
    config = json.loads(config_file.read_text(encoding="utf-8")) | {"auto_map": AUTO_CLASSES[class_name]}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
