"""The transformer: a LLaMA that continues the token sequence of a clip, with actions added at the slots."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaForCausalLM
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.utils import can_return_tuple

from .configuration_ivideogpt import IVideoGPTConfig
from .draft_head import DraftHead, draft_loss
from .pushing import PushesWithCard
from .reward_bins import mean_of_bins
from .safetensors_only import LoadsSafetensors

# transformers 5.24 renamed what 5.23 calls past_key_values; both names are understood here.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class IVideoGPTOutput(CausalLMOutputWithPast):
    """Output of `IVideoGPTForCausalLM`.

    Args:
        loss: mean cross-entropy (scalar float) over the labelled tokens, or their sum by `num_items_in_batch`.
        logits: logits (B, L, vocab_size).
        rewards: outputs (B, F) of the reward head for the F frames whose last token is in the input; None without a
            reward head, and in an exported program with a static cache.
        reward_logits: logits (B, F, num_reward_bins) of which the rewards are the means; None where the head gives one
            number.
        reconstructed_actions: actions (B, F, A) of the same frames; None without a head for them.
        draft_loss: cross-entropy (scalar float) of the draft head, which alone gets its gradient; None without such a
            head, without labels, and where there are fewer than two whole future frames.
        past_key_values, hidden_states, attentions: outputs of transformers.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import WorldModel
        >>> transformer = WorldModel.default().transformer
        >>> tokens = torch.zeros(1, transformer.config.layout.sequence_length(2), dtype=torch.long)
        >>> transformer(tokens, actions=torch.zeros(1, 2, 4)).rewards.shape  # one for each future frame
        torch.Size([1, 2])
    """

    rewards: Tensor | None = None
    reward_logits: Tensor | None = None
    reconstructed_actions: Tensor | None = None
    draft_loss: Tensor | None = None


@dataclass(frozen=True)
class PlacedActions:
    """Actions, and the positions that they belong to.

    Attributes:
        actions: actions (B, rows, A).
        row: row (L,) int64 of the actions that each position belongs to.
        is_slot: mask (L,) bool of the positions that are a slot.
        acts: mask (L,) bool of the positions that decide on a frame: its slot, and its tokens but the last.
    """

    actions: Tensor
    row: Tensor
    is_slot: Tensor
    acts: Tensor


def as_input_of(module: nn.Module, x: Tensor) -> Tensor:
    """Float values in the dtype that a module computes in, which may be another than its network's."""
    # Of all parameters, since what holds them may be no linear layer, or hold its weight in integers.
    floats = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return x.to(next(floats, x.dtype))


class ZeroLinear(nn.Linear):
    """A linear layer that is initialised with zeros. Added to a checkpoint, it changes nothing before training."""


