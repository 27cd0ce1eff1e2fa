"""Evaluation of a checkpoint, clip by clip. It goes on after a kill, and processes can share the clips."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.loading import checkpoint_identity, weights_hash
from ..extras import require_packages
from ..media.video import side_by_side, write_video
from ..provenance import describe_command, describe_date, describe_versions
from ..run_folder import RESULTS_FILE, RUN_FILE, claim, write_aside, write_json
from ..world.world_model import WorldModel
from .held_out import HeldOutClip, HeldOutClips
from .measures import Networks, Prediction, measure_clip, predict_clip
from .protocols import PROTOCOLS
from .rendering import write_page, write_tables
from .summary import check_num_clips, gates, summarize_clips

CLIPS, VIDEOS = "clips", "videos"
NUM_CLIPS_DRAWN, NUM_SAMPLES_DRAWN = 8, 3


def require_evaluation_packages() -> None:
    """Raise ImportError unless an evaluation can be finished: some packages are needed only after the last clip."""
    require_packages("datasets", "skimage", "scipy", "matplotlib", purpose="an evaluation")


class Evaluation:
    """One evaluation, in a folder.

    Each clip's measurements are a file of their own. So nothing is done twice, and any number of processes on any
    number of machines can share the clips.

    Args:
        world: world model of the checkpoint.
        name: folder or Hub id of the checkpoint, for the results.
        clips: clips to measure the checkpoint on.
        networks: networks that compare frames.
        output: folder to write.
        seed: seed of the sampling.

    Raises:
        ImportError: if a package is missing that the evaluation needs at any time; names the extra.
        FileExistsError: if the folder holds another evaluation, such as one of other data or weights under these names.
        ValueError: if the checkpoint does not fit the protocol or the data.
    """

    def __init__(
        self, world: WorldModel, name: str, clips: HeldOutClips, networks: Networks, output: Path, *, seed: int = 0
    ) -> None:
        require_evaluation_packages()
        self.world, self.clips, self.networks, self.output, self.seed = world, clips, networks, Path(output), seed
        check_num_clips(len(clips))
        self._check_fit()
        features = None if networks.features is None else networks.features.name
        identity = {
            "checkpoint": name,
            **checkpoint_identity(world.vq_model, world.transformer, world.processor),
            "protocol": asdict(clips.protocol),
            "data": [source for dataset in clips.datasets for source in dataset.describe()],
            "contents": {name: digest for dataset in clips.datasets for name, digest in dataset.contents().items()},
            "frechet_features": features,
            "lpips": None if networks.lpips is None else weights_hash(networks.lpips),
            "seed": seed,
        }
        self.identity = claim(self.output, RUN_FILE, identity, noun="evaluation")
        (self.output / CLIPS).mkdir(exist_ok=True)

    def _check_fit(self) -> None:
        spec, protocol = self.world.spec, self.clips.protocol
        if protocol.num_context_frames != spec.num_context_frames:
            raise ValueError(
                f"protocol {protocol.name} has {protocol.num_context_frames} context frames, but the checkpoint takes "
                f"{spec.num_context_frames}"
            )
        if (protocol.uses_actions is False and spec.action_dim) or (protocol.uses_actions and not spec.action_dim):
            kind = "takes actions" if spec.action_dim else "is action-free"
            raise ValueError(f"the checkpoint {kind}, unlike those that protocol {protocol.name} is for")
        for index in range(min(len(self.clips.datasets), len(self.clips))):  # the data sets take turns
            clip = self.clips[index]
            if spec.action_dim and (clip.actions is None or clip.actions.shape[1] != spec.action_dim):
                width = "no actions" if clip.actions is None else f"actions that are {clip.actions.shape[1]} wide"
                raise ValueError(
                    f"{clip.source} has {width}, but the checkpoint takes actions of width {spec.action_dim}"
                )

    def _file(self, index: int) -> Path:
        return self.output / CLIPS / f"{index:05d}.npz"

    @property
    def num_done(self) -> int:
        """Number of clips that are measured."""
        return sum(self._file(index).is_file() for index in range(len(self.clips)))

    def run(self, shard: tuple[int, int] = (0, 1)) -> dict[str, Any] | None:
        """Measure the clips that are missing, and summarize all of them.

        Args:
            shard: part (i, n) of the work: clips i, i + n, i + 2 n, ...

        Returns:
            The results, which are also written as results.json with a report beside it; None while clips of other
            shards are missing.
        """
        from tqdm import tqdm

        number, num_shards = shard
        if not 0 <= number < num_shards:
            raise ValueError(f"a shard (i, n) needs 0 <= i < n, got {shard}")
        missing = [index for index in range(number, len(self.clips), num_shards) if not self._file(index).is_file()]
        for index in tqdm(missing, desc="clips", unit="clip"):
            self._measure(index)
        return self._finish() if self.num_done == len(self.clips) else None

    def _measure(self, index: int) -> None:
        clip = self.clips[index]
        # The actions come from a clip that is half of the clips away: neighbours may be of the same scene.
        distance = (len(self.clips) // 2 + 1) % len(self.clips) or 1  # of two clips, each has the other one's
        other_actions = self.clips[(index + distance) % len(self.clips)].actions
        if not self.world.spec.action_dim:
            other_actions = None
        prediction = predict_clip(self.world, clip, other_actions, self.clips.protocol, self.seed + index)
        if index < NUM_CLIPS_DRAWN:
            self._draw(index, clip, prediction)
        measures = measure_clip(clip, prediction, self.networks)
        with write_aside(self._file(index)) as aside, aside.open("wb") as file:
            np.savez_compressed(file, **measures)

    def _draw(self, index: int, clip: HeldOutClip, prediction: Prediction) -> None:
        """Write a video: the true frames, the reconstruction, and a few futures, next to each other."""
        context = clip.frames[: self.world.spec.num_context_frames]
        futures = [torch.cat([context, frames]) for frames in prediction.frames[:NUM_SAMPLES_DRAWN]]
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
        summary = summarize_clips(clips, frechet, self.world.layout.num_dynamics_codes)
        published = PROTOCOLS[self.clips.protocol.name]
        results = {
            "command": describe_command(),
            "date": describe_date(),
            **{name: value for name, value in self.identity.items() if name != "contents"},
            "num_clips": len(clips),
            "num_samples": self.clips.protocol.num_samples,
            "num_clips_of_protocol": published.num_clips,
            "num_samples_of_protocol": published.num_samples,
            "versions": describe_versions("scikit-image"),
            **summary,
            "gates": gates(summary),
        }
        write_json(self.output / RESULTS_FILE, results)
        write_tables(self.output, results)
        write_page(self.output, results, sorted(path.name for path in (self.output / VIDEOS).glob("*.gif")))
        return results
