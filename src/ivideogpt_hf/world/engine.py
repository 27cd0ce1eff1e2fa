"""The machinery of rollouts: coding contexts, advancing rows frame by frame, decoding, re-anchoring."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..decoding.compiled import CompiledFrames
from ..decoding.devices import bring, device_of
from ..decoding.frames import FrameDecoder, prefill
from ..decoding.overrides import override
from ..decoding.plain import PlainParts
from ..decoding.sampling import Sampling, uniforms
from ..decoding.tails import Tail
from ..media.pixels import clamp_to_uint8
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.token_layout import TokenLayout
from ..models.vq_layers import ContextMemory
from ..spec import WorldModelSpec
from . import clock
from .checks import check_calls
from .clock import measure
from .options import RolloutOptions
from .protocol import OnStep, Policy, is_end
from .record import Advance, RolloutRecord
from .results import Observation, Requested, Rollout, Step
from .slices import Slices
from .state import Contexts, WorldState

# Frames are coded and decoded in chunks of this many pixels: 64 frames of 64 x 64, 4 of 256 x 256.
PIXELS_PER_CHUNK = 64 * 64 * 64
PACKAGE_FOLDER = str(Path(__file__).parents[1])


class RolloutEngine:
    """Does what `WorldModel` promises, on inputs that `Calls` checked, inside `inference`.

    What takes long comes in slices: a frame of all rows, or a chunk of frames that are coded or decoded.

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
        """Device that the networks compute on."""
        return device_of(self.transformer)

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
            action_names=None if processor.action_names is None else tuple(processor.action_names),
            crop_to_aspect=processor.crop_to_aspect,
        )

    @contextmanager
    def inference(self) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Eval mode, the networks' own precision and no gradients inside; each module's training flag is put back
        afterwards, when no rollout of another thread runs either.

        Yields:
            A context manager for functions of the caller's: inside, gradients and autocast are what they were outside.

        Raises:
            ValueError: if the networks are changed in a way that a rollout would go past.
        """
        check_calls(self.vq_model, self.transformer)
        kind = self.device.type
        in_inference, with_gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))

        @contextmanager
        def as_outside() -> Iterator[None]:
            with torch.inference_mode(in_inference), torch.set_grad_enabled(with_gradients), autocast:
                yield

        with (
            override(self.vq_model, "training", value=False, objects=self.vq_model.modules()),
            override(self.transformer, "training", value=False, objects=self.transformer.modules()),
            torch.inference_mode(),
            torch.autocast(kind, enabled=False),
        ):
            yield as_outside

    def encode(self, frames: Tensor) -> Slices[Contexts]:
        """Code and prefill contexts (P, C, 3, H, W) uint8, in chunks."""
        chunks = []
        for chunk in frames.split(max(1, PIXELS_PER_CHUNK // frames[0, :, 0].numel())):
            with measure("vq"):
                bring(self.vq_model)
                pixels = chunk.float() / 255
                context = self.vq_model.encode_context(pixels)
                prompts = self.vq_model.prompt_tokens(pixels, context)
            with measure("prefill"):
                bring(self.transformer)
                prefix = prefill(self.transformer, prompts)
            chunks.append(Contexts(chunk, prompts[:, -1], prefix, context.decoder_memory))
            yield chunk.shape[0] * chunk.shape[1]
        return chunks[0] if len(chunks) == 1 else Contexts.cat(chunks)

    def start(self, frames: Tensor) -> Slices[WorldState]:
        """The state of B worlds that begin with context frames (B, C, 3, H, W) uint8."""
        # A copy, since a state keeps its frames, and callers write their next ones into the same memory.
        contexts = yield from self.encode(frames.to(self.device, copy=True))
        num_rows = len(frames)
        tokens = torch.empty(num_rows, 0, self.layout.tokens_per_future_frame, dtype=torch.int64, device=self.device)
        zeros = (0,) * num_rows
        return WorldState(contexts, tuple(range(num_rows)), tokens, Tail(), zeros, zeros, zeros)

    def decode(self, state: WorldState, tokens: Tensor) -> Slices[Tensor]:
        """Decode tokens (B, T, tokens_per_future_frame) of a state's rows to (B, T, 3, H, W) uint8, in chunks."""
        # Whoever looks at a state need not know whether its tokens were drawn from codes alone.
        codes = (tokens - self.layout.dynamics_offset).clamp(0, self.layout.num_dynamics_codes - 1)
        bring(self.vq_model)
        state = state.grouped()
        codes = codes.unflatten(0, (len(state.contexts), -1)).flatten(1, 2)
        height, width = self.spec.frame_size
        budget = max(1, PIXELS_PER_CHUNK // (height * width))
        frames_per_chunk = min(budget, codes.shape[1])
        decoded = []
        contexts_per_chunk = max(1, budget // frames_per_chunk)
        for first in range(0, len(codes), contexts_per_chunk):
            part = slice(first, first + contexts_per_chunk)
            memory = [ContextMemory(m.key[part], m.value[part]) for m in state.contexts.memory]
            chunks = codes[part].split(frames_per_chunk, dim=1)
            frames = state.contexts.frames[part].float() / 255
            parts = []
            for chunk in chunks:
                with measure("vq"):
                    parts.append(clamp_to_uint8(self.vq_model.decode_future(memory, chunk, frames)))
                yield chunk.shape[0] * chunk.shape[1]
            decoded.append(torch.cat(parts, 1))
        return torch.cat(decoded).flatten(0, 1).unflatten(0, tokens.shape[:2])

    def advance(
        self,
        state: WorldState,
        actions: Tensor | None,
        sampling: Sampling,
        seeds: Tensor,
        *,
        read_reward: bool,
        num_frames_ahead: int | None = None,
    ) -> Advance:
        """Decode the tokens of one more frame for every row."""
        bring(self.transformer)
        state = state.grouped()
        layout, device = self.layout, self.device
        rows_per_prefix = state.batch_size // len(state.contexts)
        last_tokens = state.contexts.last_tokens.repeat_interleave(rows_per_prefix)
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
        # The original forces the slot only where it carries an action, and for the first frame of each row.
        sample_slot = None
        if not (sampling.restrict_to_codes or self.spec.action_dim) and any(state.num_frames):
            sample_slot = torch.tensor([count > 0 for count in state.num_frames], device=device)
        prefix = state.contexts.prefix
        plain = PlainParts.of(self.transformer)
        if self.compiled is not None and plain.can_compile and sample_slot is None and not sampling.num_guesses:
            program = self.compiled.program(len(state.contexts), rows_per_prefix, sampling)
            decoded = program.decode(prefix, state.tail, last_tokens, actions, uniform, read_reward)
        else:
            decoded = FrameDecoder(self.transformer, prefix, rows_per_prefix, plain).decode(
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
            is_from_file=False,
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
        actions: Tensor | Policy | None,
        num_frames: int,
        seeds: Tensor,
        options: RolloutOptions,
        on_step: OnStep | None = None,
        as_outside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Slices[Rollout]:
        """Advance up to T times: the one loop over time, for actions (B, T, A), for a policy, and for action-free
        models.

        Frames are decoded together at the end, or before their context is replaced. Where a policy or ``on_step`` looks
        at each step as it comes, frames are decoded and rewards read one by one. They run inside ``as_outside``.
        """
        record = RolloutRecord(with_reward="rewards" in options.outputs and self.spec.has_reward)
        limit, decode_steps = self.spec.max_future_frames, options.steps_to_decode(num_frames)
        one_by_one = callable(actions) or on_step is not None
        frame: Requested = (yield from self.last_frame(state)) if callable(actions) else None
        for i in range(num_frames):
            if max(state.num_frames) >= limit:
                yield from self._decode_pending(record, state)
                record.reanchored_at.append(i)
            if callable(actions):
                reward = record.steps[-1].reward if record.steps else None
                with as_outside():
                    action = actions(Observation(frame, reward, i, state))
                if action is not None:  # as it is in an action-free model
                    record.actions.append(action.clone())  # a policy may return the same tensor each time
            elif actions is not None:
                record.actions.append(actions[:, i])
            state = yield from self.with_room(state, options)
            # The next frame's first pass reads a frame's reward. A pass of its own is needed only where no next
            # frame follows, or somebody waits for the reward.
            is_last = i == num_frames - 1 or max(state.num_frames) + 1 >= limit
            with measure("decode"):
                advance = self.advance(
                    state,
                    record.actions[-1] if record.actions else None,
                    options.sampling,
                    seeds,
                    read_reward=record.with_reward and (is_last or one_by_one),
                    num_frames_ahead=min(num_frames - i, limit),
                )
            state = advance.state
            record.add(advance)
            if i in decode_steps:
                record.pending.append(advance.step.tokens)
                record.decoded_steps.append(i)
            if one_by_one:
                frame = yield from self._decode_step(record, state, callable(actions))
                step = replace(record.steps[-1], frame=frame if i in decode_steps else None)
                with as_outside():
                    stops = on_step is not None and is_end(on_step(i, step))
                if stops:
                    break
            yield state.batch_size
        last = len(record.steps) - 1  # it may have ended early
        if options.shows_last and last not in record.decoded_steps:
            record.pending.append(record.steps[last].tokens)
            record.decoded_steps.append(last)
        yield from self._decode_pending(record, state)
        return record.as_rollout(state, clock.current())

    def _decode_pending(self, record: RolloutRecord, state: WorldState) -> Slices[None]:
        """Decode the steps that are still to be decoded; they continue the state's contexts."""
        if record.pending:
            record.frames.append((yield from self.decode(state, torch.stack(record.pending, dim=1))))
            record.pending.clear()

    def _decode_step(self, record: RolloutRecord, state: WorldState, is_seen: bool) -> Slices[Tensor | None]:
        """The frame (B, 3, H, W) uint8 of the step just taken; None if nobody wants it."""
        if record.pending:
            yield from self._decode_pending(record, state)
            return record.frames[-1][:, -1]
        if not is_seen:
            return None
        return (yield from self.last_frame(state))

    # -- horizon ------------------------------------------------------------------------------------------------------

    def check_horizon(self, state: WorldState, num_frames: int) -> None:
        """Raise ValueError if so many more frames go beyond the horizon."""
        limit = self.spec.max_future_frames
        longest = max(state.num_frames) + num_frames
        if longest > limit:
            raise ValueError(
                f"{longest} future frames go beyond this model's {limit} (what training and its "
                f"{self.transformer.config.max_position_embeddings} positions allow); ask for fewer, or pass "
                f"horizon_policy='reanchor'"
            )

    def with_room(self, state: WorldState, options: RolloutOptions) -> Slices[WorldState]:
        """Make sure that every row can take one more frame."""
        limit = self.spec.max_future_frames
        if max(state.num_frames) < limit:
            return state
        if options.horizon_policy == "error":
            self.check_horizon(state, 1)
        warnings.warn(
            f"a rollout passed {limit} frames and was re-anchored on its own predictions; "
            f"horizon_policy='error' refuses that",
            stacklevel=_stacklevel_of_caller(),
        )
        return (yield from self.make_room(state))

    def make_room(self, state: WorldState) -> Slices[WorldState]:
        """Re-anchor the rows that can take no more frame; the same state where there are none."""
        limit = self.spec.max_future_frames
        full = [row for row, count in enumerate(state.num_frames) if count >= limit]
        if not full:
            return state
        reanchored = yield from self.reanchor(state.index(full), None)
        others = [row for row in range(state.batch_size) if row not in set(full)]
        if not others:
            return reanchored
        order = [*others, *full]
        joined = WorldState.cat([state.index(others), reanchored])
        return joined.index([order.index(row) for row in range(state.batch_size)])

    def reanchor(self, state: WorldState, new_frames: Tensor | None) -> Slices[WorldState]:
        """Make the last known frames, followed by (B, n, 3, H, W) uint8 new ones, the context."""
        num_new = 0 if new_frames is None else new_frames.shape[1]
        num_known = self.spec.num_real_context_frames - num_new
        parts = [] if new_frames is None else [new_frames]
        if num_known:
            parts.insert(0, (yield from self.last_frames(state, num_known)))
        if self.spec.goal_conditioned:
            of_row = torch.tensor(state.context_of_row, device=self.device)
            parts.insert(0, state.contexts.frames[of_row, :1])
        return replace(
            state,
            contexts=(yield from self.encode(torch.cat(parts, dim=1))),
            context_of_row=tuple(range(state.batch_size)),
            tokens=state.tokens[:, :0],
            tail=Tail(),
            num_frames=(0,) * state.batch_size,
        )

    def last_frames(self, state: WorldState, num_frames: int) -> Slices[Tensor]:
        """The last frames of each row, (B, num_frames, 3, H, W) uint8: predicted ones, before them real ones."""
        of_row = torch.tensor(state.context_of_row, device=self.device)
        real = state.contexts.frames[of_row, self.spec.num_goal_frames :]
        num_predicted = min(num_frames, max(state.num_frames))
        if not num_predicted:
            return real[:, -num_frames:]
        predicted = yield from self.decode(state, state.tokens[:, -num_predicted:])
        rows = [
            torch.cat([real[row], predicted[row, num_predicted - min(count, num_predicted) :]])[-num_frames:]
            for row, count in enumerate(state.num_frames)
        ]
        return torch.stack(rows)

    def last_frame(self, state: WorldState) -> Slices[Tensor]:
        """The last frame (B, 3, H, W) uint8 of each row."""
        return (yield from self.last_frames(state, 1))[:, 0]


def _stacklevel_of_caller() -> int:
    """The stack level of whoever called this package, for a warning of the calling function's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE_FOLDER):
        level, frame = level + 1, frame.f_back
    return level
