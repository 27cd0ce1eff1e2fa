"""Held-out clips: what checkpoints are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from torch import Tensor

from ..data.clips.dataset import SegmentDataset
from ..data.clips.mixture import Mixture, load_mixture
from ..data.clips.segments import SegmentSpec
from ..data.clips.store import open_store
from ..spec import first_action
from .protocols import EvaluationProtocol


@dataclass(frozen=True)
class HeldOutClip:
    """A clip that no model was trained on.

    Attributes:
        frames: frames (C + T, 3, H, W) uint8.
        actions: actions (T, A) float32 in environment units, of which the first leads from the last context frame to
            the first future frame; None without actions.
        rewards: rewards (T,) float32, or None.
        source: name of the data set.
        task: name of the task as the data set gives it, or else the name of the data set.
    """

    frames: Tensor
    actions: Tensor | None
    rewards: Tensor | None
    source: str
    task: str


class HeldOutClips(Sequence[HeldOutClip]):
    """The clips of a protocol. The data sets of a mixture take turns, and each clip depends on seed and index alone.

    Args:
        mixture: mixture, or its name, as `load_mixture` takes it.
        protocol: protocol that says how many clips there are, and where they begin.
        size: size (height, width) of the frames.
        root: folder of the data sets, see `load_mixture`.
        split: split of every data set that clips are taken from.
        goal_conditioned: whether a clip's last frame also comes first, as the goal.
        seed: seed of the places where clips begin, for protocols whose clips begin anywhere.

    Raises:
        FileNotFoundError: if a data set or its split is not there.
        ValueError: if there are fewer clips than the protocol has, or no actions where it needs them.
    """

    def __init__(
        self,
        mixture: str | Mixture,
        protocol: EvaluationProtocol,
        size: tuple[int, int],
        *,
        root: str | None = None,
        split: str = "test",
        goal_conditioned: bool = False,
        seed: int = 0,
    ) -> None:
        self.protocol = protocol
        loaded = load_mixture(mixture, root=root)
        segment = SegmentSpec(
            protocol.num_frames,
            protocol.num_context_frames,
            goal_conditioned=goal_conditioned,
            starts=protocol.starts,
            short_episodes="drop",
        )
        self.datasets = []
        for source in loaded.sources:
            # Checkpoints take actions in environment units, and normalise by their own statistics.
            source = replace(source, split=split, action_normalization="none")
            if source.cameras is None and len(open_store(source.path, split).cameras) > 1 and protocol.camera:
                source = replace(source, cameras=[protocol.camera])
            self.datasets.append(
                SegmentDataset(
                    replace(loaded, sources=[source]),
                    segment,
                    size=size,
                    crop_to_aspect=protocol.crop_to_aspect,
                    actions=protocol.uses_actions,
                    rewards=None,
                    seed=seed,
                )
            )
        lengths = [min(len(dataset), protocol.num_clips) for dataset in self.datasets]
        turns = zip_longest(*([(number, i) for i in range(length)] for number, length in enumerate(lengths)))
        places = [place for turn in turns for place in turn if place is not None]
        if len(places) < protocol.num_clips:
            raise ValueError(
                f"protocol {protocol.name} takes {protocol.num_clips} clips, but the split {split} has only "
                f"{len(places)}; ask for fewer with --num-clips"
            )
        self._places = places[: protocol.num_clips]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> HeldOutClip:
        number, position = self._places[index]
        dataset = self.datasets[number]
        clip, source = dataset[position], dataset.sources[0]
        first = first_action(self.protocol.num_context_frames)
        return HeldOutClip(
            frames=clip["frames"],
            actions=clip["actions"][first:] if "actions" in clip else None,
            rewards=clip["rewards"][first:] if "rewards" in clip else None,
            source=source.spec.name,
            task=source.store.metadata(clip["episode"], "task") or source.spec.name,
        )
