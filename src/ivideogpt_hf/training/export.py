"""From a transformer in training to one that stands alone: gathered from all processes, its adapters merged."""

from __future__ import annotations

import copy
from pathlib import Path

from accelerate import Accelerator
from huggingface_hub import ModelCard, ModelCardData
from torch import nn

from ..cards.text import TAGS
from ..checkpoints.origins import is_own_folder
from ..hub.upload import CARD_FILE
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM

ADAPTER_FOLDER = "adapter"
ADAPTER_CARD = """# LoRA adapters of an iVideoGPT transformer

The folder above holds the checkpoint with these adapters merged into its weights. The adapters alone belong to the
checkpoint that the training began from:

```python
from peft import PeftModel
from ivideogpt_hf import WorldModel

world = WorldModel.from_pretrained("{base}"){note}
transformer = PeftModel.from_pretrained(world.transformer, "adapter")
```
"""


def has_adapters(transformer: nn.Module) -> bool:
    """Whether a transformer has LoRA adapters."""
    return hasattr(transformer, "peft_config")


def merge_adapters(transformer: nn.Module) -> IVideoGPTForCausalLM:
    """A copy without adapters, whose weights hold what the adapters add."""
    return copy.deepcopy(transformer).merge_and_unload()


def save_adapters(transformer: nn.Module, folder: Path, base: str) -> None:
    """Write a transformer's adapters, with a card in place of PEFT's, which is a form to fill in.

    Args:
        transformer: transformer with adapters.
        folder: folder to write.
        base: checkpoint that the training began from: an embedded one, a Hub id or a folder.
    """
    transformer.save_pretrained(folder)
    hub_id = transformer.get_base_model().name_or_path
    data = ModelCardData(library_name="peft", base_model=hub_id or None, tags=["lora", *TAGS])
    named = {"base": base, "note": ""}
    if is_own_folder(base):  # whose name means nothing elsewhere
        named = {"base": "CHECKPOINT", "note": "  # the folder that the training began from"}
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{ADAPTER_CARD.format(**named)}").save(folder / CARD_FILE)


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
