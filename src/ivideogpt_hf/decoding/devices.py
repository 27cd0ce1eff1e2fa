"""Where a network computes. Its weights may be elsewhere: Accelerate brings them there when a module is called."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def device_of(network: PreTrainedModel) -> torch.device:
    """The device that a network computes on: that of its weights, or that where offloaded weights are brought.

    Raises:
        ValueError: if its modules compute on several devices.
    """
    if not hasattr(network, "_hf_hook"):  # the common case, which is asked in every pass
        return network.device
    devices = {_as_of_tensors(hook.execution_device) for hook in _hooks_of(network)}
    if len(devices) > 1:
        raise ValueError(
            f"the {type(network).__name__} is spread over {sorted(map(str, devices))}, and a rollout takes one device: "
            f"load it with device_map={{'': 0}} or without device_map; weights offloaded to the CPU or to disk may stay"
        )
    return devices.pop() if devices else network.device


def bring(network: PreTrainedModel) -> None:
    """Move a network to where it computes, if it is offloaded as a whole.

    Accelerate does so when the network is called, which a rollout does not do: it calls the parts. Modules that are
    offloaded one by one are brought at their own calls.
    """
    hook = getattr(network, "_hf_hook", None)
    if _moves_the_whole(hook):
        hook.pre_forward(network)


def is_brought(module: nn.Module) -> bool:
    """Whether Accelerate brings a module's weights when the module is called."""
    return hasattr(module, "_hf_hook")


def _as_of_tensors(device: torch.device | str | int) -> torch.device:
    """A device as tensors on it name it: hooks may say "cpu:0" or "cuda"."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.device("cpu")
    return device if device.index is not None else torch.empty(0, device=device).device


def _moves_the_whole(hook: Any) -> bool:
    """Whether this is the hook of `accelerate.cpu_offload_with_hook`, which diffusers' model offloading uses. By its
    attribute, since Accelerate may not be installed."""
    return hasattr(hook, "prev_module_hook")


def _hooks_of(network: nn.Module) -> list[Any]:
    """All hooks of Accelerate that say where a module computes."""
    hooks = [module._hf_hook for module in network.modules() if hasattr(module, "_hf_hook")]
    single = [part for hook in hooks for part in getattr(hook, "hooks", [hook])]
    return [hook for hook in single if getattr(hook, "execution_device", None) is not None]
