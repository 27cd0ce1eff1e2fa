"""Small sources of every format, written with the formats' own libraries, and a tiny environment."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings
from ivideogpt_hf.data.episodes import Episode
from ivideogpt_hf.data.readers import EpisodeReader, ReadOptions
from ivideogpt_hf.media.images import encode_png
from ivideogpt_hf.media.video import write_video

ACTION_DIM = 3


def make_frames(num_frames: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """(T, size, size, 3) uint8, different everywhere."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)


def make_actions(num_rows: int, width: int = ACTION_DIM, seed: int = 0) -> np.ndarray:
    """(T, A) float32."""
    return np.random.default_rng(seed).normal(size=(num_rows, width)).astype(np.float32)


def write_npz(path: Path, num_frames: int = 12, seed: int = 0, **arrays: np.ndarray) -> Path:
    """An episode as the original has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"image": make_frames(num_frames, seed=seed), "action": make_actions(num_frames, seed=seed)} | arrays
    np.savez_compressed(path, **{name: array for name, array in given.items() if array is not None})
    return path


def write_npz_folder(folder: Path, lengths: list[int], **arrays: np.ndarray) -> Path:
    """A folder of episodes of these lengths."""
    for index, length in enumerate(lengths):
        write_npz(folder / f"episode_{index}.npz", length, seed=index, **arrays)
    return folder


def write_mp4(path: Path, num_frames: int = 8, size: tuple[int, int] = (48, 64), fps: int = 10) -> Path:
    """A moving pattern that survives video coding."""
    import torch

    height, width = size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frames = [torch.stack([(columns * 3 + 9 * t) % 256, rows * 4, columns * 2]) for t in range(num_frames)]
    return write_video(torch.stack(frames).to(torch.uint8), path, fps=fps)


class MemoryReader(EpisodeReader):
    """Episodes from memory."""

    name = "memory"
    description = "episodes in memory"

    def __init__(self, episodes: list[Episode]) -> None:
        self.path, self.options, self.notes = Path("memory"), ReadOptions(), []
        self._episodes = episodes
        self.episode_ids = [episode.episode_id for episode in episodes]

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return False

    def _list_episodes(self) -> list[str]:
        return self.episode_ids

    def _read(self, index: int) -> Episode:
        return self._episodes[index]


def make_episode(index: int, num_frames: int, width: int | None = ACTION_DIM, size: int = 16) -> Episode:
    """An episode whose first action dimension and reward count its steps, and whose frames carry their number."""
    frames = make_frames(num_frames, size, seed=index)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = np.arange(num_frames), index % 256
    actions = None
    if width is not None:
        actions = make_actions(num_frames - 1, width, seed=index)
        actions[:, 0] = np.arange(num_frames - 1)
    return Episode(
        frames={"image": frames},
        episode_id=f"episode_{index}",
        source="memory",
        actions=actions,
        rewards=np.arange(num_frames - 1, dtype=np.float32),
    )


def convert(reader: EpisodeReader, output: Path, **settings: object) -> Path:
    """Convert without holding episodes out."""
    Conversion(reader, output, ConversionSettings(**{"test_fraction": 0.0, **settings}), {}).run()
    return output


def make_dataset(
    output: Path, lengths: list[int], width: int | None = ACTION_DIM, size: int = 16, **settings: object
) -> Path:
    """A converted data set of episodes of these lengths."""
    episodes = [make_episode(index, length, width, size) for index, length in enumerate(lengths)]
    return convert(MemoryReader(episodes), output, **settings)


def change_one_pixel(folder: Path, lengths: list[int], **settings: object) -> Path:
    """Write again what `make_dataset` made, with another pixel in the last frame of each episode: a change that neither
    first frames nor actions tell."""
    episodes = []
    for index, length in enumerate(lengths):
        episode = make_episode(index, length)
        frames = episode.frames["image"].copy()
        frames[-1, 8, 8] ^= 1
        episodes.append(replace(episode, frames={"image": frames}))
    shutil.rmtree(folder)
    return convert(MemoryReader(episodes), folder, **settings)


def write_lerobot(folder: Path, lengths: list[int]) -> list[np.ndarray]:
    """A LeRobot v3.0 data set with one mp4 for all episodes ("front"), one image camera ("wrist"), actions and rewards.

    Written as the format's description says: the lerobot package cannot be installed beside this package's versions of
    torch, datasets and huggingface_hub.

    Returns:
        The actions of each episode, (T, 2).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    total, fps, size = sum(lengths), 10, (48, 64)
    write_mp4(folder / "videos/observation.images.front/chunk-000/file-000.mp4", total, size, fps)
    actions = [make_actions(length, 2, seed=i) for i, length in enumerate(lengths)]
    wrist = [make_frames(length, 8, seed=i) for i, length in enumerate(lengths)]
    rows, episodes, first = [], [], 0
    for index, length in enumerate(lengths):
        for t in range(length):
            rows.append(
                {
                    "action": actions[index][t].tolist(),
                    "observation.images.wrist": {"bytes": encode_png(wrist[index][t]), "path": None},
                    "next.reward": float(t),
                    "next.success": t == length - 1 and index == 0,
                    "timestamp": t / fps,
                    "frame_index": t,
                    "episode_index": index,
                    "index": first + t,
                    "task_index": 0,
                }
            )
        place = "videos/observation.images.front"
        episodes.append(
            {
                "episode_index": index,
                "tasks": ["push the block"],
                "length": length,
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                f"{place}/chunk_index": 0,
                f"{place}/file_index": 0,
                f"{place}/from_timestamp": first / fps,
                f"{place}/to_timestamp": (first + length) / fps,
            }
        )
        first += length
    for table, name in ((rows, "data"), (episodes, "meta/episodes")):
        file = folder / name / "chunk-000/file-000.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(table), file)
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.images.front": {"dtype": "video", "shape": [*size, 3]},
            "observation.images.wrist": {"dtype": "image", "shape": [8, 8, 3]},
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["pan", "tilt"]}},
            "next.reward": {"dtype": "float32", "shape": [1]},
            "next.success": {"dtype": "bool", "shape": [1]},
            "timestamp": {"dtype": "float32", "shape": [1]},
        },
    }
    (folder / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    return actions
