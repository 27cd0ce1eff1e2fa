"""Checks of the tensors that come in at the boundary of a world. Errors are raised, and nothing is repaired."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaModel

from ..decoding.devices import device_of, is_brought
from ..decoding.layers import compute_dtype
from ..decoding.plain import is_altered
from ..decoding.sampling import check_count
from ..models.configuration_ivideogpt import IVideoGPTConfig
from ..models.configuration_ivideogpt_vq import IVideoGPTVQConfig
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..spec import WorldModelSpec
from .protocol import Policy
from .state import WorldState


def check_parts(vq_config: IVideoGPTVQConfig, config: IVideoGPTConfig, processor: IVideoGPTVideoProcessor) -> None:
    """The parts of a world model must fit each other.

    Raises:
        ValueError: naming what differs.
    """
    if asdict(vq_config.layout) != asdict(config.layout):  # code of a checkpoint has a class of its own
        raise ValueError(
            f"VQ model and transformer disagree on the token layout: {vq_config.layout} and {config.layout}; after "
            f"vq_model.resize_context(n) set transformer.config.num_context_frames = n too"
        )
    if processor.frame_size != vq_config.frame_size:
        raise ValueError(
            f"the processor makes frames of {processor.frame_size}, the VQ model takes {vq_config.frame_size}"
        )
    width = processor.padded_action_dim or processor.action_dim
    if width is not None and width != config.action_dim:
        raise ValueError(
            f"the processor describes {width} action dimensions, the transformer takes {config.action_dim}"
        )


def check_networks(vq_model: IVideoGPTVQModel, transformer: IVideoGPTForCausalLM) -> None:
    """Networks must be our classes, since their parts are run one by one, and their weights in memory.

    Raises:
        ValueError: naming what is wrong.
    """
    networks = ((vq_model, "the VQ model", IVideoGPTVQModel), (transformer, "the transformer", IVideoGPTForCausalLM))
    for network, name, expected in networks:
        if hasattr(network, "_orig_mod"):
            raise ValueError(
                f"{name} is compiled by torch.compile, whose program a rollout would go past: pass the network itself, "
                f"and call world.compile()"
            )
        # By its name, since the code that is published with checkpoints has a class of its own.
        if getattr(getattr(type(network), "forward", None), "__qualname__", "") != f"{expected.__name__}.forward":
            raise ValueError(
                f"{name} must be an {expected.__name__} with its own forward, got {type(network).__name__}, which a "
                f"rollout would go past; pass the network inside (of a PeftModel, get_base_model() for LoRA, or "
                f"merge_and_unload())"
            )
        absent = _absent_weights(network)
        if absent:
            raise ValueError(
                f"{len(absent)} weights of {name} are not in memory, but on the meta device, among them {absent[0]}: "
                f"load it again by from_pretrained, or offload it by Accelerate, whose hooks bring weights when needed"
            )
    check_calls(vq_model, transformer)


def check_calls(vq_model: IVideoGPTVQModel, transformer: IVideoGPTForCausalLM) -> None:
    """A network is never called as a whole, so nothing may hang on that call. What hangs on its parts is honoured.

    Raises:
        ValueError: naming what cannot be honoured.
    """
    wholes = (("the VQ model", vq_model), ("the transformer", transformer), ("transformer.model", transformer.model))
    for name, module in wholes:
        if is_altered(module) and not _only_offloaded(module):
            raise ValueError(
                f"{name} has a forward hook or another forward, which rollouts go past: they run its layers one by "
                f"one. Register the hook on a layer or another part, or remove it"
            )
    if type(transformer.model).forward is not LlamaModel.forward:
        raise ValueError(
            f"transformer.model is a {type(transformer.model).__name__} with another forward, which rollouts go past: "
            f"replace its layers instead"
        )
    devices = device_of(vq_model), device_of(transformer)
    for (name, _), device in zip(wholes, devices, strict=False):
        if device.type == "meta":
            raise ValueError(f"the weights of {name} are not in memory, but on the meta device: load it again")
    if devices[0] != devices[1]:
        raise ValueError(
            f"the VQ model is on {devices[0]}, the transformer on {devices[1]}; WorldModel.to moves both to one device"
        )


def _absent_weights(network: PreTrainedModel) -> list[str]:
    """Names of the weights that are on the meta device, and that nothing brings when they are needed."""
    return [
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        for name, value in module.named_parameters(recurse=False)
        if value.is_meta and not is_brought(module)
    ]


def _only_offloaded(module: nn.Module) -> bool:
    """Whether nothing is altered but that Accelerate brings weights at the call; it keeps the forward it replaces."""
    replaced = getattr(module.__dict__.get("_old_forward"), "__func__", None)
    hooks = module._forward_hooks or module._forward_pre_hooks
    return is_brought(module) and not hooks and replaced is type(module).forward


def check_frames(frames: Tensor, spec: WorldModelSpec) -> None:
    """Context frames must be uint8 (B, C, 3, H, W).

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        got = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(
            f"frames must be a torch.uint8 tensor with values 0 ... 255, got {got}; IVideoGPTPipeline takes files, "
            f"images and float arrays"
        )
    height, width = spec.frame_size
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames must have shape (B, C, 3, H, W) with 3 colour channels, got {tuple(frames.shape)}")
    if frames.shape[3:] != (height, width):
        raise ValueError(
            f"this model takes frames of {height} x {width} pixels, got {frames.shape[3]} x {frames.shape[4]}; "
            f"world.spec.resize_frames(frames) resizes them"
        )
    if frames.shape[1] != spec.num_context_frames:
        few = "fewer" if frames.shape[1] < spec.num_context_frames else "more"
        raise ValueError(
            f"got {frames.shape[1]} context frames, {few} than the {spec.num_context_frames} that this model takes"
        )
    if not len(frames):
        raise ValueError("frames must hold at least one clip")


