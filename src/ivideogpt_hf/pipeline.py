"""A diffusers pipeline: video files, images or arrays in, predicted video out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from .checkpoints import loading as checkpoints
from .decoding.sampling import Sampling
from .media.actions import read_actions
from .media.video import VideoSource, read_video
from .models.modeling_ivideogpt import IVideoGPTForCausalLM
from .models.modeling_ivideogpt_vq import IVideoGPTVQModel
from .models.processing_ivideogpt import IVideoGPTVideoProcessor
from .world.world_model import HorizonPolicy, WorldModel

COMPONENTS = ("tokenizer", "transformer", "processor")
DTYPE_NAMES = ("tokenizer", "transformer", "default")
OutputType = Literal["pil", "np", "pt"]


@dataclass
class IVideoGPTPipelineOutput(BaseOutput):
    """Predicted video; the axis N of samples is there if `num_samples` was given.

    Args:
        frames: predicted frames only. "pil": nested lists [clip][[sample]][frame] of PIL images; "np": (B, [N,] T, H,
            W, 3) uint8; "pt": (B, [N,] T, 3, H, W) uint8.
        rewards: (B, [N,] T) float32 in reward units, on the CPU, or None without a reward head.
    """

    frames: list[Any] | np.ndarray | Tensor
    rewards: Tensor | None


class IVideoGPTPipeline(DiffusionPipeline):
    """Predicts how video goes on.

    Args:
        tokenizer: the VQ model.
        transformer: predicts the tokens of future frames.
        processor: says how frames are resized and holds action statistics; None: a plain one.
    """

    _optional_components = ["processor"]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: IVideoGPTVQModel,
        transformer: IVideoGPTForCausalLM,
        processor: IVideoGPTVideoProcessor | None = None,
    ) -> None:
        super().__init__()
        world = WorldModel(tokenizer, transformer, processor)
        self.register_modules(tokenizer=tokenizer, transformer=transformer, processor=world.processor)

    @property
    def world(self) -> WorldModel:
        """The world model of these components."""
        return WorldModel(self.tokenizer, self.transformer, self.processor)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32,
        goal_conditioned: bool | None = None,
        **components: Any,
    ) -> IVideoGPTPipeline:
        """Load a checkpoint: a folder or a Hub id, in the released layout or ours.

        Args:
            path_or_repo_id, revision, token, cache_dir, local_files_only, goal_conditioned: as in
                `WorldModel.from_pretrained`.
            dtype: of both networks, or one for each by name: "tokenizer", "transformer", or "default" for
                what is not named.
            components: `tokenizer`, `transformer` or `processor` to use instead of loading it.

        Raises:
            OSError, ValueError: as in `WorldModel.from_pretrained`; ValueError also for an unknown component or dtype.
        """
        unknown = sorted(set(components) - set(COMPONENTS))
        if unknown:
            raise ValueError(f"unknown arguments {unknown}; the components are {COMPONENTS}")
        dtypes = dtype if isinstance(dtype, Mapping) else {"default": dtype}
        unknown = sorted(set(dtypes) - set(DTYPE_NAMES))
        if unknown:
            raise ValueError(f"dtype names unknown components {unknown}; it may name {DTYPE_NAMES}")
        default = dtypes.get("default", torch.float32)
        folder = checkpoints.fetch(
            path_or_repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        if "tokenizer" not in components:
            components["tokenizer"] = checkpoints.load_vq_model(folder, dtype=dtypes.get("tokenizer", default))
        if "transformer" not in components:
            components["transformer"] = checkpoints.load_transformer(
                folder,
                dtype=dtypes.get("transformer", default),
                goal_conditioned=checkpoints.is_goal_conditioned(path_or_repo_id, goal_conditioned),
            )
        if "processor" not in components:
            components["processor"] = checkpoints.load_processor(folder)
        return cls(**components)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *, remote_code: bool = False) -> None:
        """Save to a folder; the same as `WorldModel.save_pretrained`."""
        self.world.save_pretrained(save_directory, remote_code=remote_code)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload; the same as `WorldModel.push_to_hub`."""
        return self.world.push_to_hub(repo_id, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        video: VideoSource | Sequence[VideoSource],
        actions: Any = None,
        *,
        goal: Any = None,
        num_frames: int | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sampling: Sampling | None = None,
        horizon_policy: HorizonPolicy = "reanchor",
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> IVideoGPTPipelineOutput | tuple[Any, Tensor | None]:
        """Predict the frames that follow the first frames of a clip.

        Args:
            video: a clip, in any form that `ivideogpt_hf.media.read_video` takes, or a list of clips. The first frames
                are the context, as many as the checkpoint takes (one fewer with a goal); what follows is not looked at.
            actions: for an action-conditioned checkpoint: (T, A), or a file, for one clip; (B, T, A) or a list for
                several; the first leads from the last context frame to the first predicted one.
            goal: for a goal-conditioned checkpoint: an image or image file for one clip; a list of them, or an array
                (B, H, W, 3) or (B, 3, H, W), for several.
            num_frames: frames to predict; follows from the actions where there are any.
            num_samples: futures per clip.
            generator: draws the seed; one, or one per clip. Without it, and without a seed in `sampling`, every call
                differs.
            sampling: how to draw tokens, with one seed or one per clip; None: `Sampling()`.
            horizon_policy: as in `WorldModel.rollout`.
            output_type: "pil", "np" or "pt", see `IVideoGPTPipelineOutput`.
            return_dict: whether to return an `IVideoGPTPipelineOutput` or a tuple.

        Raises:
            OSError: if a file cannot be read.
            ValueError: if an input does not fit the checkpoint.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        world = self.world
        batched = _is_batch(video)
        clips = list(video) if batched else [video]
        if not clips:
            raise ValueError("there must be at least one clip")
        num_clips = len(clips) if batched else None
        context = self._read_context(world, clips, _for_each_clip(goal, num_clips, "a goal"))
        tensor = _stack_actions(_for_each_clip(actions, num_clips, "actions"))
        if tensor is not None and num_frames not in (None, tensor.shape[1]):
            raise ValueError(f"num_frames is {num_frames}, but there are {tensor.shape[1]} actions per clip")
        num_frames = num_frames if tensor is None else tensor.shape[1]
        if num_frames is None or num_frames < 1:
            raise ValueError(
                f"without actions, num_frames says how many frames to predict (at least 1), got {num_frames}"
            )
        samples = 1 if num_samples is None else num_samples
        sampling = _with_seed(sampling or Sampling(), generator, len(clips), samples)
        state = world.reset(context).fork(samples)
        if tensor is not None:
            tensor = tensor.repeat_interleave(samples, dim=0)
        steps = []
        with self.progress_bar(total=num_frames) as progress:
            for i in range(num_frames):
                action = None if tensor is None else tensor[:, i]
                step, state = world.step(state, action, sampling=sampling, horizon_policy=horizon_policy)
                steps.append(step)
                progress.update()
        frames = torch.stack([step.frame for step in steps], dim=1)
        rewards = torch.stack([step.reward for step in steps], dim=1).cpu() if world.spec.has_reward else None
        if num_samples is not None:
            frames = frames.unflatten(0, (-1, samples))
            rewards = None if rewards is None else rewards.unflatten(0, (-1, samples))
        output = IVideoGPTPipelineOutput(frames=_as_output(frames, output_type), rewards=rewards)
        return output if return_dict else (output.frames, output.rewards)

    def _read_context(self, world: WorldModel, clips: list[VideoSource], goals: list[Any] | None) -> Tensor:
        """Context frames (B, C, 3, H, W) uint8, the goal first where there is one."""
        num_frames = world.spec.num_real_context_frames
        contexts = []
        for clip in clips:
            frames = read_video(clip)
            if len(frames) < num_frames:
                raise ValueError(f"a clip has {len(frames)} frames, fewer than the {num_frames} of the context")
            contexts.append(world.processor.resize_frames(frames[:num_frames]))
        context = torch.stack(contexts)
        if not world.spec.goal_conditioned:
            if goals is not None:
                raise ValueError("a goal was given, but this checkpoint is not goal-conditioned")
            return context
        if goals is None:
            raise ValueError(f"this checkpoint is goal-conditioned: pass one goal image per clip ({len(clips)})")
        images = torch.stack([world.processor.resize_frames(read_video([_read_image(image)])) for image in goals])
        return torch.cat([images, context], dim=1)


def _is_batch(video: Any) -> bool:
    """Whether this is a list of clips: a clip itself may be a list of images."""
    if isinstance(video, (np.ndarray, Tensor)):
        return video.ndim == 5
    if not isinstance(video, (list, tuple)) or not video:
        return False
    first = video[0]
    if isinstance(first, (np.ndarray, Tensor)):
        return first.ndim == 4
    return isinstance(first, (str, os.PathLike, Mapping, list, tuple))


def _read_image(image: Any) -> Any:
    if not isinstance(image, (str, os.PathLike)):
        return image
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise OSError(f"the goal {image} cannot be read as an image: {error}") from error


def _for_each_clip(values: Any, num_clips: int | None, name: str) -> list[Any] | None:
    """What was given for each clip, in a list; num_clips is None for a clip that is not in a batch."""
    if values is None:
        return None
    if num_clips is None:
        return [values]
    several = isinstance(values, (list, tuple, np.ndarray, Tensor))
    if not several or len(values) != num_clips:
        got = len(values) if several else f"one {type(values).__name__}"
        raise ValueError(f"pass {name} for each of the {num_clips} clips, in a list or stacked; got {got}")
    return list(values)


def _stack_actions(parts: list[Any] | None) -> Tensor | None:
    """Actions (B, T, A) float32, of one part for each clip."""
    if parts is None:
        return None
    actions = [read_actions(part) for part in parts]
    shapes = {tuple(part.shape) for part in actions}
    if len(shapes) > 1:
        raise ValueError(f"the clips' actions must have one shape (T, A), got {sorted(shapes)}")
    return torch.stack(actions)


def _with_seed(
    sampling: Sampling, generator: torch.Generator | Sequence[torch.Generator] | None, num_clips: int, num_samples: int
) -> Sampling:
    """Put the generator's seed into the sampling options, and one for each row where clips have their own."""
    seeds = sampling.seed
    if generator is not None:
        if seeds is not None:
            raise ValueError("pass a generator or a seed in sampling, not both")
        generators = [generator] * num_clips if isinstance(generator, torch.Generator) else generator
        seeds = [int(torch.randint(2**62, (1,), generator=source, device=source.device)) for source in generators]
    if seeds is None or isinstance(seeds, int):
        return sampling
    if len(seeds) != num_clips:
        raise ValueError(f"pass one generator or seed, or one per clip ({num_clips}), got {len(seeds)}")
    return replace(sampling, seed=tuple(seed for seed in seeds for _ in range(num_samples)))


def _as_output(frames: Tensor, output_type: OutputType) -> list[Any] | np.ndarray | Tensor:
    if output_type == "pt":
        return frames
    array = frames.movedim(-3, -1).cpu().numpy()
    return array if output_type == "np" else _as_images(array)


def _as_images(array: np.ndarray) -> Any:
    return Image.fromarray(array) if array.ndim == 3 else [_as_images(part) for part in array]
