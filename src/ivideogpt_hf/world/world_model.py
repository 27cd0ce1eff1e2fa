"""The world model: reset with frames, step with actions, roll out many futures at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..cards.facts import facts_of
from ..cards.model_card import CardText, valid_card
from ..checkpoints.layout import DEFAULT_FOLDER
from ..checkpoints.loading import DeviceMap, LoadingOptions, choose_dtype, fetch, is_goal_conditioned, load_parts
from ..checkpoints.saving import save_parts
from ..decoding import packed
from ..decoding.compiled import CompiledFrames
from ..decoding.layers import convolution_dtype
from ..decoding.sampling import Sampling
from ..hub.upload import CARD_FILE, push_folder
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.token_layout import TokenLayout
from ..run_folder import naming
from ..spec import WorldModelSpec
from .calls import Calls
from .checks import check_networks, check_parts
from .clock import Clock, running
from .engine import RolloutEngine
from .foreign import LOADING, MODULE_HINTS, refuse_foreign, refuse_mixins
from .options import DecodeSteps, HorizonPolicy, check_outputs
from .protocol import OnStep, Policy, imagine
from .results import Rollout, Step, with_ordinary_tensors
from .slices import at_once
from .state import WorldState

PARTS = ("vq_model", "transformer", "processor")


class WorldModel:
    """An iVideoGPT checkpoint as an interactive world (Wu et al., 2024).

    Frames are uint8 (..., 3, H, W) and actions are in environment units everywhere. The networks run in eval mode and
    without gradients. Afterwards they have the training mode that they had before. They compute in their own precision,
    which `to` chooses. `torch.autocast` does not change it.

    Several threads may call the methods at once, and may share states. `to`, `compile` and changes of the networks,
    such as training, wait until no other thread uses the world.

    Layers may be changed at any time, by adapters (PEFT), forward hooks, parametrisations, quantised weights or other
    modules. The next call uses the changed layers. It then takes longer, and does without compiled programs. Weights
    that Accelerate offloads to the CPU or to disk are loaded as they are needed. A hook on a whole network is refused,
    since a rollout runs the parts of a network and never calls the whole.

    Args:
        vq_model: network that codes and decodes frames.
        transformer: network that predicts the tokens of future frames.
        processor: frame size, action statistics and reward units; None: a plain one of the VQ model's frame size.

    Raises:
        ValueError: if the parts do not fit each other, a network is wrapped (as a PeftModel is) or has a hook as a
            whole, or weights are on the meta device and nothing brings them.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_video
        >>> world = WorldModel.default()  # or WorldModel.from_pretrained("thuml/ivideogpt-bair-64-act-cond")
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> step, state = world.step(state, torch.tensor([[0.0, 1.0, 0.0, 0.0]]), sampling=Sampling(seed=0))
        >>> step.frame.shape, step.frame.dtype, step.reward.shape
        (torch.Size([1, 3, 64, 64]), torch.uint8, torch.Size([1]))
    """

    def __init__(
        self,
        vq_model: IVideoGPTVQModel,
        transformer: IVideoGPTForCausalLM,
        processor: IVideoGPTVideoProcessor | None = None,
    ) -> None:
        check_networks(vq_model, transformer)
        height, width = vq_model.config.frame_size
        processor = processor or IVideoGPTVideoProcessor(size={"height": height, "width": width})
        check_parts(vq_model.config, transformer.config, processor)
        self._engine = RolloutEngine(vq_model, transformer, processor)
        self.calls = Calls(self._engine)

    def __repr__(self) -> str:
        spec, parameters = self.spec, self.vq_model.num_parameters() + self.transformer.num_parameters()
        (height, width), rewards = spec.frame_size, "rewards" if spec.has_reward else "no rewards"
        return (
            f"WorldModel(frames of {height} x {width}, {spec.num_context_frames} context frames, "
            f"{spec.action_dim or 'no'} actions, {rewards}; {parameters / 1e6:.1f} M parameters on {self.device})"
        )

    if not TYPE_CHECKING:  # type checkers know what is missing

        def __getattr__(self, name: str) -> Any:
            """Only called for what is missing: who takes this for one torch module reads what it is."""
            hint = ""
            if name in MODULE_HINTS:
                hint = f": {MODULE_HINTS[name]}"
            elif hasattr(PreTrainedModel, name) or name in ("config", "training"):
                hint = ": it is no module, but holds two, world.vq_model and world.transformer, which have that"
            raise AttributeError(f"a {type(self).__name__} has no {name!r}{hint}", name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse another part: what was checked of the parts together, and compiled, would be of the old one."""
            if name in PARTS:
                raise AttributeError(
                    f"the {name} of a {type(self).__name__} cannot be replaced: make a new one of all three parts, "
                    f"{type(self).__name__}({', '.join(PARTS)})",
                    name=name,
                    obj=self,
                )
            super().__setattr__(name, value)

    # -- loading, saving, moving --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
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
        dtype: torch.dtype | str | None = torch.float32,
        torch_dtype: torch.dtype | str | None = None,
        device_map: DeviceMap = None,
        offload_folder: str | os.PathLike[str] | None = None,
        attn_implementation: str | None = None,
        goal_conditioned: bool | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        **foreign: Any,
    ) -> WorldModel:
        """Load a checkpoint: a folder or a Hub id, in the released layout or ours.

        Args:
            path_or_repo_id: folder, or Hub id such as ``"thuml/ivideogpt-bair-64-act-cond"``. The name of the family,
                ``"thuml/ivideogpt"``, means its general member, which a logged line tells. ``"default"`` and
                ``"push2d"`` are inside the package.
            revision: branch, tag or commit on the Hub; None: the main branch.
            token: token of the Hub for a private or gated checkpoint; None: the one that was logged in with.
            cache_dir: folder that downloads are kept in; None: the Hub's own cache.
            local_files_only: whether to take what was downloaded before, and not to ask the Hub.
            force_download: whether to download again what was downloaded before.
            subfolder: folder of the checkpoint within the folder or repository.
            variant: variant of the weight files, as "fp16" in ``model.fp16.safetensors``; None: no variant.
            dtype: dtype of the weights, or its name; "auto": that which the config states, or else that in which they
                are stored; None: float32. See `to` for the VQ model's on a CPU.
            torch_dtype: the older name of `dtype`; None: `dtype` holds.
            device_map: placement of both networks, as transformers takes it, such as ``"cuda"``, or ``{"": "disk"}``
                to bring weights when they are needed; None: the CPU. Rollouts take one device. "auto" and "disk" need
                Accelerate (extra train).
            offload_folder: folder for weights that are offloaded to disk.
            attn_implementation: attention of the transformer where it is called as in training, such as "eager"; None:
                transformers' choice. Rollouts have an attention of their own.
            goal_conditioned: whether the first context frame is the goal. Only needed for a released checkpoint in a
                folder, which does not say; None: as the checkpoint says, or as its released Hub id tells.
            quantization_config: settings that quantise the transformer's weights, as transformers takes them, such as
                ``TorchAoConfig(Int8WeightOnlyConfig())`` (extra quantize). Predictions change a little.
            foreign: arguments of transformers' own `from_pretrained` that change nothing, such as
                ``trust_remote_code=True``; others are refused.

        Raises:
            OSError: if the checkpoint cannot be found, reached or read; the message says which.
            ValueError: if it is there, but a weight is missing, unused or wrongly shaped, or if the dtype or an
                argument is unknown.
        """
        refuse_foreign(foreign, LOADING)
        folder = fetch(
            path_or_repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        options = LoadingOptions(
            dtype=choose_dtype(dtype, torch_dtype),
            device_map=device_map,
            offload_folder=offload_folder,
            variant=variant,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
        )
        parts = load_parts(folder, options, goal_conditioned=is_goal_conditioned(path_or_repo_id, goal_conditioned))
        with naming(folder):
            world = cls(*parts)
        convolution = convolution_dtype(world.vq_model.dtype, world.device)
        if convolution != world.vq_model.dtype:
            _move(world.vq_model, dtype=convolution)
        return world

    @classmethod
    def default(cls) -> WorldModel:
        """The checkpoint "default" inside the package (simulated Meta-world, 64 x 64); needs no network."""
        return cls.from_pretrained(DEFAULT_FOLDER)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        remote_code: bool = False,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        safe_serialization: bool = True,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        config: None = None,
        model_card_kwargs: None = None,
        **push_options: Any,
    ) -> str | None:
        """Save to a folder that `from_pretrained`, `IVideoGPTPipeline` and the Auto classes read.

        Args:
            save_directory: folder to write; it is created where it does not exist.
            remote_code: whether to copy the modelling code too, so that the Auto classes load it with
                ``trust_remote_code=True`` where this package is not installed.
            variant: variant in the names of the weight files, such as "fp16"; None: no variant.
            max_shard_size: size of the largest file of weights, in bytes or as in "5GB"; None: transformers' choice.
            safe_serialization: whether weights are safetensors, which they always are.
            repo_id: Hub id to upload to; None: the user's own, with the folder's name.
            push_to_hub: whether to upload as well.
            config, model_card_kwargs: see `push_to_hub`.
            push_options: other arguments of `push_to_hub`.

        Returns:
            The address of the commit, or of the pull request; None without an upload.

        Raises:
            ValueError: if `safe_serialization` is false, or there are arguments of an upload without one; nothing is
                written then. Or as in `push_to_hub`, and if weights are not those that a checkpoint holds, as with
                adapters.
            OSError: as in `push_to_hub`.
        """
        refuse_mixins(config, model_card_kwargs)
        if not safe_serialization:
            raise ValueError("weights are only saved as safetensors: leave safe_serialization out")
        if not push_to_hub and (repo_id is not None or push_options):
            names = sorted({"repo_id", *push_options} if repo_id is not None else push_options)
            raise ValueError(f"{', '.join(names)} are for an upload: pass push_to_hub=True, or leave them out")
        save_parts(
            save_directory,
            self.vq_model,
            self.transformer,
            self.processor,
            remote_code=remote_code,
            variant=variant,
            max_shard_size=max_shard_size,
        )
        if not push_to_hub:
            return None
        repo_id = repo_id or Path(save_directory).resolve().name
        return self.push_to_hub(repo_id, variant=variant, max_shard_size=max_shard_size, **push_options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        card: CardText | None = None,
        tags: str | Sequence[str] = (),
        commit_message: str = "Upload iVideoGPT world model",
        commit_description: str | None = None,
        allow_patterns: Sequence[str] | None = None,
        ignore_patterns: Sequence[str] | None = None,
        delete_patterns: Sequence[str] | None = None,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        safe_serialization: bool = True,
        config: None = None,
        model_card_kwargs: None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, modelling code and a card included.

        `ivideogpt publish` adds results and a picture.

        Args:
            repo_id: Hub id, owner/name; the repository is created where it does not exist.
            private: whether a new repository is private; None: as the owner's settings say.
            revision: branch to commit to; None: the main branch.
            branch: the same, under the name that `huggingface_hub.ModelHubMixin` has for it.
            create_pr: whether to open a pull request instead, as one does in a repository of others.
            token: token of the Hub; None: the one that was logged in with.
            card: text that a person wrote of the checkpoint, for a new card. None: a card that is in the repository
                already stays as it is; a new one leaves training data and licence open.
            tags: further tags of the card, also of one that stays as it is otherwise.
            commit_message, commit_description: message of the commit, and what follows it.
            allow_patterns, ignore_patterns, delete_patterns: names of files with wildcards, as
                `huggingface_hub.HfApi.upload_folder` takes them.
            variant, max_shard_size, safe_serialization: see `save_pretrained`.
            config, model_card_kwargs: arguments of `huggingface_hub.ModelHubMixin`, which are None here: the networks'
                own configs are saved, and `card` is what a card is made of.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ValueError: if the Hub would refuse the card, both ``revision`` and ``branch`` are given, or an argument
                asks for what is not done; nothing is uploaded then.
            OSError: if the Hub refuses the upload or cannot be reached; the message says why.
        """
        refuse_mixins(config, model_card_kwargs)
        if None not in (revision, branch):
            raise ValueError(f"revision ({revision}) and branch ({branch}) are two names of one thing: pass one")
        tags = [tags] if isinstance(tags, str) else list(tags or ())
        readme = valid_card(facts_of(self.vq_model, self.transformer, self.spec), repo_id, card, tags)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(
                folder,
                remote_code=True,
                variant=variant,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
            )
            readme.save(os.path.join(folder, CARD_FILE))
            return push_folder(
                folder,
                repo_id,
                commit_message=commit_message,
                commit_description=commit_description,
                private=private,
                revision=branch if revision is None else revision,
                create_pr=create_pr,
                token=token,
                keep_card=card is None,
                tags_of_kept_card=tags,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> WorldModel:
        """Move both networks, in place, and return the world model; compiled programs are compiled again.

        A dtype may come first, as in torch: ``world.to(torch.bfloat16)``.

        On a CPU without instructions for a half-precision dtype the VQ model is in float32, since its convolutions
        would take a hundred times as long; moved to a GPU with that dtype named, it is in that dtype.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        _move(self.transformer, device=device, dtype=dtype)
        _move(self.vq_model, device=device, dtype=dtype and convolution_dtype(dtype, self.device))
        if self._engine.compiled is not None:
            self.compile(self._engine.compiled.mode)
        return self

    def compile(
        self, mode: str = "default", *, shapes: Sequence[tuple[int, int]] = (), sampling: Sampling | None = None
    ) -> WorldModel:
        """Decode frames by compiled programs from now on, and return the world model. The result is the same.

        A program is made for (contexts, candidates of each) and how tokens are drawn, which takes from seconds to
        minutes, when it is first needed; others with up to the next power of two of candidates of one context, or of
        contexts, share it. Guesses (`Sampling.num_guesses`) and sampled slots are decoded as before.

        Args:
            mode: "default"; "reduce-overhead": on a GPU, each frame as one CUDA graph; "max-autotune": the same, with
                the fastest kernels, which are searched for.
            shapes: pairs (contexts, candidates of each) to make programs for now.
            sampling: distribution that those programs draw from; None: `Sampling()`.

        Raises:
            ValueError: on another mode.
        """
        self._engine.compiled = CompiledFrames(self.transformer, self.spec.max_future_frames, mode)
        for num_contexts, num_candidates in shapes:
            frames = torch.zeros(
                num_contexts, self.spec.num_context_frames, 3, *self.spec.frame_size, dtype=torch.uint8
            )
            actions = torch.zeros(num_contexts, 1, self.spec.action_dim) if self.spec.action_dim else None
            self.rollout(
                frames,
                actions,
                num_frames=1,
                num_samples=num_candidates,
                sampling=sampling,
                outputs=("rewards",) if self.spec.has_reward else (),
            )
        return self

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def vq_model(self) -> IVideoGPTVQModel:
        """Network that codes and decodes frames."""
        return self._engine.vq_model

    @property
    def transformer(self) -> IVideoGPTForCausalLM:
        """Network that predicts the tokens of future frames."""
        return self._engine.transformer

    @property
    def processor(self) -> IVideoGPTVideoProcessor:
        """Frame size, action statistics and reward units."""
        return self._engine.processor

    @property
    def layout(self) -> TokenLayout:
        """Where each frame's tokens sit in the sequence."""
        return self.transformer.config.layout

    @property
    def spec(self) -> WorldModelSpec:
        """Sizes of what goes in and comes out."""
        return self._engine.spec

    @property
    def device(self) -> torch.device:
        """Device that the networks compute on, and of the tensors that come out."""
        return self._engine.device

    # -- stepping -----------------------------------------------------------------------------------------------------

    def reset(self, frames: Tensor) -> WorldState:
        """Start B worlds.

        Args:
            frames: context frames (B, C, 3, H, W) uint8, C = spec.num_context_frames; for a goal-conditioned model the
                goal first.

        Raises:
            ValueError: on a wrong shape or dtype, or another number of frames.
        """
        with self._engine.inference():
            return at_once(self.calls.reset(frames))

    def step(
        self,
        state: WorldState,
        action: Tensor | None = None,
        *,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards"),
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> tuple[Step, WorldState]:
        """Take one action in every world.

        Args:
            state: state of B worlds; it stays valid, so that stepping it again branches.
            action: actions (B, A) float in environment units; None for an action-free model.
            sampling: distribution and random numbers that tokens are drawn with; None: `Sampling()`.
            outputs: names of what to compute besides the tokens, of "frames" and "rewards" ("tokens" always is).
            horizon_policy: policy at `spec.max_future_frames`, see `rollout`.

        Raises:
            ValueError: if an argument does not fit the model, or the horizon ends and the policy is "error".
        """
        with self._engine.inference():
            step, after = at_once(
                self.calls.step(state, action, sampling=sampling, outputs=outputs, horizon_policy=horizon_policy)
            )
        return with_ordinary_tensors(step), after

    def observe(self, state: WorldState, action: Tensor | None, frame: Tensor) -> WorldState:
        """Re-anchor every world on what really happened.

        The context becomes the last known frames followed by the real one (the goal stays first). It costs what `reset`
        costs.

        Args:
            state: state of the worlds before the action.
            action: actions (B, A) that were taken, or None. They are checked, but have no influence here: an iVideoGPT
                context carries no actions.
            frame: real frames (B, 3, H, W) uint8 that followed.

        Raises:
            ValueError: on a wrong shape or dtype.
        """
        with self._engine.inference():
            return at_once(self.calls.observe(state, action, frame))

    def make_room(self, state: WorldState) -> WorldState:
        """Re-anchor now the worlds that are at the end of their horizon. `step` would do it when it comes next, so this
        is for whoever has time between two steps. It costs what `reset` costs, and changes no result.

        Args:
            state: state of B worlds; it stays valid.

        Returns:
            The state of the same worlds; the same object where none is at the end.

        Raises:
            ValueError: if the state is of another model.

        Example:
            >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
            >>> world = WorldModel.default()
            >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
            >>> world.make_room(state) is state  # a new world has room for `spec.max_future_frames`
            True
        """
        with self._engine.inference():
            return at_once(self.calls.make_room(state))

    def last_frame(self, state: WorldState) -> Tensor:
        """The last frames (B, 3, H, W) uint8 of a state's worlds, predicted or real.

        Raises:
            ValueError: if the state is of another model.
        """
        with self._engine.inference():
            frame = at_once(self.calls.last_frame(state))
        return frame.clone()  # the state keeps its own

    # -- rolling out --------------------------------------------------------------------------------------------------

    def rollout(
        self,
        frames: Tensor | WorldState,
        actions: Tensor | Policy | None = None,
        *,
        num_frames: int | None = None,
        num_samples: int | None = None,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards", "tokens"),
        decode_steps: DecodeSteps = "all",
        horizon_policy: HorizonPolicy = "reanchor",
        on_step: OnStep | None = None,
    ) -> Rollout:
        """Predict futures from B contexts; each is coded and prefilled once, whatever the number of candidates.

        Args:
            frames: context frames (B, C, 3, H, W) uint8, or a state of B rows.
            actions: actions (B, T, A), or (B, N, T, A) for N candidates per context, in environment units. The first
                action leads from the last context frame to the first predicted frame and reward. Or a policy: a
                callable from an `Observation` of all B * N worlds to their actions, see `imagine`.
            num_frames: number T of frames for an action-free model or a policy; otherwise it follows from the actions.
            num_samples: number N of futures of each context, with the same actions if there are any.
            sampling: distribution and random numbers that tokens are drawn with; None: `Sampling()`.
            outputs: names of what to compute, of "frames", "rewards", "tokens" and "statistics": the time that it took,
                for which a GPU is waited for again and again.
            decode_steps: steps that "frames" shows: "all", the "last" one, or the given ones (from 0).
            horizon_policy: policy at `spec.max_future_frames` predicted frames. "reanchor" makes the last predicted
                frames the context and goes on, with a warning and a note in `Rollout.reanchored_at`. It costs what
                coding and prefilling each row costs; errors in the picture are kept, everything older is forgotten.
                "error" raises.
            on_step: function to call after each step with its number and its `Step` of B * N rows, whose frame is there
                if it is decoded. If it returns True, the rollout ends there. Frames are then decoded, and rewards read,
                one by one, which takes longer than all together.

        Raises:
            ValueError: if an argument does not fit the model, or the horizon ends and the policy is "error".

        Example:
            >>> from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_actions, read_video
            >>> world = WorldModel.default()
            >>> frames, actions = read_video(EXAMPLE_EPISODE, max_frames=2), read_actions(EXAMPLE_EPISODE)
            >>> rollout = world.rollout(frames[None], actions[None, 1:4], num_samples=2, sampling=Sampling(seed=0))
            >>> rollout.frames.shape, rollout.rewards.shape
            (torch.Size([1, 2, 3, 3, 64, 64]), torch.Size([1, 2, 3]))
        """
        clock = Clock(self.device) if "statistics" in check_outputs(outputs) else None
        with running(clock), self._engine.inference() as as_outside:
            rollout = at_once(
                self.calls.rollout(
                    frames,
                    actions,
                    num_frames=num_frames,
                    num_samples=num_samples,
                    sampling=sampling,
                    outputs=outputs,
                    decode_steps=decode_steps,
                    horizon_policy=horizon_policy,
                    on_step=on_step,
                    as_outside=as_outside,
                )
            )
        return with_ordinary_tensors(rollout)

    def imagine(
        self,
        state: WorldState,
        policy: Policy | Tensor,
        horizon: int,
        *,
        sampling: Sampling | None = None,
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> Rollout:
        """Let a policy act in the imagined worlds; see `ivideogpt_hf.imagine`, which does so in any world."""
        return imagine(self, state, policy, horizon, sampling=sampling, horizon_policy=horizon_policy)


def _move(network: PreTrainedModel, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> None:
    packed.forget(network.parameters())
    network.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers' wrapper of it loses its self
