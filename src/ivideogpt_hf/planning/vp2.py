"""Interface to VP2 (Tian et al., 2023): a world model as its planning code takes a video predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..decoding.sampling import Sampling
from ..media.pixels import pixels_to_uint8
from ..world.protocol import World


class VP2Predictor:
    """A video predictor, to be named in VP2's configuration.

    VP2's planner repeats one context for all candidates. Here it is coded once. Frames are (H, W, 3) floats in [0, 1].
    The last context frame comes back in front of the predicted ones: so does VP2's code, though its README says
    otherwise.

    Args:
        world: action-conditioned world model.
        sampling: distribution that tokens are drawn from, with one sample per candidate; None: `Sampling()`.
        chunk_size: number of candidates that are rolled out at a time; None: all.

    Raises:
        ValueError: if the model is action-free, or goal-conditioned.

    Example:
        >>> import numpy as np
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> from ivideogpt_hf.planning.vp2 import VP2Predictor
        >>> predictor = VP2Predictor(WorldModel.default())
        >>> context = read_video(EXAMPLE_EPISODE, max_frames=2).permute(0, 2, 3, 1).numpy() / 255
        >>> batch = {"video": np.stack([context] * 4), "actions": np.zeros((4, 1 + 2, 4))}
        >>> predictor(batch)["rgb"].shape
        (4, 3, 64, 64, 3)
    """

    base_prediction_modality = "rgb"

    def __init__(self, world: World[Any], sampling: Sampling | None = None, chunk_size: int | None = None) -> None:
        if not world.spec.action_dim:
            raise ValueError("VP2 plans with actions, and this model is action-free")
        if world.spec.goal_conditioned:  # its first context frame would be taken for the goal
            raise ValueError("VP2 gives predictors no goal, and this model is goal-conditioned: take PlannerPolicy")
        self.world, self.sampling, self.chunk_size = world, sampling, chunk_size

    @property
    def num_context(self) -> int:
        """Number of context frames in each row of a batch."""
        return self.world.spec.num_context_frames

    def __call__(self, batch: Mapping[str, Any], grad_enabled: bool = False) -> dict[str, Any]:
        """Predict.

        Args:
            batch: arrays "video" (N, num_context, H, W, 3) in [0, 1] and "actions" (N, num_context - 1 + T, A). The
                actions between context frames come first, and have no influence.
            grad_enabled: gradients, which are not available: must be False.

        Returns:
            A dict with "rgb": array (N, 1 + T, H, W, 3) float32.

        Raises:
            ValueError: if sizes or ranges do not fit, or gradients are asked for.
        """
        if grad_enabled:
            raise ValueError("gradients do not pass through sampled tokens: plan without them")
        video, actions = torch.as_tensor(batch["video"]), torch.as_tensor(batch["actions"])
        if video.ndim != 5 or video.shape[1] != self.num_context or len(video) != len(actions):
            raise ValueError(
                f"video must be (N, {self.num_context}, H, W, 3) with N actions, got {tuple(video.shape)} and "
                f"{tuple(actions.shape)}"
            )
        frames = pixels_to_uint8(video).movedim(-1, 2)
        future = actions[:, self.world.spec.first_action :].float()
        one_context = bool((frames == frames[:1]).all())
        state = self.world.reset(frames[:1] if one_context else frames)
        candidates = future[None] if one_context else future[:, None]
        chunks = candidates.split(self.chunk_size or candidates.shape[1], dim=1)
        rollouts = [self.world.rollout(state, chunk, sampling=self.sampling, outputs=("frames",)) for chunk in chunks]
        predicted = torch.cat([rollout.frames for rollout in rollouts], dim=1).flatten(0, 1).cpu()
        video = torch.cat([frames[:, -1:], predicted], dim=1).movedim(2, -1)
        return {"rgb": (video.float() / 255).numpy()}

    def close(self) -> None:
        """Do nothing: no resources are held."""
