"""Clips for training: a map from (seed, epoch, index) to a clip, over one data set or a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...media.images import decode_images
from ..episodes import FRAMES_PREFIX
from ..statistics import Moments
from .augment import AUGMENTATIONS, Augmentation, AugmentationName, transform_clip
from .mixture import Mixture, Source, load_mixture
from .order import SequentialOrder, ShuffledOrder, SourcePattern, SourceWindows, StreamedOrder, hash_seed
from .segments import SegmentSpec, between_frames, check_choice, choose_frames, count_starts, fitting_stride
from .store import EpisodeStore, ParquetStore, open_store

Clip = dict[str, Any]


class ClipKey(NamedTuple):
    """Which clip: a window of a source, as it is seen in an epoch.

    Attributes:
        epoch: number of the epoch.
        source: index of the source in the mixture.
        window: number of the window among those of the source.
    """

    epoch: int
    source: int
    window: int


@dataclass(frozen=True)
class ClipSettings:
    """How the frames of a clip are changed, and what comes with them; the same for all sources.

    Attributes:
        size: (height, width) to resize to; None keeps the size of the stored frames.
        augmentation: ranges that crops and colours are drawn from; None changes neither.
        crop_to_aspect: without augmentation, whether to cut the largest centred window of the size's aspect first.
        with_actions: whether clips have actions.
        with_rewards: whether clips have rewards.
        seed: seed of everything random in a clip.
    """

    size: tuple[int, int] | None = None
    augmentation: Augmentation | None = None
    crop_to_aspect: bool = False
    with_actions: bool = False
    with_rewards: bool = False
    seed: int = 0


class SegmentDataset(torch.utils.data.Dataset[Clip]):
    """Clips of a mixture, each a pure function of (seed, epoch, index).

    ``dataset[epoch, index]`` or ``dataset[index]`` (epoch 0) is a dict with

    - ``frames``: (T, 3, H, W) uint8;
    - ``actions``: (T - 1, A) float32, aggregated between the frames of the clip, normalised, and padded with zeros to
      the widest source; only with ``actions=True``. In a goal-conditioned clip the first row is zero, since no action
      leads from the goal;
    - ``action_mask``: (A,) bool, False where actions are padding; only with ``actions=True``;
    - ``rewards``: (T - 1,) float32, summed between the frames of the clip; only with ``rewards=True``;
    - ``source``, ``episode``: int, and ``frame_indices``: (T,) int64: where the clip comes from.

    Args:
        mixture: data sets, in any form that `load_mixture` takes.
        segment: frames that a clip takes of an episode; None takes the defaults of `SegmentSpec`.
        size: (height, width) to resize to; None keeps the size of the stored frames.
        augmentation: "none", "weak" or "strong".
        crop_to_aspect: without augmentation, whether to cut the largest centred window of the size's aspect first.
        actions: whether clips have actions; None: if every source has them.
        rewards: whether clips have rewards; None: if every source has them.
        seed: seed of everything random.
        streaming: whether to read Parquet files where they lie; see `open_store`.
        root: folder where the paths in a mixture's yaml file begin; see `load_mixture`.

    Attributes:
        settings: settings of the clips, in which None is resolved.
        sources: episodes of each source of the mixture, in its order.

    Raises:
        FileNotFoundError: if a data set is not there.
        ValueError: if a data set lacks what is asked for, or gives no clip.

    Example:
        >>> from ivideogpt_hf.data.clips.dataset import SegmentDataset
        >>> from ivideogpt_hf import SegmentSpec
        >>> clips = SegmentDataset("dataset", SegmentSpec(num_frames=4), size=(32, 32), actions=True)
        >>> clips[0]["frames"].shape, clips[0]["actions"].shape
        (torch.Size([4, 3, 32, 32]), torch.Size([3, 3]))
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
        self.seed, self.streaming = seed, streaming
        if self.segment.horizon is not None:  # a random choice of frames has nothing between them
            if actions or rewards:
                raise ValueError(
                    "a random choice of future frames (horizon) is for the VQ model and has no actions or rewards"
                )
            actions = rewards = False
        self.sources = [self._open(source) for source in self.mixture.sources]
        self.settings = ClipSettings(
            size=size,
            augmentation=AUGMENTATIONS[augmentation],
            crop_to_aspect=crop_to_aspect,
            with_actions=self._all_have("actions") if actions is None else actions,
            with_rewards=self._all_have("rewards") if rewards is None else rewards,
            seed=seed,
        )
        self._clips = [SourceClips(source, self.settings) for source in self.sources]
        if self.settings.with_actions:  # here, once: otherwise each worker would go through all actions
            for clips in self._clips:
                _ = clips.normalization
        self._pattern = SourcePattern([source.weight for source in self.mixture.sources], seed)
        self._last_order: tuple[int, ShuffledOrder | SequentialOrder] | None = None

    def _open(self, source: Source) -> SourceEpisodes:
        store = open_store(source.path, source.split, streaming=self.streaming)
        stride = self.mixture.stride_of(source)
        return SourceEpisodes(source, store, self.segment, stride=stride, subset_seed=self.mixture.seed)

    def _all_have(self, name: str) -> bool:
        """What None means for actions and rewards."""
        return all(source.has(name) for source in self.sources)

    @cached_property
    def action_dim(self) -> int | None:
        """A: the width of the widest source's aggregated actions; None without actions."""
        return max(clips.action_dim for clips in self._clips) if self.settings.with_actions else None

    def order(self, epoch: int = 0) -> ShuffledOrder | SequentialOrder:
        """The order of an epoch: shuffled, or sequential where each episode gives its first clip only."""
        if self._last_order is None or self._last_order[0] != epoch:
            windows = [source.windows for source in self.sources]
            if self.segment.starts == "first":
                self._last_order = (epoch, SequentialOrder(windows))
            else:
                self._last_order = (epoch, ShuffledOrder(windows, self._pattern, self.seed, epoch))
        return self._last_order[1]

    def streamed_order(self, epoch: int, rank: int, world_size: int, batch_size: int) -> StreamedOrder:
        """The order in which one rank sees an epoch of streaming."""
        windows = [source.windows for source in self.sources]
        return StreamedOrder(
            windows, self._pattern, self.seed, epoch, rank=rank, world_size=world_size, batch_size=batch_size
        )

    def set_up_streaming(self, max_groups: int) -> None:
        """Tell the stores which columns are needed and how many row groups of each are in use at a time."""
        for source, clips in zip(self.sources, self._clips, strict=True):
            if isinstance(source.store, ParquetStore):
                source.store.keep(clips.columns(), max_groups)

    def __len__(self) -> int:
        """Clips in an epoch: it ends when the first source has given each of its clips once."""
        return len(self.order())

    def __getitem__(self, key: int | tuple[int, int] | ClipKey) -> Clip:
        if not isinstance(key, ClipKey):
            epoch, index = key if isinstance(key, tuple) else (0, key)
            if not 0 <= index < len(self.order(epoch)):
                raise IndexError(f"clip {index} of {len(self.order(epoch))}")
            key = ClipKey(epoch, *self.order(epoch).locate(index))
        clip = self._clips[key.source].clip(key)
        if self.action_dim is not None:
            width = clip["actions"].shape[1]
            clip["action_mask"] = torch.arange(self.action_dim) < width
            clip["actions"] = F.pad(clip["actions"], (0, self.action_dim - width))
        return clip

    def processor_settings(self) -> dict[str, Any]:
        """Arguments for `IVideoGPTVideoProcessor` that describe these clips' actions, so that a checkpoint carries
        them.

        Sources with different actions are described one by one: each one's width and statistics, under its name, and
        the width that all are padded to.
        """
        settings: dict[str, Any] = {"crop_to_aspect": self.settings.crop_to_aspect}
        if self.settings.size is not None:
            settings["size"] = dict(zip(("height", "width"), self.settings.size, strict=True))
        if not self.settings.with_actions:
            return settings
        embodiments = {clips.spec.name: clips.action_settings() for clips in self._clips}
        first, *others = embodiments.values()
        if all(other == first for other in others):
            return settings | {name: value for name, value in first.items() if name != "action_dim"}
        return settings | {"embodiments": embodiments, "padded_action_dim": self.action_dim}

    def sources_of_split(self, split: str) -> list[Source]:
        """The sources with another split, all episodes of it, and actions that are normalised as here."""
        sources = []
        for clips in self._clips:
            source = replace(clips.spec, split=split, num_episodes=None)
            if self.settings.with_actions and clips.normalization is not None:
                mean, std = clips.normalization
                source = replace(source, action_normalization={"mean": mean.tolist(), "std": std.tolist()})
            sources.append(source)
        return sources

    def contents(self) -> dict[str, str]:
        """What each file of the sources' folders is known by, under its source's name and its own; see
        `footer_digests`."""
        return {
            f"{source.spec.name}/{name}": digest
            for source in self.sources
            for name, digest in source.store.contents.items()
        }

    def describe(self) -> list[dict[str, Any]]:
        """Each source with its settings, its size and a fingerprint of its content."""
        rows = []
        for source in self.sources:
            sizes = {"num_episodes": len(source.store.num_frames), "num_windows": source.windows.num_windows}
            rows.append(asdict(source.spec) | sizes | {"fingerprint": source.store.fingerprint()})
        return rows


