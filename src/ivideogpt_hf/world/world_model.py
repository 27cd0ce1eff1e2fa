"""The world model: reset with frames, step with actions, roll out many futures at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..cards.facts import facts_of
from ..cards.model_card import CardText, valid_card
from ..checkpoints.layout import DEFAULT_FOLDER
from ..checkpoints.loading import fetch, is_goal_conditioned, load_parts
from ..checkpoints.saving import save_parts
from ..decoding.compiled import CompiledFrames
from ..decoding.layers import convolution_dtype
from ..decoding.sampling import Sampling
from ..decoding.tails import Tail
from ..hub.upload import push_folder
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.token_layout import TokenLayout
from ..spec import WorldModelSpec
from . import checks as inputs
from .clock import NO_CLOCK, Clock
from .engine import HorizonPolicy, RolloutEngine
from .results import Observation, Rollout, Step
from .state import WorldState

Policy = Callable[[Observation], Tensor]


class WorldModel:
    """An iVideoGPT checkpoint as an interactive world (Wu et al., 2024).

    Frames are uint8 (..., 3, H, W) and actions are in environment units everywhere. Networks run in eval mode and
    without gradients; their training mode is put back afterwards.

    Args:
        vq_model: codes and decodes frames.
        transformer: predicts the tokens of future frames.
        processor: action statistics and reward units; None: a plain one of the VQ model's frame size.

    Raises:
        ValueError: if the parts do not fit each other.
    """

    def __init__(
        self,
        vq_model: IVideoGPTVQModel,
        transformer: IVideoGPTForCausalLM,
        processor: IVideoGPTVideoProcessor | None = None,
    ) -> None:
        height, width = vq_model.config.frame_size
        self.vq_model = vq_model
        self.transformer = transformer
        self.processor = processor or IVideoGPTVideoProcessor(size={"height": height, "width": width})
        inputs.check_parts(self.vq_model.config, self.transformer.config, self.processor)
        self._engine = RolloutEngine(self.vq_model, self.transformer, self.processor)

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
        dtype: torch.dtype = torch.float32,
        goal_conditioned: bool | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> WorldModel:
        """Load a checkpoint: a folder or a Hub id, in the released layout or ours.

        Args:
            path_or_repo_id: folder, or Hub id such as ``"thuml/ivideogpt-bair-64-act-cond"``.
            revision, token, cache_dir, local_files_only: as everywhere on the Hub.
            dtype: of the weights; see `to` for the VQ model's on a CPU.
            goal_conditioned: whether the first context frame is the goal. Only needed for a released checkpoint in a
                folder, which does not say; None: as the checkpoint says, or as its released Hub id tells.
            quantization_config: of the transformer's weights, as transformers takes it, such as
                ``TorchAoConfig(Int8WeightOnlyConfig())`` (extra quantize). Predictions change a little.

        Raises:
            OSError: if the checkpoint cannot be found, reached or read; the message says which.
            ValueError: if it is there, but a weight is missing, unused or wrongly shaped.
        """
        folder = fetch(
            path_or_repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        goal_conditioned = is_goal_conditioned(path_or_repo_id, goal_conditioned)
        parts = load_parts(
            folder, dtype=dtype, goal_conditioned=goal_conditioned, quantization_config=quantization_config
        )
        world = cls(*parts)
        world.vq_model.to(dtype=convolution_dtype(dtype, world.device))
        return world

    @classmethod
    def default(cls) -> WorldModel:
        """The small checkpoint inside the package (simulated Meta-world, 64 x 64); needs no network."""
        return cls.from_pretrained(DEFAULT_FOLDER)

    def save_pretrained(self, folder: str | os.PathLike[str], *, remote_code: bool = False) -> None:
        """Save to a folder that `from_pretrained`, `IVideoGPTPipeline` and the Auto classes read.

        Args:
            folder: created where it does not exist.
            remote_code: also copy the modelling code, so that the Auto classes load it with ``trust_remote_code=True``
                where this package is not installed.
        """
        save_parts(folder, self.vq_model, self.transformer, self.processor, remote_code=remote_code)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        card: CardText | None = None,
        commit_message: str = "Upload iVideoGPT world model",
    ) -> str:
        """Upload what `save_pretrained` writes, modelling code and a card included; returns the commit's address.
        `ivideogpt publish` adds results and a picture.

        Args:
            repo_id: where to.
            private, revision, token, commit_message: as everywhere on the Hub.
            card: what a person says; None: nothing, which leaves training data and licence open.

        Raises:
            ValueError: if the Hub would refuse the card; nothing is uploaded then.
            OSError: if the Hub refuses the upload or cannot be reached; the message says why.
        """
        readme = valid_card(facts_of(self.vq_model, self.transformer, self.spec), repo_id, card)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, remote_code=True)
            readme.save(os.path.join(folder, "README.md"))
            return push_folder(
                folder, repo_id, commit_message=commit_message, private=private, revision=revision, token=token
            )

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> WorldModel:
        """Move both networks, in place, and return the world model; compiled programs are compiled again.

        On a CPU without instructions for a half-precision dtype the VQ model is in float32, since its convolutions
        would take a hundred times as long; moved to a GPU with that dtype named, it is in that dtype.
        """
        self.transformer.to(device=device, dtype=dtype)
        self.vq_model.to(device=device, dtype=dtype and convolution_dtype(dtype, self.device))
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
            shapes: (contexts, candidates) to make programs for now.
            sampling: for which to make those.

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
    def layout(self) -> TokenLayout:
        """Where each frame's tokens sit in the sequence."""
        return self.transformer.config.layout

    @property
    def spec(self) -> WorldModelSpec:
        """Sizes of what goes in and comes out."""
        return self._engine.spec

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self.transformer.device

    # -- stepping -----------------------------------------------------------------------------------------------------

    def reset(self, frames: Tensor) -> WorldState:
        """Start B worlds.

        Args:
            frames: (B, C, 3, H, W) uint8, C = spec.num_context_frames; for a goal-conditioned model the goal first.

        Raises:
            ValueError: on a wrong shape or dtype, or another number of frames.
        """
        return self._reset(frames, NO_CLOCK)

    def _reset(self, frames: Tensor, clock: Clock) -> WorldState:
        inputs.check_frames(frames, self.spec)
        with self._engine.inference():
            contexts = self._engine.encode(frames.to(self.device), clock)
            tokens = torch.empty(len(frames), 0, self.layout.tokens_per_future_frame, dtype=torch.int64)
        zeros = (0,) * len(frames)
        return WorldState(contexts, tuple(range(len(frames))), tokens.to(self.device), Tail(), zeros, zeros, zeros)

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
            state: where to start; it stays valid, so that stepping it again branches.
            action: (B, A) float in environment units; None for an action-free model.
            sampling: how to draw tokens; None: `Sampling()`.
            outputs: what to compute besides the tokens, of "frames" and "rewards" ("tokens" always is).
            horizon_policy: what to do at `spec.max_future_frames`, see `rollout`.

        Raises:
            ValueError: if an argument does not fit the model, or the horizon ends and the policy is "error".
        """
        inputs.check_state(state, self.vq_model, self.transformer)
        actions = inputs.check_actions(action, (state.batch_size,), self.spec)
        wanted = inputs.check_outputs(outputs, inputs.STEP_OUTPUTS)
        sampling = sampling or Sampling()
        with self._engine.inference():
            seeds = sampling.row_seeds(state.batch_size, self.device)
            state = self._engine.with_room(state, horizon_policy, sampling)
            step, state, *_ = self._engine.advance(state, actions, sampling, seeds, "rewards" in wanted)
            frame = self._engine.decode(state, state.tokens[:, -1:], sampling)[:, 0] if "frames" in wanted else None
        return replace(step, frame=frame), state

    def observe(self, state: WorldState, action: Tensor | None, frame: Tensor) -> WorldState:
        """Re-anchor every world on what really happened.

        The context becomes the last known frames followed by the real one (the goal stays first). It costs what `reset`
        costs.

        Args:
            state: where the worlds stood before the action.
            action: (B, A), the action that was taken, or None. Checked, but without influence here: an iVideoGPT
                context carries no actions.
            frame: (B, 3, H, W) uint8, the real frame that followed.

        Raises:
            ValueError: on a wrong shape or dtype.
        """
        inputs.check_state(state, self.vq_model, self.transformer)
        inputs.check_actions(action, (state.batch_size,), self.spec)
        inputs.check_observed_frame(frame, state.batch_size, self.spec)
        with self._engine.inference():
            observed = self._engine.reanchor(state, frame.to(self.device)[:, None], Sampling())
        return replace(observed, num_steps=tuple(step + 1 for step in state.num_steps))

    # -- rolling out --------------------------------------------------------------------------------------------------

    def rollout(
        self,
        frames: Tensor | WorldState,
        actions: Tensor | None = None,
        *,
        num_frames: int | None = None,
        num_samples: int | None = None,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards", "tokens"),
        decode_steps: Literal["all", "last"] | Sequence[int] = "all",
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> Rollout:
        """Predict futures from B contexts; each is coded and prefilled once, whatever the number of candidates.

        Args:
            frames: (B, C, 3, H, W) uint8, or a state of B rows.
            actions: (B, T, A), or (B, N, T, A) for N candidates per context, in environment units. The first action
                leads from the last context frame to the first predicted frame and reward.
            num_frames: T for an action-free model; otherwise it follows from the actions.
            num_samples: N futures for each context, with the same actions if there are any.
            sampling: how to draw tokens; None: `Sampling()`.
            outputs: what to compute, of "frames", "rewards", "tokens" and "statistics": what it cost, for which a GPU
                is waited for again and again.
            decode_steps: which steps "frames" shows: all, the last one, or the given ones (from 0).
            horizon_policy: at `spec.max_future_frames` predicted frames, "reanchor" makes the last predicted frames the
                context and goes on (at the cost of coding and prefilling each row; errors in the picture are kept,
                everything older is forgotten), with a warning and a note in `Rollout.reanchored_at`; "error" raises.

        Raises:
            ValueError: if an argument does not fit the model, or the horizon ends and the policy is "error".
        """
        wanted = inputs.check_outputs(outputs)
        sampling = sampling or Sampling()
        clock = Clock(self.device) if "statistics" in wanted else NO_CLOCK
        state = frames if isinstance(frames, WorldState) else self._reset(frames, clock)
        inputs.check_state(state, self.vq_model, self.transformer)
        num_contexts = state.batch_size
        actions, num_candidates, num_frames = inputs.plan_candidates(
            actions, num_contexts, num_frames, num_samples, self.spec
        )
        steps = inputs.check_decode_steps(decode_steps, num_frames) if "frames" in wanted else ()
        candidates = num_candidates or 1
        with self._engine.inference():
            seeds = sampling.row_seeds(num_contexts, self.device).repeat_interleave(candidates)
            state = state.fork(candidates) if candidates > 1 else state
            if horizon_policy == "error":
                self._engine.check_horizon(state, num_frames)
            result = self._engine.run(
                state, actions, num_frames, sampling, seeds, "rewards" in wanted, steps, horizon_policy, clock
            )
        unwanted = {name: None for name in ("tokens", "statistics") if name not in wanted}
        result = replace(result, **unwanted)
        return result if num_candidates is None else result.split_candidates(num_candidates)

    def imagine(
        self,
        state: WorldState,
        policy: Policy | Tensor,
        horizon: int,
        *,
        sampling: Sampling | None = None,
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> Rollout:
        """Let a policy act in the imagined worlds.

        Args:
            state: B worlds.
            policy: callable from an `Observation` to actions (B, A) in environment units, or an action tensor
                (B, horizon, A).
            horizon: number of steps.
            sampling, horizon_policy: as in `rollout`.

        Raises:
            ValueError: if the policy's actions do not fit the model, or the horizon ends and the policy is "error".
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        if isinstance(policy, Tensor):
            if policy.ndim != 3 or policy.shape[1] != horizon:
                raise ValueError(f"an action tensor must have shape (B, {horizon}, A), got {tuple(policy.shape)}")
            return self.rollout(state, policy, sampling=sampling, horizon_policy=horizon_policy)
        sampling = sampling or Sampling()
        if sampling.seed is None:
            sampling = replace(sampling, seed=int(sampling.row_seeds(1, torch.device("cpu"))))
        with self._engine.inference():
            frame, reward = self._engine.last_frames(state, 1, sampling)[:, -1], None
        steps, actions, reanchored_at = [], [], []
        for i in range(horizon):
            action = policy(Observation(frame, reward, i, state))
            if any(count >= self.spec.max_future_frames for count in state.num_frames):
                reanchored_at.append(i)
            step, state = self.step(state, action, sampling=sampling, horizon_policy=horizon_policy)
            frame, reward = step.frame, step.reward
            steps.append(step)
            actions.append(action)
        return Rollout.of_steps(
            steps,
            frames=torch.stack([step.frame for step in steps], dim=1),
            actions=torch.stack([action.float() for action in actions], dim=1) if self.spec.action_dim else None,
            decoded_steps=tuple(range(horizon)),
            reanchored_at=reanchored_at,
            state=state,
        )
