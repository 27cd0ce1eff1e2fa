"""Configuration of the VQ model. Reads the config files of the released checkpoints as they are."""

import math
from typing import Any, cast

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .pushing import PushesWithCard
from .released_config import FSQ_CLASS, VQ_WEIGHTS, read_fsq_fields, read_vq_fields, vq_problems
from .token_layout import TokenLayout

# Epsilon of the cross-attention's norms in models that were saved before it was a field.
OLD_CROSS_ATTENTION_NORM_EPS = 1e-6
OWN_IMPLEMENTATIONS = (None, "eager", "sdpa")  # any other name makes transformers look for packages, and on the Hub
MAX_LABELS = 1000  # transformers makes a name for each; no network here has any


def check_choices(config_class: type[PreTrainedConfig], config_dict: dict[str, Any]) -> None:
    """Refuse what a file may not choose for those who read it.

    Args:
        config_class: class of the config.
        config_dict: content of a config file.

    Raises:
        ValueError: if it names code to compute with, has a value in place of a method, or asks for many labels.
    """
    for name, value in config_dict.items():
        if callable(getattr(config_class, name, None)):
            raise ValueError(f"the config has {name} = {value!r:.80}, which is no field: remove it")
        if name.endswith("_implementation") and value not in OWN_IMPLEMENTATIONS:
            raise ValueError(f"the config has {name} = {value!r:.80}, which only who loads it may choose: remove it")
    num_labels = config_dict.get("num_labels")
    if isinstance(num_labels, (int, float)) and num_labels > MAX_LABELS:
        raise ValueError(f"the config has num_labels = {num_labels}, and may have {MAX_LABELS}: remove it")