class SourceEpisodes:
    """The episodes of one source that are in use, and the windows in them.

    Args:
        spec: source of a mixture.
        store: all episodes of the source.
        segment: frames that a clip takes of an episode.
        stride: number of frames from one frame of a clip to the next, where the episode is long enough.
        subset_seed: seed of the choice of episodes, where the source names a number of them.

    Attributes:
        cameras: names of the cameras in use.
        starts: (N,) int, number of clips that begin in each episode; 0 where an episode is not in use.
        windows: windows of the source, counted by episode.

    Raises:
        ValueError: if the source lacks the cameras or the number of episodes that it names, or gives no clip.
    """

    def __init__(
        self, spec: Source, store: EpisodeStore, segment: SegmentSpec, *, stride: int, subset_seed: int = 0
    ) -> None:
        self.spec, self.store, self.segment, self.stride = spec, store, segment, stride
        self.cameras = self._choose_cameras()
        starts = count_starts(store.num_frames, stride, segment)
        in_use = np.zeros(len(starts), dtype=bool)
        in_use[self._subset(subset_seed)] = True
        self.starts = np.where(in_use, starts, 0)
        cumulative = np.concatenate([[0], np.cumsum(self.starts * len(self.cameras))])
        self.windows = SourceWindows(cumulative, store.groups)
        if not self.windows.num_windows:
            raise ValueError(
                f"{store.name} gives no clip of {segment.num_frames} frames at stride {stride}: its {len(starts)} "
                f"episodes have at most {store.num_frames.max(initial=0)} frames"
            )

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
        """The indices of the episodes in use: all, or as many as asked for, without replacement."""
        total, number = len(self.store.num_frames), self.spec.num_episodes
        if number is None:
            return np.arange(total)
        if number > total:
            raise ValueError(f"{self.store.name} has {total} episodes, {number} were asked for")
        generator = np.random.default_rng(hash_seed("subset", seed, self.spec.name))
        return np.sort(generator.permutation(total)[:number])

    @property
    def first_episode(self) -> int:
        """The index of the first episode in use, which stands for the others where all are alike."""
        return int(np.flatnonzero(self.starts)[0])

    def has(self, name: str) -> bool:
        """Whether the first episode in use has "actions" or "rewards"."""
        return getattr(self.store, name)(self.first_episode) is not None

    def locate(self, window: int) -> tuple[int, str, int]:
        """(episode, camera, start in the episode) of a window."""
        episode = int(np.searchsorted(self.windows.cumulative, window, side="right")) - 1
        camera, start = divmod(window - int(self.windows.cumulative[episode]), int(self.starts[episode]))
        return episode, self.cameras[camera], start


