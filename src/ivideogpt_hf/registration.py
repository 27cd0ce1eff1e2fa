"""Registration of our classes with transformers' Auto classes, PEFT and gymnasium, when these are first used.

To register a model class one has to import it, with transformers and diffusers, which takes seconds. So registration
waits for the first call of `AutoConfig.from_pretrained`, which most Auto classes begin with, or for the first use of a
public name of this package. Environments are registered by name only, as soon as gymnasium is imported.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

ENVIRONMENT_ID = "ivideogpt_hf/WorldModel-v0"
TRANSFORMER_TYPE = "ivideogpt"


@functools.cache
def register_models() -> None:
    """Register our classes with transformers' Auto classes."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoVideoProcessor

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
    AutoProcessor.register(IVideoGPTConfig, IVideoGPTVideoProcessor, exist_ok=True)
    if importlib.util.find_spec("torchvision"):  # AutoVideoProcessor does not work at all without it
        AutoVideoProcessor.register(IVideoGPTConfig, IVideoGPTVideoProcessor, exist_ok=True)


def _register_on_first_call(auto_class: type) -> None:
    original = auto_class.__dict__["from_pretrained"]

    @functools.wraps(original.__func__)
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        auto_class.from_pretrained = original
        register_models()
        return original.__func__(cls, *args, **kwargs)

    auto_class.from_pretrained = classmethod(from_pretrained)


def _register_with_peft(constants: ModuleType) -> None:
    """Let adapters that name no modules take those of a LLaMA, whose layers the transformer has."""
    for name, modules_of_type in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and "llama" in modules_of_type:
            modules_of_type.setdefault(TRANSFORMER_TYPE, modules_of_type["llama"])


def _register_environment(gymnasium_registration: ModuleType) -> None:
    gymnasium_registration.register(
        ENVIRONMENT_ID,
        entry_point=f"{__package__}.environment:WorldModelEnv",
        vector_entry_point=f"{__package__}.environment:WorldModelVectorEnv",
    )


# Functions that prepare a module after its import.
_PREPARATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": lambda module: _register_on_first_call(module.AutoConfig),
    "transformers.models.auto.processing_auto": lambda module: _register_on_first_call(module.AutoProcessor),
    "transformers.models.auto.video_processing_auto": lambda module: _register_on_first_call(module.AutoVideoProcessor),
    "gymnasium.envs.registration": _register_environment,
    "peft.utils.constants": _register_with_peft,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds a module by the other finders, and prepares it after it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _PREPARATIONS:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_prepare(module: ModuleType) -> None:
            run(module)
            _PREPARATIONS[fullname](module)

        spec.loader.exec_module = run_and_prepare  # type: ignore[method-assign]
        return spec


def register_on_first_use() -> None:
    """Arrange for registration when an Auto class is first used or gymnasium is imported, before or after this call."""
    sys.meta_path.insert(0, _AfterImport())
    for name, prepare in _PREPARATIONS.items():
        if name in sys.modules:
            prepare(sys.modules[name])
