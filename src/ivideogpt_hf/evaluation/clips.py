"""The clips that checkpoints are measured on."""

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
from .protocols import Protocol


@dataclass(frozen=True)
class HeldOutClip:
    """A clip that no model was trained on.

    Attributes:
        frames: (C + T, 3, H, W) uint8.
        actions: (T, A) float32 in environment units, those from the last context frame on; None without actions.
        rewards: (T,) float32, or None.
        source: name of the data set.
        task: what is done, as the data set tells it, or else its name.
    """

    frames: Tensor
    actions: Tensor | None
    rewards: Tensor | None
    source: str
    task: str


class HeldOutClips(Sequence[HeldOutClip]):
    """Clips of a protocol, in turns from all data sets of a mixture, each a pure function of (seed, index).

    Args:
        mixture: what `load_mixture` takes.
        protocol: how many clips, and which.
        size: (height, width) of the frames.
        root: see `load_mixture`.
        split: of every data set.
        goal_conditioned: whether a clip's last frame comes first, as goal.
        seed: which clips, where they begin anywhere.

    Raises:
        FileNotFoundError: if a data set or its split is not there.
        ValueError: if there are fewer clips than the protocol has, or no actions where it needs them.
    """

    def __init__(
        self,
        mixture: str | Mixture,
        protocol: Protocol,
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
            # Models take environment units: what they were trained on is theirs to know.
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
                f"protocol {protocol.name} takes {protocol.num_clips} clips, the split {split} gives {len(places)}; "
                f"ask for fewer with --num-clips"
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