class ActionModulatedLayer(LlamaDecoderLayer):
    """A LLaMA layer whose input is scaled and shifted by the action, x * (1 + scale) + shift, at the positions that
    decide on a frame."""

    def __init__(self, config: IVideoGPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.action_modulation = ZeroLinear(config.action_dim, 2 * config.hidden_size)

    def modulate(self, x: Tensor, actions: Tensor) -> Tensor:
        """Scale and shift hidden states (B, L, hidden) by actions (B, L, A)."""
        scale, shift = self.action_modulation(as_input_of(self.action_modulation, actions)).to(x.dtype).chunk(2, -1)
        return x * (1 + scale) + shift

    def forward(self, hidden_states: Tensor, placed_actions: PlacedActions | None = None, **kwargs: Any) -> Tensor:
        """As in LLaMA, with the actions of `IVideoGPTForCausalLM.forward`."""
        if placed_actions is not None:
            actions, row, acts = placed_actions.actions, placed_actions.row, placed_actions.acts
            modulated = self.modulate(hidden_states, actions[:, row])
            hidden_states = torch.where(acts[:, None], modulated, hidden_states)
        return super().forward(hidden_states, **kwargs)


class ActionModulatedModel(LlamaModel):
    """A LLaMA of `ActionModulatedLayer`."""

    _no_split_modules = ["ActionModulatedLayer"]  # noqa: RUF012 (transformers declares it so)

    def __init__(self, config: IVideoGPTConfig) -> None:
        super().__init__(config)
        layers = (ActionModulatedLayer(config, index) for index in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _set_to_zero(module)


def _set_to_zero(module: nn.Module) -> None:
    if isinstance(module, ZeroLinear):
        init.zeros_(module.weight)
        init.zeros_(module.bias)


class IVideoGPTForCausalLM(PushesWithCard, LoadsSafetensors, LlamaForCausalLM):  # type: ignore[misc]  # the upload is replaced on purpose
    """Autoregressive transformer of iVideoGPT (Wu et al., 2024, section 3.2).

    An action-free model has exactly the weights of a `LlamaForCausalLM`. The config adds an action input and heads.
    `action_linear` adds the action to the embedding of the slot before the frame that it causes. It is initialised to
    zero, so a checkpoint without actions is unchanged. `reward_linear` and `action_recon_linear` read the hidden state
    at a frame's last token.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM
        >>> config = IVideoGPTConfig(
        ...     hidden_size=32,
        ...     intermediate_size=48,
        ...     num_hidden_layers=2,
        ...     num_attention_heads=4,
        ...     tokens_per_context_frame=16,
        ...     tokens_per_future_frame=4,
        ...     num_context_codes=24,
        ...     num_dynamics_codes=40,
        ...     action_dim=3,
        ...     predict_reward=True,
        ... )
        >>> model = IVideoGPTForCausalLM(config)
        >>> tokens = torch.zeros(1, config.layout.sequence_length(2), dtype=torch.long)
        >>> output = model(tokens, actions=torch.zeros(1, 2, 3))
        >>> output.logits.shape == (1, tokens.shape[1], config.vocab_size)
        True
    """

    config: IVideoGPTConfig
    config_class = IVideoGPTConfig
    output_modalities = ("video",)

    def __init__(self, config: IVideoGPTConfig) -> None:
        # A request to checkpoint activations, which LLaMA's own initialisation takes out of the config.
        checkpoints = getattr(config, "gradient_checkpointing", False)
        super().__init__(config)
        if config.action_dim:
            self.action_linear = ZeroLinear(config.action_dim, config.hidden_size)
            if config.action_conditioning == "scale_shift":
                self.model = ActionModulatedModel(config)
                self._no_split_modules = ["ActionModulatedLayer"]
        if config.predict_reward:
            self.reward_linear = nn.Linear(config.hidden_size, config.num_reward_bins)
        if config.reconstruct_actions:
            self.action_recon_linear = nn.Linear(config.hidden_size, config.action_dim)
        if config.draft_head:
            self.draft_head = DraftHead(config.hidden_size)
        if checkpoints:
            config.gradient_checkpointing = True
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _set_to_zero(module)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """What `to`, `half` and the like call. The frequencies of the positions stay in the precision in which they are
        loaded: rounded to bfloat16, they are a tenth of a turn off after some hundred positions."""
        rotary = self.model.rotary_emb
        frequencies = dict(rotary.named_buffers())
        super()._apply(*args, **kwargs)
        for name, exact in frequencies.items():
            moved = getattr(rotary, name)
            if moved.dtype != exact.dtype:
                setattr(rotary, name, exact.to(moved.device))
        return self

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        actions: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        num_items_in_batch: Tensor | int | None = None,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> IVideoGPTOutput:
        """Predict the next token at each position.

        Args:
            input_ids: vocabulary ids (B, L) int64, which start where `past_key_values` ends.
            actions: actions (B, slots, A) float in the units of training (see the processor). There is one row for each
                slot among `input_ids`: the action that causes the frame that the slot starts. If `past_key_values` ends
                in the middle of a frame, "scale_shift" conditioning takes a row for that frame too, before the others.
            labels: labels (B, L) int64, -100 where there is no loss. They are shifted inside, as always in
                transformers.
            past_key_values, attention_mask, position_ids, inputs_embeds, use_cache, logits_to_keep: arguments of
                `LlamaForCausalLM`.
            cache: another name of `past_key_values`.
            num_items_in_batch: number of labels of all the parts that an update accumulates, by which the sum of this
                part's cross-entropy is divided, as transformers' `Trainer` asks for; None: the number in this input.
            shift_labels: labels (B, L) int64 of the next tokens, not to be shifted, which replace `labels` in the loss;
                where sequences are cut into parts (context parallelism), `Trainer` passes both.
            kwargs: further arguments of `LlamaModel`.

        Raises:
            ValueError: if actions are missing, do not match the slots, or are passed to an action-free model.
        """
        cache = past_key_values if cache is None else cache
        start = cache.get_seq_length() if cache is not None else 0
        if isinstance(start, Tensor):
            start = start.clone()  # a static cache counts on in this tensor
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        placed_actions = self._place_actions(inputs_embeds, actions, start)
        if placed_actions is not None:
            added = self.action_linear(as_input_of(self.action_linear, placed_actions.actions))
            added = added[:, placed_actions.row].to(inputs_embeds.dtype) * placed_actions.is_slot[:, None]
            inputs_embeds = inputs_embeds + added
            if self.config.action_conditioning == "scale_shift":
                kwargs["placed_actions"] = placed_actions
        outputs = self.model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        drafts = None
        if labels is not None and self.config.draft_head and input_ids is not None and cache is None:
            embed = self.get_input_embeddings()
            drafts = draft_loss(self.draft_head, self.lm_head, embed, hidden, input_ids, self.config.layout)
        read = self._read_at_frame_ends("reward_linear", hidden, start)
        return IVideoGPTOutput(
            loss=loss,
            logits=logits,
            rewards=None if read is None else self.rewards_of(read),
            reward_logits=None if self.config.num_reward_bins == 1 else read,
            reconstructed_actions=self._read_at_frame_ends("action_recon_linear", hidden, start),
            draft_loss=drafts,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _place_actions(self, embeds: Tensor, actions: Tensor | None, start: int | Tensor) -> PlacedActions | None:
        """Find the positions that each action belongs to; ``start`` is the position of the first embedding."""
        layout = self.config.layout
        length = embeds.shape[1]
        if not self.config.action_dim:
            if actions is not None:
                raise ValueError("actions were given to an action-free model (config.action_dim is 0)")
            return None
        modulates = self.config.action_conditioning == "scale_shift"
        if isinstance(start, int):  # a static cache counts on the device, and is not asked here
            stop = start + length
            rows = layout.acting_frames(start, stop) if modulates else layout.slot_positions(start, stop)
            expected = (embeds.shape[0], len(rows), self.config.action_dim)
            if actions is None and expected[1]:
                raise ValueError(f"this model is action-conditioned: actions of shape {expected} are missing")
            if actions is not None and actions.shape != expected:
                raise ValueError(
                    f"actions must have shape {expected}, one row for each slot among the tokens, "
                    f"got {tuple(actions.shape)}"
                )
        if actions is None or not actions.shape[1]:
            return None
        offset = torch.arange(length, device=embeds.device) + start - layout.prompt_length
        within = offset % layout.block_length
        frame = offset.div(layout.block_length, rounding_mode="floor")
        is_slot = (offset >= 0) & (within == 0)
        acts = (offset >= 0) & (within < layout.tokens_per_future_frame)
        has_row = acts if modulates else is_slot
        first = frame.masked_fill(
            ~has_row, length + layout.max_future_frames(self.config.max_position_embeddings)
        ).min()
        row = (frame - first).clamp(min=0, max=actions.shape[1] - 1)
        return PlacedActions(actions, row, is_slot, acts)

    def rewards_of(self, outputs: Tensor) -> Tensor:
        """Rewards (...), in the units of training (see the processor), of what the reward head's layer gives, (...,
        num_reward_bins)."""
        if self.config.num_reward_bins == 1:
            return outputs[..., 0]
        return mean_of_bins(outputs, self.config.reward_range)

    def _read_at_frame_ends(self, head: str, hidden: Tensor, start: int | Tensor) -> Tensor | None:
        if not hasattr(self, head):
            return None
        if isinstance(start, Tensor) and torch.compiler.is_exporting():
            return None  # where frames end is not known while a program with a static cache is written
        start = int(start)
        ends = self.config.layout.frame_end_positions(start, start + hidden.shape[1])
        module, kind = getattr(self, head), hidden.device.type
        # Under autocast, too, heads compute in the precision of their weights: in bfloat16, a reward of 20 would be off
        # by a hundredth.
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            read: Tensor = module(as_input_of(module, hidden[:, [end - start for end in ends]]))
        return read

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        actions: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. `generate(..., actions=)` takes one row for every slot of the sequence, from the first
        on. Each pass gets the rows of the slots among its tokens. `inputs_embeds` are embeddings (B, L, hidden) of the
        prompt, to which the actions of its slots are added."""
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if actions is not None:
            passed = inputs.get("inputs_embeds")
            passed = passed if passed is not None else inputs["input_ids"]
            cache = inputs.get(CACHE_NAME)
            start = 0 if cache is None else int(cache.get_seq_length())
            stop = start + passed.shape[1]
            layout = self.config.layout
            first, last = layout.num_slots_before(start), layout.num_slots_before(stop)
            if self.config.action_conditioning == "scale_shift":
                first = layout.acting_frames(start, stop).start
            inputs["actions"] = actions[:, first:last]
        return inputs

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with ``actions`` (B, frames, A): one row for each frame, from the first predicted one on.

        Raises:
            ValueError: if there are fewer actions than frames, and nothing else is there to stop before them.
        """
        actions = kwargs.get("actions")
        if actions is not None and not kwargs.get("stopping_criteria"):
            self._check_number_of_actions(actions, inputs, generation_config, kwargs)
        return super().generate(inputs, generation_config, *args, **kwargs)

    def _check_number_of_actions(
        self, actions: Tensor, inputs: Tensor | None, generation_config: Any, kwargs: dict[str, Any]
    ) -> None:
        given = (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        prompt = next((tokens for tokens in given if tokens is not None), None)
        if prompt is None:
            return
        length = prompt.shape[1]
        asked = [kwargs, vars(generation_config) if generation_config else {}, vars(self.generation_config)]
        for name, before in (("max_new_tokens", length), ("max_length", 0)):
            number = next((settings[name] for settings in asked if settings.get(name) is not None), None)
            if number is not None:
                needed = self.config.layout.num_slots_before(before + number - 1)  # nothing follows the last token
                rows, width = actions.shape[1:]
                if rows < needed:
                    raise ValueError(
                        f"{before + number} tokens begin {needed} frames, and there are actions for {rows}: pass "
                        f"actions (B, {needed}, {width}), or a smaller {name}"
                    )
                return

    def save_pretrained(  # type: ignore[override]  # the other arguments are forwarded as they are
        self, save_directory: Any, *, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers, but keys are saved as they are in memory unless `save_original_format` is set. Otherwise
        transformers would undo the renaming below, and write released keys for a model that never had them."""
        super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)


# Released action-conditioned checkpoints hold the LLaMA under "llm."
register_checkpoint_conversion_mapping(
    "IVideoGPTForCausalLM", [WeightRenaming(r"^llm\.(model|lm_head)\.", r"\1.")], overwrite=True
)

# Trainer's label smoothing shifts the labels of the classes that are named here, and of no others.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[IVideoGPTConfig.model_type] = "IVideoGPTForCausalLM"

__all__ = ["IVideoGPTForCausalLM", "IVideoGPTOutput"]
