"""Clips for training: a map from (seed, epoch, index) to a clip, over one data set or a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...media.images import decode_images
from ..episodes import FRAMES_PREFIX
from ..statistics import Moments
from .augment import AUGMENTATIONS, AugmentationName, transform_clip
from .mixture import Mixture, Source, load_mixture
from .order import SequentialOrder, ShuffledOrder, SourcePattern, SourceWindows, StreamedOrder, hash_seed
from .segments import SegmentSpec, between_frames, check_choice, choose_frames, count_starts, fitting_stride
from .store import EpisodeStore, ParquetStore, open_store

Clip = dict[str, Any]


class ClipKey(NamedTuple):
    """Which clip: a window of a source, as it is seen in an epoch."""

    epoch: int
    source: int
    window: int


class SegmentDataset(torch.utils.data.Dataset[Clip]):
    """Clips of a mixture, each a pure function of (seed, epoch, index).

    ``dataset[epoch, index]`` or ``dataset[index]`` (epoch 0) is a dict with

    - ``frames``: (T, 3, H, W) uint8;
    - ``actions``: (T - 1, A) float32, aggregated between kept frames, normalised and padded with zeros to the widest
      source, and ``action_mask``: (A,) bool, False where it is padding; only with ``actions=True``. In a
      goal-conditioned clip the first row is zero, since no action leads from the goal;
    - ``rewards``: (T - 1,) float32, summed between kept frames; only with ``rewards=True``;
    - ``source``, ``episode``: int, and ``frame_indices``: (T,) int64: where the clip comes from.

    Args:
        mixture: what `load_mixture` takes.
        segment: what is cut from an episode.
        size: (height, width) to resize to; None keeps the size of the stored frames.
        augmentation: "none", "weak" or "strong".
        crop_to_aspect: without augmentation, whether to cut the largest centred window of the size's aspect first.
        actions: whether clips have actions; None: if every source has them.
        rewards: whether clips have rewards; None: if every source has them.
        seed: of everything random.
        streaming: see `open_store`.
        root: see `load_mixture`.

    Raises:
        FileNotFoundError: if a data set is not there.
        ValueError: if a data set lacks what is asked for, or gives no clip.
    """

    def __init__(
        self,
        mixture: Any,
        segment: SegmentSpec | None = None,
        *,
        size: tuple[int, int] | None = None,
        augmentation: AugmentationName = "none",
        crop_to_aspect: bool = False,
        actions: bool | None = False,
        rewards: bool | None = False,
        seed: int = 0,
        streaming: bool = False,
        root: str | None = None,
    ) -> None:
        check_choice("augmentation", augmentation, tuple(AUGMENTATIONS))
        self.mixture: Mixture = load_mixture(mixture, root=root)
        self.segment = segment or SegmentSpec()
        self.size, self.crop_to_aspect = size, crop_to_aspect
        self.augmentation = AUGMENTATIONS[augmentation]
        if self.segment.horizon is not None:  # a random choice of frames has nothing between them
            actions, rewards = actions or False, rewards or False
        self.with_actions, self.with_rewards = actions, rewards
        self.seed, self.streaming = seed, streaming
        if (actions or rewards) and self.segment.horizon is not None:
            raise ValueError(
                "a random choice of future frames (horizon) is for the VQ model and has no actions or rewards"
            )
        self.sources = [SourceClips(source, self) for source in self.mixture.sources]
        if self.with_actions is None:
            self.with_actions = all(source.has("actions") for source in self.sources)
        if self.with_rewards is None:
            self.with_rewards = all(source.has("rewards") for source in self.sources)
        if self.with_actions:  # here, once: otherwise each worker would go through all actions
            for source in self.sources:
                _ = source.normalization
        self._pattern = SourcePattern([source.weight for source in self.mixture.sources], seed)
        self._last_order: tuple[int, ShuffledOrder | SequentialOrder] | None = None

    @cached_property
    def action_dim(self) -> int | None:
        """A: the width of the widest source's aggregated actions; None without actions."""
        return max(source.action_dim for source in self.sources) if self.with_actions else None

    def order(self, epoch: int = 0) -> ShuffledOrder | SequentialOrder:
        """The order of an epoch: shuffled, or sequential where each episode gives its first clip only."""
        if self._last_order is None or self._last_order[0] != epoch:
            windows = [source.windows for source in self.sources]
            sequential = self.segment.starts == "first"
            made = SequentialOrder(windows) if sequential else ShuffledOrder(windows, self._pattern, self.seed, epoch)
            self._last_order = (epoch, made)
        return self._last_order[1]

    def streamed_order(self, epoch: int, rank: int, world_size: int, batch_size: int) -> StreamedOrder:
        """The order in which one rank sees an epoch of streaming."""
        windows = [source.windows for source in self.sources]
        return StreamedOrder(
            windows, self._pattern, self.seed, epoch, rank=rank, world_size=world_size, batch_size=batch_size
        )

    def set_up_streaming(self, max_groups: int) -> None:
        """Tell the stores which columns are needed and how many row groups of each are in use at a time."""
        for source in self.sources:
            if isinstance(source.store, ParquetStore):
                source.store.keep(source.columns(), max_groups)

    def __len__(self) -> int:
        """Clips in an epoch: it ends when the first source has given each of its clips once."""
        return len(self.order())

    def __getitem__(self, key: int | tuple[int, int] | ClipKey) -> Clip:
        if not isinstance(key, ClipKey):
            epoch, index = key if isinstance(key, tuple) else (0, key)
            if not 0 <= index < len(self.order(epoch)):
                raise IndexError(f"clip {index} of {len(self.order(epoch))}")
            key = ClipKey(epoch, *self.order(epoch).locate(index))
        return self.sources[key.source].clip(key)

    def processor_settings(self) -> dict[str, Any]:
        """Arguments for `IVideoGPTVideoProcessor` that describe these clips' actions, so that a checkpoint carries
        them.

        For several sources with different actions, each one's width and statistics, under its name, and the width that
        they are padded to.
        """
        settings: dict[str, Any] = {"crop_to_aspect": self.crop_to_aspect}
        if self.size is not None:
            settings["size"] = {"height": self.size[0], "width": self.size[1]}
        if not self.with_actions:
            return settings
        embodiments = {source.spec.name: source.action_settings() for source in self.sources}
        first, *others = embodiments.values()
        if all(other == first for other in others):
            return settings | {name: value for name, value in first.items() if name != "action_dim"}
        return settings | {"embodiments": embodiments, "padded_action_dim": self.action_dim}

    def describe(self) -> list[dict[str, Any]]:
        """Each source with its settings, its size and a fingerprint of its content."""
        described = []
        for source in self.sources:
            sizes = {"num_episodes": len(source.store.num_frames), "num_windows": source.windows.num_windows}
            described.append(asdict(source.spec) | sizes | {"fingerprint": source.store.fingerprint()})
        return described


