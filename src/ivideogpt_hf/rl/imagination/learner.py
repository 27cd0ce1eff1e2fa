"""Online training of a world model, on clips of an agent's own experience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import trange  # type: ignore[import-untyped] # it has none

from ...data.clips.order import hash_seed
from ...data.clips.segments import check_choice
from ...extras import require_packages
from ...metrics.lpips import LPIPS
from ...world.world_model import WorldModel
from ..replay.buffer import MixedReplayBuffer

require_packages("accelerate", purpose="updates of a world model")

from ...training.arguments import VQArguments, WorldModelArguments  # noqa: E402
from ...training.loop import NonFiniteLossError  # noqa: E402
from ...training.optimizers import make_optimizer  # noqa: E402
from ...training.train_vq import VQLosses  # noqa: E402
from ...training.train_world_model import WorldModelLosses  # noqa: E402

MixedPrecision = Literal["no", "bf16"]
# Arguments of trainings name a checkpoint. Here the networks are there already.
IN_MEMORY = "in memory"


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """How a world model is trained beside an agent.

    Attributes:
        num_future_frames: number of frames after the context in a clip.
        batch_size: number of clips in an update.
        learning_rate: learning rate of the transformer.
        vq_learning_rate: learning rate of the VQ model.
        weight_decay: weight decay of both; not on biases, norms and embeddings.
        max_grad_norm: norm to which gradients are clipped.
        reward_weight: weight of the reward head's error.
        squared_weight: weight of the VQ model's squared error, beside the absolute one.
        lpips_weights: weights of LPIPS for the VQ model: a file, or owner/name/file.safetensors on the Hub; None:
            without a perceptual loss.
        perceptual_frames: number of frames of a clip that LPIPS looks at, chosen at random.
        mixed_precision: "bf16" computes the networks in bfloat16, but for their heads and losses.
        data: data set or mixture of clips to mix in, as `load_clips` takes it; None: only the agent's own clips. Only
            frames and actions are learnt from it: what counts as a reward there may be something else here.
        data_root: folder in which the paths of a mixture's yaml begin.
        data_share: share of clips from ``data``, in [0, 1).

    Raises:
        ValueError: if a number is out of range, or only one of data and data_share is given.

    Example:
        >>> from ivideogpt_hf import WorldModel
        >>> from ivideogpt_hf.rl.imagination.learner import LearnerSettings, WorldModelLearner
        >>> settings = LearnerSettings(num_future_frames=4, batch_size=2, learning_rate=6e-4)
        >>> WorldModelLearner(WorldModel.default(), settings).settings.batch_size
        2
    """

    num_future_frames: int = 10
    batch_size: int = 16
    learning_rate: float = 1e-4
    vq_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    reward_weight: float = 1.0
    squared_weight: float = 0.0
    lpips_weights: str | None = None
    perceptual_frames: int = 5
    mixed_precision: MixedPrecision = "no"
    data: str | None = None
    data_root: str | None = None
    data_share: float = 0.0

    def __post_init__(self) -> None:
        check_choice("mixed_precision", self.mixed_precision, get_args(MixedPrecision))
        for name in ("num_future_frames", "batch_size", "perceptual_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "vq_learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "reward_weight", "squared_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.data_share < 1:
            raise ValueError(f"data_share is a share of the clips, in [0, 1), got {self.data_share}")
        if (self.data is not None) != (self.data_share > 0):
            raise ValueError("data and data_share belong together: which clips, and how many of them in a batch")


class WorldModelLearner:
    """Updates a world model with clips of real episodes from an agent's replay buffer.

    Row t of a clip's actions and rewards belongs to the step from its frame t to frame t + 1, as in every training of
    this package, whose losses these are. The networks are in training mode only within an update. Random numbers of an
    update are a function of the seed and the number of the update.

    Args:
        world: world model with actions and a reward head, which is changed in place.
        settings: settings of the updates; None: the defaults.
        seed: seed of the choice of clips, of dropout and of the frames that LPIPS looks at.
        trains_codebooks: whether the codebooks of the VQ model are trained, as new ones must be, until
            `freeze_codebooks` is called.

    Attributes:
        world: the world model.
        num_transformer_updates: number of updates of the transformer so far.
        num_vq_updates: number of updates of the VQ model so far.

    Raises:
        ImportError: without accelerate; names the extra.
        ValueError: if the world has no actions or no reward head, is goal-conditioned, or has no room for the clips.
        OSError: if LPIPS weights or data cannot be read.

    Example:
        >>> import numpy as np
        >>> from gymnasium.spaces import Box
        >>> from ivideogpt_hf import WorldModel
        >>> from ivideogpt_hf.rl.imagination.learner import LearnerSettings, WorldModelLearner
        >>> from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
        >>> buffer = MixedReplayBuffer(500, Box(0, 255, (9, 64, 64), np.uint8), Box(-1, 1, (4,), np.float32))
        >>> buffer.add_episode(np.zeros((9, 3, 64, 64), np.uint8), np.zeros((8, 4)), np.ones(8))
        >>> learner = WorldModelLearner(WorldModel.default(), LearnerSettings(num_future_frames=2, batch_size=1))
        >>> sorted(learner.update_transformer(buffer))
        ['cross_entropy', 'grad_norm', 'loss', 'reward_cross_entropy', 'reward_mse']
    """

    def __init__(
        self,
        world: WorldModel,
        settings: LearnerSettings | None = None,
        *,
        seed: int = 0,
        trains_codebooks: bool = False,
    ) -> None:
        self.world, self.settings, self.seed = world, settings or LearnerSettings(), seed
        spec = world.spec
        if not spec.action_dim or not spec.has_reward or spec.goal_conditioned:
            raise ValueError(
                "a world that agents learn in needs actions and a reward head, and no goal; "
                "ivideogpt_hf.rl.imagination.worlds.open_world adds what a checkpoint lacks"
            )
        if self.settings.num_future_frames > spec.max_future_frames:
            raise ValueError(
                f"the world has room for {spec.max_future_frames} frames after its context, and num_future_frames is "
                f"{self.settings.num_future_frames}: lower it"
            )
        self.num_transformer_updates = self.num_vq_updates = 0
        self._rng = np.random.default_rng(seed)
        self._make_losses()
        self._set_codebooks(trained=trains_codebooks)
        self._make_optimizers()
        self._clips = None if self.settings.data is None else DataClips(self.settings, world, seed)
        for network in (world.vq_model, world.transformer):
            nn.Module.eval(network)

    def _make_losses(self) -> None:
        settings, world = self.settings, self.world
        transformer, vq_model = world.transformer, world.vq_model
        reward_range = transformer.config.reward_range

        def losses(*, rewards: bool) -> WorldModelLosses:
            arguments = WorldModelArguments(
                vq_model=IN_MEMORY,
                transformer=IN_MEMORY,
                actions=True,
                rewards=rewards,
                reward_weight=settings.reward_weight,
                reconstruct_actions=transformer.config.reconstruct_actions,
            )
            return WorldModelLosses(arguments, vq_model, world.processor, reward_range)

        self._own_losses, self._data_losses = losses(rewards=True), losses(rewards=False)
        lpips = None
        if settings.lpips_weights is not None:
            lpips = LPIPS.from_weights(settings.lpips_weights).to(world.device)
        vq_arguments = VQArguments(
            vq_model=IN_MEMORY,
            perceptual_weight=0.0 if lpips is None else 1.0,
            perceptual_frames=settings.perceptual_frames,
            squared_weight=settings.squared_weight,
        )
        self._vq_losses = VQLosses(vq_arguments, lpips, None, vq_model)

    def _make_optimizers(self) -> None:
        settings = self.settings
        self._optimizer = make_optimizer(self.world.transformer, settings.learning_rate, settings.weight_decay)
        # Codebooks are among its parameters while they are trained; afterwards they get no gradients, and so stay.
        self._vq_optimizer = make_optimizer(self.world.vq_model, settings.vq_learning_rate, settings.weight_decay)

    # -- updates ------------------------------------------------------------------------------------------------------

    @property
    def num_frames(self) -> int:
        """Number of frames of a clip."""
        return self.world.spec.num_context_frames + self.settings.num_future_frames

    @property
    def trains_codebooks(self) -> bool:
        """Whether the codebooks of the VQ model are still trained."""
        return self._trains_codebooks

    def freeze_codebooks(self) -> None:
        """Leave the codebooks as they are from now on, so that tokens keep their meaning for the transformer."""
        self._set_codebooks(trained=False)

    def _set_codebooks(self, *, trained: bool) -> None:
        self._trains_codebooks = trained
        vq_model = self.world.vq_model.requires_grad_(requires_grad=True)
        for codebook in (vq_model.quantize, vq_model.dynamics_quantize):
            codebook.requires_grad_(requires_grad=trained)

    def warm_up(
        self, buffer: MixedReplayBuffer, num_vq_updates: int, num_updates: int, *, has_bar: bool = False
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """Do the first updates. Tokens mean something only once the VQ model is trained, so it is the first.

        Args:
            buffer: buffer whose real episodes the clips are cut from.
            num_vq_updates: number of updates of the VQ model, whose codebooks stay as they are from then on.
            num_updates: number of updates of the transformer.
            has_bar: whether to show a bar.

        Yields:
            After each update, "vq_model" or "world_model", and what `update_vq_model` or `update_transformer` returned.
        """
        for _ in trange(num_vq_updates, desc="first updates of the VQ model", leave=False, disable=not has_bar):
            yield "vq_model", self.update_vq_model(buffer)
        self.freeze_codebooks()
        for _ in trange(num_updates, desc="first updates of the transformer", leave=False, disable=not has_bar):
            yield "world_model", self.update_transformer(buffer)

    def update_transformer(self, buffer: MixedReplayBuffer) -> dict[str, float]:
        """Update the transformer once.

        Args:
            buffer: buffer whose real episodes the clips are cut from.

        Returns:
            The terms of the loss, the loss, and the norm of the gradient before it was clipped.

        Raises:
            ValueError: if no real episode is as long as a clip.
            NonFiniteLossError: if the loss or the gradient is not finite. Nothing is changed then.
        """
        transformer, num_data = self.world.transformer, self._num_data_clips(self.num_transformer_updates)
        own = self._own_clips(buffer, self.settings.batch_size - num_data)
        parts = [(self._own_losses, own)]
        if num_data:
            assert self._clips is not None
            parts.append((self._data_losses, self._clips.take(num_data)))
        with self._random("transformer", self.num_transformer_updates), _in_training_mode(transformer):
            metrics: dict[str, Tensor] = {}
            total: Tensor | float = 0.0
            for losses, clips in parts:
                # Tokens as rollouts see them: in the VQ model's own precision.
                tokens = losses.tokens_of(clips)
                with self._autocast():
                    loss, terms = losses.terms(transformer, tokens, tokens, clips)
                total = total + loss * (len(tokens) / self.settings.batch_size)
                metrics = {name: value.detach() for name, value in terms.items()} | metrics
            norm = self._step(transformer, self._optimizer, total, "transformer", self.num_transformer_updates)
        self.num_transformer_updates += 1
        return _as_numbers(metrics | {"loss": torch.as_tensor(total).detach(), "grad_norm": norm})

    def update_vq_model(self, buffer: MixedReplayBuffer) -> dict[str, float]:
        """Update the VQ model once; arguments, result and errors are those of `update_transformer`."""
        vq_model, num_data = self.world.vq_model, self._num_data_clips(self.num_vq_updates)
        frames = self._own_clips(buffer, self.settings.batch_size - num_data)["frames"]
        if num_data:
            assert self._clips is not None
            frames = torch.cat([frames, self._clips.take(num_data)["frames"]])
        with self._random("VQ model", self.num_vq_updates), _in_training_mode(vq_model):
            with self._autocast():
                total, _, terms = self._vq_losses.reconstruct(vq_model, frames.float() / 255)
            norm = self._step(vq_model, self._vq_optimizer, total, "VQ model", self.num_vq_updates)
        self.num_vq_updates += 1
        metrics = {name: value.detach() for name, value in terms.items()}
        return _as_numbers(metrics | {"loss": total.detach(), "grad_norm": norm})

    def _own_clips(self, buffer: MixedReplayBuffer, num_clips: int) -> dict[str, Tensor]:
        """Clips as trainings take them: actions are normalised."""
        segments, device = buffer.sample_segments(num_clips, self.num_frames, self._rng), self.world.device
        return {
            "frames": segments.frames.to(device),
            "actions": self.world.processor.normalize_actions(segments.actions.to(device)),
            "action_mask": self._mask(num_clips),
            "rewards": segments.rewards.to(device),
        }

    def _mask(self, num_clips: int) -> Tensor:
        width = self.world.transformer.config.action_dim
        used = torch.arange(width, device=self.world.device) < self.world.spec.action_dim
        return used.expand(num_clips, width)

    def _num_data_clips(self, update: int) -> int:
        """The number of clips from data in an update: on average the share, whole in each."""
        expected = self.settings.data_share * self.settings.batch_size
        return int((update + 1) * expected) - int(update * expected)

    def _step(self, network: nn.Module, optimizer: AdamW, loss: Tensor | float, name: str, update: int) -> Tensor:
        """Change the weights, and return the norm of the gradient."""
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.settings.max_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            optimizer.zero_grad()
            raise NonFiniteLossError(
                f"the loss of the {name}'s update {update + 1} is {loss.item():.4g}, the norm of its gradient "
                f"{norm.item():.4g}: a lower learning rate often helps, or mixed precision 'no'"
            )
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def _autocast(self) -> torch.autocast:
        is_bf16 = self.settings.mixed_precision == "bf16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=is_bf16)

    @contextmanager
    def _random(self, *name: str | int) -> Iterator[None]:
        """Torch's random numbers are those of a seed of their own inside, and go on outside as if nothing was."""
        device = self.world.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(hash_seed("update of a world model", self.seed, *name) % 2**63)
            yield

    # -- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that updates change: weights, optimisers, counts, and where clips are drawn next."""
        return {
            "transformer": self.world.transformer.state_dict(),
            "vq_model": self.world.vq_model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "vq_optimizer": self._vq_optimizer.state_dict(),
            "trains_codebooks": self._trains_codebooks,
            "num_transformer_updates": self.num_transformer_updates,
            "num_vq_updates": self.num_vq_updates,
            "rng": self._rng.bit_generator.state,
            "data": None if self._clips is None else self._clips.loader.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another learner with the same arguments stood.

        Raises:
            ValueError: if that one had other data.
            RuntimeError: if its networks had other sizes.
        """
        self.world.transformer.load_state_dict(state["transformer"])
        self.world.vq_model.load_state_dict(state["vq_model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._vq_optimizer.load_state_dict(state["vq_optimizer"])
        self._set_codebooks(trained=state["trains_codebooks"])
        self.num_transformer_updates = state["num_transformer_updates"]
        self.num_vq_updates = state["num_vq_updates"]
        self._rng.bit_generator.state = state["rng"]
        if self._clips is not None:
            self._clips.load_state_dict(state["data"])


class DataClips:
    """Clips of a data set, with the actions as a world model takes them.

    Args:
        settings: settings that name the data.
        world: world model that is trained.
        seed: seed of the clips' order.

    Attributes:
        loader: loader of the clips, one at a time.

    Raises:
        FileNotFoundError: if the data are not there.
        ValueError: if they have no actions, or actions of another width.
    """

    def __init__(self, settings: LearnerSettings, world: WorldModel, seed: int) -> None:
        require_packages("datasets", purpose="clips of a data set")
        from ...data.clips.loader import load_clips
        from ...data.clips.mixture import load_mixture
        from ...data.clips.segments import SegmentSpec

        assert settings.data is not None
        self.world = world
        spec = world.spec
        num_frames = spec.num_context_frames + settings.num_future_frames
        self.loader = load_clips(
            load_mixture(settings.data, root=settings.data_root),
            batch_size=1,
            segment=SegmentSpec(num_frames, spec.num_context_frames),
            rank=0,
            world_size=1,
            size=spec.frame_size,
            actions=True,
            seed=seed,
        )
        description = self.loader.dataset.processor_settings()
        if "embodiments" in description:
            raise ValueError(f"{settings.data} mixes sources with different actions: name one whose actions fit")
        if self.loader.dataset.action_dim != spec.action_dim:
            raise ValueError(
                f"actions of {settings.data} are {self.loader.dataset.action_dim} wide, the world takes "
                f"{spec.action_dim}: name other data"
            )
        self._mean, self._std = description.get("action_mean"), description.get("action_std")
        self._batches = iter(self.loader)

    def take(self, num_clips: int) -> dict[str, Tensor]:
        """The next clips, on the world's device."""
        clips = [self._next() for _ in range(num_clips)]
        frames, actions = (torch.cat([clip[key] for clip in clips]) for key in ("frames", "actions"))
        if self._mean is not None:  # to environment units
            actions = actions * actions.new_tensor(self._std) + actions.new_tensor(self._mean)
        device, width = self.world.device, self.world.transformer.config.action_dim
        used = torch.arange(width, device=device) < self.world.spec.action_dim
        return {
            "frames": frames.to(device),
            "actions": self.world.processor.normalize_actions(actions.to(device)),
            "action_mask": used.expand(num_clips, width),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where other clips of the same data stood; see `ClipLoader.load_state_dict`."""
        self.loader.load_state_dict(state)
        self._batches = iter(self.loader)

    def _next(self) -> dict[str, Tensor]:
        while True:
            for clip in self._batches:
                return dict(clip)
            self._batches = iter(self.loader)  # the next epoch


@contextmanager
def _in_training_mode(network: nn.Module) -> Iterator[None]:
    """With dropout inside, and without it afterwards, whatever happens: rollouts must not have any."""
    network.train()
    try:
        yield
    finally:
        network.eval()


def _as_numbers(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
