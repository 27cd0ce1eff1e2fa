"""HDF5: robomimic and VP2 files with a group per demonstration, and RoboNet files with one trajectory each."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import require_packages
from ...media.files import natural_key
from ..episodes import CameraFrames, Episode, decode_frames, step_rows
from .base import FileReader, pixels

DEMONSTRATIONS = "data"
ROBONET_GROUPS = {"env", "policy"}
SEPARATOR = ":"


class HDF5Reader(FileReader):
    """HDF5 files of demonstrations.

    - robomimic and VP2: groups ``data/<demo>`` with ``actions``, ``obs/<camera>`` (T, H, W, 3), optional ``rewards``;
      cameras carry the names of their data sets without a trailing "_image". ``rewards`` that reach 1 are robomimic's
      sparse success.
    - RoboNet: ``policy/actions`` (T - 1, A) and ``env/cam<i>_video`` as mp4 (``frames``) or as jpg (``frame<t>``).

    Raises:
        ImportError: without h5py.
    """

    name = "hdf5"
    description = "HDF5 files with groups data/<demo> (robomimic, VP2) or env and policy (RoboNet)"
    suffixes = (".hdf5", ".h5")

    def _list_episodes(self) -> list[str]:
        require_packages("h5py", purpose="reading HDF5")
        import h5py

        self._places: list[tuple[Path, str | None]] = []
        for file in self.find_files(self.path):
            try:
                with h5py.File(file) as content:
                    if DEMONSTRATIONS in content:
                        demonstrations = sorted(content[DEMONSTRATIONS], key=natural_key)
                        self._places += [(file, f"{DEMONSTRATIONS}/{name}") for name in demonstrations]
                        continue
            except OSError:  # broken: reading it as an episode says why
                pass
            self._places.append((file, None))
        return [self.name_of(file) + (f"{SEPARATOR}{group}" if group else "") for file, group in self._places]

    def files_of(self, index: int) -> list[Path]:
        return [self._places[index][0]]

    def _read(self, index: int) -> Episode:
        import h5py

        file, group = self._places[index]
        with h5py.File(file) as content:
            if group is not None:
                return self._read_demonstration(content[group], index)
            if set(content) >= ROBONET_GROUPS:
                return self._read_robonet(content, index)
            raise ValueError(f"neither a group {DEMONSTRATIONS!r} nor {sorted(ROBONET_GROUPS)}: {sorted(content)}")

    def _read_demonstration(self, group: Any, index: int) -> Episode:
        images = {
            name.removesuffix("_image"): data
            for name, data in group["obs"].items()
            if data.ndim == 4 or name.endswith("_image")
        }
        cameras = self._select_cameras(list(images))
        frames = {camera: pixels(images[camera][:], camera) for camera in cameras}
        num_frames = len(frames[cameras[0]])
        actions = step_rows(group["actions"][:], num_frames, "actions") if "actions" in group else None
        rewards = step_rows(group["rewards"][:], num_frames, "rewards") if "rewards" in group else None
        return Episode(
            frames=frames,
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=actions,
            rewards=rewards,
            success=None if rewards is None else bool((group["rewards"][:] >= 1).any()),
        )

    def _read_robonet(self, content: Any, index: int) -> Episode:
        videos = {
            name.removesuffix("_video"): group
            for name, group in content["env"].items()
            if name.startswith("cam") and name.endswith("_video")
        }
        cameras = self._select_cameras(sorted(videos, key=natural_key))
        frames = {camera: self._robonet_frames(videos[camera], camera) for camera in cameras}
        num_frames = len(frames[cameras[0]])
        return Episode(
            frames=frames,
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=step_rows(content["policy"]["actions"][:], num_frames, "actions"),
        )

    def _robonet_frames(self, group: Any, camera: str) -> CameraFrames:
        images, is_swapped = _robonet_images(group, camera)
        frames = self._decode_video(io.BytesIO(images), camera) if isinstance(images, bytes) else images
        return np.ascontiguousarray(decode_frames(frames)[..., ::-1]) if is_swapped else frames


def _robonet_images(group: Any, camera: str) -> tuple[Any, bool]:
    """The jpg images of a camera, or its mp4 file, and whether red and blue are swapped in them.

    The attribute image_format tells the order of channels that OpenCV (jpg) and imageio (mp4) decode to; OpenCV itself
    swaps them.
    """
    if "frames" in group:
        data = group["frames"]
        images: Any = np.asarray(data[:], dtype=np.uint8).tobytes()
        swapped_format = "BGR"
    else:
        names = sorted((name for name in group if name.startswith("frame")), key=natural_key)
        if not names:
            raise ValueError(f"camera {camera!r} has neither 'frames' nor 'frame<t>'")
        data = group[names[0]]
        images = [np.asarray(group[name][:], dtype=np.uint8).tobytes() for name in names]
        swapped_format = "RGB"
    image_format = data.attrs.get("image_format", "RGB")
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"camera {camera!r} has image_format {image_format!r}, known are RGB and BGR")
    return images, image_format == swapped_format