def check_observed_frame(frame: Tensor, batch_size: int, spec: WorldModelSpec) -> None:
    """A real frame for each row must be uint8 (B, 3, H, W).

    Raises:
        ValueError: naming what is wrong.
    """
    height, width = spec.frame_size
    expected = (batch_size, 3, height, width)
    if not isinstance(frame, Tensor) or frame.dtype != torch.uint8 or frame.shape != expected:
        got = f"{frame.dtype} {tuple(frame.shape)}" if isinstance(frame, Tensor) else type(frame).__name__
        raise ValueError(f"the observed frame must be a torch.uint8 tensor of shape {expected}, got {got}")


def check_reward_head(outputs: Collection[str], spec: WorldModelSpec) -> None:
    """Rewards alone must not be asked of a model that has none. Beside other outputs they are what there is of them.

    Raises:
        ValueError: if nothing that was asked for can be computed.
    """
    if not spec.has_reward and "rewards" in outputs and not {"frames", "tokens"} & set(outputs):
        raise ValueError(
            "rewards were asked for, but the model has no reward head (spec.has_reward is False): train one with "
            "rewards: true, or ask for frames"
        )


def check_state(state: WorldState, vq_model: IVideoGPTVQModel, transformer: IVideoGPTForCausalLM) -> None:
    """A state must come from networks of these sizes, and be where they are, in their precision.

    Raises:
        ValueError: naming what differs.
    """
    device, dtype = device_of(transformer), vq_model.dtype
    if state.device != device:
        raise ValueError(
            f"the state is on {state.device}, the world model on {device}; state.to({str(device)!r}) moves it"
        )
    for memory in state.contexts.memory[:1]:
        if memory.key.dtype != dtype:
            raise ValueError(f"the state is in {memory.key.dtype}, the world model in {dtype}; reset it again")
    config, layout, prefix = transformer.config, transformer.config.layout, state.contexts.prefix
    num_layers, _, _, num_heads, prefix_length, head_dim = prefix.shape
    sizes = {
        "tokens per frame": (state.tokens.shape[-1], layout.tokens_per_future_frame),
        "tokens in the prompt": (prefix_length + 1, layout.prompt_length),
        "layers": (num_layers, config.num_hidden_layers),
        "key/value heads": (num_heads, config.num_key_value_heads),
        "values per head": (head_dim, config.head_dim),
    }
    sizes |= dict(zip(("context frames", "channels", "rows", "columns"), _frame_sizes(state, vq_model), strict=True))
    different = [f"{size} {name}, not {expected}" for name, (size, expected) in sizes.items() if size != expected]
    if different:
        raise ValueError(f"the state is of another world model: {', '.join(different)}")
    if state.is_from_file:
        _check_content(state, vq_model, transformer)


def _frame_sizes(state: WorldState, vq_model: IVideoGPTVQModel) -> list[tuple[int, int]]:
    config = vq_model.config
    return list(zip(state.contexts.frames.shape[1:], (config.num_context_frames, 3, *config.frame_size), strict=True))