class SourceClips:
    """The clips of one source.

    Args:
        episodes: episodes of the source.
        settings: settings of the clips.

    Raises:
        ValueError: if the source lacks what is asked for, or the width of its actions would depend on the episode.
    """

    def __init__(self, episodes: SourceEpisodes, settings: ClipSettings) -> None:
        self.episodes, self.settings = episodes, settings
        self.spec, self._store, self._segment = episodes.spec, episodes.store, episodes.segment
        self._concatenates = settings.with_actions and self.spec.action_aggregation == "concatenate"
        if self._concatenates and episodes.stride > 1 and self._segment.short_episodes == "shrink":
            raise ValueError(
                f"{self.spec.name}: concatenated actions of stride {episodes.stride} would change their width where "
                f"the stride shrinks; use short_episodes='drop'"
            )
        for is_needed, name in ((settings.with_actions, "actions"), (settings.with_rewards, "rewards")):
            if is_needed and not episodes.has(name):
                raise ValueError(f"{self._store.name} has no {name}")

    def columns(self) -> list[str]:
        """The columns that clips are made of."""
        names = [FRAMES_PREFIX + camera for camera in self.episodes.cameras]
        chosen = {"actions": self.settings.with_actions, "rewards": self.settings.with_rewards}
        return names + [name for name, is_chosen in chosen.items() if is_chosen]

    @cached_property
    def action_dim(self) -> int:
        """The width of the aggregated actions."""
        width = self._actions(self.episodes.first_episode).shape[1]
        return width * self.episodes.stride if self._concatenates else width

    @cached_property
    def normalization(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(mean, std) of the aggregated actions, (A,) each; a constant dimension is only centred."""
        how = self.spec.action_normalization
        if how == "none":
            return None
        if isinstance(how, Mapping):
            mean, std = (np.asarray(how[name], dtype=np.float32) for name in ("mean", "std"))
            is_finite = np.isfinite(mean).all() and np.isfinite(std).all()
            if not len(mean) == len(std) == self.action_dim or not is_finite or not (std > 0).all():
                raise ValueError(
                    f"{self.spec.name}: needs {self.action_dim} finite means and positive stds, got {dict(how)}"
                )
            return mean, std
        moments = Moments()
        for episode in np.flatnonzero(self.episodes.starts):
            length, rows = int(self._store.num_frames[episode]), self._actions(int(episode))
            stride = fitting_stride(self.episodes.stride, length, self._segment)
            if stride > 1:
                rows = between_frames(rows, np.arange(0, length, stride), stride, self.spec.action_aggregation)
            moments.add(rows)
        if moments.mean is None:
            raise ValueError(f"{self._store.name} has no actions")
        std = np.where(moments.is_constant, 1, moments.std)
        return moments.mean.astype(np.float32), std.astype(np.float32)

    def action_settings(self) -> dict[str, Any]:
        """What the processor of a checkpoint should know of this source's actions.

        Names and bounds are those of single steps: bounds grow with the stride where actions are summed.
        """
        settings: dict[str, Any] = {"action_dim": self.action_dim}
        episode, stride = self.episodes.first_episode, self.episodes.stride
        names, low, high = (self._store.metadata(episode, f"action_{name}") for name in ("names", "low", "high"))
        repeats = stride if self._concatenates else 1
        scale = stride if self.spec.action_aggregation == "sum" else 1
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
        """Make one clip; see `SegmentDataset`. Its actions have the width of this source and no mask."""
        settings = self.settings
        episode, camera, start = self.episodes.locate(key.window)
        generator = np.random.default_rng(hash_seed("clip", settings.seed, *key))
        length = int(self._store.num_frames[episode])
        stride = fitting_stride(self.episodes.stride, length, self._segment)
        indices = choose_frames(length, start, stride, self._segment, generator)
        frames = transform_clip(
            self._read_frames(episode, camera, indices),
            settings.size,
            settings.augmentation,
            generator,
            crop_to_aspect=settings.crop_to_aspect,
        )
        clip: Clip = {"frames": frames, "source": key.source, "episode": episode}
        clip["frame_indices"] = torch.from_numpy(indices)
        if settings.with_actions:
            rows = self._between(self._actions(episode), indices, stride, self.spec.action_aggregation)
            clip["actions"] = self._normalize(rows)
        if settings.with_rewards:
            rewards = self._present("rewards", self._store.rewards(episode), episode)
            clip["rewards"] = torch.from_numpy(self._between(rewards[:, None], indices, stride, "sum")[:, 0].copy())
        return clip

    def _actions(self, episode: int) -> np.ndarray:
        return self._present("actions", self._store.actions(episode), episode)

    def _present(self, name: str, values: np.ndarray | None, episode: int) -> np.ndarray:
        if values is None:
            raise ValueError(f"episode {episode} of {self._store.name} has no {name}")
        return values

    def _read_frames(self, episode: int, camera: str, indices: np.ndarray) -> Tensor:
        """(T, 3, h, w) uint8; a frame that occurs twice is decoded once."""
        distinct, places = np.unique(indices, return_inverse=True)
        pixels = decode_images(self._store.images(episode, camera, distinct.tolist()))
        in_order = len(distinct) == len(indices) and (places[:-1] < places[1:]).all()
        return torch.from_numpy(pixels if in_order else pixels[places]).movedim(-1, 1)

    def _between(self, rows: np.ndarray, indices: np.ndarray, stride: int, how: Any) -> np.ndarray:
        if not self._segment.goal_conditioned:
            return between_frames(rows, indices, stride, how)
        moving = between_frames(rows, indices[1:], stride, how)
        return np.concatenate([np.zeros_like(moving[:1]), moving])

    def _normalize(self, rows: np.ndarray) -> Tensor:
        """(T - 1, A of this source); the goal's row stays zero."""
        if self.normalization is not None:
            mean, std = self.normalization
            first = self._segment.num_goal_frames
            rows[first:] = (rows[first:] - mean) / std
        return torch.from_numpy(rows)