class SourceClips:
    """One source's clips."""

    def __init__(self, spec: Source, dataset: SegmentDataset) -> None:
        self.spec, self.number = spec, dataset.mixture.sources.index(spec)
        self._dataset = dataset
        self.stride = dataset.mixture.stride_of(spec)
        self.store: EpisodeStore = open_store(spec.path, spec.split, streaming=dataset.streaming)
        self.cameras = self._choose_cameras()
        self._concatenates = dataset.with_actions is not False and spec.action_aggregation == "concatenate"
        if self._concatenates and self.stride > 1 and dataset.segment.short_episodes == "shrink":
            raise ValueError(
                f"{spec.name}: concatenated actions of stride {self.stride} would change their width where the stride "
                f"shrinks; use short_episodes='drop'"
            )
        starts = count_starts(self.store.num_frames, self.stride, dataset.segment)
        kept = np.zeros(len(starts), dtype=bool)
        kept[self._subset(dataset.mixture.seed)] = True
        self._starts = np.where(kept, starts, 0)
        cumulative = np.concatenate([[0], np.cumsum(self._starts * len(self.cameras))])
        self.windows = SourceWindows(cumulative, self.store.groups)
        if not self.windows.num_windows:
            raise ValueError(
                f"{self.store.name} gives no clip of {dataset.segment.num_frames} frames at stride {self.stride}: its "
                f"{len(starts)} episodes have at most {self.store.num_frames.max(initial=0)} frames"
            )
        self._check_content()

    def _choose_cameras(self) -> list[str]:
        available = self.store.cameras
        if self.spec.cameras is None:
            if len(available) > 1:
                raise ValueError(f"{self.store.name} has the cameras {available}: name those to use")
            return available
        unknown = set(self.spec.cameras) - set(available)
        if unknown:
            raise ValueError(f"{self.store.name} has no camera {sorted(unknown)[0]!r}; it has {available}")
        return list(self.spec.cameras)

    def _subset(self, seed: int) -> np.ndarray:
        """The episodes in use: all, or as many as asked for, without replacement."""
        total, wanted = len(self.store.num_frames), self.spec.num_episodes
        if wanted is None:
            return np.arange(total)
        if wanted > total:
            raise ValueError(f"{self.store.name} has {total} episodes, {wanted} were asked for")
        generator = np.random.default_rng(hash_seed("subset", seed, self.spec.name))
        return np.sort(generator.permutation(total)[:wanted])

    def _check_content(self) -> None:
        for wanted, name in ((self._dataset.with_actions, "actions"), (self._dataset.with_rewards, "rewards")):
            if wanted and not self.has(name):
                raise ValueError(f"{self.store.name} has no {name}")

    def has(self, name: str) -> bool:
        """Whether its first episode in use has "actions" or "rewards"."""
        return getattr(self.store, name)(int(np.flatnonzero(self._starts)[0])) is not None

    def columns(self) -> list[str]:
        """The columns that clips are made of."""
        names = [FRAMES_PREFIX + camera for camera in self.cameras]
        chosen = {"actions": self._dataset.with_actions, "rewards": self._dataset.with_rewards}
        return names + [name for name, is_chosen in chosen.items() if is_chosen]

    @cached_property
    def action_dim(self) -> int:
        """Width of the aggregated actions."""
        width = self._actions(int(np.flatnonzero(self._starts)[0])).shape[1]
        return width * self.stride if self._concatenates else width

    @cached_property
    def normalization(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(mean, std) of the aggregated actions, (A,) each; a constant dimension is only centred."""
        how = self.spec.action_normalization
        if how == "none":
            return None
        if isinstance(how, Mapping):
            mean, std = (np.asarray(how[name], dtype=np.float32) for name in ("mean", "std"))
            if not len(mean) == len(std) == self.action_dim or not (std > 0).all():
                raise ValueError(f"{self.spec.name}: needs {self.action_dim} means and positive stds, got {dict(how)}")
            return mean, std
        moments = Moments()
        for episode in np.flatnonzero(self._starts):
            length, rows = int(self.store.num_frames[episode]), self._actions(int(episode))
            stride = fitting_stride(self.stride, length, self._dataset.segment)
            if stride > 1:
                rows = between_frames(rows, np.arange(0, length, stride), stride, self.spec.action_aggregation)
            moments.add(rows)
        if moments.mean is None:
            raise ValueError(f"{self.store.name} has no actions")
        std = np.where(moments.is_constant, 1, moments.std)
        return moments.mean.astype(np.float32), std.astype(np.float32)

    def action_settings(self) -> dict[str, Any]:
        """What the processor of a checkpoint should know of this source's actions.

        Names and bounds are those of single steps: bounds grow with the stride where actions are summed.
        """
        settings: dict[str, Any] = {"action_dim": self.action_dim}
        episode = int(np.flatnonzero(self._starts)[0])
        names, low, high = (self.store.metadata(episode, f"action_{name}") for name in ("names", "low", "high"))
        repeats = self.stride if self._concatenates else 1
        scale = self.stride if self.spec.action_aggregation == "sum" else 1
        if names is not None:
            many = repeats > 1
            settings["action_names"] = [f"{name}[{i}]" if many else name for i in range(repeats) for name in names]
        if low is not None and high is not None:
            settings["action_low"] = [scale * value for value in low] * repeats
            settings["action_high"] = [scale * value for value in high] * repeats
        if self.normalization is not None:
            mean, std = self.normalization
            settings |= {"action_mean": mean.tolist(), "action_std": std.tolist()}
        return settings

    # -- one clip -----------------------------------------------------------------------------------------------------

    def clip(self, key: ClipKey) -> Clip:
        """Make one clip; see `SegmentDataset`."""
        dataset, segment = self._dataset, self._dataset.segment
        episode, offset = self._find(key.window)
        camera, start = divmod(offset, int(self._starts[episode]))
        generator = np.random.default_rng(hash_seed("clip", dataset.seed, *key))
        length = int(self.store.num_frames[episode])
        stride = fitting_stride(self.stride, length, segment)
        indices = choose_frames(length, start, stride, segment, generator)
        frames = self._read_frames(episode, self.cameras[camera], indices)
        frames = transform_clip(
            frames, dataset.size, dataset.augmentation, generator, crop_to_aspect=dataset.crop_to_aspect
        )
        clip: Clip = {"frames": frames, "source": self.number, "episode": episode}
        clip["frame_indices"] = torch.from_numpy(indices)
        if dataset.with_actions:
            rows = self._between(self._actions(episode), indices, stride, self.spec.action_aggregation)
            clip["actions"], clip["action_mask"] = self._prepare_actions(rows)
        if dataset.with_rewards:
            rewards = self._present("rewards", self.store.rewards(episode), episode)
            clip["rewards"] = torch.from_numpy(self._between(rewards[:, None], indices, stride, "sum")[:, 0].copy())
        return clip

    def _actions(self, episode: int) -> np.ndarray:
        return self._present("actions", self.store.actions(episode), episode)

    def _present(self, name: str, values: np.ndarray | None, episode: int) -> np.ndarray:
        if values is None:
            raise ValueError(f"episode {episode} of {self.store.name} has no {name}")
        return values

    def _find(self, window: int) -> tuple[int, int]:
        episode = int(np.searchsorted(self.windows.cumulative, window, side="right")) - 1
        return episode, window - int(self.windows.cumulative[episode])

    def _read_frames(self, episode: int, camera: str, indices: np.ndarray) -> Tensor:
        """(T, 3, h, w) uint8; a frame that occurs twice is decoded once."""
        wanted, places = np.unique(indices, return_inverse=True)
        pixels = decode_images(self.store.images(episode, camera, wanted.tolist()))
        in_order = len(wanted) == len(indices) and (places[:-1] < places[1:]).all()
        return torch.from_numpy(pixels if in_order else pixels[places]).movedim(-1, 1)

    def _between(self, rows: np.ndarray, indices: np.ndarray, stride: int, how: Any) -> np.ndarray:
        if not self._dataset.segment.goal_conditioned:
            return between_frames(rows, indices, stride, how)
        moving = between_frames(rows, indices[1:], stride, how)
        return np.concatenate([np.zeros_like(moving[:1]), moving])

    def _prepare_actions(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Normalise and pad (T - 1, A of this source); returns rows and mask."""
        if self.normalization is not None:
            mean, std = self.normalization
            first = int(self._dataset.segment.goal_conditioned)  # the goal's row stays zero
            rows[first:] = (rows[first:] - mean) / std
        width = self._dataset.action_dim or rows.shape[1]
        mask = torch.arange(width) < rows.shape[1]
        return torch.from_numpy(np.pad(rows, ((0, 0), (0, width - rows.shape[1])))), mask
