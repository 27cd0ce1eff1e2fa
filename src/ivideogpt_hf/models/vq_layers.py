"""Parts of the VQ model: convolutional towers of diffusers' blocks, cross-attention to the context, codebooks.

Attribute names are those of the released weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_ivideogpt_vq import IVideoGPTVQConfig

NORM_EPS = 1e-6
# Distances to all codes are computed for this many vectors at a time: 256 MB with 8192 codes.
VECTORS_PER_CHUNK = 8192


@dataclass(frozen=True)
class Quantized:
    """Vectors after quantisation by a codebook.

    Attributes:
        vectors: quantised vectors (..., dim), whose gradient goes straight through to the input.
        codes: codes (...) int64 in [0, num_codes).
        loss: commitment loss (scalar float32).
        latents: vectors (..., dim) float32 that were compared with the codebook.
    """

    vectors: Tensor
    codes: Tensor
    loss: Tensor
    latents: Tensor | None = None


class Codebook(nn.Module):
    """Nearest-neighbour vector quantisation with a straight-through gradient (van den Oord et al., 2017)."""

    def __init__(self, num_codes: int, config: IVideoGPTVQConfig) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.embedding = nn.Embedding(num_codes, config.code_dim)
        self.commitment_cost = config.commitment_cost
        self.normalizes = config.normalize_latents

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (...) int64."""
        return self.embedding(codes)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise vectors (..., dim). Distances and loss are always computed in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            encoded = F.normalize(vectors.float(), dim=-1) if self.normalizes else vectors.float()
            # By its call, as where codes are looked up: what a user made of the embedding takes part in both.
            weight = self.embedding(torch.arange(self.num_codes, device=vectors.device)).float()
            with torch.no_grad():
                chunks = encoded.flatten(0, -2).split(VECTORS_PER_CHUNK)
                codes = torch.cat([torch.cdist(chunk, weight).argmin(dim=-1) for chunk in chunks])
            codes = codes.view(vectors.shape[:-1])
            nearest = F.embedding(codes, weight)
            loss = self.commitment_cost * F.mse_loss(encoded, nearest.detach()) + F.mse_loss(nearest, encoded.detach())
            passed = encoded + (nearest - encoded).detach()
        return Quantized(passed.to(vectors.dtype), codes, loss, encoded)


