"""Measures a checkpoint clip by clip; goes on after a kill, and shares the work with other processes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.loading import weights_hash
from ..extras import require_packages
from ..media.video import side_by_side, write_video
from ..provenance import describe_command, describe_versions
from ..run_folder import claim, write_aside, write_json
from ..world.world_model import WorldModel
from .clips import HeldOutClip, HeldOutClips
from .measures import Networks, Prediction, measure_clip, predict_clip
from .protocols import PROTOCOLS
from .report import write_report
from .summary import gates, summarize

RUN_FILE, RESULTS_FILE = "run.json", "results.json"
CLIPS, VIDEOS = "clips", "videos"
NUM_VIDEOS, SAMPLES_SHOWN = 8, 3


def require_evaluation_packages() -> None:
    """Raise ImportError unless an evaluation can be finished: some packages are needed only after the last clip."""
    require_packages("datasets", "skimage", "scipy", "matplotlib", purpose="an evaluation")


class Evaluation:
    """One evaluation, in a folder. Each clip's measurements are a file of their own, so that nothing is done twice, and
    any number of processes on any number of machines can share the clips.

    Args:
        world: the checkpoint.
        name: its folder or Hub id, for the results.
        clips: what it is measured on.
        networks: what looks at frames.
        output: folder to write.
        seed: of the sampling.

    Raises:
        ImportError: without a package that it needs, sooner or later; names the extra.
        FileExistsError: if the folder holds another evaluation.
        ValueError: if the checkpoint does not fit the protocol or the data.
    """

    def __init__(
        self, world: WorldModel, name: str, clips: HeldOutClips, networks: Networks, output: Path, *, seed: int = 0
    ) -> None:
        require_evaluation_packages()
        self.world, self.clips, self.networks, self.output, self.seed = world, clips, networks, Path(output), seed
        self._check_fit()
        features = None if networks.features is None else networks.features.name
        identity = {
            "checkpoint": name,
            "weights": [weights_hash(world.vq_model), weights_hash(world.transformer)],
            "dtype": str(world.transformer.dtype).removeprefix("torch."),
            "protocol": asdict(clips.protocol),
            "data": [source for dataset in clips.datasets for source in dataset.describe()],
            "frechet_features": features,
            "seed": seed,
        }
        self.identity = claim(self.output, RUN_FILE, identity, noun="evaluation")
        (self.output / CLIPS).mkdir(exist_ok=True)

    def _check_fit(self) -> None:
        spec, protocol, clip = self.world.spec, self.clips.protocol, self.clips[0]
        if protocol.num_context_frames != spec.num_context_frames:
            raise ValueError(
                f"protocol {protocol.name} gives {protocol.num_context_frames} context frames, the checkpoint takes "
                f"{spec.num_context_frames}"
            )
        if (protocol.uses_actions is False and spec.action_dim) or (protocol.uses_actions and not spec.action_dim):
            kind = "takes actions" if spec.action_dim else "is action-free"
            raise ValueError(f"the checkpoint {kind}, unlike those that protocol {protocol.name} is for")
        if spec.action_dim and (clip.actions is None or clip.actions.shape[1] != spec.action_dim):
            width = "no actions" if clip.actions is None else f"actions that are {clip.actions.shape[1]} wide"
            raise ValueError(f"{clip.source} has {width}, the checkpoint takes {spec.action_dim}")

    def _file(self, index: int) -> Path:
        return self.output / CLIPS / f"{index:05d}.npz"

    @property
    def num_done(self) -> int:
        """Clips that are measured."""
        return sum(self._file(index).is_file() for index in range(len(self.clips)))

    def run(self, shard: tuple[int, int] = (0, 1)) -> dict[str, Any] | None:
        """Measure the clips that are missing, and sum up.

        Args:
            shard: (i, n): measure clips i, i + n, i + 2 n, ... only.

        Returns:
            The results, which are also written as results.json with a report beside them; None while clips of other
            shards are missing.
        """
        from tqdm import tqdm

        number, count = shard
        if not 0 <= number < count:
            raise ValueError(f"a shard i of n needs 0 <= i < n, got {number} of {count}")
        missing = [index for index in range(number, len(self.clips), count) if not self._file(index).is_file()]
        for index in tqdm(missing, desc="clips", unit="clip"):
            self._measure(index)
        return self._finish() if self.num_done == len(self.clips) else None

    def _measure(self, index: int) -> None:
        clip = self.clips[index]
        # Half of the clips away, so that with sources in turns it is mostly another scene.
        other = self.clips[(index + len(self.clips) // 2 + 1) % len(self.clips)].actions
        if not self.world.spec.action_dim:
            other = None
        prediction = predict_clip(self.world, clip, other, self.clips.protocol, self.seed + index)
        if index < NUM_VIDEOS:
            self._draw(index, clip, prediction)
        measures = measure_clip(clip, prediction, self.networks)
        with write_aside(self._file(index)) as aside, aside.open("wb") as file:
            np.savez_compressed(file, **measures)

    def _draw(self, index: int, clip: HeldOutClip, prediction: Prediction) -> None:
        """The true frames, the reconstructed ones, and a few futures after the true context, next to each other."""
        context = clip.frames[: self.world.spec.num_context_frames]
        futures = [torch.cat([context, frames]) for frames in prediction.frames[:SAMPLES_SHOWN]]
        scale = max(1, 128 // clip.frames.shape[-1])
        video = side_by_side(clip.frames, prediction.reconstruction, *futures)
        write_video(video, self.output / VIDEOS / f"{index:05d}.gif", fps=5, scale=scale)

    def _finish(self) -> dict[str, Any]:
        clips = []
        for index in range(len(self.clips)):
            with np.load(self._file(index)) as file:
                clips.append({name: file[name] for name in file.files})
        features = self.networks.features
        frechet = None if features is None else (features.name, features.standardised)
        summary = summarize(clips, frechet, self.world.layout.num_dynamics_codes)
        full = PROTOCOLS[self.clips.protocol.name]
        results = {
            "command": describe_command(),
            **self.identity,
            "num_clips": len(clips),
            "num_samples": self.clips.protocol.num_samples,
            "num_clips_of_protocol": full.num_clips,
            "num_samples_of_protocol": full.num_samples,
            "versions": describe_versions("scikit-image"),
            **summary,
            "gates": gates(summary),
        }
        write_json(self.output / RESULTS_FILE, results)
        write_report(self.output, results, sorted(path.name for path in (self.output / VIDEOS).glob("*.gif")))
        return results
