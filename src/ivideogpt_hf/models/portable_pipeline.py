"""A pipeline for where this package is not installed. It needs torch, transformers and diffusers, and is published with
checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.video_processing_utils import BaseVideoProcessor

from .modeling_ivideogpt import IVideoGPTForCausalLM
from .modeling_ivideogpt_vq import IVideoGPTVQModel
from .processing_ivideogpt import IVideoGPTVideoProcessor
from .token_layout import TokenLayout

OutputType = Literal["pil", "np", "pt"]
PACKAGE_HINT = "the package ivideogpt_hf does it"


@dataclass
class PortablePipelineOutput(BaseOutput):
    """Predicted video.

    Args:
        frames: predicted frames, without the context. "pil": list of T images; "np": (T, H, W, 3) uint8; "pt":
            (T, 3, H, W) uint8.
        rewards: predicted rewards (T,) float32 in reward units, on the CPU; None without a reward head.
    """

    frames: Any
    rewards: Tensor | None


class FrameGrammar(LogitsProcessor):
    """Lets the slot follow a whole frame, and dynamics codes everything else.

    Args:
        layout: places of the tokens.
    """

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, vocab_size) with minus infinity for what cannot follow (B, L) ids."""
        layout, position = self.layout, input_ids.shape[1]
        first, stop = layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes
        if len(layout.slot_positions(position, position + 1)):
            first, stop = layout.slot_id, layout.slot_id + 1
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, first:stop] = scores[:, first:stop]
        return allowed


