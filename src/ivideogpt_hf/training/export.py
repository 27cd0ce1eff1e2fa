"""From a transformer in training to one that stands alone: gathered from all processes, its adapters merged."""

from __future__ import annotations

import copy

from accelerate import Accelerator
from torch import nn

from ..models.modeling_ivideogpt import IVideoGPTForCausalLM


def has_adapters(transformer: nn.Module) -> bool:
    """Whether a transformer has LoRA adapters."""
    return hasattr(transformer, "peft_config")


def merge_adapters(transformer: nn.Module) -> IVideoGPTForCausalLM:
    """A copy without adapters, whose weights hold what the adapters add."""
    return copy.deepcopy(transformer).merge_and_unload()


def gather_transformer(accelerator: Accelerator, transformer: nn.Module) -> IVideoGPTForCausalLM | None:
    """A copy, in eval mode, of a transformer that may be distributed, sharded or adapted. Every process must call this.

    Args:
        accelerator: processes that hold the transformer.
        transformer: transformer as Accelerate prepared it.

    Returns:
        The copy on the main process, None on the others.
    """
    weights = accelerator.get_state_dict(transformer)
    if not accelerator.is_main_process:
        return None
    unwrapped_model = accelerator.unwrap_model(transformer)
    if has_adapters(unwrapped_model):
        return merge_adapters(unwrapped_model).eval()
    gathered_model = IVideoGPTForCausalLM(unwrapped_model.config)
    gathered_model.load_state_dict(weights)
    return gathered_model.eval()