@strict
class IVideoGPTVQConfig(PushesWithCard, PreTrainedConfig):  # type: ignore[misc]  # the upload is replaced on purpose
    """Configuration of `IVideoGPTVQModel`, the compressive VQ model (Wu et al., 2024, section 3.1).

    Models of the default sizes can be written in the released layout. Fields that a released config leaves out take the
    original's defaults, which are others.

    Args:
        resolution: side of a square frame, or (height, width), in pixels.
        in_channels, out_channels: colour channels in and out.
        block_out_channels: channels of each level of the encoder, from fine to coarse; the decoder is the reverse.
            Each level but the last halves the size.
        layers_per_block: residual layers in each encoder level; the decoder has one more.
        latent_channels: width of the latent and of both codebooks, unless `vq_embed_dim` is given.
        vq_embed_dim: width of both codebooks, where it differs from `latent_channels`.
        norm_num_groups: groups of every GroupNorm of the towers.
        act_fn: activation of the residual blocks.
        mid_block_add_attention: whether the two context towers have self-attention in their middle. The towers of the
            future frames always have it.
        num_context_codes, num_dynamics_codes: sizes of the two codebooks (`num_vq_embeddings` and
            `num_dyn_embeddings` in released configs).
        num_context_frames: context frames that a future frame attends to (`context_length` in released configs).
        max_att_resolution: largest side of the feature maps that have cross-attention to the context.
        patch_size: side of the square of latents that one dynamics token stands for.
        num_attention_heads: heads of the cross-attention.
        cross_attention_norm_groups: groups of the cross-attention's GroupNorms; None: `norm_num_groups`. It is 32 in
            released checkpoints.
        cross_attention_norm_eps: epsilon of the cross-attention's GroupNorms. It is 1e-5 in new models and in released
            checkpoints, and 1e-6 in a config that was saved without this field.
        attention_dropout: dropout of the cross-attention in training.
        commitment_cost: weight beta of the codebook-to-encoder term.
        normalize_latents: whether latents are brought to unit length before they are quantised (Yu et al., 2022).
            Otherwise they can become so small that the decoder ignores them. It is False in released checkpoints.
        composites_context: whether the future decoder also chooses, per pixel, how much of each context frame and of
            the decoded picture a frame is made of. It is False in released checkpoints.
        context_fsq_levels, dynamics_fsq_levels: numbers of levels of finite scalar quantisation (Mentzer et al., 2023),
            one per dimension, in place of the codebook; the number of codes is then their product. None: a codebook.
        repeat_last_context: whether the last context frame is coded a second time, see `TokenLayout`. It is False in
            released checkpoints.

    Example:
        >>> from ivideogpt_hf import IVideoGPTVQConfig
        >>> config = IVideoGPTVQConfig(resolution=64)
        >>> config.context_grid, config.dynamics_grid
        ((16, 16), (4, 4))
    """

    model_type = "ivideogpt_vq"
    attribute_map = {  # noqa: RUF012 (transformers declares it so)
        "context_length": "num_context_frames",
        "num_vq_embeddings": "num_context_codes",
        "num_dyn_embeddings": "num_dynamics_codes",
    }

    resolution: int | list[int] | tuple[int, ...] = 256
    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: list[int] | tuple[int, ...] = (128, 256, 512)
    layers_per_block: int = 2
    latent_channels: int = 64
    vq_embed_dim: int | None = None
    norm_num_groups: int = 32
    act_fn: str = "silu"
    mid_block_add_attention: bool = False
    num_context_codes: int = 8192
    num_dynamics_codes: int = 8192
    num_context_frames: int = 2
    max_att_resolution: int = 32
    patch_size: int = 4
    num_attention_heads: int = 4
    cross_attention_norm_groups: int | None = None  # until norm_num_groups is known
    cross_attention_norm_eps: float | None = None  # until it is known whether the config is a saved one
    attention_dropout: float = 0.1
    commitment_cost: float = 1.0
    normalize_latents: bool = False
    composites_context: bool = False
    context_fsq_levels: list[int] | tuple[int, ...] | None = None
    dynamics_fsq_levels: list[int] | tuple[int, ...] | None = None
    repeat_last_context: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.context_fsq_levels is not None:
            self.num_context_codes = math.prod(self.context_fsq_levels)
        if self.dynamics_fsq_levels is not None:
            self.num_dynamics_codes = math.prod(self.dynamics_fsq_levels)
        if self.cross_attention_norm_eps is None:
            is_saved = "model_type" in kwargs  # every saved config holds it, and no new one
            self.cross_attention_norm_eps = OLD_CROSS_ATTENTION_NORM_EPS if is_saved else 1e-5
        if self.cross_attention_norm_groups is None:
            self.cross_attention_norm_groups = self.norm_num_groups
        super().__post_init__(**kwargs)
        self.check_geometry()

    def check_geometry(self) -> None:
        """Check that the sizes divide each other. Called at construction.

        Raises:
            ValueError: if a field does not fit; names it.
        """
        if isinstance(self.resolution, (list, tuple)) and len(self.resolution) != 2:
            raise ValueError(f"resolution must be one number or (height, width), got {self.resolution}")
        side = self.downsampling * self.patch_size
        if any(size < side or size % side for size in self.frame_size):
            raise ValueError(
                f"resolution {self.frame_size} must be a multiple of downsampling x patch_size = "
                f"{self.downsampling} x {self.patch_size} = {side} in height and width"
            )
        for name in ("context_fsq_levels", "dynamics_fsq_levels"):
            levels = getattr(self, name)
            if levels is not None and (not levels or min(levels) < 2):
                raise ValueError(f"{name} must hold a number of at least 2 for each dimension, got {levels}")
        if self.composites_context and self.in_channels != self.out_channels:
            raise ValueError(
                f"composites_context copies context frames, so that in_channels {self.in_channels} and out_channels "
                f"{self.out_channels} must be equal"
            )
        for level, channels in enumerate(self.block_out_channels):
            divisors = {"norm_num_groups": self.norm_num_groups}
            if self.has_cross_attention(level):
                divisors["num_attention_heads"] = self.num_attention_heads
                divisors["cross_attention_norm_groups"] = cast(int, self.cross_attention_norm_groups)
            if any(divisor < 1 or channels % divisor for divisor in divisors.values()):
                raise ValueError(
                    f"every entry of block_out_channels must be divisible by norm_num_groups, and where its level has "
                    f"cross-attention by num_attention_heads and cross_attention_norm_groups: {channels} of "
                    f"{tuple(self.block_out_channels)} is not divisible by all of {divisors}"
                )
        if not 0 < cast(float, self.cross_attention_norm_eps) < 1:
            raise ValueError(f"cross_attention_norm_eps must be in (0, 1), got {self.cross_attention_norm_eps}")

    def has_cross_attention(self, level: int) -> bool:
        """Whether a level of the encoder, counted from the finest, attends to the context."""
        halvings = min(level + 1, len(self.block_out_channels) - 1)
        return max(self.frame_size) >> halvings <= self.max_att_resolution

    @property
    def frame_size(self) -> tuple[int, int]:
        """Size (height, width) of a frame, in pixels."""
        if isinstance(self.resolution, int):
            return self.resolution, self.resolution
        height, width = self.resolution
        return height, width

    @property
    def downsampling(self) -> int:
        """Number of pixels per latent, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def code_dim(self) -> int:
        """Width of the codebooks."""
        return self.vq_embed_dim if self.vq_embed_dim is not None else self.latent_channels

    @property
    def context_code_dim(self) -> int:
        """Width of the context's codes."""
        return self.code_dim if self.context_fsq_levels is None else len(self.context_fsq_levels)

    @property
    def dynamics_code_dim(self) -> int:
        """Width of the dynamics codes."""
        return self.code_dim if self.dynamics_fsq_levels is None else len(self.dynamics_fsq_levels)

    @property
    def context_grid(self) -> tuple[int, int]:
        """Grid (rows, columns) of the tokens of a context frame."""
        height, width = self.frame_size
        return height // self.downsampling, width // self.downsampling

    @property
    def dynamics_grid(self) -> tuple[int, int]:
        """Grid (rows, columns) of the tokens of a future frame."""
        rows, columns = self.context_grid
        return rows // self.patch_size, columns // self.patch_size

    @property
    def layout(self) -> TokenLayout:
        """The token sequence that this VQ model writes."""
        rows, columns = self.context_grid
        dynamics_rows, dynamics_columns = self.dynamics_grid
        return TokenLayout(
            num_context_frames=self.num_context_frames,
            tokens_per_context_frame=rows * columns,
            tokens_per_future_frame=dynamics_rows * dynamics_columns,
            num_context_codes=self.num_context_codes,
            num_dynamics_codes=self.num_dynamics_codes,
            repeat_last_context=self.repeat_last_context,
        )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers. A released config, which diffusers wrote, is read as the original code reads it.

        Raises:
            ValueError: if it is the config of another model, or of one that the original code cannot run, or chooses
                what it may not.
        """
        check_choices(cls, config_dict)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"the config is that of a {model_type!r} model, and not of a VQ model ({cls.model_type!r}), "
                f"which is in the subfolder 'tokenizer' of a checkpoint"
            )
        if "_class_name" not in config_dict:  # diffusers writes this field, transformers does not
            return super().from_dict(config_dict, **kwargs)
        if config_dict["_class_name"] == FSQ_CLASS:
            return super().from_dict(read_fsq_fields(config_dict) | {"transformers_weights": VQ_WEIGHTS}, **kwargs)
        problems = vq_problems(cls(**read_vq_fields(config_dict)))
        if problems:
            raise ValueError(
                f"this tokenizer/config.json is in the released layout, and the original code cannot run it: "
                f"{'; '.join(problems)}"
            )
        # Consumed by transformers' loader and never saved: the name under which diffusers stores weights.
        return super().from_dict(read_vq_fields(config_dict) | {"transformers_weights": VQ_WEIGHTS}, **kwargs)