def _check_content(state: WorldState, vq_model: IVideoGPTVQModel, transformer: IVideoGPTForCausalLM) -> None:
    """What a file says of a state must be what this model can have computed. Of other states it is known."""
    config, contexts = transformer.config, state.contexts
    vocab_size = config.vocab_size or config.layout.vocab_size
    for name, ids in (("tokens", state.tokens), ("last_tokens", contexts.last_tokens)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise ValueError(f"the {name} of the state are no ids of the vocabulary, [0, {vocab_size})")
    if contexts.prefix.dtype != compute_dtype(transformer):
        raise ValueError(f"the state is in {contexts.prefix.dtype}, the world model in {compute_dtype(transformer)}")
    blocks: list[Any] = [
        vq_model.cond_decoder.cross_att_blocks[i] for i in vq_model.cond_decoder.attention_after.values()
    ]
    expected: list[tuple[int, ...]] = []
    for block in blocks:
        length, channels = block.kv_pos_emb.shape
        heads = block.att.num_heads
        expected += [(len(contexts), heads, length, channels // heads)] * 2
    if [tuple(part.shape) for memory in contexts.memory for part in (memory.key, memory.value)] != expected:
        raise ValueError("the state is of another world model: the keys and values of its context have other shapes")
    limit = config.layout.max_future_frames(config.max_position_embeddings)
    if max(state.num_frames) > limit:
        raise ValueError(f"the state has {max(state.num_frames)} frames since its context, of at most {limit}")


@overload
def check_actions(actions: Tensor, leading: tuple[int, ...], spec: WorldModelSpec) -> Tensor: ...
@overload
def check_actions(actions: Tensor | None, leading: tuple[int, ...], spec: WorldModelSpec) -> Tensor | None: ...
def check_actions(actions: Tensor | None, leading: tuple[int, ...], spec: WorldModelSpec) -> Tensor | None:
    """Actions must be finite and of shape (*leading, A); returns them as float32.

    Raises:
        ValueError: naming what is wrong.
    """
    if actions is None:
        if spec.action_dim:
            raise ValueError(f"this model is action-conditioned: actions of width {spec.action_dim} are missing")
        return None
    if not spec.action_dim:
        raise ValueError("actions were given to an action-free model; leave them out")
    if not isinstance(actions, Tensor):
        raise ValueError(f"actions must be a torch tensor, got {type(actions).__name__}")
    if actions.ndim != len(leading) + 1 or actions.shape[:-1] != leading:
        raise ValueError(f"actions must have shape {(*leading, spec.action_dim)}, got {tuple(actions.shape)}")
    if actions.shape[-1] != spec.action_dim:
        raise ValueError(f"this model takes actions of width {spec.action_dim}, got width {actions.shape[-1]}")
    actions = actions.float()
    if not torch.isfinite(actions).all():
        row = tuple(torch.isfinite(actions).logical_not().nonzero()[0].tolist())
        raise ValueError(f"actions contain NaN or infinite values, first at index {row}")
    return actions


@dataclass(frozen=True)
class Futures:
    """How many futures of what length are asked for.

    Args:
        actions: actions (B * N, T, A) float32 in environment units; None if they are not known yet, or there are none.
        num_candidates: number N of futures of each context; None if there is no candidate axis.
        num_frames: number T of frames.
    """

    actions: Tensor | None
    num_candidates: int | None
    num_frames: int


def resolve_futures(
    actions: Tensor | Policy | None,
    num_contexts: int,
    num_frames: int | None,
    num_samples: int | None,
    spec: WorldModelSpec,
) -> Futures:
    """Sort out which futures are asked for.

    Raises:
        ValueError: if the arguments contradict each other or the model.
    """
    if num_samples is not None:
        num_samples = check_count(num_samples, "num_samples")
    if actions is None or callable(actions):
        if actions is None:
            check_actions(None, (), spec)
        if num_frames is None:
            kind = "a rollout of a policy" if callable(actions) else "an action-free rollout"
            raise ValueError(f"{kind} needs num_frames >= 1, got None")
        return Futures(None, num_samples, check_count(num_frames, "num_frames"))
    if not isinstance(actions, Tensor) or actions.ndim not in (3, 4):
        got = tuple(actions.shape) if isinstance(actions, Tensor) else type(actions).__name__
        raise ValueError(f"actions must be a tensor of shape (B, T, A) or (B, N, T, A), got {got}")
    if actions.ndim == 4 and num_samples is not None:
        raise ValueError("actions of shape (B, N, T, A) already say how many candidates there are; drop num_samples")
    if actions.ndim == 4 and not actions.shape[1]:
        raise ValueError(
            f"actions of shape (B, N, T, A) need a candidate for each context, N >= 1, got {tuple(actions.shape)}"
        )
    length = actions.shape[-2]
    if length < 1 or num_frames not in (None, length):
        raise ValueError(f"num_frames is {num_frames}, but there are {length} actions; each leads to one frame")
    num_candidates = actions.shape[1] if actions.ndim == 4 else num_samples
    rows = check_actions(actions, (num_contexts, *actions.shape[1:-1]), spec)
    if rows.ndim == 4:
        return Futures(rows.flatten(0, 1), num_candidates, length)
    return Futures(rows.repeat_interleave(num_samples or 1, dim=0), num_candidates, length)
