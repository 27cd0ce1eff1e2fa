"""A diffusers pipeline: video files, images or arrays in, predicted video out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import is_not
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.quantizers import PipelineQuantizationConfig
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers.utils.quantization_config import QuantizationConfigMixin

from .checkpoints import loading as checkpoints
from .checkpoints.loading import DeviceMap, DTypeLike, LoadingOptions, choose_dtype
from .decoding.devices import device_of
from .decoding.layers import convolution_dtype
from .decoding.sampling import Sampling, check_count
from .media.actions import read_actions, read_future_actions
from .media.pictures import read_picture
from .media.video import VideoSource, read_video
from .models.modeling_ivideogpt import IVideoGPTForCausalLM
from .models.modeling_ivideogpt_vq import IVideoGPTVQModel
from .models.processing_ivideogpt import IVideoGPTVideoProcessor
from .spec import first_action
from .world.foreign import LOADING, PREDICTING, refuse_foreign
from .world.options import HorizonPolicy
from .world.results import Requested, Step
from .world.world_model import WorldModel

COMPONENTS = ("tokenizer", "transformer", "processor")
DTYPE_NAMES = ("tokenizer", "transformer", "default")
CALLBACK_TENSORS = ("frames", "rewards", "tokens")
OutputType = Literal["pil", "np", "pt"]


@dataclass
class IVideoGPTPipelineOutput(BaseOutput):
    """Predicted video; the axis N of samples is there if `num_samples` was given.

    Args:
        frames: predicted frames, without the context. "pil": nested lists of PIL images, by clip, by
            sample if there are samples, and by frame; "np": (B, [N,] T, H, W, 3) uint8; "pt": (B, [N,] T, 3, H, W)
            uint8.
        rewards: predicted rewards (B, [N,] T) float32 in reward units, on the CPU; None without a reward head.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, IVideoGPTPipeline, read_actions, read_video
        >>> pipe = IVideoGPTPipeline.from_pretrained("default")
        >>> frames, actions = read_video(EXAMPLE_EPISODE, max_frames=2), read_actions(EXAMPLE_EPISODE)
        >>> output = pipe(frames, actions=actions[1:3], num_samples=2, output_type="pt")
        >>> output.frames.shape, output.rewards.shape
        (torch.Size([1, 2, 2, 3, 64, 64]), torch.Size([1, 2, 2]))
    """

    frames: list[Any] | np.ndarray | Tensor
    rewards: Requested


class IVideoGPTPipeline(DiffusionPipeline):
    """Predicts how video goes on.

    Args:
        tokenizer: VQ model, which codes and decodes frames.
        transformer: network that predicts the tokens of future frames.
        processor: frame size, action statistics and reward units; None: a plain one.
    """

    # The components, which `register_modules` sets.
    tokenizer: IVideoGPTVQModel
    transformer: IVideoGPTForCausalLM
    processor: IVideoGPTVideoProcessor
    model_cpu_offload_seq = "tokenizer->transformer"  # type: ignore[assignment]  # diffusers declares None
    _optional_components = ["processor"]  # noqa: RUF012
    _callback_tensor_inputs = list(CALLBACK_TENSORS)  # noqa: RUF012

    def __init__(
        self,
        tokenizer: IVideoGPTVQModel,
        transformer: IVideoGPTForCausalLM,
        processor: IVideoGPTVideoProcessor | None = None,
    ) -> None:
        super().__init__()
        self._world = WorldModel(tokenizer, transformer, processor)
        self._interrupt = False
        self.register_modules(tokenizer=tokenizer, transformer=transformer, processor=self._world.processor)

    @property
    def world(self) -> WorldModel:
        """The world model of these components: the same object as long as they are the same, so that
        ``pipe.world.compile()`` lasts."""
        parts = (self.tokenizer, self.transformer, self.processor)
        world = self._world
        if any(map(is_not, parts, (world.vq_model, world.transformer, world.processor))):
            self._world = WorldModel(*parts)
        return self._world

    @property
    def interrupt(self) -> bool:
        """Whether a callback asked to stop, by setting ``pipe._interrupt = True`` as in other pipelines."""
        return self._interrupt

    @classmethod
    def from_pretrained(  # type: ignore[override]  # named arguments instead of **kwargs, so that unknown ones fail
        cls,
        path_or_repo_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        variant: str | None = None,
        dtype: DTypeLike | Mapping[str, torch.dtype | str] = torch.float32,
        torch_dtype: DTypeLike | Mapping[str, torch.dtype | str] = None,
        device_map: DeviceMap = None,
        offload_folder: str | os.PathLike[str] | None = None,
        goal_conditioned: bool | None = None,
        quantization_config: PipelineQuantizationConfig | QuantizationConfigMixin | None = None,
        **components: Any,
    ) -> IVideoGPTPipeline:
        """Load a checkpoint: a folder or a Hub id, in the released layout or ours.

        Args:
            path_or_repo_id: folder, or Hub id such as ``"thuml/ivideogpt-bair-64-act-cond"``.
            revision, token, cache_dir, local_files_only, force_download: see `WorldModel.from_pretrained`.
            subfolder, variant, device_map, offload_folder, goal_conditioned: see `WorldModel.from_pretrained`.
            dtype: dtype of both networks, as `WorldModel.from_pretrained` takes it, or one for each by name:
                "tokenizer", "transformer", or "default" for what is not named.
            torch_dtype: the older name of `dtype`; None: `dtype` holds.
            quantization_config: settings that quantise weights: diffusers' for components by name, or transformers' for
                the transformer. Better not of the VQ model: which code is nearest depends on its precision.
            components: `tokenizer`, `transformer` or `processor` to use instead of loading it. Arguments of diffusers'
                own `from_pretrained` that change nothing, such as ``use_safetensors=True``, are taken as well.

        Raises:
            OSError, ValueError: as in `WorldModel.from_pretrained`; ValueError also for an unknown argument or dtype.
        """
        foreign = {name: components.pop(name) for name in components.keys() - set(COMPONENTS)}
        refuse_foreign(foreign, LOADING, also=f"the components are {COMPONENTS}")
        dtype = choose_dtype(dtype, torch_dtype)
        dtypes = dtype if isinstance(dtype, Mapping) else {"default": dtype}
        unknown = sorted(set(dtypes) - set(DTYPE_NAMES))
        if unknown:
            raise ValueError(f"dtype names unknown components {unknown}; it may name {DTYPE_NAMES}")
        default = dtypes.get("default", torch.float32)
        folder = checkpoints.fetch(
            path_or_repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        options = LoadingOptions(
            device_map=device_map,
            offload_folder=offload_folder,
            variant=variant,
        )
        quantization = _by_component(quantization_config)
        if "tokenizer" not in components:
            part = replace(
                options, dtype=dtypes.get("tokenizer", default), quantization_config=quantization["tokenizer"]
            )
            components["tokenizer"] = vq_model = checkpoints.load_vq_model(folder, part)
            if "tokenizer" not in dtypes and quantization["tokenizer"] is None:
                wanted = convolution_dtype(vq_model.dtype, device_of(vq_model))
                vq_model.to(dtype=wanted)  # type: ignore[call-arg]  # transformers' wrapper of it loses its self
        if "transformer" not in components:
            part = replace(
                options, dtype=dtypes.get("transformer", default), quantization_config=quantization["transformer"]
            )
            components["transformer"] = checkpoints.load_transformer(
                folder,
                part,
                goal_conditioned=checkpoints.is_goal_conditioned(path_or_repo_id, goal_conditioned),
            )
        if "processor" not in components:
            components["processor"] = checkpoints.load_processor(folder)
        pipe = cls(**components)
        pipe.register_to_config(_name_or_path=str(path_or_repo_id))
        return pipe

    def save_pretrained(  # type: ignore[override]  # as above
        self, save_directory: str | os.PathLike[str], **options: Any
    ) -> None:
        """Save to a folder; the same as `WorldModel.save_pretrained`."""
        self.world.save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]  # as above
        """Upload; the same as `WorldModel.push_to_hub`."""
        return self.world.push_to_hub(repo_id, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> IVideoGPTPipeline:
        """Move and convert both networks, as in diffusers; in half precision on a CPU, see `WorldModel.to`."""
        dtypes = [value for value in (*args, kwargs.get("dtype")) if isinstance(value, torch.dtype)]
        if len(dtypes) == 1:
            kwargs.pop("dtype", None)
            args = tuple(value for value in args if value is not dtypes[0])
        super().to(*args, **kwargs)
        if len(dtypes) == 1:
            self.world.to(dtype=dtypes[0])
        return self

    @torch.no_grad()
    def __call__(
        self,
        video: VideoSource | Sequence[VideoSource] = None,
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
        callback_on_step_end: Callable[[IVideoGPTPipeline, int, int, dict[str, Any]], dict[str, Any] | None]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("frames",),
        **foreign: Any,
    ) -> IVideoGPTPipelineOutput | Any:
        """Predict the frames that follow the first frames of a clip.

        Args:
            video: a clip, in any form that `ivideogpt_hf.media.read_video` takes, or a list of clips. The first frames
                are the context, as many as the checkpoint takes (one fewer with a goal). No other frame is decoded.
            actions: actions (T, A) of one clip for an action-conditioned checkpoint; (B, T, A) or a list for several
                clips. The first leads from the last context frame to the first predicted one. Or a file for each clip:
                its rows begin at the clip's first frame, see `ivideogpt_hf.media.actions.read_future_actions`.
            goal: image or image file for a goal-conditioned checkpoint and one clip; a list of them, or an array
                (B, H, W, 3) or (B, 3, H, W), for several clips.
            num_frames: number T of frames to predict. It follows from arrays of actions; with a file the default is as
                many as the clip has after the context.
            num_samples: number N of futures of each clip.
            generator: generator that draws the seed, or one for each clip. Without it, and without a seed in
                `sampling`, every call differs.
            sampling: distribution that tokens are drawn from, with one seed or one for each clip; None: `Sampling()`.
            horizon_policy: policy at the end of the horizon, see `WorldModel.rollout`.
            output_type: "pil", "np" or "pt", see `IVideoGPTPipelineOutput`.
            return_dict: whether to return an `IVideoGPTPipelineOutput` or a tuple of its fields.
            callback_on_step_end: function that is called after each predicted frame with the pipeline, the number of
                the step, the same number again (other pipelines have a timestep there), and a dict of tensors. To stop
                after this frame it sets ``pipe._interrupt = True``. It may return the dict or None: what was predicted
                cannot be replaced.
            callback_on_step_end_tensor_inputs: names of the tensors in that dict, of "frames" (B * N, 3, H, W) uint8,
                "rewards" (B * N,) float32 or None, and "tokens" (B * N, tokens_per_future_frame) int64.
            foreign: arguments of other pipelines, which are refused unless they are None.

        Raises:
            OSError: if a file cannot be read.
            ValueError: if an input does not fit the checkpoint.

        Example:
            >>> import torch
            >>> from ivideogpt_hf import EXAMPLE_EPISODE, IVideoGPTPipeline, WorldModel, read_actions
            >>> world = WorldModel.default()
            >>> pipe = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
            >>> pipe.set_progress_bar_config(disable=True)
            >>> actions, generator = read_actions(EXAMPLE_EPISODE)[1:3], torch.Generator().manual_seed(0)
            >>> out = pipe(EXAMPLE_EPISODE, actions=actions, num_samples=2, generator=generator)
            >>> len(out.frames[0]), out.frames[0][1][0].size, out.rewards.shape
            (2, (64, 64), torch.Size([1, 2, 2]))
        """
        # 1. Check what can be checked before anything is read.
        refuse_foreign(foreign, PREDICTING)
        if video is None:
            raise ValueError("the clip that is to go on is missing: pass video")
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        check_inputs(output_type, num_samples, callback_on_step_end_tensor_inputs)
        is_batch = _is_batch(video)
        clips = list(video) if is_batch else [video]
        if not clips:
            raise ValueError("there must be at least one clip")
        # 2. Read context frames and actions.
        num_clips = len(clips) if is_batch else None
        context = self._read_context(clips, _for_each_clip(goal, num_clips, "a goal"))
        action_rows = self._read_actions(clips, _for_each_clip(actions, num_clips, "actions"), num_frames)
        num_frames = _resolve_num_frames(num_frames, action_rows)
        # 3. Draw seeds, and predict.
        sampling = _with_seed(sampling or Sampling(), generator, len(clips))
        self._interrupt = False
        with self.progress_bar(total=num_frames) as progress:

            def on_step(index: int, step: Step) -> bool:
                progress.update()
                if callback_on_step_end is not None:
                    self._call_back(callback_on_step_end, callback_on_step_end_tensor_inputs, index, step)
                return self.interrupt

            rollout = self.world.rollout(
                context,
                action_rows,
                num_frames=num_frames,
                num_samples=num_samples,
                sampling=sampling,
                outputs=("frames", "rewards"),
                horizon_policy=horizon_policy,
                on_step=on_step,
            )
        # 4. Give frames the form that was asked for.
        rewards = None if rollout.rewards is None else rollout.rewards.cpu()
        self.maybe_free_model_hooks()
        output = IVideoGPTPipelineOutput(frames=_as_output(rollout.frames, output_type), rewards=rewards)
        return output if return_dict else (output.frames, output.rewards)

    def _call_back(self, callback: Callable[..., Any], names: Sequence[str], index: int, step: Step) -> None:
        values = {"frames": step.frame, "rewards": step.reward, "tokens": step.tokens}
        tensors = {name: values[name] for name in names}
        returned = callback(self, index, index, dict(tensors))
        if returned is None:
            return
        changed = [name for name, value in returned.items() if tensors.get(name) is not value]
        if changed:
            raise ValueError(
                f"callback_on_step_end returned other {', '.join(changed)}: what was predicted cannot be replaced; "
                f"return the dict as it came, or None"
            )

    def _read_context(self, clips: list[VideoSource], goals: list[Any] | None) -> Tensor:
        """Context frames (B, C, 3, H, W) uint8, the goal first where there is one."""
        spec = self.world.spec
        num_frames = spec.num_real_context_frames
        contexts = []
        for clip in clips:
            frames = read_video(clip, max_frames=num_frames, resize=spec.resize_frames)
            if len(frames) < num_frames:
                raise ValueError(f"a clip has {len(frames)} frames, fewer than the {num_frames} of the context")
            contexts.append(frames)
        context = torch.stack(contexts)
        if not spec.goal_conditioned:
            if goals is not None:
                raise ValueError("a goal was given, but this checkpoint is not goal-conditioned")
            return context
        if goals is None:
            raise ValueError(f"this checkpoint is goal-conditioned: pass one goal image per clip ({len(clips)})")
        images = torch.stack([read_video([_read_image(image)], resize=spec.resize_frames) for image in goals])
        return torch.cat([images, context], dim=1)

    def _read_actions(self, clips: list[VideoSource], parts: list[Any] | None, num_frames: int | None) -> Tensor | None:
        """Actions (B, T, A) float32, of one part for each clip."""
        if parts is None:
            return None
        first_row = first_action(self.world.spec.num_real_context_frames)
        actions = [
            read_future_actions(part, clip, first_row=first_row, num_frames=num_frames).actions
            if isinstance(part, (str, os.PathLike))
            else read_actions(part)
            for clip, part in zip(clips, parts, strict=True)
        ]
        shapes = {tuple(part.shape) for part in actions}
        if len(shapes) > 1:
            raise ValueError(f"the clips' actions must have one shape (T, A), got {sorted(shapes)}")
        return torch.stack(actions)


def _by_component(
    config: PipelineQuantizationConfig | QuantizationConfigMixin | None,
) -> dict[str, QuantizationConfigMixin | None]:
    """What quantises the weights of each network."""
    if not isinstance(config, PipelineQuantizationConfig):
        return {"tokenizer": None, "transformer": config}
    networks = ("tokenizer", "transformer")
    return {name: config._resolve_quant_config(is_diffusers=False, module_name=name) for name in networks}


def check_inputs(output_type: str, num_samples: int | None, tensor_inputs: Sequence[str]) -> None:
    """What a call asks for must be possible.

    Raises:
        ValueError: naming what is wrong.
    """
    if output_type not in get_args(OutputType):
        raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")
    if num_samples is not None:
        check_count(num_samples, "num_samples")
    unknown = [name for name in tensor_inputs if name not in CALLBACK_TENSORS]
    if unknown:
        raise ValueError(f"callback_on_step_end_tensor_inputs must be of {CALLBACK_TENSORS}, got {unknown}")


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
    return read_picture(image, f"the goal {image}").pixels if isinstance(image, (str, os.PathLike)) else image


def _for_each_clip(values: Any, num_clips: int | None, name: str) -> list[Any] | None:
    """What was given for each clip, in a list; num_clips is None for a clip that is not in a batch."""
    if values is None:
        return None
    if num_clips is None:
        return [values]
    is_sequence = isinstance(values, (list, tuple, np.ndarray, Tensor))
    if not is_sequence or len(values) != num_clips:
        got = len(values) if is_sequence else f"one {type(values).__name__}"
        raise ValueError(f"pass {name} for each of the {num_clips} clips, in a list or stacked; got {got}")
    return list(values)


def _resolve_num_frames(num_frames: int | None, actions: Tensor | None) -> int:
    """The number of frames to predict, for actions (B, T, A) or without."""
    if actions is not None and num_frames not in (None, actions.shape[1]):
        raise ValueError(f"num_frames is {num_frames}, but there are {actions.shape[1]} actions per clip")
    num_frames = num_frames if actions is None else actions.shape[1]
    if num_frames is None:
        raise ValueError("without actions, num_frames says how many frames to predict (at least 1), got None")
    return check_count(num_frames, "num_frames")


def _with_seed(
    sampling: Sampling, generator: torch.Generator | Sequence[torch.Generator] | None, num_clips: int
) -> Sampling:
    """The sampling options with the generator's seed, one for each clip."""
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
    return replace(sampling, seed=tuple(seeds))


def _as_output(frames: Tensor, output_type: OutputType) -> list[Any] | np.ndarray | Tensor:
    if output_type == "pt":
        return frames
    array = frames.movedim(-3, -1).cpu().numpy()
    return array if output_type == "np" else _as_images(array)


def _as_images(array: np.ndarray) -> Any:
    return Image.fromarray(array) if array.ndim == 3 else [_as_images(part) for part in array]
