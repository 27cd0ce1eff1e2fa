"""Mixtures of data sets as yaml: sources with weights, strides, cameras and normalisation of actions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import get_args

from ...settings import fill, read_yaml
from ..readers.npz import original_datasets
from .segments import ActionAggregation, check_choice, frame_stride

SHIPPED = Path(__file__).parents[1] / "mixtures"
NORMALIZATIONS = ("none", "standardize")


@dataclass(frozen=True)
class Source:
    """One data set of a mixture.

    Attributes:
        path: folder, or id on the Hub, of a data set in our schema.
        name: name of the source; "" takes the last part of the path.
        split: "train" or "test".
        weight: share of the clips, relative to the weights of the other sources.
        stride: distance of a clip's frames, relative to the mixture's base: they are
            max(round(video_step * stride / base_stride), 1) frames of the episode apart. None takes the stride that the
            original has for a data set of this name, or else its base.
        cameras: names of the cameras in use; each clip is from one of them. None takes the camera that the original
            uses for a data set of this name, or else the only one.
        num_episodes: number of episodes, drawn without replacement by the mixture's seed; None takes all.
        action_aggregation: rule that makes one action of those between two frames of a clip. "sum" is the default: most
            robots' actions are displacements, and their sum is the displacement between the frames. "last" suits
            absolute targets and commands such as an opened gripper. "concatenate" loses nothing and makes actions
            wider.
        action_normalization: "none"; "standardize", by mean and standard deviation of this source's aggregated actions
            (of the split in use); or a mapping with "mean" and "std", a number per dimension.

    Raises:
        ValueError: if a value is not allowed.

    Example:
        >>> from ivideogpt_hf.data.clips.mixture import Source
        >>> Source("datasets/kitchen", action_normalization="standardize").name
        'kitchen'
    """

    path: str
    name: str = ""
    split: str = "train"
    weight: float = 1.0
    stride: float | None = None
    cameras: Sequence[str] | None = None
    num_episodes: int | None = None
    action_aggregation: ActionAggregation = "sum"
    action_normalization: str | Mapping[str, Sequence[float]] = "none"

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", Path(self.path).name)
        if self.cameras is None and self.name in original_datasets()["image_keys"]:
            object.__setattr__(self, "cameras", [original_datasets()["image_keys"][self.name]])
        if not 0 < self.weight < inf or (self.stride is not None and not 0 < self.stride < inf):
            raise ValueError(
                f"{self.name}: weight and stride must be positive and finite, got {self.weight} and {self.stride}"
            )
        if self.num_episodes is not None and self.num_episodes < 1:
            raise ValueError(f"{self.name}: num_episodes must be at least 1, got {self.num_episodes}")
        check_choice(f"{self.name}: action_aggregation", self.action_aggregation, get_args(ActionAggregation))
        normalization = self.action_normalization
        if not isinstance(normalization, Mapping):
            check_choice(f"{self.name}: action_normalization", normalization, NORMALIZATIONS)
        elif set(normalization) != {"mean", "std"}:
            raise ValueError(f"{self.name}: action_normalization needs 'mean' and 'std', got {sorted(normalization)}")


@dataclass(frozen=True)
class Mixture:
    """Data sets to draw clips from.

    Attributes:
        sources: data sets, at least one, with different names.
        video_step: base rate; 1 is the rate that the strides stand for.
        base_stride: stride that one step of that rate is.
        seed: seed of the subsets (`Source.num_episodes`).

    Raises:
        ValueError: without sources, or if two have one name.

    Example:
        >>> from ivideogpt_hf import SegmentSpec, load_clips
        >>> from ivideogpt_hf.data.clips.mixture import Mixture, Source
        >>> mixture = Mixture([Source("dataset", name="near", weight=3.0), Source("dataset", name="far", stride=2.0)])
        >>> next(iter(load_clips(mixture, batch_size=2, segment=SegmentSpec(num_frames=3))))["frames"].shape
        torch.Size([2, 3, 3, 16, 16])
    """

    sources: Sequence[Source]
    video_step: float = 1.0
    base_stride: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("a mixture needs at least one source")
        if len(set(names)) < len(names):
            raise ValueError(f"the sources of a mixture need different names, got {names}")
        if not 0 < self.video_step < inf or not 0 < self.base_stride < inf:
            raise ValueError(
                f"video_step and base_stride must be positive and finite, got {self.video_step}, {self.base_stride}"
            )

    def stride_of(self, source: Source) -> int:
        """Number of frames of an episode from one frame of a clip to the next."""
        if source.stride is not None:
            return frame_stride(source.stride, video_step=self.video_step, base_stride=self.base_stride)
        original = original_datasets()
        base_stride = original["base_stride"]
        stride = original["strides"].get(source.name, base_stride)
        return frame_stride(stride, video_step=self.video_step, base_stride=base_stride)


def load_mixture(source: str | os.PathLike[str] | Mixture | Source, *, root: str | None = None) -> Mixture:
    """A mixture from what names one.

    Args:
        source: `Mixture`; `Source`; yaml file; name of a shipped mixture ("oxe", "oxe_ssv2"); or data set, as folder or
            Hub id, which becomes the only source.
        root: folder where the paths in a yaml file begin; None takes the folder of the file, and the current folder for
            a shipped mixture.

    Raises:
        FileNotFoundError: if a yaml file does not exist.
        ValueError: if it has unknown or missing keys, or values that are not allowed.

    Example:
        >>> from pathlib import Path
        >>> from ivideogpt_hf.data.clips.mixture import load_mixture
        >>> _ = Path("mixture.yaml").write_text("sources: [{path: dataset, weight: 2}]")
        >>> load_mixture("mixture.yaml").sources[0].weight
        2
    """
    if isinstance(source, Mixture):
        return source
    if isinstance(source, Source):
        return Mixture([source])
    name = str(source)
    shipped_file = SHIPPED / f"{name}.yaml"
    if shipped_file.is_file() and not Path(name).exists():
        return _read_mixture(shipped_file, Path(root or "."))
    if name.endswith((".yaml", ".yml")):
        return _read_mixture(Path(name), Path(name).parent if root is None else Path(root))
    return Mixture([Source(name)])


def _read_mixture(file: Path, root: Path) -> Mixture:
    content = read_yaml(file)
    sources = content.get("sources")
    for entry in sources if isinstance(sources, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("path"), str) and (root / entry["path"]).exists():
            entry["path"] = str(root / entry["path"])
    return fill(Mixture, content, str(file))
