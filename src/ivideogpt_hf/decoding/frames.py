"""Frame-by-frame decoding of the transformer with a prompt that candidates share.

The keys and values of a prompt (the *prefix*) are stored once, however many rows continue it; what a row adds (its
*tail*) is written in place into a preallocated buffer. Attention covers both with one softmax, so that the result is
that of ordinary attention, to rounding.

The last token of a frame is processed together with the slot of the next one: the tail begins with the last token of
the prompt, and each frame adds a two-token pass and one pass for each further token but the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.modeling_ivideogpt import IVideoGPTForCausalLM, as_input_of
from ..models.token_layout import TokenLayout
from . import packed
from .layers import Rotary, compute_dtype, rotary_embeddings, run_layers
from .plain import PlainParts
from .products import project
from .sampling import Sampling, draw
from .tails import Tail, TailBuffer

# Without a stated number of frames, buffers grow by this many at a time.
FRAMES_PER_GROWTH = 8
# So many tokens of prompts pass through the layers at a time on a CPU, whose caches hold no more of what they compute.
TOKENS_PER_PASS = 2048


@torch.inference_mode()
def prefill(transformer: IVideoGPTForCausalLM, prompts: Tensor) -> Tensor:
    """Keys and values of prompts (P, L) int64, all but the last token: (layers, 2, P, kv_heads, L - 1, head_dim)."""
    packed.look_again()
    config = transformer.config
    num_prompts, length = len(prompts), prompts.shape[1] - 1
    shape = (config.num_hidden_layers, 2, num_prompts, config.num_key_value_heads, length, config.head_dim)
    prefix = torch.empty(shape, dtype=compute_dtype(transformer), device=prompts.device)
    rotary = rotary_embeddings(transformer, torch.arange(length, device=prompts.device)[None])
    plain = PlainParts.of(transformer)
    prompts_per_pass = max(1, TOKENS_PER_PASS // length) if prompts.device.type == "cpu" else max(1, num_prompts)
    for some, stored in zip(prompts.split(prompts_per_pass), prefix.split(prompts_per_pass, dim=2), strict=True):
        _fill(stored, transformer, plain, some[:, :-1], rotary)
    return prefix


def _fill(prefix: Tensor, transformer: IVideoGPTForCausalLM, plain: PlainParts, tokens: Tensor, rotary: Rotary) -> None:
    """Write the keys and values of tokens (P, L) into a prefix (layers, 2, P, kv_heads, L, head_dim)."""

    def attention(index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        prefix[index, 0], prefix[index, 1] = key, value
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)

    run_layers(transformer, plain, transformer.model.embed_tokens(tokens), rotary, attention)


@dataclass(frozen=True)
class DecodedFrame:
    """One frame for each row.

    Attributes:
        tokens: vocabulary ids (rows, tokens_per_future_frame) int64.
        log_prob: log-probability (rows,) float32 of the tokens.
        reward: output (rows,) of the reward head, float; None if it was not read.
        previous_reward: output (rows,) of the reward head for the frame before, which this frame's first pass reads;
            None without a frame before.
        tail: keys and values of the rows, those of this frame included.
        num_guessed: number of tokens of the draft that were tried.
        num_right: number of those that were kept.
    """

    tokens: Tensor
    log_prob: Tensor
    reward: Tensor | None
    previous_reward: Tensor | None
    tail: Tail
    num_guessed: int
    num_right: int


class FrameDecoder:
    """Decodes frames with one transformer.

    Args:
        transformer: model whose layers are called one by one.
        prefix: keys and values (layers, 2, P, kv_heads, L, head_dim) from `prefill`.
        rows_per_prefix: number of rows that continue each prefix; rows i * rows_per_prefix ... continue prefix i.
        plain: plain parts of the transformer; None: they are looked for now.
    """

    def __init__(
        self,
        transformer: IVideoGPTForCausalLM,
        prefix: Tensor,
        rows_per_prefix: int,
        plain: PlainParts | None = None,
    ) -> None:
        packed.look_again()
        self.transformer = transformer
        self.plain = plain or PlainParts.of(transformer)
        self.layout = transformer.config.layout
        self.prefix = prefix
        self.rows_per_prefix = rows_per_prefix
        self.num_rows = prefix.shape[2] * rows_per_prefix
        self.has_draft_head = transformer.config.draft_head
        self.modulates = transformer.config.action_conditioning == "scale_shift"

    def decode(
        self,
        tail: Tail,
        last_tokens: Tensor,
        actions: Tensor | None,
        uniform: Tensor,
        sampling: Sampling,
        num_frames_ahead: int | None = None,
        read_reward: bool = False,
        sample_slot: Tensor | None = None,
        draft: Tensor | None = None,
    ) -> DecodedFrame:
        """Decode the next frame of every row.

        Args:
            tail: keys and values that the rows have added so far; it stays valid.
            last_tokens: token (rows,) int64 before the slot.
            actions: actions (rows, A) float as the model takes them, or None.
            uniform: random numbers (rows, block_length) float32 in [0, 1), one for the slot and one for each token.
            sampling: distribution to draw from.
            num_frames_ahead: number of frames to make room for, this one included; None: room grows as needed.
            read_reward: whether to read this frame's reward, which takes one more pass.
            sample_slot: whether to draw the slot's id too, instead of putting the slot there, (rows,) bool; None: it is
                put there in all rows.
            draft: tokens (rows, tokens_per_future_frame) int64 of the frame before. `sampling.num_guesses` guesses,
                these tokens or the draft head's, are tried in each pass, and kept as far as they are what is drawn
                anyway. None: no guesses.
        """
        buffer, storage = self._make_room(tail, num_frames_ahead)
        positions = torch.arange(self.layout.block_length + 1, device=self.prefix.device) + tail.length
        positions = positions[None] + self.prefix.shape[-2]
        positions = positions if tail.start is None else positions - tail.start[:, None]
        rotary = rotary_embeddings(self.transformer, positions)
        slot = torch.full_like(last_tokens, self.layout.slot_id)
        if sample_slot is not None:
            hidden = self._forward(self._embed(last_tokens[:, None]), tail, storage, 0, rotary)
            drawn, _ = draw(_logits(self.transformer, self.plain, hidden[:, -1]), uniform[:, 0], sampling)
            slot = torch.where(sample_slot, drawn, slot)
            inputs, first = self._embed(slot[:, None]), 1
        else:
            hidden, first = None, 0
            inputs = self._embed(torch.stack([last_tokens, slot], dim=1))
            if actions is not None:
                action_linear = self.transformer.action_linear
                inputs[:, 1] += action_linear(as_input_of(action_linear, actions)).to(inputs.dtype)

        tokens, log_probs, num_drawn, num_guessed = [], [], 0, 0
        state: Tensor | None = None  # the hidden states from which the last tokens were drawn
        num_tokens = self.layout.tokens_per_future_frame
        while num_drawn < num_tokens:
            guesses = last_tokens.new_empty(len(last_tokens), 0)
            if draft is not None:
                guesses = draft[:, num_drawn : min(num_drawn + sampling.num_guesses, num_tokens - 1)]
                if self.has_draft_head and state is not None:
                    guesses = self._guess(state, tokens[-1][:, -1], guesses, uniform[:, 1 + num_drawn :], sampling)
                inputs = torch.cat([inputs, self._embed(guesses)], dim=1)
            new_hidden = self._forward(inputs, tail, storage, first, rotary, actions, num_before=int(first == 0))
            hidden = new_hidden if hidden is None else hidden
            num_new = 1 + guesses.shape[1]
            drawn, log_prob = draw_tokens(
                self.transformer,
                self.plain,
                self.layout,
                new_hidden[:, -num_new:],
                uniform[:, 1 + num_drawn : 1 + num_drawn + num_new],
                sampling,
            )
            if num_new > 1:
                num_guessed += num_new - 1
                # All rows write at the same position, so that they go on together: a token is kept if all guesses
                # before it were right, in every row.
                num_new = 1 + int((drawn[:, :-1] == guesses).all(0).cumprod(0).sum())
            state = new_hidden[:, num_new - 1 - drawn.shape[1]]
            tokens.append(drawn[:, :num_new])
            log_probs.append(log_prob[:, :num_new])
            first += inputs.shape[1] - guesses.shape[1] + num_new - 1
            num_drawn += num_new
            if num_drawn < num_tokens or read_reward:
                inputs = self._embed(tokens[-1][:, -1:])

        end = tail.length + self.layout.block_length
        reward = None
        if read_reward:
            # The last token's keys and values land where the next frame's first pass writes them again.
            hidden_at_end = self._forward(inputs, tail, storage, self.layout.block_length, rotary)
            reward = reward_at_start(self.transformer, hidden_at_end)
        return DecodedFrame(
            tokens=torch.cat(tokens, dim=1),
            log_prob=torch.cat(log_probs, dim=1).sum(1),
            reward=reward,
            previous_reward=reward_at_start(self.transformer, hidden) if tail.length else None,
            tail=Tail(buffer, end, tail.start),
            num_guessed=num_guessed,
            num_right=num_tokens - len(tokens),
        )

    def _make_room(self, tail: Tail, num_frames_ahead: int | None) -> tuple[TailBuffer, Tensor]:
        """A buffer with the tail's content and room for one more frame, which nobody else writes; and its storage."""
        buffer, stop = tail.buffer, tail.length + self.layout.block_length
        # What a compiled program owns may be moved away at any time.
        if buffer is not None and buffer.guard is None:
            # One more position for the pass that reads the reward.
            storage = buffer.claim(tail.length, stop, stop + 1)
            if storage is not None:
                return buffer, storage
        num_frames = FRAMES_PER_GROWTH if num_frames_ahead is None else num_frames_ahead
        capacity = tail.length + self.layout.block_length * max(num_frames, 1) + 1
        return tail.copy_with_room(self.prefix, self.num_rows, stop, capacity)

    def _guess(self, state: Tensor, token: Tensor, before: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
        """Guesses (rows, n) of the draft head, drawn with the numbers that the tokens themselves will be drawn with.

        Args:
            state: hidden states (rows, hidden) from which the last token was drawn.
            token: last tokens (rows,).
            before: tokens (rows, n) of the frame before in the places to guess.
            uniform: random numbers (rows, n or more) of these places.
            sampling: distribution to draw from.
        """
        head, guesses = self.transformer.draft_head, []
        before = self._embed(before)
        for place in range(before.shape[1]):
            parts = (as_input_of(head, part) for part in (state, self._embed(token), before[:, place]))
            state = head(*parts).to(state.dtype)
            drawn, _ = draw_tokens(
                self.transformer, self.plain, self.layout, state[:, None], uniform[:, place, None], sampling
            )
            token = drawn[:, 0]
            guesses.append(token)
        return torch.stack(guesses, dim=1) if guesses else before.new_empty(before.shape[:2], dtype=token.dtype)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.transformer.model.embed_tokens(tokens)

    def _forward(
        self,
        x: Tensor,
        tail: Tail,
        storage: Tensor,
        first: int,
        rotary: Rotary,
        actions: Tensor | None = None,
        num_before: int = 0,
    ) -> Tensor:
        """Run (rows, n, hidden) embeddings through the layers, writing their keys and values into the storage,
        ``first`` positions after the tail's end. The first ``num_before`` are of the frame before, not of actions."""
        start, stop = tail.length + first, tail.length + first + x.shape[1]
        mask = self._mask(tail.start, start, stop, x.device)
        storage = storage[..., :stop, :]

        def attention(index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            storage[index, 0, :, :, start:] = key
            storage[index, 1, :, :, start:] = value
            return attend(query * scaling, self.prefix[index], storage[index], mask)

        cos, sin = (values[:, first : first + x.shape[1]] for values in rotary)
        actions = actions if self.modulates else None
        return run_layers(self.transformer, self.plain, x, (cos, sin), attention, actions, num_before)

    def _mask(self, start: Tensor | None, length: int, stop: int, device: torch.device) -> Tensor | None:
        """(rows or 1, 1, 1, n, stop) bool: which tail positions a query must not see; None if it sees all."""
        if start is None and stop - length == 1:
            return None
        keys = torch.arange(stop, device=device)
        hidden = keys > torch.arange(length, stop, device=device)[:, None]
        if start is None:
            return hidden[None, None, None]
        return (hidden | (keys < start[:, None, None]))[:, None, None]


def draw_tokens(
    transformer: IVideoGPTForCausalLM,
    plain: PlainParts,
    layout: TokenLayout,
    hidden: Tensor,
    uniform: Tensor,
    sampling: Sampling,
) -> tuple[Tensor, Tensor]:
    """Tokens (rows, n) and their log-probabilities, from (rows, n, hidden) and (rows, n) in [0, 1)."""
    first, stop = 0, None
    if sampling.restrict_to_codes:
        first = layout.dynamics_offset
        stop = first + layout.num_dynamics_codes
    logits = _logits(transformer, plain, hidden.flatten(0, 1), first, stop)
    ids, log_prob = draw(logits, uniform.flatten(), sampling)
    return (ids + first).view(uniform.shape), log_prob.view(uniform.shape)


def _logits(
    transformer: IVideoGPTForCausalLM, plain: PlainParts, hidden: Tensor, first: int = 0, stop: int | None = None
) -> Tensor:
    """Logits (rows, ids) of the ids from ``first`` to ``stop``, from (rows, hidden)."""
    head = transformer.lm_head
    if plain.lm_head:
        return project(hidden, head.weight, first, stop)
    return head(as_input_of(head, hidden))[:, first:stop].to(hidden.dtype)


def reward_at_start(transformer: IVideoGPTForCausalLM, hidden: Tensor) -> Tensor | None:
    """What the reward head reads at the first of (rows, n, hidden): (rows,); None without such a head."""
    if not transformer.config.predict_reward:
        return None
    head = transformer.reward_linear
    return transformer.rewards_of(head(as_input_of(head, hidden[:, 0])))


def attend(query: Tensor, prefix: Tensor, tail: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over a shared prefix and a private tail with one softmax over both.

    Args:
        query: queries (rows, heads, n, d), scaled; row i continues prefix i // (rows // P).
        prefix: keys and values (2, P, kv_heads, L, d) of the prompts.
        tail: keys and values (2, rows, kv_heads, M, d) of the rows.
        mask: positions of the tail that are hidden, bool, broadcastable to (rows, kv_heads, heads // kv_heads, n, M);
            None: all are seen.

    Returns:
        (rows, heads, n, d).
    """
    rows, heads, num_queries, head_dim = query.shape
    num_prefixes, kv_heads, prefix_length = prefix.shape[1:4]
    groups = heads // kv_heads
    # All queries that look at one prefix, of whatever row, are one matrix product.
    by_row = query.reshape(rows, kv_heads, groups * num_queries, head_dim)
    by_prefix = by_row.unflatten(0, (num_prefixes, -1)).transpose(1, 2)
    on_prefix = by_prefix.flatten(2, 3) @ prefix[0].transpose(-1, -2)
    on_prefix = on_prefix.unflatten(2, (-1, groups * num_queries)).transpose(1, 2).flatten(0, 1)
    on_tail = by_row @ tail[0].transpose(-1, -2)
    if mask is not None:
        grouped = on_tail.view(rows, kv_heads, groups, num_queries, -1)
        on_tail = grouped.masked_fill(mask, float("-inf")).view_as(on_tail)
    weights = torch.cat([on_prefix, on_tail], dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix, on_tail = weights[..., :prefix_length], weights[..., prefix_length:]
    by_prefix = on_prefix.unflatten(0, (num_prefixes, -1)).transpose(1, 2)
    from_prefix = by_prefix.flatten(2, 3) @ prefix[1]
    from_prefix = from_prefix.unflatten(2, (-1, groups * num_queries)).transpose(1, 2).flatten(0, 1)
    return (from_prefix + on_tail @ tail[1]).reshape(rows, heads, num_queries, head_dim)
