"""Frames as compiled programs of fixed shape: static buffers, nothing but tensors inside, one CUDA graph on a GPU.

A program computes what `FrameDecoder` computes. It owns the storage that it works on; a state that went through it goes
on in place, and any other is copied in first.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from ..models.modeling_ivideogpt import IVideoGPTForCausalLM, as_input_of
from .devices import device_of
from .frames import DecodedFrame, attend, draw_tokens, reward_at_start
from .layers import compute_dtype, rotary_embeddings, run_layers
from .plain import PlainParts
from .sampling import Sampling
from .tails import Tail, TailBuffer

MODES = ("default", "reduce-overhead", "max-autotune")


class CompiledFrames:
    """Programs of one transformer, by shape and sampling.

    Args:
        transformer: model whose frames are decoded.
        max_frames: number of frames that a program allocates buffers for.
        mode: mode of `torch.compile`, one of `MODES`.

    Raises:
        ValueError: on another mode.
    """

    def __init__(self, transformer: IVideoGPTForCausalLM, max_frames: int, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        self.transformer = transformer
        self.max_frames = max_frames
        self.mode = mode
        self._programs: dict[tuple[Any, ...], FrameProgram] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[CompiledFrames], tuple[Any, ...]]:
        # A program's functions work on its own buffers and weights: a copy compiles its own.
        return CompiledFrames, (self.transformer, self.max_frames, self.mode)

    def program(self, num_prefixes: int, rows_per_prefix: int, sampling: Sampling) -> FrameProgram:
        """The program for a shape, which others share: rows are added to reach a power of two of candidates of one
        context, or of contexts."""
        if num_prefixes == 1:
            rows_per_prefix = _power_of_two(rows_per_prefix)
        else:
            num_prefixes = _power_of_two(num_prefixes)
        drawing = Sampling(
            sampling.temperature, sampling.top_k, sampling.greedy, restrict_to_codes=sampling.restrict_to_codes
        )
        # The transformer may have been moved or cast since the last call.
        key = (num_prefixes, rows_per_prefix, drawing, device_of(self.transformer), self.transformer.dtype)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = FrameProgram(
                    self.transformer, num_prefixes, rows_per_prefix, drawing, self.max_frames, self.mode
                )
            return self._programs[key]


class FrameProgram:
    """Decodes a frame of each of a fixed number of rows. Threads take turns.

    Args:
        transformer: model whose frames are decoded.
        num_prefixes: number of prompts.
        rows_per_prefix: number of rows that continue each prompt; rows i * rows_per_prefix ... continue prompt i.
        sampling: distribution to draw from.
        max_frames: number of frames to allocate buffers for.
        mode: mode of `torch.compile`, one of `MODES`.
    """

    def __init__(
        self,
        transformer: IVideoGPTForCausalLM,
        num_prefixes: int,
        rows_per_prefix: int,
        sampling: Sampling,
        max_frames: int,
        mode: str,
    ) -> None:
        config, layout = transformer.config, transformer.config.layout
        self.transformer, self.layout, self.sampling = transformer, layout, sampling
        self.num_rows = num_prefixes * rows_per_prefix
        self.plain = PlainParts.of(transformer)
        self.modulates = config.action_conditioning == "scale_shift"
        device, dtype = device_of(transformer), compute_dtype(transformer)
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        capacity = layout.block_length * max_frames + 1  # one more for the pass that reads the reward
        # Zeros, since positions that are masked still take part in products.
        self.prefix = torch.zeros(
            layers, 2, num_prefixes, heads, layout.prompt_length - 1, config.head_dim, dtype=dtype, device=device
        )
        self.storage = torch.zeros(
            layers, 2, self.num_rows, heads, capacity, config.head_dim, dtype=dtype, device=device
        )
        self.keys = torch.arange(capacity, device=device)
        rows = self.num_rows
        self.length = torch.zeros((), dtype=torch.int64, device=device)
        self.start = torch.zeros(rows, dtype=torch.int64, device=device)
        self.last_tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.uniform = torch.zeros(rows, layout.block_length, dtype=torch.float32, device=device)
        self.actions = None
        if config.action_dim:
            self.actions = torch.zeros(rows, config.action_dim, dtype=torch.float32, device=device)
        # What the static buffers hold. Nobody's state or context is kept alive by that: what nobody holds any more need
        # not be saved before it is overwritten.
        self._loaded_prefix: weakref.ref[Tensor] | None = None
        self._resident: weakref.ref[TailBuffer] | None = None
        # On a GPU the whole frame becomes one graph, so that the compiler need not make graphs of its parts.
        if device.type == "cuda" and mode != "default":
            mode = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}[mode]
            self._captures = True
        else:
            self._captures = False
        # Each program has its own cache, whose size would otherwise be shared, and limited.
        compiled = {"fullgraph": True, "dynamic": False, "mode": mode, "isolate_recompiles": True}
        self._first_pass = torch.compile(self._run_first_pass, **compiled)
        self._next_pass = torch.compile(self._run_next_pass, **compiled)
        self._reward_pass = torch.compile(self._run_reward_pass, **compiled)
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, tuple[Tensor | None, ...]]] = {}
        self._captured_weights: tuple[int, ...] = ()
        # Whoever has it may use the static buffers. Their content is read under it too: see `TailBuffer.guard`.
        self._lock = threading.RLock()

    def decode(
        self,
        prefix: Tensor,
        tail: Tail,
        last_tokens: Tensor,
        actions: Tensor | None,
        uniform: Tensor,
        read_reward: bool,
    ) -> DecodedFrame:
        """The next frame of every row; arguments as of `FrameDecoder.decode`, for as many rows or fewer."""
        # Before the program's own lock is taken: two programs that wait for each other would wait for ever.
        elsewhere = None
        if tail.buffer is not None and tail.buffer.guard is not self._lock:
            elsewhere = tail.copy()
        with self._lock:
            return self._decode(prefix, tail, elsewhere, last_tokens, actions, uniform, read_reward)

    def _decode(
        self,
        prefix: Tensor,
        tail: Tail,
        elsewhere: Tensor | None,
        last_tokens: Tensor,
        actions: Tensor | None,
        uniform: Tensor,
        read_reward: bool,
    ) -> DecodedFrame:
        num_rows = len(last_tokens)
        buffer = self._load(prefix, tail, elsewhere, num_rows)
        self.length.fill_(tail.length)
        self.start.zero_()
        if tail.start is not None:
            self.start[:num_rows] = tail.start
        self.last_tokens[:num_rows] = last_tokens
        self.uniform[:num_rows] = uniform
        if self.actions is not None:
            self.actions[:num_rows] = actions
        run = self._replay if self._captures else self._frame
        # Static outputs are written again by the next frame.
        outputs = [None if value is None else value[:num_rows].clone() for value in run(read_reward)]
        tokens, log_prob, reward, previous_reward = outputs
        end = tail.length + self.layout.block_length
        return DecodedFrame(
            tokens=tokens,
            log_prob=log_prob,
            reward=reward,
            previous_reward=previous_reward if tail.length else None,
            tail=Tail(buffer, end, tail.start),
            num_guessed=0,
            num_right=0,
        )

    # -- what is where ------------------------------------------------------------------------------------------------

    def _load(self, prefix: Tensor, tail: Tail, elsewhere: Tensor | None, num_rows: int) -> TailBuffer:
        """Have the prefix and the tail, or a copy of it, in the static buffers; returns the buffer that the rows go on
        in."""
        if self._loaded_prefix is None or self._loaded_prefix() is not prefix:
            self.prefix[:, :, : prefix.shape[2]] = prefix
            self._loaded_prefix = weakref.ref(prefix)
        resident = None if self._resident is None else self._resident()
        stop = tail.length + self.layout.block_length
        if (
            resident is not None
            and resident is tail.buffer
            and resident.claim(tail.length, stop, capacity=stop + 1) is not None
        ):
            return resident
        storage = tail.copy() if elsewhere is None and tail.buffer is not None else elsewhere
        if resident is not None:  # some state still needs what is overwritten now
            resident.leave()
        if storage is not None:
            self.storage[:, :, :num_rows, :, : tail.length] = storage
        buffer = TailBuffer(self.storage[:, :, :num_rows], stop, guard=self._lock)
        self._resident = weakref.ref(buffer)
        return buffer

    # -- the program --------------------------------------------------------------------------------------------------

    def _replay(self, read_reward: bool) -> tuple[Tensor | None, ...]:
        # A graph reads the memory that it was captured with, whatever the parameters are by now.
        weights = tuple(parameter.data_ptr() for parameter in self.transformer.parameters())
        if weights != self._captured_weights:
            self._graphs.clear()
            self._captured_weights = weights
        if read_reward not in self._graphs:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # compiles, and lets libraries allocate
                    self._frame(read_reward)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may allocate meanwhile
                outputs = self._frame(read_reward)
            self._graphs[read_reward] = graph, outputs
        graph, outputs = self._graphs[read_reward]
        graph.replay()
        return outputs

    def _frame(self, read_reward: bool) -> tuple[Tensor | None, ...]:
        token, log_prob, previous_reward = self._first_pass()
        tokens, log_probs = [token], [log_prob]
        for i in range(1, self.layout.tokens_per_future_frame):
            token, log_prob = self._next_pass(token, self.length + 1 + i, self.uniform[:, 1 + i])
            tokens.append(token)
            log_probs.append(log_prob)
        reward = self._reward_pass(token, self.length + self.layout.block_length) if read_reward else None
        return torch.stack(tokens, dim=1), torch.stack(log_probs, dim=1).sum(1), reward, previous_reward

    def _run_first_pass(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The end of the frame before and the slot; returns the first token, its log-probability, and the reward of
        the frame before."""
        slot = torch.full_like(self.last_tokens, self.layout.slot_id)
        inputs = self._embed(torch.stack([self.last_tokens, slot], dim=1))
        if self.actions is not None:
            action_linear = self.transformer.action_linear
            added = action_linear(as_input_of(action_linear, self.actions)).to(inputs.dtype)
            inputs = torch.stack([inputs[:, 0], inputs[:, 1] + added], dim=1)
        hidden = self._run_pass(inputs, self.length, num_before=1)
        return *self._draw(hidden, self.uniform[:, 1]), reward_at_start(self.transformer, hidden)

    def _run_next_pass(self, token: Tensor, first: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        return self._draw(self._run_pass(self._embed(token[:, None]), first), uniform)

    def _run_reward_pass(self, token: Tensor, first: Tensor) -> Tensor | None:
        # The end of a frame is not modulated by its action.
        return reward_at_start(self.transformer, self._run_pass(self._embed(token[:, None]), first, num_before=1))

    def _run_pass(self, inputs: Tensor, first: Tensor, num_before: int = 0) -> Tensor:
        count = inputs.shape[1]
        positions = first + torch.arange(count, device=first.device)
        rotary = rotary_embeddings(self.transformer, positions - self.start[:, None] + self.prefix.shape[-2])
        hidden = (self.keys > positions[:, None]) | (self.keys < self.start[:, None, None])

        def attention(index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            self.storage[index, 0].index_copy_(2, positions, key)
            self.storage[index, 1].index_copy_(2, positions, value)
            return attend(query * scaling, self.prefix[index], self.storage[index], hidden[:, None, None])

        actions = self.actions if self.modulates and num_before < count else None
        return run_layers(self.transformer, self.plain, inputs, rotary, attention, actions, num_before)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.transformer.model.embed_tokens(tokens)

    def _draw(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        tokens, log_probs = draw_tokens(
            self.transformer, self.plain, self.layout, hidden[:, -1:], uniform[:, None], self.sampling
        )
        return tokens[:, 0], log_probs[:, 0]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