# Values are bounded a little beyond the outermost levels, so that these are reached.
FSQ_MARGIN = 1e-3


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantisation (Mentzer et al., 2023): each dimension is rounded to one of a few levels.

    It has no parameters and no loss. A code is a number in base ``levels``, whose first digit counts least.

    Args:
        levels: number of levels of each dimension.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)

    @property
    def num_codes(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def _digits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Levels (dim) and the weight (dim) of each digit of a code, int64."""
        weights = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        return torch.tensor(self.levels, device=device), torch.tensor(weights, device=device)

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) float32, in [-1, 1], of codes (...) int64."""
        levels, weights = self._digits(codes.device)
        half = levels // 2
        return (codes[..., None] // weights % levels - half).float() / half

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise vectors (..., dim), always in float32, with a straight-through gradient."""
        levels, weights = self._digits(vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            encoded = vectors.float()
            reach = (levels - 1).float() * (1 + FSQ_MARGIN) / 2
            offset = 0.5 * (levels % 2 == 0).float()  # an even number of levels is not symmetric about zero
            bounded = (encoded + (offset / reach).atanh()).tanh() * reach - offset
            rounded = bounded + (bounded.round() - bounded).detach()
            half = levels // 2
            codes = ((rounded.detach().round().long() + half) * weights).sum(-1)
        return Quantized((rounded / half).to(vectors.dtype), codes, encoded.new_zeros(()), encoded)


def make_quantizer(
    num_codes: int, levels: Sequence[int] | None, config: IVideoGPTVQConfig
) -> Codebook | FiniteScalarQuantizer:
    """A codebook, or, where ``levels`` are given, finite scalar quantisation."""
    return Codebook(num_codes, config) if levels is None else FiniteScalarQuantizer(levels)


@dataclass(frozen=True)
class ContextMemory:
    """Keys and values of the context for one cross-attention, each (B, heads, C*h*w, head_dim)."""

    key: Tensor
    value: Tensor


class MultiheadAttention(nn.Module):
    """Attention with the parameters of `torch.nn.MultiheadAttention`. Keys and values are computed apart from it, and
    used many times."""

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * channels))
        self.out_proj = nn.Linear(channels, channels)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def remember(self, x: Tensor) -> ContextMemory:
        """Project features (B, L, channels) to keys and values."""
        return self(x, None)  # a call, so that weights which are fetched for a call are there

    def forward(self, x: Tensor, memory: ContextMemory | None) -> Tensor | ContextMemory:
        """Let queries (B, Q, channels) attend to a memory; returns features (B, Q, channels). Without a memory, see
        `remember`."""
        channels = x.shape[-1]
        if memory is None:
            key, value = F.linear(x, self.in_proj_weight[channels:], self.in_proj_bias[channels:]).chunk(2, dim=-1)
            return ContextMemory(self._heads(key), self._heads(value))
        query = self._heads(F.linear(x, self.in_proj_weight[:channels], self.in_proj_bias[:channels]))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, memory.key, memory.value, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


# Amplitude of the waves in new position tables, which are added to features of unit variance.
POSITION_STRENGTH = 2.0


class ContextCrossAttention(nn.Module):
    """Lets feature maps of future frames attend to the context's feature map of the same depth.

    Args:
        channels: channels of both maps.
        size: size (height, width) of both maps.
    """

    def __init__(self, channels: int, size: tuple[int, int], config: IVideoGPTVQConfig) -> None:
        super().__init__()
        self.num_context_frames = config.num_context_frames
        self.size = size
        rows = size[0] * size[1]
        groups, eps = config.cross_attention_norm_groups, config.cross_attention_norm_eps
        self.q_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.kv_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.q_pos_emb = nn.Parameter(torch.empty(rows, channels))
        self.kv_pos_emb = nn.Parameter(torch.empty(config.num_context_frames * rows, channels))
        self.att = MultiheadAttention(channels, config.num_attention_heads, config.attention_dropout)

    def initial_positions(self) -> Tensor:
        """Initial values (h * w, channels) of a position table: sines and cosines of rows and of columns (Vaswani et
        al., 2017). They are as large as the normed features that they are added to, so that places matter."""
        channels = self.q_pos_emb.shape[1]
        quarter = (channels + 3) // 4
        frequencies = torch.pi / 2 ** torch.linspace(0, 4, quarter)
        row, column = (torch.arange(length).float()[:, None] * frequencies for length in self.size)
        height, width = self.size
        row, column = row[:, None].expand(-1, width, -1), column[None].expand(height, -1, -1)
        waves = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=-1).flatten(0, 1)
        return POSITION_STRENGTH * waves[:, :channels]

    def remember(self, context: Tensor) -> ContextMemory:
        """Keys and values of a context's feature maps (B, C, channels, h, w)."""
        return self(context, None)  # a call, as in `MultiheadAttention`

    def forward(self, x: Tensor, memory: ContextMemory | None) -> Tensor | ContextMemory:
        """Update maps (B*K, channels, h, w) of K future frames for each of the memory's B rows. Without a memory, see
        `remember`.

        The frames of one row share its keys and values: they are folded into the queries, never repeated.
        """
        if memory is None:
            stacked = x.transpose(1, 2).flatten(2)  # (B, channels, C*h*w): frames, then rows, then columns
            return self.att.remember(self.kv_norm(stacked).transpose(1, 2) + self.kv_pos_emb)
        queries = self.q_norm(x).flatten(2).transpose(1, 2) + self.q_pos_emb
        batch_size = memory.key.shape[0]
        folded = queries.reshape(batch_size, -1, queries.shape[-1])
        attended = self.att(folded, memory).view_as(queries)
        return F.silu(x + attended.transpose(1, 2).unflatten(2, x.shape[2:]))


class DownStage(GradientCheckpointingLayer, DownEncoderBlock2D):
    """A stage of an encoder, which gradient checkpointing can compute again."""


class DoublingConv(nn.Conv2d):
    """A convolution of 3 x 3 taps over a map of which each element is repeated 2 x 2 times, without making that map.

    Three taps reach only two elements of the map before it was doubled, and the two that meet the same one can be added
    first. So it is a transposed convolution of stride 2 with four taps, which has 4/9 of the products.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to (N, channels, 2 h, 2 w)."""
        taps = torch.eye(3, dtype=self.weight.dtype, device=self.weight.device)
        # Of taps a, b, c: c, b + c, a + b, a. A transposed convolution goes through its taps backwards.
        added = (F.pad(taps, (0, 0, 1, 0)) + F.pad(taps, (0, 0, 0, 1))).flip(0)
        kernel = (self.weight.flatten(2) @ torch.kron(added, added).T).unflatten(2, (4, 4))
        return F.conv_transpose2d(x, kernel.transpose(0, 1), self.bias, stride=2, padding=1)


class UpStage(GradientCheckpointingLayer, UpDecoderBlock2D):
    """A stage of a decoder, which gradient checkpointing can compute again. It ends with a `DoublingConv`."""

    def __init__(self, out_channels: int, add_upsample: bool, **options: Any) -> None:
        super().__init__(out_channels=out_channels, add_upsample=False, **options)
        if add_upsample:
            self.upsamplers = nn.ModuleList([nn.ModuleDict({"conv": DoublingConv(out_channels)})])

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None) -> Tensor:
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states, temb)
        return hidden_states if self.upsamplers is None else self.upsamplers[0]["conv"](hidden_states)


