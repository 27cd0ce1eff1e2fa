"""Frame-by-frame decoding of the transformer with a prompt that candidates share.

The keys and values of a prompt (the *prefix*) are stored once, however many rows continue it; what a row adds (its
*tail*) is written in place into a preallocated buffer. Attention covers both with one softmax, so that the result is
that of ordinary attention, to rounding.

The last token of a frame is processed together with the slot of the next one: the tail begins with the last token of
the prompt, and each frame adds a two-token pass and one pass for each further token but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .models.modeling_ivideogpt import IVideoGPTForCausalLM
from .sampling import Sampling, draw

# Without a stated number of frames, buffers grow by this many at a time.
FRAMES_PER_GROWTH = 8


@torch.inference_mode()
def prefill(transformer: IVideoGPTForCausalLM, prompts: Tensor) -> Tensor:
    """Keys and values of prompts (P, L) int64, all but the last token: (layers, 2, P, kv_heads, L - 1, head_dim)."""
    cache = DynamicCache(config=transformer.config)
    transformer.model(input_ids=prompts[:, :-1], past_key_values=cache, use_cache=True)
    return torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])


class TailBuffer:
    """Storage (layers, 2, rows, kv_heads, capacity, head_dim) that several tails may share a beginning of.

    A tail of length ``filled`` may append in place: nothing that another tail reads is overwritten. A shorter one has
    been overtaken by another branch, and copies its beginning first.
    """

    def __init__(self, storage: Tensor, filled: int) -> None:
        self.storage = storage
        self.filled = filled


@dataclass(frozen=True)
class Tail:
    """What rows added to their prefixes.

    Args:
        buffer: the storage, or None while nothing was added.
        length: positions in use.
        start: (rows,) int64, the first position that belongs to the row: rows of different lengths end together, so
            that all write at the same place. None: all start at 0.
    """

    buffer: TailBuffer | None = None
    length: int = 0
    start: Tensor | None = None

    @property
    def storage(self) -> Tensor:
        """The part of the buffer that is in use."""
        return self.buffer.storage[..., : self.length, :]

    def select(self, rows: Tensor, lengths: Sequence[int]) -> Tail:
        """Copy the given rows, each with the positions that belong to it; what none of them needs stays behind."""
        longest = max(lengths)
        if not longest:
            return Tail()
        storage = self.buffer.storage[..., self.length - longest : self.length, :][:, :, rows]
        return Tail(TailBuffer(storage, longest), longest, starts_of(lengths, rows.device))

    def to(self, device: torch.device) -> Tail:
        """Copy to a device."""
        start = None if self.start is None else self.start.to(device)
        if self.buffer is None:
            return Tail(None, 0, start)
        return Tail(TailBuffer(self.storage.to(device), self.length), self.length, start)

    @staticmethod
    def cat(tails: Sequence[Tail], lengths: Sequence[Sequence[int]]) -> Tail:
        """Join tails of any lengths, aligned at their ends; each with the positions that belong to its rows."""
        longest = max(map(max, lengths))
        if not longest:
            return Tail()
        num_rows = sum(map(len, lengths))
        filled = next(tail.buffer.storage for tail in tails if tail.buffer is not None)
        layers, two, _, heads, _, head_dim = filled.shape
        storage = filled.new_zeros(layers, two, num_rows, heads, longest, head_dim)
        first = 0
        for tail, of_rows in zip(tails, lengths, strict=True):
            if used := max(of_rows):
                part = tail.buffer.storage[..., tail.length - used : tail.length, :]
                storage[:, :, first : first + len(of_rows), :, longest - used :] = part
            first += len(of_rows)
        return Tail(TailBuffer(storage, longest), longest, starts_of(list(chain(*lengths)), filled.device))

    def with_room(self, prefix: Tensor, num_rows: int, capacity: int) -> Tail:
        """A tail of the same content that may be written up to ``capacity``."""
        buffer = self.buffer
        if buffer is not None and buffer.filled == self.length and buffer.storage.shape[-2] >= capacity:
            return self
        layers, two, _, heads, _, head_dim = prefix.shape
        storage = prefix.new_empty(layers, two, num_rows, heads, capacity, head_dim)
        if buffer is not None:
            storage[..., : self.length, :] = self.storage
        return Tail(TailBuffer(storage, self.length), self.length, self.start)


def starts_of(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """First positions of rows of these lengths that end together; None: all begin at 0."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return torch.tensor([longest - length for length in lengths], device=device)


@dataclass(frozen=True)
class DecodedFrame:
    """One frame for each row: ``tokens`` (rows, tokens_per_future_frame) int64 vocabulary ids, ``log_prob`` (rows,)
    float32, ``reward`` (rows,) float as the head gives it or None, and the ``tail`` with the frame added."""

    tokens: Tensor
    log_prob: Tensor
    reward: Tensor | None
    tail: Tail


