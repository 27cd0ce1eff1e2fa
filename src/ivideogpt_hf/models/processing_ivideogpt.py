"""The processor: it prepares video, and holds action statistics and reward units as a part of the checkpoint."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.video_processing_utils import BaseVideoProcessor

from .pushing import PushesWithCard
from .resizing import check_levels, resize_frames

RewardTransform = Literal["identity", "symlog"]
EMBODIMENT_SETTINGS = ("action_mean", "action_std", "action_low", "action_high", "action_names")


class IVideoGPTVideoProcessor(PushesWithCard, BaseVideoProcessor):  # type: ignore[misc]  # the upload is replaced on purpose
    """Resizes video to what a checkpoint takes, and converts actions and rewards between its units and the user's.

    It is written in pure torch. Unlike other video processors of transformers, it does not need torchvision.

    Args:
        size: size ``{"height": H, "width": W}`` of the frames that the model takes, in pixels.
        crop_to_aspect: whether frames are cropped to the largest centred window of the target's aspect ratio before
            they are resized (as in the paper for RoboNet). Otherwise the whole frame is squeezed.
        action_mean, action_std: mean and standard deviation of each action dimension, in environment units. The model
            sees (action - mean) / std. None: the model sees actions as they are.
        action_low, action_high: bounds of each action dimension in environment units, for planners and players; None:
            unknown.
        action_names: name of each action dimension, or None.
        embodiments: settings of each robot's actions, by its name, for a model that was trained on several robots. The
            settings are "action_dim" and any of the five above. `for_embodiment` chooses a robot.
        padded_action_dim: width of the actions that the model takes. Narrower actions are padded with zeros after
            normalisation.
        reward_transform: transform of the rewards that the reward head was trained on: "identity" or "symlog", which is
            sign(r) log(1 + |r|).
        kwargs: further arguments of `transformers.BaseVideoProcessor`.

    Raises:
        ValueError: if the statistics contradict each other.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import IVideoGPTVideoProcessor
        >>> size = {"height": 64, "width": 64}
        >>> processor = IVideoGPTVideoProcessor(size, action_mean=[1.0, 0.0], action_std=[2.0, 1.0])
        >>> processor.resize_frames(torch.zeros(5, 3, 120, 160, dtype=torch.uint8)).shape
        torch.Size([5, 3, 64, 64])
        >>> processor.normalize_actions(torch.tensor([[3.0, 0.0]]))
        tensor([[1., 0.]])
    """

    _file_that_names_code = "video_preprocessor_config.json"
    model_input_names = ["pixel_values_videos"]  # noqa: RUF012
    size: SizeDict  # set by transformers, from the argument
    do_resize = True
    do_rescale = True
    resample = PILImageResampling.BILINEAR

    def __init__(
        self,
        size: dict[str, int] | None = None,
        crop_to_aspect: bool = False,
        action_mean: Sequence[float] | None = None,
        action_std: Sequence[float] | None = None,
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
        action_names: Sequence[str] | None = None,
        embodiments: dict[str, dict[str, Any]] | None = None,
        padded_action_dim: int | None = None,
        reward_transform: RewardTransform = "identity",
        **kwargs: Any,
    ) -> None:
        size = size or {"height": 64, "width": 64}
        super().__init__(size=size, **kwargs)
        self.crop_to_aspect = crop_to_aspect
        self.action_mean, self.action_std = action_mean, action_std
        self.action_low, self.action_high = action_low, action_high
        self.action_names = action_names
        self.embodiments = embodiments
        self.padded_action_dim = padded_action_dim
        self.reward_transform = reward_transform
        self.processor_class = type(self).__name__  # by which AutoProcessor finds it
        self._check()

    @classmethod
    def get_video_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a processor's settings, as transformers does for `from_pretrained`; of a whole checkpoint, in its folder
        "processor".

        Raises:
            OSError: if there are none.
        """
        try:
            return super().get_video_processor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError:
            if kwargs.get("subfolder"):
                raise
            kwargs["subfolder"] = "processor"
            return super().get_video_processor_dict(pretrained_model_name_or_path, **kwargs)

    def _check(self) -> None:
        given = (self.action_mean, self.action_std, self.action_low, self.action_high, self.action_names)
        widths = {len(values) for values in given if values is not None}
        if len(widths) > 1:
            raise ValueError(f"action statistics, bounds and names must have one width, got {sorted(widths)}")
        if (self.action_mean is None) != (self.action_std is None):
            raise ValueError("action_mean and action_std must be given together")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError("action_low and action_high must be given together")
        if self.action_std is not None and not all(0 < std < math.inf for std in self.action_std):
            raise ValueError(f"action_std must be positive, and finite, got {list(self.action_std)}")
        if self.action_mean is not None and not all(map(math.isfinite, self.action_mean)):
            raise ValueError(f"action_mean must be finite, got {list(self.action_mean)}")
        bounds = zip(self.action_low or (), self.action_high or (), strict=True)
        if any(not low < high for low, high in bounds):  # NaN is in no order
            raise ValueError(f"action_low must be below action_high, got {self.action_low} and {self.action_high}")
        self._check_widths()
        if self.reward_transform not in ("identity", "symlog"):
            raise ValueError(f"reward_transform must be 'identity' or 'symlog', got {self.reward_transform!r}")

    def _check_widths(self) -> None:
        """Check that the padded width holds the actions of this processor and of all embodiments."""
        widths: dict[str, Any] = {"the actions described": self.action_dim}
        for name, settings in (self.embodiments or {}).items():
            unknown = set(settings) - {"action_dim", *EMBODIMENT_SETTINGS}
            if unknown or "action_dim" not in settings:
                raise ValueError(
                    f"the embodiment {name!r} needs action_dim and may have {', '.join(EMBODIMENT_SETTINGS)}, got "
                    f"{sorted(settings)}"
                )
            widths[f"the embodiment {name!r}"] = settings["action_dim"]
        if self.embodiments and self.padded_action_dim is None:
            raise ValueError("embodiments need padded_action_dim, the width that the model takes")
        for name, width in widths.items():
            if width is not None and self.padded_action_dim is not None and width > self.padded_action_dim:
                raise ValueError(f"{name} have width {width}, more than padded_action_dim {self.padded_action_dim}")

    def for_embodiment(self, name: str) -> IVideoGPTVideoProcessor:
        """A copy of the processor for the actions of one embodiment, with their width and units.

        Raises:
            ValueError: if there is no such embodiment.
        """
        embodiments = self.embodiments or {}
        if name not in embodiments:
            raise ValueError(f"there is no embodiment {name!r}; there are {sorted(embodiments)}")
        settings = embodiments[name]
        chosen = copy.deepcopy(self)
        for setting in EMBODIMENT_SETTINGS:
            setattr(chosen, setting, settings.get(setting))
        if chosen.action_dim is None:  # without statistics, names tell the width
            chosen.action_names = [str(i) for i in range(settings["action_dim"])]
        chosen._check()
        return chosen

    @property
    def frame_size(self) -> tuple[int, int]:
        """Size (height, width) of the frames that the model takes."""
        return self.size["height"], self.size["width"]

    @property
    def action_dim(self) -> int | None:
        """Width of the actions that statistics, bounds or names describe; None if there are none."""
        for values in (self.action_mean, self.action_low, self.action_names):
            if values is not None:
                return len(values)
        return None

    def resize_frames(self, frames: Tensor) -> Tensor:
        """Crop and resize uint8 frames (..., 3, h, w) to uint8 (..., 3, H, W), bilinear with antialiasing.

        Raises:
            ValueError: if the frames are not uint8.
        """
        return resize_frames(frames, self.frame_size, crop_to_aspect=self.crop_to_aspect)

    def _preprocess(  # type: ignore[override]  # it is called by name, with these and more
        self,
        videos: list[Tensor],
        *,
        size: SizeDict,
        do_resize: bool,
        do_rescale: bool,
        do_normalize: bool | None,
        do_center_crop: bool | None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Called by transformers with the settings of the config or of the call. It always passes some that have no
        meaning here, as kwargs (resample, rescale_factor, ...)."""
        if do_normalize or do_center_crop:
            raise ValueError(
                "do_normalize and do_center_crop are not supported; pixels are in [0, 1], crop_to_aspect crops"
            )
        if do_rescale:
            for video in videos:
                check_levels(video)
        if do_resize:
            frame_size = (size["height"], size["width"])
            videos = [resize_frames(video, frame_size, crop_to_aspect=self.crop_to_aspect) for video in videos]
        pixels = [video.float() / 255 if do_rescale else video for video in videos]
        return BatchFeature(data={"pixel_values_videos": pixels}, tensor_type=return_tensors)

    def normalize_actions(self, actions: Tensor) -> Tensor:
        """Convert actions (..., A) in environment units to those that the model takes, float32 (..., padded_action_dim
        or A)."""
        actions = actions.float()
        if self.action_mean is not None:
            actions = (actions - actions.new_tensor(self.action_mean)) / actions.new_tensor(self.action_std)
        if self.padded_action_dim is None:
            return actions
        return F.pad(actions, (0, self.padded_action_dim - actions.shape[-1]))

    def rewards_from_head(self, outputs: Tensor) -> Tensor:
        """Convert outputs of the reward head to rewards, float32."""
        outputs = outputs.float()
        return outputs.sign() * outputs.abs().expm1() if self.reward_transform == "symlog" else outputs

    def rewards_to_head(self, rewards: Tensor) -> Tensor:
        """Convert rewards to targets of the reward head, float32. It is the inverse of `rewards_from_head`."""
        rewards = rewards.float()
        return rewards.sign() * rewards.abs().log1p() if self.reward_transform == "symlog" else rewards


__all__ = ["IVideoGPTVideoProcessor"]
