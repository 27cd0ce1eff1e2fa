"""Makes transformers' Auto classes find ours, without importing anything before somebody uses them.

Registering a class means importing it, with transformers and diffusers, which takes seconds. So it waits for the first
call of `AutoConfig.from_pretrained`, which every Auto class begins with, or for the first use of a name of ours.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_AUTO_CLASSES = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.video_processing_auto": "AutoVideoProcessor",
}


@functools.cache
def register() -> None:
    """Register our classes with transformers' Auto classes."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoVideoProcessor

    from .models.configuration_ivideogpt import IVideoGPTConfig
    from .models.configuration_ivideogpt_vq import IVideoGPTVQConfig
    from .models.modeling_ivideogpt import IVideoGPTForCausalLM
    from .models.modeling_ivideogpt_vq import IVideoGPTVQModel
    from .models.processing_ivideogpt import IVideoGPTVideoProcessor

    for config in (IVideoGPTConfig, IVideoGPTVQConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(IVideoGPTVQConfig, IVideoGPTVQModel, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM):
        auto_class.register(IVideoGPTConfig, IVideoGPTForCausalLM, exist_ok=True)
    if importlib.util.find_spec("torchvision"):  # AutoVideoProcessor does not work at all without it
        AutoVideoProcessor.register(IVideoGPTConfig, IVideoGPTVideoProcessor, exist_ok=True)


def _register_on_first_call(auto_class: type) -> None:
    original = auto_class.__dict__["from_pretrained"]

    @functools.wraps(original.__func__)
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        auto_class.from_pretrained = original
        register()
        return original.__func__(cls, *args, **kwargs)

    auto_class.from_pretrained = classmethod(from_pretrained)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets the other finders find the modules of the Auto classes, and prepares the class once a module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _AUTO_CLASSES:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in finders if (found := finder.find_spec(fullname, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_prepare(module: ModuleType) -> None:
            run(module)
            _register_on_first_call(getattr(module, _AUTO_CLASSES[fullname]))

        spec.loader.exec_module = run_and_prepare  # type: ignore[method-assign]
        return spec


def register_on_first_use() -> None:
    """Arrange for `register` to be called when an Auto class is first used, be it imported already or not."""
    sys.meta_path.insert(0, _AfterImport())
    for module, name in _AUTO_CLASSES.items():
        if module in sys.modules:
            _register_on_first_call(getattr(sys.modules[module], name))
