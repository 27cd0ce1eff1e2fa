"""Configuration of the transformer. Reads the config files of the released checkpoints as they are."""

import math
import os
from dataclasses import asdict, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from .configuration_ivideogpt_vq import IVideoGPTVQConfig, check_choices
from .pushing import PushesWithCard
from .released_config import read_llama_fields, read_tokenizer_config
from .token_layout import TokenLayout


@strict
class IVideoGPTConfig(PushesWithCard, LlamaConfig):  # type: ignore[misc]  # the upload is replaced on purpose
    """Configuration of `IVideoGPTForCausalLM`: a LLaMA with a token layout, actions and a reward.

    Args:
        num_context_frames, tokens_per_context_frame, tokens_per_future_frame: counts of the token layout, see
            `TokenLayout`.
        num_context_codes, num_dynamics_codes, repeat_last_context: other arguments of the token layout. The default of
            `vocab_size` follows from them, and another value is an error.
        action_dim: width A of an action; 0 for an action-free model.
        action_conditioning: way in which actions enter. "add" adds the action to the embedding of the slot before the
            frame that it causes. "scale_shift" does the same, and before every layer also scales and shifts the hidden
            states that decide on that frame (He et al., 2025, arXiv 2502.07825).
        predict_reward: whether there is a reward head.
        num_reward_bins: number of bins over which the reward head gives a distribution, trained by two-hot targets (see
            `reward_bins`). 1: it gives one number, trained by the squared error, as in released checkpoints.
        reward_range: centres of the first bin and of the last, in the units of the reward head. The default is that of
            TD-MPC2, for symlog rewards.
        reconstruct_actions: whether there is a head that reconstructs the action from the hidden state at the last
            token of its frame.
        draft_head: whether there is a head that guesses tokens ahead of the next one (see `DraftHead`), which makes
            rollouts faster and changes nothing in them.
        goal_conditioned: whether the first context frame is the goal.
        num_trained_frames: number of frames of the longest future that the model saw in training, after which a rollout
            re-anchors; None where it is not known.

    Every other argument is one of `transformers.LlamaConfig`; the defaults are the released small model.

    Example:
        >>> from ivideogpt_hf import IVideoGPTConfig
        >>> config = IVideoGPTConfig(action_dim=4, predict_reward=True)
        >>> config.layout.prompt_length, config.layout.block_length
        (513, 17)
    """

    model_type = "ivideogpt"

    vocab_size: int | None = None  # type: ignore[assignment]  # until the layout gives it
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 1024
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    num_context_frames: int = 2
    tokens_per_context_frame: int = 256
    tokens_per_future_frame: int = 16
    num_context_codes: int = 8192
    num_dynamics_codes: int = 8192
    repeat_last_context: bool = False
    action_dim: int = 0
    action_conditioning: str = "add"
    predict_reward: bool = False
    num_reward_bins: int = 1
    reward_range: list[float] | tuple[float, ...] = (-10.0, 10.0)
    reconstruct_actions: bool = False
    draft_head: bool = False
    goal_conditioned: bool = False
    num_trained_frames: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vocab_size is None:
            self.vocab_size = self.layout.vocab_size
        super().__post_init__(**kwargs)
        self.check_geometry()

    def check_geometry(self) -> None:
        """Check that vocabulary, positions and heads fit the layout. Called at construction.

        Raises:
            ValueError: if a field does not fit; names it.
        """
        layout = self.layout
        if self.vocab_size != layout.vocab_size:
            raise ValueError(
                f"vocab_size {self.vocab_size} does not fit the layout: {self.num_context_codes} context codes + "
                f"{self.num_dynamics_codes} dynamics codes + 2 separators = {layout.vocab_size}"
            )
        if layout.max_future_frames(self.max_position_embeddings) < 1:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no room for one future frame: the "
                f"context takes {layout.prompt_length} positions and a frame {layout.block_length}"
            )
        if self.action_dim < 0:
            raise ValueError(f"action_dim must be 0 (action-free) or positive, got {self.action_dim}")
        if self.action_conditioning not in ("add", "scale_shift"):
            raise ValueError(f"action_conditioning must be 'add' or 'scale_shift', got {self.action_conditioning!r}")
        if self.num_reward_bins < 1:
            raise ValueError(f"num_reward_bins must be 1 (one number) or more, got {self.num_reward_bins}")
        self.reward_range = tuple(self.reward_range)  # it is a list in a file
        if len(self.reward_range) != 2 or not -math.inf < self.reward_range[0] < self.reward_range[1] < math.inf:
            raise ValueError(f"reward_range must be (low, high) with low < high, both finite, got {self.reward_range}")
        if self.num_trained_frames is not None and self.num_trained_frames < 1:
            raise ValueError(f"num_trained_frames must be at least 1, or None, got {self.num_trained_frames}")
        if self.reconstruct_actions and not self.action_dim:
            raise ValueError("reconstruct_actions needs action_dim > 0")
        if self.draft_head and self.tokens_per_future_frame < 2:
            raise ValueError("draft_head needs tokens_per_future_frame >= 2: it guesses tokens within a frame")
        if self.goal_conditioned and self.num_context_frames < 2:
            raise ValueError("goal_conditioned needs num_context_frames >= 2: the goal and at least one real frame")

    @property
    def layout(self) -> TokenLayout:
        """The token sequence that this model continues."""
        return TokenLayout(**{field.name: getattr(self, field.name) for field in fields(TokenLayout)})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            ValueError: if the config chooses what it may not.
        """
        check_choices(cls, config_dict)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers. A released config, which is a plain LlamaConfig, is completed from the files around it.

        Raises:
            OSError: if the weights or the tokenizer's config beside a released config cannot be read.
            ValueError: if it is the config of another model, or of one that the original code cannot load.
        """
        config_dict, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type == "llama":
            hub_names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
            place = (pretrained_model_name_or_path, kwargs.get("subfolder", ""))
            hub_kwargs = {name: kwargs[name] for name in hub_names if name in kwargs}
            layout = IVideoGPTVQConfig.from_dict(read_tokenizer_config(*place, **hub_kwargs)).layout
            config_dict = read_llama_fields(config_dict, *place, **hub_kwargs) | asdict(layout)
        elif model_type != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {model_type!r} model, not a transformer of iVideoGPT "
                f"({cls.model_type!r}, or 'llama' in the released layout)"
            )
        return config_dict, unused
