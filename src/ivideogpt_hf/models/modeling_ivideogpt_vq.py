"""The VQ model: a conditional VQGAN that codes context frames in full and future frames by what changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_ivideogpt_vq import IVideoGPTVQConfig
from .pushing import PushesWithCard
from .safetensors_only import LoadsSafetensors
from .vq_layers import (
    INITIAL_COPY_LOGIT,
    Codebook,
    CompositeLogits,
    ContextCompositor,
    ContextCrossAttention,
    ContextMemory,
    DecoderTower,
    EncoderTower,
    MultiheadAttention,
    Quantized,
    make_quantizer,
)

IGNORED_LABEL = -100


@dataclass
class IVideoGPTVQOutput(ModelOutput):
    """Output of the training forward.

    Args:
        context_reconstruction: context frames (B, C, 3, H, W) float, not clamped.
        future_reconstruction: future frames (B, T, 3, H, W) float, not clamped.
        context_commitment_loss: codebook and commitment loss (scalar float32) of the context codes.
        future_commitment_loss: codebook and commitment loss (scalar float32) of the dynamics codes.
        context_tokens: codes (B, C, tokens_per_context_frame) int64 of the context.
        future_tokens: codes (B, T, tokens_per_future_frame) int64 of the future frames.
        context_latents: latents (B * C, h, w, code_dim) float that the context codebook quantised.
        future_latents: latents (B, T, tokens_per_future_frame, code_dim) float that the dynamics codebook quantised.
        loss: sum (scalar float32) of the mean absolute errors of both reconstructions and of both commitment losses.
            `ivideogpt train-vq` adds what makes pictures sharp, a perceptual and an adversarial loss.
        hidden_states: feature maps (B * T, channels, h, w) of the future frames, after each stage of their encoder,
            then of their decoder; None unless they were asked for.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> model = WorldModel.default().vq_model
        >>> frames = read_video(EXAMPLE_EPISODE, max_frames=4)[None] / 255  # (B, C + T, 3, H, W) in [0, 1]
        >>> output = model(frames[:, :2], frames[:, 2:])
        >>> output.future_reconstruction.shape, output.loss.shape
        (torch.Size([1, 2, 3, 64, 64]), torch.Size([]))
    """

    context_reconstruction: Tensor | None = None
    future_reconstruction: Tensor | None = None
    context_commitment_loss: Tensor | None = None
    future_commitment_loss: Tensor | None = None
    context_tokens: Tensor | None = None
    future_tokens: Tensor | None = None
    context_latents: Tensor | None = None
    future_latents: Tensor | None = None
    loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class VQContext:
    """B coded contexts, with everything that coding and decoding their future frames needs. It is computed once.

    Args:
        tokens: codes (B, C, tokens_per_context_frame) int64 in [0, num_context_codes).
        reconstruction: decoded context frames (B, C, 3, H, W) float, not clamped.
        commitment_loss: codebook and commitment loss (scalar float32).
        decoder_memory: keys and values for each cross-attention of the future decoder.
        encoder_memory: keys and values for each cross-attention of the future encoder; None if the context was rebuilt
            from tokens.
        latents: latents (B * C, h, w, code_dim) float that were quantised; None if the context was rebuilt from tokens.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> model = WorldModel.default().vq_model
        >>> frames = read_video(EXAMPLE_EPISODE, max_frames=4)[None] / 255  # (B, C + T, 3, H, W) in [0, 1]
        >>> context = model.encode_context(frames[:, :2])
        >>> codes = model.encode_future(context.encoder_memory, frames[:, 2:])
        >>> model.decode_future(context.decoder_memory, codes, frames[:, :2]).shape
        torch.Size([1, 2, 3, 64, 64])
    """

    tokens: Tensor
    reconstruction: Tensor
    commitment_loss: Tensor
    decoder_memory: tuple[ContextMemory, ...]
    encoder_memory: tuple[ContextMemory, ...] | None
    latents: Tensor | None


class IVideoGPTVQModel(PushesWithCard, LoadsSafetensors, PreTrainedModel):  # type: ignore[misc]  # the upload is replaced on purpose
    """Compressive VQ model of iVideoGPT (Wu et al., 2024, section 3.1).

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> model = WorldModel.default().vq_model
        >>> frames = read_video(EXAMPLE_EPISODE, max_frames=4)[None] / 255  # (B, C + T, 3, H, W) in [0, 1]
        >>> tokens, _ = model.tokenize(frames)
        >>> model.detokenize(tokens).shape == frames.shape
        True
    """

    config: IVideoGPTVQConfig
    config_class = IVideoGPTVQConfig
    base_model_prefix = ""
    main_input_name = "context_frames"
    input_modalities = ("video",)  # type: ignore[assignment]  # as in the other models of transformers
    output_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["DownStage", "UpStage", "MiddleStage", "ContextCrossAttention"]  # noqa: RUF012
    accepts_loss_kwargs = False  # for transformers' Trainer: the loss is a mean, whatever is accumulated

    def __init__(self, config: IVideoGPTVQConfig) -> None:
        super().__init__(config)
        patch_dim = config.patch_size**2 * config.latent_channels
        self.encoder = EncoderTower(config, conditional=False)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.context_code_dim, 1)
        self.quantize = make_quantizer(config.num_context_codes, config.context_fsq_levels, config)
        self.post_quant_conv = nn.Conv2d(config.context_code_dim, config.latent_channels, 1)
        self.decoder = DecoderTower(config, conditional=False)
        self.cond_encoder = EncoderTower(config, conditional=True)
        self.quant_linear = nn.Linear(patch_dim, config.dynamics_code_dim)
        self.dynamics_quantize = make_quantizer(config.num_dynamics_codes, config.dynamics_fsq_levels, config)
        self.post_quant_linear = nn.Linear(config.dynamics_code_dim, patch_dim)
        self.cond_decoder = DecoderTower(config, conditional=True)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CompositeLogits):
            init.zeros_(module.weight)
            bias = cast(Tensor, module.bias)
            logits = torch.zeros_like(bias)
            logits[-2] = INITIAL_COPY_LOGIT  # of the last context frame
            init.copy_(bias, logits)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Codebook):
            num_codes, dim = module.embedding.weight.shape
            if module.normalizes:
                init.normal_(module.embedding.weight, std=dim**-0.5)
            else:
                init.uniform_(module.embedding.weight, -1 / num_codes, 1 / num_codes)
        elif isinstance(module, MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
            query, key, _ = module.in_proj_weight.detach().chunk(3)
            init.copy_(key, query)
        elif isinstance(module, ContextCrossAttention):
            # Each place looks at the same place of the context from the beginning: tables that are drawn at random
            # learn that so late that what stands still is not copied before.
            places = module.initial_positions()
            init.copy_(module.q_pos_emb, places)
            init.copy_(module.kv_pos_emb, places.repeat(module.num_context_frames, 1))

    def get_input_embeddings(self) -> nn.Module:
        """The convolution by which context frames come in."""
        return self.encoder.conv_in

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace that convolution."""
        self.encoder.conv_in = cast(nn.Conv2d, value)

    # -- training -----------------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        context_frames: Tensor,
        future_frames: Tensor,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> IVideoGPTVQOutput:
        """Code and decode a clip.

        Args:
            context_frames: context frames (B, C, 3, H, W) float in [0, 1].
            future_frames: future frames (B, T, 3, H, W) float in [0, 1].
            output_hidden_states: whether to return feature maps, see `IVideoGPTVQOutput`; None: as the config says.
            kwargs: arguments that transformers passes to every model: `return_dict=False` asks for a tuple, and
                `output_attentions` must be false, since no attention weights are computed.

        Raises:
            ValueError: on a wrong shape or dtype.
            TypeError: on an unknown argument.
        """
        unknown = sorted(name for name, value in kwargs.items() if name != "output_attentions" or value)
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no {', '.join(unknown)}")
        context = self.encode_context(context_frames)
        self._check_frames(future_frames, "future_frames")
        quantized, encoder_maps = self._quantize_future(_encoder_memory(context), future_frames)
        future, decoder_maps = self._decode_future_vectors(context.decoder_memory, quantized.vectors, context_frames)
        errors = (
            (reconstruction.float() - frames.float()).abs().mean()
            for reconstruction, frames in ((context.reconstruction, context_frames), (future, future_frames))
        )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return IVideoGPTVQOutput(
            context_reconstruction=context.reconstruction,
            future_reconstruction=future,
            context_commitment_loss=context.commitment_loss,
            future_commitment_loss=quantized.loss,
            context_tokens=context.tokens,
            future_tokens=quantized.codes,
            context_latents=context.latents,
            future_latents=quantized.latents,
            loss=sum(errors, context.commitment_loss + quantized.loss),
            hidden_states=(*encoder_maps, *decoder_maps) if output_hidden_states else None,
        )

    # -- the parts ----------------------------------------------------------------------------------------------------

    def encode_context(self, context_frames: Tensor) -> VQContext:
        """Code C context frames, and compute the keys and values that future frames attend to.

        Args:
            context_frames: context frames (B, C, 3, H, W) float in [0, 1], C = config.num_context_frames.

        Raises:
            ValueError: on a wrong shape or dtype.
        """
        self._check_frames(context_frames, "context_frames")
        batch_size, num_frames = context_frames.shape[:2]
        if num_frames != self.config.num_context_frames:
            raise ValueError(f"expected {self.config.num_context_frames} context frames, got {num_frames}")
        latents, features = self.encoder(context_frames.flatten(0, 1).to(self.dtype))
        quantized = self.quantize(self.quant_conv(latents).movedim(1, -1))
        memory = self.cond_encoder.remember([feature.unflatten(0, (batch_size, -1)) for feature in features])
        return self._decode_context(quantized, batch_size, memory)

    def context_from_tokens(self, tokens: Tensor) -> VQContext:
        """Rebuild a context, for decoding only, from its codes.

        Args:
            tokens: codes (B, C, tokens_per_context_frame) int64 in [0, num_context_codes).

        Raises:
            ValueError: if a code is outside its range.
        """
        _check_codes(tokens, 0, self.config.num_context_codes, "context")
        vectors = self.quantize.lookup(tokens.flatten(0, 1)).to(self.dtype).unflatten(1, self.config.context_grid)
        no_loss = vectors.new_zeros((), dtype=torch.float32)
        return self._decode_context(Quantized(vectors, tokens, no_loss), tokens.shape[0], None)

    def _decode_context(
        self, quantized: Quantized, batch_size: int, encoder_memory: tuple[ContextMemory, ...] | None
    ) -> VQContext:
        frames, features = self.decoder(self.post_quant_conv(quantized.vectors.movedim(-1, 1)))
        return VQContext(
            tokens=quantized.codes.reshape(batch_size, self.config.num_context_frames, -1),
            reconstruction=frames.unflatten(0, (batch_size, -1)),
            commitment_loss=quantized.loss,
            decoder_memory=self.cond_decoder.remember([f.unflatten(0, (batch_size, -1)) for f in features]),
            encoder_memory=encoder_memory,
            latents=quantized.latents,
        )

    def encode_future(self, memory: Sequence[ContextMemory], future_frames: Tensor) -> Tensor:
        """Code future frames by what changed since the context.

        Args:
            memory: keys and values of B contexts, from `VQContext.encoder_memory`.
            future_frames: future frames (B, T, 3, H, W) float in [0, 1], one or more, in any order.

        Returns:
            Codes (B, T, tokens_per_future_frame) int64 in [0, num_dynamics_codes).

        Raises:
            ValueError: on a wrong shape or dtype.
        """
        self._check_frames(future_frames, "future_frames")
        quantized, _ = self._quantize_future(memory, future_frames)
        return quantized.codes

    def _quantize_future(
        self, memory: Sequence[ContextMemory], future_frames: Tensor
    ) -> tuple[Quantized, list[Tensor]]:
        """Quantised future frames, and the encoder's maps after each stage."""
        size, (rows, columns) = self.config.patch_size, self.config.dynamics_grid
        latents, maps = self.cond_encoder(future_frames.flatten(0, 1).to(self.dtype), memory)
        patches = latents.unflatten(3, (columns, size)).unflatten(2, (rows, size)).permute(0, 2, 4, 3, 5, 1)
        vectors = self.quant_linear(patches.flatten(3).flatten(1, 2))
        return self.dynamics_quantize(vectors.unflatten(0, future_frames.shape[:2])), maps

    def decode_future(
        self, memory: Sequence[ContextMemory], codes: Tensor, context_frames: Tensor | None = None
    ) -> Tensor:
        """Decode future frames.

        Args:
            memory: keys and values of B contexts, from `VQContext.decoder_memory`.
            codes: codes (B, T, tokens_per_future_frame) int64 in [0, num_dynamics_codes). The T frames of a context may
                follow each other or be alternatives.
            context_frames: context frames (B, C, 3, H, W) float in [0, 1] that are copied from, where
                config.composites_context is set; other models do not need them. These are the true frames where they
                are known, and reconstructions otherwise, as in `detokenize`.

        Returns:
            Future frames (B, T, 3, H, W) float, not clamped; float32 from a model that composites.

        Raises:
            ValueError: if a code is outside its range, or the frames to copy from are missing or of a wrong shape.
        """
        _check_codes(codes, 0, self.config.num_dynamics_codes, "dynamics")
        if self.config.composites_context:
            if context_frames is None:
                raise ValueError("this model copies from the context: pass context_frames, which the codes continue")
            self._check_frames(context_frames, "context_frames")
        vectors = self.dynamics_quantize.lookup(codes).to(self.dtype)
        frames, _ = self._decode_future_vectors(memory, vectors, context_frames)
        return frames

    def _decode_future_vectors(
        self, memory: Sequence[ContextMemory], vectors: Tensor, context_frames: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Decoded future frames, and the decoder's maps after each stage."""
        size, (rows, columns) = self.config.patch_size, self.config.dynamics_grid
        patches = self.post_quant_linear(vectors.flatten(0, 1)).unflatten(2, (size, size, -1))
        latents = patches.unflatten(1, (rows, columns)).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        frames, maps = self.cond_decoder(latents, memory, context_frames)
        return frames.unflatten(0, vectors.shape[:2]), maps

    # -- sequences ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prompt_tokens(self, context_frames: Tensor, context: VQContext) -> Tensor:
        """The prompt, with which the token sequence of a clip begins.

        Args:
            context_frames: context frames (B, C, 3, H, W) float in [0, 1].
            context: result of `encode_context` for these frames.

        Returns:
            Vocabulary ids (B, prompt_length) int64.
        """
        separated = nn.functional.pad(context.tokens, (0, 1), value=self.config.layout.context_separator_id)
        tokens = separated.flatten(1)[:, :-1]
        if not self.config.repeat_last_context:
            return tokens
        codes = self.encode_future(_encoder_memory(context), context_frames[:, -1:])
        return torch.cat([tokens, self._blocks(codes)], dim=1)

    def _blocks(self, codes: Tensor) -> Tensor:
        """Vocabulary ids (B, T * block_length) of future frames with codes (B, T, tokens_per_future_frame)."""
        layout = self.config.layout
        return nn.functional.pad(codes + layout.dynamics_offset, (1, 0), value=layout.slot_id).flatten(1)

    @torch.no_grad()
    def tokenize(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Write clips as token sequences (see `TokenLayout`).

        Args:
            frames: frames (B, T, 3, H, W) float in [0, 1]; the first config.num_context_frames are the context.

        Returns:
            Vocabulary ids (B, L) int64, and labels (B, L) int64. The labels are the ids, but -100 on the prompt and on
            the first slot, which have no loss.

        Raises:
            ValueError: on a wrong shape, dtype or range, NaN, or fewer frames than the context.
        """
        self._check_frames(frames, "frames")
        _check_pixels(frames)
        layout = self.config.layout
        num_context_frames = layout.num_context_frames
        if frames.shape[1] < num_context_frames:
            raise ValueError(f"a clip needs at least its {num_context_frames} context frames, got {frames.shape[1]}")
        context = self.encode_context(frames[:, :num_context_frames])
        tokens = self.prompt_tokens(frames[:, :num_context_frames], context)
        if frames.shape[1] > num_context_frames:
            codes = self.encode_future(_encoder_memory(context), frames[:, num_context_frames:])
            tokens = torch.cat([tokens, self._blocks(codes)], dim=1)
        labels = tokens.clone()
        labels[:, : layout.prompt_length + 1] = IGNORED_LABEL
        return tokens, labels

    @torch.no_grad()
    def detokenize(self, tokens: Tensor) -> Tensor:
        """Decode token sequences: the inverse of `tokenize`. Tokens in the places of separators are not read.

        Tokens do not tell the true context frames. A model that composites copies from the reconstructed ones.

        Args:
            tokens: vocabulary ids (B, L) int64 of complete frames.

        Returns:
            Frames (B, T, 3, H, W) float, not clamped.

        Raises:
            ValueError: if L is no whole number of frames, or a token is outside the codes its position allows.
        """
        layout = self.config.layout
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(f"tokens must be integers of shape (B, L), got {tokens.dtype} {tuple(tokens.shape)}")
        num_future_frames = layout.num_future_frames(tokens.shape[1])
        per_frame = layout.tokens_per_context_frame
        starts = map(layout.context_frame_start, range(layout.num_context_frames))
        context = self.context_from_tokens(torch.stack([tokens[:, i : i + per_frame] for i in starts], dim=1))
        if not num_future_frames:
            return context.reconstruction
        codes = tokens[:, layout.prompt_length :].unflatten(1, (num_future_frames, -1))[:, :, 1:]
        _check_codes(codes, layout.dynamics_offset, layout.num_dynamics_codes, "dynamics")
        copied = context.reconstruction.clamp(0, 1)
        future = self.decode_future(context.decoder_memory, codes - layout.dynamics_offset, copied)
        return torch.cat([context.reconstruction, future], dim=1)

    def resize_context(self, num_context_frames: int) -> None:
        """Change the number of context frames that the model takes, in place.

        With fewer frames, every key/value position table loses the rows of its first frames (as in the original code).
        With more frames, the rows of the oldest frame are copied for each new frame before it. So the new frames look
        like the oldest one until fine-tuning tells them apart.

        Raises:
            ValueError: if num_context_frames is smaller than one.
        """
        if num_context_frames < 1:
            raise ValueError(f"num_context_frames must be at least 1, got {num_context_frames}")
        for block in self.modules():
            if isinstance(block, ContextCrossAttention):
                table = block.kv_pos_emb.detach().unflatten(0, (self.config.num_context_frames, -1))
                num_new = max(0, num_context_frames - len(table))
                table = torch.cat([table[:1].expand(num_new, -1, -1), table[-num_context_frames:]])
                block.kv_pos_emb = nn.Parameter(table.flatten(0, 1), requires_grad=block.kv_pos_emb.requires_grad)
            elif isinstance(block, ContextCompositor):
                block.resize_context(num_context_frames)
        self.config.num_context_frames = num_context_frames

    def _check_frames(self, frames: Tensor, name: str) -> None:
        height, width = self.config.frame_size
        channels = self.config.in_channels
        if frames.ndim != 5 or frames.shape[2:] != (channels, height, width):
            raise ValueError(
                f"{name} must have shape (B, T, {channels}, {height}, {width}), got {tuple(frames.shape)}; "
                f"IVideoGPTVideoProcessor resizes video to what the model takes"
            )
        if 0 in frames.shape[:2]:
            raise ValueError(f"{name} must hold at least one clip of one frame, got shape {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise ValueError(f"{name} must be float in [0, 1], got {frames.dtype}; divide uint8 frames by 255")


def _check_pixels(frames: Tensor) -> None:
    if not torch.isfinite(frames).all():
        raise ValueError("frames contain NaN or infinite pixels")
    low, high = frames.aminmax()
    if low < 0 or high > 1:
        raise ValueError(f"frames must be in [0, 1], got values from {low.item():.4g} to {high.item():.4g}")


def _encoder_memory(context: VQContext) -> tuple[ContextMemory, ...]:
    if context.encoder_memory is None:
        raise ValueError("a context that came from tokens cannot code future frames; make it with encode_context")
    return context.encoder_memory


def _check_codes(codes: Tensor, first: int, num_codes: int, name: str) -> None:
    if torch.compiler.is_exporting():
        return  # a program that is being written has no values yet, and cannot raise by them
    if not codes.numel():
        raise ValueError(f"there are no {name} tokens: at least one clip of one frame is decoded")
    if codes.min() < first or codes.max() >= first + num_codes:
        raise ValueError(
            f"{name} tokens must be in [{first}, {first + num_codes}), "
            f"got values from {codes.min().item()} to {codes.max().item()}"
        )


__all__ = ["IVideoGPTVQModel", "IVideoGPTVQOutput", "VQContext"]
