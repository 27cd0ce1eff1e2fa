"""The machinery of rollouts: coding contexts, advancing rows frame by frame, decoding, re-anchoring."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..decoding.compiled import CompiledFrames
from ..decoding.frames import FrameDecoder, prefill
from ..decoding.sampling import Sampling, uniforms
from ..decoding.tails import Tail
from ..media.pixels import clamp_to_uint8
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import ContextMemory, IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.token_layout import TokenLayout
from ..spec import WorldModelSpec
from .clock import DECODE, NO_CLOCK, PREFILL, VQ, Clock
from .results import Rollout, RolloutStatistics, Step
from .state import Contexts, WorldState

HorizonPolicy = Literal["reanchor", "error"]

# Frames are coded and decoded in chunks of this many pixels: 64 frames of 64 x 64, 4 of 256 x 256.
PIXELS_PER_CHUNK = 64 * 64 * 64


class Advance(NamedTuple):
    """What one more frame brings: the step, the state after it, the reward of the frame before where its first pass
    read it, and how many tokens were guessed and were right."""

    step: Step
    state: WorldState
    previous_reward: Tensor | None
    num_guessed: int
    num_right: int


class RolloutEngine:
    """Does what `WorldModel` promises, on inputs that were checked there.

    Args:
        vq_model, transformer, processor: parts that fit each other. They are read at each call, and never changed.
    """

    def __init__(
        self, vq_model: IVideoGPTVQModel, transformer: IVideoGPTForCausalLM, processor: IVideoGPTVideoProcessor
    ) -> None:
        self.vq_model = vq_model
        self.transformer = transformer
        self.processor = processor
        self.compiled: CompiledFrames | None = None

    @property
    def layout(self) -> TokenLayout:
        """Where each frame's tokens sit in the sequence."""
        return self.transformer.config.layout

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self.transformer.device

    @property
    def spec(self) -> WorldModelSpec:
        """Sizes of what goes in and comes out."""
        config, processor = self.transformer.config, self.processor
        max_future_frames = self.layout.max_future_frames(config.max_position_embeddings)
        if config.num_trained_frames is not None:
            max_future_frames = min(max_future_frames, config.num_trained_frames)
        return WorldModelSpec(
            frame_size=self.vq_model.config.frame_size,
            num_context_frames=config.num_context_frames,
            action_dim=processor.action_dim or config.action_dim,
            action_low=None if processor.action_low is None else tuple(processor.action_low),
            action_high=None if processor.action_high is None else tuple(processor.action_high),
            has_reward=config.predict_reward,
            goal_conditioned=config.goal_conditioned,
            num_trained_frames=config.num_trained_frames,
            max_future_frames=max_future_frames,
        )

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Eval mode and no gradients inside; each module's training flag is put back afterwards."""
        training = [module for net in (self.vq_model, self.transformer) for module in net.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True

    def encode(self, frames: Tensor, clock: Clock = NO_CLOCK) -> Contexts:
        """Code and prefill contexts (P, C, 3, H, W) uint8, in chunks."""
        chunks = []
        for chunk in frames.split(max(1, PIXELS_PER_CHUNK // frames[0, :, 0].numel())):
            with clock.measure(VQ):
                pixels = chunk.float() / 255
                context = self.vq_model.encode_context(pixels)
                prompts = self.vq_model.prompt_tokens(pixels, context)
            with clock.measure(PREFILL):
                prefix = prefill(self.transformer, prompts)
            chunks.append(Contexts(chunk, prompts[:, -1], prefix, context.decoder_memory))
        return chunks[0] if len(chunks) == 1 else Contexts.cat(chunks)

    def decode(self, state: WorldState, tokens: Tensor, sampling: Sampling) -> Tensor:
        """Decode tokens (B, T, tokens_per_future_frame) of a state's rows to (B, T, 3, H, W) uint8, in chunks."""
        codes = tokens - self.layout.dynamics_offset
        if not sampling.restrict_to_codes:
            codes = codes.clamp(0, self.layout.num_dynamics_codes - 1)
        state = state.grouped()
        codes = codes.unflatten(0, (-1, state.rows_per_context)).flatten(1, 2)
        height, width = self.spec.frame_size
        budget = max(1, PIXELS_PER_CHUNK // (height * width))
        frames_per_chunk = min(budget, codes.shape[1])
        decoded = []
        contexts_per_chunk = max(1, budget // frames_per_chunk)
        for first in range(0, len(codes), contexts_per_chunk):
            part = slice(first, first + contexts_per_chunk)
            memory = [ContextMemory(m.key[part], m.value[part]) for m in state.contexts.memory]
            chunks = codes[part].split(frames_per_chunk, dim=1)
            decoded.append(
                torch.cat([clamp_to_uint8(self.vq_model.decode_future(memory, chunk)) for chunk in chunks], 1)
            )
        return torch.cat(decoded).flatten(0, 1).unflatten(0, tokens.shape[:2])

    def advance(
        self,
        state: WorldState,
        actions: Tensor | None,
        sampling: Sampling,
        seeds: Tensor,
        read_reward: bool,
        num_frames_ahead: int | None = None,
    ) -> Advance:
        """Decode the tokens of one more frame for every row."""
        state = state.grouped()
        layout, device = self.layout, self.device
        last_tokens = state.contexts.last_tokens.repeat_interleave(state.rows_per_context)
        if state.tokens.shape[1]:
            fresh = torch.tensor([count == 0 for count in state.num_frames], device=device)
            last_tokens = torch.where(fresh, last_tokens, state.tokens[:, -1, -1])
        streams = torch.tensor(state.streams, device=device)
        first = torch.tensor(state.num_steps, device=device) * layout.block_length
        if sampling.common_random_numbers:
            streams = torch.zeros_like(streams)
        if actions is not None:
            actions = self.processor.normalize_actions(actions.to(device))
        uniform = uniforms(seeds, streams, first, layout.block_length)
        read_reward = read_reward and self.spec.has_reward
        # The original forces the slot only where it carries an action, and for the first frame.
        sample_slot = not (sampling.restrict_to_codes or self.spec.action_dim or 0 in state.num_frames)
        prefix, rows_per_prefix = state.contexts.prefix, state.rows_per_context
        if self.compiled is not None and not (sample_slot or sampling.num_guesses):
            program = self.compiled.program(len(state.contexts), rows_per_prefix, sampling)
            decoded = program.decode(prefix, state.tail, last_tokens, actions, uniform, read_reward)
        else:
            decoded = FrameDecoder(self.transformer, prefix, rows_per_prefix).decode(
                state.tail,
                last_tokens,
                actions,
                uniform,
                sampling,
                num_frames_ahead=num_frames_ahead,
                read_reward=read_reward,
                sample_slot=sample_slot,
                draft=state.tokens[:, -1] if sampling.num_guesses and min(state.num_frames) else None,
            )
        advanced = replace(
            state,
            tokens=torch.cat([state.tokens, decoded.tokens[:, None]], dim=1),
            tail=decoded.tail,
            num_frames=tuple(count + 1 for count in state.num_frames),
            num_steps=tuple(count + 1 for count in state.num_steps),
        )
        reward, previous_reward = (
            None if value is None else self.processor.rewards_from_head(value)
            for value in (decoded.reward, decoded.previous_reward)
        )
        step = Step(None, reward, decoded.tokens, decoded.log_prob)
        return Advance(step, advanced, previous_reward, decoded.num_guessed, decoded.num_right)

    def run(
        self,
        state: WorldState,
        actions: Tensor | None,
        num_frames: int,
        sampling: Sampling,
        seeds: Tensor,
        with_reward: bool,
        decode_steps: tuple[int, ...],
        horizon_policy: HorizonPolicy,
        clock: Clock,
    ) -> Rollout:
        """Advance T times; decode the wanted steps at the end, or before their context is replaced."""
        steps, rewards, frames, pending, reanchored_at = [], [], [], [], []
        num_guessed = num_right = 0
        limit = self.spec.max_future_frames

        def flush() -> None:
            if pending:
                with clock.measure(VQ):
                    frames.append(self.decode(state, torch.stack(pending, dim=1), sampling))
                pending.clear()

        for i in range(num_frames):
            if max(state.num_frames) >= limit:
                flush()
                reanchored_at.append(i)
            state = self.with_room(state, horizon_policy, sampling, clock)
            action = None if actions is None else actions[:, i]
            # A reward is read by the next frame's first pass, and only where no next frame follows by one of its own.
            is_last = i == num_frames - 1 or max(state.num_frames) + 1 >= limit
            room = min(num_frames - i, limit)
            with clock.measure(DECODE):
                advance = self.advance(state, action, sampling, seeds, with_reward and is_last, room)
            state = advance.state
            if len(rewards) < i:
                rewards.append(advance.previous_reward)
            if is_last:
                rewards.append(advance.step.reward)
            steps.append(advance.step)
            num_guessed, num_right = num_guessed + advance.num_guessed, num_right + advance.num_right
            if i in decode_steps:
                pending.append(advance.step.tokens)
        flush()
        if with_reward and self.spec.has_reward:
            steps = [replace(step, reward=reward) for step, reward in zip(steps, rewards, strict=True)]
        return Rollout.of_steps(
            steps,
            frames=torch.cat(frames, dim=1) if frames else None,
            actions=actions,
            decoded_steps=decode_steps,
            reanchored_at=reanchored_at,
            state=state,
            statistics=RolloutStatistics(
                num_frames=num_frames * state.batch_size,
                num_tokens=num_frames * state.tokens[:, 0].numel(),
                prefill_seconds=clock.seconds[PREFILL],
                decode_seconds=clock.seconds[DECODE],
                vq_seconds=clock.seconds[VQ],
                cache_bytes=state.num_bytes,
                num_guessed=num_guessed,
                num_right=num_right,
            ),
        )

    # -- horizon ------------------------------------------------------------------------------------------------------

    def check_horizon(self, state: WorldState, num_frames: int) -> None:
        limit = self.spec.max_future_frames
        longest = max(state.num_frames) + num_frames
        if longest > limit:
            raise ValueError(
                f"{longest} future frames go beyond this model's {limit} (what training and its "
                f"{self.transformer.config.max_position_embeddings} positions allow); ask for fewer, or pass "
                f"horizon_policy='reanchor'"
            )

    def with_room(
        self, state: WorldState, horizon_policy: HorizonPolicy, sampling: Sampling, clock: Clock = NO_CLOCK
    ) -> WorldState:
        """Make sure that every row can take one more frame."""
        if horizon_policy not in ("reanchor", "error"):
            raise ValueError(f"horizon_policy must be 'reanchor' or 'error', got {horizon_policy!r}")
        limit = self.spec.max_future_frames
        full = [row for row, count in enumerate(state.num_frames) if count >= limit]
        if not full:
            return state
        if horizon_policy == "error":
            self.check_horizon(state, 1)
        warnings.warn(
            f"a rollout passed {limit} frames and was re-anchored on its own predictions; "
            f"horizon_policy='error' refuses that",
            stacklevel=4,
        )
        reanchored = self.reanchor(state.index(full), None, sampling, clock)
        others = [row for row in range(state.batch_size) if row not in set(full)]
        if not others:
            return reanchored
        order = [*others, *full]
        joined = WorldState.cat([state.index(others), reanchored])
        return joined.index([order.index(row) for row in range(state.batch_size)])

    def reanchor(
        self, state: WorldState, new_frames: Tensor | None, sampling: Sampling, clock: Clock = NO_CLOCK
    ) -> WorldState:
        """Make the last known frames, followed by (B, n, 3, H, W) uint8 new ones, the context."""
        goals = self.spec.num_goal_frames
        num_new = 0 if new_frames is None else new_frames.shape[1]
        num_known = self.spec.num_real_context_frames - num_new
        parts = [] if new_frames is None else [new_frames]
        if num_known:
            with clock.measure(VQ):
                parts.insert(0, self.last_frames(state, num_known, sampling))
        of_row = torch.tensor(state.context_of_row, device=self.device)
        if goals:
            parts.insert(0, state.contexts.frames[of_row, :goals])
        return replace(
            state,
            contexts=self.encode(torch.cat(parts, dim=1), clock),
            context_of_row=tuple(range(state.batch_size)),
            tokens=state.tokens[:, :0],
            tail=Tail(),
            num_frames=(0,) * state.batch_size,
        )

    def last_frames(self, state: WorldState, num_frames: int, sampling: Sampling) -> Tensor:
        """The last frames of each row, (B, num_frames, 3, H, W) uint8: predicted ones, before them real ones."""
        of_row = torch.tensor(state.context_of_row, device=self.device)
        known = state.contexts.frames[of_row, self.spec.num_goal_frames :]
        num_predicted = min(num_frames, max(state.num_frames))
        if not num_predicted:
            return known[:, -num_frames:]
        predicted = self.decode(state, state.tokens[:, -num_predicted:], sampling)
        rows = [
            torch.cat([known[row], predicted[row, num_predicted - min(count, num_predicted) :]])[-num_frames:]
            for row, count in enumerate(state.num_frames)
        ]
        return torch.stack(rows)