class IVideoGPTPipeline(DiffusionPipeline):
    """Predicts how a clip goes on, with transformers' `generate`.

    The package ivideogpt_hf has a larger pipeline of this name: faster, from files too, for several clips and samples
    at once, and beyond the frames that the model was trained on.

    Args:
        tokenizer: VQ model, which codes and decodes frames.
        transformer: network that predicts the tokens of future frames.
        processor: frame size, action statistics and reward units; None: a plain one.
    """

    tokenizer: IVideoGPTVQModel
    transformer: IVideoGPTForCausalLM
    processor: IVideoGPTVideoProcessor
    _optional_components = ["processor"]  # noqa: RUF012

    def __init__(
        self,
        # By their bases: diffusers compares types, and loads the parts from another copy of this code.
        tokenizer: PreTrainedModel,
        transformer: PreTrainedModel,
        processor: BaseVideoProcessor | None = None,
    ) -> None:
        super().__init__()
        height, width = tokenizer.config.frame_size
        processor = processor or IVideoGPTVideoProcessor(size={"height": height, "width": width})
        self.register_modules(tokenizer=tokenizer.eval(), transformer=transformer.eval(), processor=processor)

    def save_pretrained(self, *_args: Any, **_kwargs: Any) -> None:  # type: ignore[override]  # it saves nothing
        """Refuse to save: without the package, copy the folder, or save the parts by their own `save_pretrained`.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"saving a whole checkpoint: {PACKAGE_HINT}; without it, copy the folder, or save pipe.tokenizer, "
            f"pipe.transformer and pipe.processor into the folders of their names"
        )

    def enable_model_cpu_offload(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse to bring whole networks when they are needed.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"offloading of whole networks: {PACKAGE_HINT}")

    @torch.no_grad()
    def __call__(
        self,
        video: Any,
        actions: Tensor | Sequence[Sequence[float]] | None = None,
        *,
        num_frames: int | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        top_k: int = 100,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        **of_the_package: Any,
    ) -> PortablePipelineOutput | tuple[Any, Tensor | None]:
        """Predict the frames that follow the first frames of a clip.

        Args:
            video: a clip: array or tensor (T, 3, H, W) or (T, H, W, 3) uint8, or a list of images. The first frames are
                the context, as many as the checkpoint takes; for a goal-conditioned checkpoint the goal is the first.
            actions: actions (T, A) in environment units for an action-conditioned checkpoint. The first leads from the
                last context frame to the first predicted one.
            num_frames: number T of frames to predict; with actions, as many as these.
            generator: generator that draws the seed; None: torch's default one, so that every call differs.
            temperature: temperature of the distribution that tokens are drawn from.
            top_k: number of the most probable tokens that are drawn from; 1: always the most probable one.
            output_type: "pil", "np" or "pt", see `PortablePipelineOutput`.
            return_dict: whether to return a `PortablePipelineOutput` or a tuple of its fields.
            of_the_package: arguments that only the package's pipeline has, and that are refused.

        Raises:
            ValueError: if an input does not fit the checkpoint, more frames are asked for than it can predict, or an
                argument is not among these.
        """
        if of_the_package:
            names = ", ".join(of_the_package)
            raise ValueError(f"this pipeline takes no {names}; where it can be done, {PACKAGE_HINT}")
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")
        rows = None if actions is None else torch.as_tensor(actions).float()
        num_frames = self._checked_length(num_frames, rows)
        layout = self.transformer.config.layout
        context = self._read_context(video)
        coded = self.tokenizer.encode_context(context)
        prompt = self.tokenizer.prompt_tokens(context, coded)
        inputs = {"input_ids": torch.nn.functional.pad(prompt, (0, 1), value=layout.slot_id)}
        if rows is not None:
            inputs["actions"] = self.processor.normalize_actions(rows.to(prompt.device))[None]
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**62, (1,), generator=generator, device=device))
        with torch.random.fork_rng():  # `generate` takes no generator
            torch.manual_seed(seed)
            tokens = self.transformer.generate(
                **inputs,
                attention_mask=torch.ones_like(inputs["input_ids"]),
                max_new_tokens=num_frames * layout.block_length - 1,
                do_sample=True,
                temperature=temperature,
                top_k=top_k,
                logits_processor=LogitsProcessorList([FrameGrammar(layout)]),
                pad_token_id=0,
            )
        codes = tokens[:, layout.prompt_length :].unflatten(1, (num_frames, -1))[:, :, 1:] - layout.dynamics_offset
        decoded = self.tokenizer.decode_future(coded.decoder_memory, codes, context)[0]
        frames = (decoded.float().clamp(0, 1) * 255).round().to(torch.uint8)
        rewards = None
        if self.transformer.config.predict_reward:
            read = self.transformer(**{**inputs, "input_ids": tokens}, logits_to_keep=1).rewards[0]
            rewards = self.processor.rewards_from_head(read[-num_frames:]).cpu()
        output = PortablePipelineOutput(frames=self._as_output(frames, output_type), rewards=rewards)
        return output if return_dict else (output.frames, output.rewards)

    def _read_context(self, video: Any) -> Tensor:
        """Context frames (1, C, 3, H, W) float in [0, 1]."""
        num_context_frames = self.transformer.config.num_context_frames
        if len(video) < num_context_frames:
            raise ValueError(f"a clip has {len(video)} frames, fewer than the {num_context_frames} of the context")
        pixels = self.processor(video[:num_context_frames], return_tensors="pt")["pixel_values_videos"]
        return pixels.to(self._execution_device)

    def _checked_length(self, num_frames: int | None, actions: Tensor | None) -> int:
        config, width = self.transformer.config, self.processor.action_dim or self.transformer.config.action_dim
        if actions is not None:
            if actions.ndim != 2 or actions.shape[1] != width:
                raise ValueError(f"actions must have shape (T, {width}), got {tuple(actions.shape)}")
            if num_frames not in (None, len(actions)):
                raise ValueError(f"num_frames is {num_frames}, but there are {len(actions)} actions")
            num_frames = len(actions)
        elif width:
            raise ValueError(f"this model is action-conditioned: actions of width {width} are missing")
        longest = config.layout.max_future_frames(config.max_position_embeddings)
        if config.num_trained_frames is not None:
            longest = min(longest, config.num_trained_frames)
        if num_frames is None or not 1 <= num_frames <= longest:
            raise ValueError(f"num_frames must be from 1 to {longest}, got {num_frames}; to go on, {PACKAGE_HINT}")
        return num_frames

    def _as_output(self, frames: Tensor, output_type: OutputType) -> Any:
        if output_type == "pt":
            return frames
        array = frames.movedim(-3, -1).cpu().numpy()
        return array if output_type == "np" else self.numpy_to_pil(array / 255)


__all__ = ["IVideoGPTPipeline", "PortablePipelineOutput"]
