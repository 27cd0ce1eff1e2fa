"""Parts of the VQ model: convolutional towers of diffusers' blocks, cross-attention to the context, codebooks.

Attribute names are those of the released weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D
from torch import Tensor, nn

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
        channels = x.shape[-1]
        key, value = F.linear(x, self.in_proj_weight[channels:], self.in_proj_bias[channels:]).chunk(2, dim=-1)
        return ContextMemory(self._heads(key), self._heads(value))

    def forward(self, x: Tensor, memory: ContextMemory) -> Tensor:
        """Let queries (B, Q, channels) attend to a memory; returns features (B, Q, channels)."""
        channels = x.shape[-1]
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
        stacked = context.transpose(1, 2).flatten(2)  # (B, channels, C*h*w): frames, then rows, then columns
        return self.att.remember(self.kv_norm(stacked).transpose(1, 2) + self.kv_pos_emb)

    def forward(self, x: Tensor, memory: ContextMemory) -> Tensor:
        """Update maps (B*K, channels, h, w) of K future frames for each of the memory's B rows.

        The frames of one row share its keys and values: they are folded into the queries, never repeated.
        """
        queries = self.q_norm(x).flatten(2).transpose(1, 2) + self.q_pos_emb
        batch_size = memory.key.shape[0]
        folded = queries.reshape(batch_size, -1, queries.shape[-1])
        attended = self.att(folded, memory).view_as(queries)
        return F.silu(x + attended.transpose(1, 2).unflatten(2, x.shape[2:]))


def _middle(config: IVideoGPTVQConfig, add_attention: bool) -> UNetMidBlock2D:
    channels = config.block_out_channels[-1]
    return UNetMidBlock2D(
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

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

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

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(block.__call__, x)
        return block(x)

    def _run_stages(
        self, x: Tensor, stages: Sequence[nn.Module], memory: Sequence[ContextMemory] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the chain; return the last map and the map after each stage."""
        features = []
        for stage, block in enumerate(stages):
            x = self._run(block, x)
            if memory is not None and stage in self.attention_after:
                index = self.attention_after[stage]
                x = self.cross_att_blocks[index](x, memory[index])
            features.append(x)
        return x, features


class EncoderTower(Tower):
    """Frames (N, in_channels, H, W) to latents (N, latent_channels, H/f, W/f)."""

    def __init__(self, config: IVideoGPTVQConfig, conditional: bool) -> None:
        super().__init__()
        channels = config.block_out_channels
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownEncoderBlock2D(
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
        x = self._run(self.mid_block, x)
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
            UpDecoderBlock2D(
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
        if conditional:
            sizes = [_map_size(config, max(last - i, 0)) for i in range(last + 2)]
            stages = [(channels[0], sizes[0])]
            stages += [(channels[i], sizes[i + 1]) for i in range(last + 1)]
            self._add_attention(stages, config)

    def forward(self, x: Tensor, memory: Sequence[ContextMemory] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the frames and the map after the middle and after each up block."""
        x, features = self._run_stages(self.conv_in(x), [self.mid_block, *self.up_blocks], memory)
        return self.conv_out(F.silu(self.conv_norm_out(x))), features