class FrameDecoder:
    """Decodes frames with one transformer.

    Args:
        transformer: the model; its layers are called one by one.
        prefix: (layers, 2, P, kv_heads, L, head_dim) from `prefill`.
        rows_per_prefix: rows i * rows_per_prefix ... belong to prefix i.
    """

    def __init__(self, transformer: IVideoGPTForCausalLM, prefix: Tensor, rows_per_prefix: int) -> None:
        self.transformer = transformer
        self.layout = transformer.config.layout
        self.prefix = prefix
        self.rows_per_prefix = rows_per_prefix
        self.num_rows = prefix.shape[2] * rows_per_prefix

    def decode(
        self,
        tail: Tail,
        last_tokens: Tensor,
        actions: Tensor | None,
        uniform: Tensor,
        sampling: Sampling,
        num_frames_ahead: int | None = None,
        with_reward: bool = False,
        sample_slot: bool = False,
    ) -> DecodedFrame:
        """Decode the next frame of every row.

        Args:
            tail: what the rows hold so far; it stays valid.
            last_tokens: (rows,) int64, the token before the slot.
            actions: (rows, A) float as the model takes them, or None.
            uniform: (rows, block_length) float32 in [0, 1): for the slot and for each token.
            sampling: how to draw.
            num_frames_ahead: frames to make room for, this one included; None: grow as needed.
            with_reward: whether to read the reward head, which takes one pass more.
            sample_slot: draw the slot's id too, instead of putting the slot there.
        """
        tail = self._make_room(tail, num_frames_ahead)
        length = tail.length
        slot = torch.full_like(last_tokens, self.layout.slot_id)
        if sample_slot:
            hidden = self._forward(self._embed(last_tokens[:, None]), tail, length)
            slot, _ = draw(self.transformer.lm_head(hidden[:, -1]), uniform[:, 0], sampling)
            hidden = self._forward(self._embed(slot[:, None]), tail, length + 1)
        else:
            embeds = self._embed(torch.stack([last_tokens, slot], dim=1))
            if actions is not None:
                embeds[:, 1] += self.transformer.action_linear(actions.to(embeds.dtype))
            hidden = self._forward(embeds, tail, length, actions)

        tokens, log_prob = [], 0
        for i in range(self.layout.tokens_per_future_frame):
            if i:
                hidden = self._forward(self._embed(tokens[-1][:, None]), tail, length + 1 + i, actions)
            token, token_log_prob = self._draw(hidden[:, -1], uniform[:, 1 + i], sampling)
            tokens.append(token)
            log_prob = log_prob + token_log_prob

        end = length + self.layout.block_length
        reward = None
        if with_reward:
            # The last token's keys and values land where the next frame's first pass writes them again.
            hidden = self._forward(self._embed(tokens[-1][:, None]), tail, end)
            reward = self.transformer.reward_linear(hidden[:, -1])[:, 0]
        tail.buffer.filled = end
        return DecodedFrame(torch.stack(tokens, dim=1), log_prob, reward, Tail(tail.buffer, end, tail.start))

    def _make_room(self, tail: Tail, num_frames_ahead: int | None) -> Tail:
        needed = tail.length + self.layout.block_length + 1  # one more for the pass that reads the reward
        buffer = tail.buffer
        if buffer is not None and buffer.filled == tail.length and buffer.storage.shape[-2] >= needed:
            return tail
        num_frames = FRAMES_PER_GROWTH if num_frames_ahead is None else num_frames_ahead
        capacity = tail.length + self.layout.block_length * max(num_frames, 1) + 1
        return tail.with_room(self.prefix, self.num_rows, capacity)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.transformer.model.embed_tokens(tokens)

    def _draw(self, hidden: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        if not sampling.restrict_to_codes:
            return draw(self.transformer.lm_head(hidden), uniform, sampling)
        first = self.layout.dynamics_offset
        weight = self.transformer.lm_head.weight[first : first + self.layout.num_dynamics_codes]
        code, log_prob = draw(F.linear(hidden, weight), uniform, sampling)
        return code + first, log_prob

    def _forward(self, x: Tensor, tail: Tail, length: int, actions: Tensor | None = None) -> Tensor:
        """Run (rows, n, hidden) embeddings through the layers, writing their keys and values at ``length`` of the
        tail's buffer; returns the normed hidden states. Actions (rows, A) have a say in the last position only: before
        it stands, if anything, the end of the frame before."""
        modulates = actions is not None and self.transformer.config.action_conditioning == "scale_shift"
        model = self.transformer.model
        stop = length + x.shape[1]
        positions = torch.arange(length, stop, device=x.device)[None] + self.prefix.shape[-2]
        if tail.start is not None:
            positions = positions - tail.start[:, None]
        cos, sin = model.rotary_emb(x, positions)
        mask = self._mask(tail.start, length, stop, x.device)
        for index, layer in enumerate(model.layers):
            if modulates:
                x = torch.cat([x[:, :-1], layer.modulate(x[:, -1:], actions[:, None])], dim=1)
            attention = layer.self_attn
            shape = (*x.shape[:2], -1, attention.head_dim)
            normed = layer.input_layernorm(x)
            query = attention.q_proj(normed).view(shape).transpose(1, 2)
            key = attention.k_proj(normed).view(shape).transpose(1, 2)
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            stored = tail.buffer.storage[index]
            stored[0, :, :, length:stop] = key
            stored[1, :, :, length:stop] = attention.v_proj(normed).view(shape).transpose(1, 2)
            attended = attend(query * attention.scaling, self.prefix[index], stored[..., :stop, :], mask)
            x = x + attention.o_proj(attended.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return model.norm(x)

    def _mask(self, start: Tensor | None, length: int, stop: int, device: torch.device) -> Tensor | None:
        """(rows or 1, 1, 1, n, stop) bool: which tail positions a query must not see; None if it sees all."""
        if start is None and stop - length == 1:
            return None
        keys = torch.arange(stop, device=device)
        hidden = keys > torch.arange(length, stop, device=device)[:, None]
        if start is None:
            return hidden[None, None, None]
        return (hidden | (keys < start[:, None, None]))[:, None, None]


def attend(query: Tensor, prefix: Tensor, tail: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over a shared prefix and a private tail with one softmax over both.

    Args:
        query: (rows, heads, n, d), scaled; row i continues prefix i // (rows // P).
        prefix: (2, P, kv_heads, L, d) keys and values.
        tail: (2, rows, kv_heads, M, d) keys and values.
        mask: broadcastable to (rows, kv_heads, heads // kv_heads, n, M) bool, True where not to look; or None.

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
