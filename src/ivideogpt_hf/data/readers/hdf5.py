"""HDF5: robomimic and VP2 files with a group per demonstration, and RoboNet's and ALOHA's with one trajectory each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import require_packages
from ...media.decoded_bytes import DecodedBytes
from ...media.files import natural_key
from ..episodes import CameraFrames, Episode, decode_frames
from .base import FileReader, any_success, named_cameras, pixels
from .videos import VideoFrames, decode_video

DEMONSTRATIONS = "data"
OBSERVATIONS = "obs"
ROBONET_GROUPS = {"env", "policy"}
ALOHA_OBSERVATIONS, ALOHA_IMAGES = "observations", "images"
MASKS = "mask"
SEPARATOR = ":"
IMAGE_SUFFIX = "_image"
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG")


class HDF5Reader(FileReader):
    """HDF5 files of demonstrations.

    - robomimic and VP2: groups ``data/<demo>`` with ``actions``, ``obs/<camera>`` (T, H, W, 3), optional ``rewards``;
      cameras carry the names of their data sets without a trailing "_image". ``rewards`` that reach 1 are robomimic's
      sparse success, where no ``success`` is stored.
    - ALOHA: ``action`` and ``observations/images/<camera>``.
    - RoboNet: ``policy/actions`` (T - 1, A) and ``env/cam<i>_video`` as mp4 (``frames``) or as jpg (``frame<t>``).

    Images may be stored as pixels, or as jpg or png files, with zeros behind them. What lies in another file, by links
    or as external storage, is refused.

    Raises:
        ImportError: without h5py.
    """

    name = "hdf5"
    description = (
        "HDF5 files with groups data/<demo> (robomimic, VP2), observations/images (ALOHA) or env and policy (RoboNet)"
    )
    suffixes = (".hdf5", ".h5")
    has_action_keys = True

    def _list_episodes(self) -> list[str]:
        require_packages("h5py", purpose="reading HDF5")
        import h5py

        self._places: list[tuple[Path, str | None]] = []
        for file in self.find_files(self.path):
            try:
                with h5py.File(file) as content:
                    _refuse_outside(content)
                    if isinstance(content.get(DEMONSTRATIONS), h5py.Group):
                        demonstrations = sorted(content[DEMONSTRATIONS], key=natural_key)
                        self._places += [(file, f"{DEMONSTRATIONS}/{name}") for name in demonstrations]
                        if MASKS in content:
                            self.notes.append(f"{self.name_of(file)}: subsets in {MASKS!r} are ignored, all are read")
                        continue
            except Exception:  # h5py raises many kinds on broken files: reading it as an episode says why
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
            _refuse_outside(content)
            if set(content) >= ROBONET_GROUPS:
                return self._read_robonet(content, index)
            if isinstance(content.get(f"{ALOHA_OBSERVATIONS}/{ALOHA_IMAGES}"), h5py.Group):
                return self._read_aloha(content, index)
            raise ValueError(
                f"it has neither groups {DEMONSTRATIONS}/<demo>, nor {ALOHA_OBSERVATIONS}/{ALOHA_IMAGES}, nor "
                f"{sorted(ROBONET_GROUPS)}; it has {sorted(content)[:10]}"
            )

    def _read_demonstration(self, group: Any, index: int) -> Episode:
        import h5py

        if not isinstance(group, h5py.Group) or not len(group):
            raise ValueError(f"{group.name} is empty")
        if not isinstance(group.get(OBSERVATIONS), h5py.Group):
            raise ValueError(
                f"{group.name} has no group {OBSERVATIONS!r} with images, it has {sorted(group)}; robomimic's script "
                f"dataset_states_to_obs renders them from states"
            )
        images = named_cameras(
            (name.removesuffix(IMAGE_SUFFIX), data)
            for name, data in group[OBSERVATIONS].items()
            if isinstance(data, h5py.Dataset) and (data.ndim == 4 or name.endswith(IMAGE_SUFFIX))
        )
        frames, left_out = self._frames(images)
        num_samples = group.attrs.get("num_samples")
        num_frames = len(next(iter(frames.values())))
        if num_samples is not None and int(num_samples) not in (num_frames, num_frames - 1):
            raise ValueError(f"{group.name} states {num_samples} samples and has {num_frames} frames")
        actions = self._numbers(group, self._action_key(group))
        rewards = self._numbers(group, "rewards" if "rewards" in group else None)
        success = None if rewards is None else bool((rewards >= 1).any())
        if "success" in group:
            success = any_success(_array(group["success"]))
        return self._make_episode(index, frames, actions=actions, rewards=rewards, success=success, left_out=left_out)

    def _read_aloha(self, content: Any, index: int) -> Episode:
        frames, left_out = self._frames(dict(content[ALOHA_OBSERVATIONS][ALOHA_IMAGES].items()))
        actions = self._numbers(content, self._action_key(content))
        return self._make_episode(index, frames, actions=actions, left_out=left_out)

    def _frames(self, images: Mapping[str, Any]) -> tuple[dict[str, CameraFrames], set[str]]:
        """Frames of the cameras to read, and the names of the images that are not."""
        available = [name for name, data in images.items() if _is_encoded(data) or _has_three_channels(data)]
        cameras = self._select_cameras(available, set(images) - set(available))
        frames = {name: _encoded(images[name], name) or pixels(_array(images[name]), name) for name in cameras}
        return frames, set(images) - set(cameras)

    @staticmethod
    def _numbers(group: Any, key: str | None) -> np.ndarray | None:
        return None if key is None else _array(group[key])

    def _read_robonet(self, content: Any, index: int) -> Episode:
        videos = {
            name.removesuffix("_video"): group
            for name, group in content["env"].items()
            if name.startswith("cam") and name.endswith("_video")
        }
        cameras = self._select_cameras(sorted(videos, key=natural_key))
        frames = {camera: self._robonet_frames(videos[camera], camera) for camera in cameras}
        policy = content["policy"]
        actions = self._numbers(policy, self._action_key(policy))
        return self._make_episode(index, frames, actions=actions)

    def _robonet_frames(self, group: Any, camera: str) -> CameraFrames | VideoFrames:
        images, is_swapped = _robonet_images(group, camera)
        if isinstance(images, bytes):
            video = decode_video(io.BytesIO(images), camera, self.options)
            return video._replace(pixels=np.ascontiguousarray(video.pixels[..., ::-1])) if is_swapped else video
        return np.ascontiguousarray(decode_frames(images)[..., ::-1]) if is_swapped else images


def _refuse_outside(content: Any) -> None:
    """Raise ValueError if there is a link into another file: it could be any file of the machine."""
    import h5py

    def find(name: str, link: Any) -> str | None:  # h5py does not survive an exception here
        return f"{name!r} is a link into {link.filename!r}" if isinstance(link, h5py.ExternalLink) else None

    found = content.visititems_links(find)
    if found:
        raise ValueError(f"{found}, another file, and is not followed: copy it into this file with h5copy or h5repack")


def _array(data: Any, clip: DecodedBytes | None = None) -> np.ndarray:
    """The numbers of a data set, which must be stored in the file itself.

    Args:
        data: data set.
        clip: sum to which it is added before it is read; None: it is alone.
    """
    import h5py

    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{data.name!r} is a group, not an array")
    if data.external or (data.is_virtual and any(source.file_name != "." for source in data.virtual_sources())):
        raise ValueError(
            f"{data.name!r} is stored in other files, which are not read; copy it into this file with h5repack"
        )
    clip = clip or DecodedBytes(repr(data.name))
    # A part of a data set is decompressed in whole chunks, which may be larger than it.
    clip.add(max(data.nbytes, prod(data.chunks or ()) * data.dtype.itemsize))
    if h5py.check_vlen_dtype(data.dtype) is None and h5py.check_string_dtype(data.dtype) is None:
        return data[()]
    rows = np.empty(data.shape, dtype=object)  # many rows may be one place of the file
    for index in np.ndindex(data.shape):
        rows[index] = data[index]
        clip.add(rows[index].nbytes if isinstance(rows[index], np.ndarray) else len(rows[index]))
    return rows


def _has_three_channels(data: Any) -> bool:
    return len(data.shape) == 4 and 3 in (data.shape[1], data.shape[3])


def _is_encoded(data: Any) -> bool:
    """Whether a data set may hold encoded images: one of bytes per frame, or rows of bytes."""
    import h5py

    element = h5py.check_vlen_dtype(data.dtype) or data.dtype
    is_bytes = element == np.uint8 or h5py.check_string_dtype(data.dtype) is not None or data.dtype.kind == "V"
    return (data.ndim == 1 or (data.ndim == 2 and data.dtype == np.uint8)) and is_bytes


def _encoded(data: Any, camera: str) -> list[bytes] | None:
    """Encoded images without the zeros behind them; None if the images are pixels."""
    if not _is_encoded(data):
        return None
    images = [row if isinstance(row, bytes) else row.tobytes() for row in _array(data)]
    for step, image in enumerate(images):
        if not image.startswith(SIGNATURES):
            raise ValueError(f"camera {camera!r} holds bytes in step {step} that are neither jpg nor png")
    return [image.rstrip(b"\0") for image in images]


def _robonet_images(group: Any, camera: str) -> tuple[Any, bool]:
    """The jpg images of a camera, or its mp4 file, and whether red and blue are swapped in them.

    The attribute image_format tells the order of channels that OpenCV (jpg) and imageio (mp4) decode to; OpenCV itself
    swaps them.
    """
    if "frames" in group:
        data = group["frames"]
        images: Any = np.asarray(_array(data), dtype=np.uint8).tobytes()
        swapped_format = "BGR"
    else:
        names = sorted((name for name in group if name.startswith("frame")), key=natural_key)
        if not names:
            raise ValueError(f"camera {camera!r} has neither 'frames' nor 'frame<t>'")
        data = group[names[0]]
        clip = DecodedBytes(f"camera {camera!r}")
        images = [np.asarray(_array(group[name], clip), dtype=np.uint8).tobytes() for name in names]
        swapped_format = "RGB"
    image_format = data.attrs.get("image_format", "RGB")
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"camera {camera!r} has image_format {image_format!r}, known are RGB and BGR")
    return images, image_format == swapped_format