class MiddleStage(GradientCheckpointingLayer, UNetMidBlock2D):
    """The stage between the two chains, which gradient checkpointing can compute again."""


def _middle(config: IVideoGPTVQConfig, add_attention: bool) -> MiddleStage:
    channels = config.block_out_channels[-1]
    return MiddleStage(
        in_channels=channels,
        temb_channels=None,
        resnet_eps=NORM_EPS,
        resnet_act_fn=config.act_fn,
        resnet_groups=config.norm_num_groups,
        attention_head_dim=channels,
        add_attention=add_attention,
    )


def _map_size(config: IVideoGPTVQConfig, num_halvings: int) -> tuple[int, int]:
    height, width = config.frame_size
    return height >> num_halvings, width >> num_halvings


class Tower(nn.Module):
    """Common part of encoder and decoder: a chain of blocks, some of which are followed by cross-attention."""

    def _add_attention(self, stages: Sequence[tuple[int, tuple[int, int]]], config: IVideoGPTVQConfig) -> None:
        """Add a cross-attention after each stage, (channels, map size), whose map is small enough."""
        blocks, self.attention_after = [], {}
        for stage, (channels, size) in enumerate(stages):
            if max(size) <= config.max_att_resolution:
                self.attention_after[stage] = len(blocks)
                blocks.append(ContextCrossAttention(channels, size, config))
        self.cross_att_blocks = nn.ModuleList(blocks)

    def remember(self, features: Sequence[Tensor]) -> tuple[ContextMemory, ...]:
        """Keys and values for every cross-attention, from the maps (B, C, channels, h, w) after each stage."""
        return tuple(
            self.cross_att_blocks[index].remember(features[stage]) for stage, index in self.attention_after.items()
        )

    def _run_stages(
        self, x: Tensor, stages: Sequence[nn.Module], memory: Sequence[ContextMemory] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the chain; return the last map and the map after each stage."""
        features = []
        for stage, block in enumerate(stages):
            x = block(x)
            if memory is not None and stage in self.attention_after:
                index = self.attention_after[stage]
                x = self.cross_att_blocks[index](x, memory[index])
            features.append(x)
        return x, features


# Logits of the weights stay between plus and minus this: no weight falls to zero, where its gradient would end.
LOGIT_BOUND = 4.0
# With it a new model begins as a copy of the last context frame, for the most part.
INITIAL_COPY_LOGIT = 2.0


class CompositeLogits(nn.Conv2d):
    """The layer that gives a compositor's logits: those of the context frames, and last that of the decoded frame."""


class ContextCompositor(GradientCheckpointingLayer):
    """Makes each pixel of a future frame of the context frames' pixels and of the decoded one, by weights that add up
    to one (Finn et al., 2016, section 3.2): what does not move is copied, and the decoder draws only what does."""

    def __init__(self, config: IVideoGPTVQConfig) -> None:
        super().__init__()
        hidden = config.block_out_channels[0]
        self.context_in = nn.Conv2d(config.num_context_frames * config.in_channels, hidden, 3, padding=1)
        self.frame_in = nn.Conv2d(hidden + config.out_channels, hidden, 3, padding=1, bias=False)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.logits_out = CompositeLogits(hidden, config.num_context_frames + 1, 3, padding=1)

    def forward(self, decoded: Tensor, features: Tensor, context_frames: Tensor) -> Tensor:
        """Composite frames.

        Args:
            decoded: decoded frames (B*K, 3, H, W) of K future frames for each of B contexts.
            features: feature maps (B*K, hidden, H, W) that they were decoded from.
            context_frames: frames (B, C, 3, H, W) float in [0, 1] to copy from.

        Returns:
            Frames (B*K, 3, H, W) float32: half precision would not hold 256 levels.
        """
        frames = context_frames.to(decoded.dtype)
        context = self.context_in(frames.flatten(1, 2))  # once for all future frames of a context
        num_frames = len(decoded) // len(frames)
        x = self.frame_in(torch.cat([decoded, features], dim=1)).unflatten(0, (-1, num_frames)) + context[:, None]
        x = F.silu(self.middle(F.silu(x.flatten(0, 1))))
        logits = LOGIT_BOUND * (self.logits_out(x).float() / LOGIT_BOUND).tanh()
        weights = logits.softmax(dim=1).unflatten(0, (-1, num_frames))
        copied = torch.einsum("bkchw,bcdhw->bkdhw", weights[:, :, :-1], context_frames.float())
        return copied.flatten(0, 1) + weights[:, :, -1:].flatten(0, 1) * decoded.float()

    def resize_context(self, num_context_frames: int) -> None:
        """Change the number of context frames: the first ones go, or the oldest one is offered more than once."""
        channels = self.context_in.in_channels // (self.logits_out.out_channels - 1)
        weight = _resized(self.context_in.weight.detach().unflatten(1, (-1, channels)), num_context_frames, 1)
        num_new = num_context_frames - (self.logits_out.out_channels - 1)
        weight[:, : max(0, num_new)] = 0  # new frames are not looked at before fine-tuning
        _set_weight(self.context_in, weight.flatten(1, 2), self.context_in.bias)
        layer = self.logits_out
        weight, bias = (
            torch.cat([_resized(value.detach()[:-1], num_context_frames, 0), value.detach()[-1:]])
            for value in (layer.weight, layer.bias)
        )
        _set_weight(layer, weight, bias)


def _resized(rows: Tensor, number: int, dim: int) -> Tensor:
    """The last ``number`` rows along a dimension, or the first one repeated in front of all."""
    length = rows.shape[dim]
    indices = torch.arange(number, device=rows.device) + length - number
    return rows.index_select(dim, indices.clamp(min=0))


def _set_weight(layer: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    layer.out_channels, layer.in_channels = weight.shape[:2]
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=layer.weight.requires_grad)


class EncoderTower(Tower):
    """Frames (N, in_channels, H, W) to latents (N, latent_channels, H/f, W/f)."""

    def __init__(self, config: IVideoGPTVQConfig, conditional: bool) -> None:
        super().__init__()
        channels = config.block_out_channels
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownStage(
                num_layers=config.layers_per_block,
                in_channels=channels[max(level - 1, 0)],
                out_channels=channels[level],
                add_downsample=level < last,
                resnet_eps=NORM_EPS,
                resnet_act_fn=config.act_fn,
                resnet_groups=config.norm_num_groups,
                downsample_padding=0,
            )
            for level in range(len(channels))
        )
        self.mid_block = _middle(config, conditional or config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.latent_channels, 3, padding=1)
        if conditional:
            self._add_attention([(channels[i], _map_size(config, min(i + 1, last))) for i in range(last + 1)], config)

    def forward(self, x: Tensor, memory: Sequence[ContextMemory] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the latents and the map after each down block."""
        x, features = self._run_stages(self.conv_in(x), list(self.down_blocks), memory)
        x = self.mid_block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x))), features


class DecoderTower(Tower):
    """Latents (N, latent_channels, H/f, W/f) to frames (N, out_channels, H, W), not clamped."""

    def __init__(self, config: IVideoGPTVQConfig, conditional: bool) -> None:
        super().__init__()
        channels = list(reversed(config.block_out_channels))
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = _middle(config, conditional or config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList(
            UpStage(
                num_layers=config.layers_per_block + 1,
                in_channels=channels[max(level - 1, 0)],
                out_channels=channels[level],
                add_upsample=level < last,
                resnet_eps=NORM_EPS,
                resnet_act_fn=config.act_fn,
                resnet_groups=config.norm_num_groups,
            )
            for level in range(len(channels))
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.out_channels, 3, padding=1)
        self.compositor = ContextCompositor(config) if conditional and config.composites_context else None
        if conditional:
            sizes = [_map_size(config, max(last - i, 0)) for i in range(last + 2)]
            stages = [(channels[0], sizes[0])]
            stages += [(channels[i], sizes[i + 1]) for i in range(last + 1)]
            self._add_attention(stages, config)

    def forward(
        self, x: Tensor, memory: Sequence[ContextMemory] | None = None, context_frames: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the frames and the map after the middle and after each up block.

        Args:
            x: latents (N, latent_channels, h, w).
            memory: keys and values for each cross-attention.
            context_frames: frames (B, C, 3, H, W) float in [0, 1] that a compositor copies from.
        """
        x, features = self._run_stages(self.conv_in(x), [self.mid_block, *self.up_blocks], memory)
        x = F.silu(self.conv_norm_out(x))
        frames = self.conv_out(x)
        if self.compositor is not None:
            frames = self.compositor(frames, x, context_frames)
        return frames, features
