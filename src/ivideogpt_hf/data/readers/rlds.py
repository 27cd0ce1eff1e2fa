"""RLDS / TFRecord: Open X-Embodiment data sets as TensorFlow Datasets writes them, and BAIR's original files.

The messages are parsed by the package tfrecord, without TensorFlow. A record is found by its length field, so that an
episode can be read by index, and its checksum is verified.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...extras import require_packages
from ...media.files import natural_key, natural_sort
from ...run_folder import read_object
from ..episodes import CameraFrames, Episode
from .base import FileReader

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
BAIR_KEY = re.compile(r"^(\d+)/image_(\w+)/encoded$")
BAIR_SIZE = (64, 64, 3)
FEATURES_FILE, INFO_FILE = "features.json", "dataset_info.json"
STEPS = "steps/"
INSTRUCTION_KEYS = ("language_instruction", "observation/natural_language_instruction", "natural_language_instruction")


class Record(NamedTuple):
    """Where a record lies.

    Attributes:
        file: file of many records.
        number: number of the record in the file.
    """

    file: Path
    number: int


class RLDSReader(FileReader):
    """TFRecord files, an episode per record.

    With ``features.json`` (TensorFlow Datasets, as Open X-Embodiment publishes): cameras are the image features of a
    step, whose encoded images are kept as they are. They carry the last part of their names, and where that is not
    unique, as many parts as tell them apart, such as "wrist_image". Depth is no camera. An action made of several
    tensors is concatenated in the order of their names.
    Without ``features.json``, they are BAIR's: ``<t>/image_<camera>/encoded`` with raw pixels, and ``<t>/action``.

    Raises:
        ImportError: without the package tfrecord.
    """

    name = "rlds"
    description = "TFRecord files of Open X-Embodiment (with features.json) or BAIR"
    has_action_keys = True
    told_alignment = "after"

    @classmethod
    def matches(cls, file: Path) -> bool:
        return re.search(r"\.tfrecords?(-|$)", file.name) is not None

    def _list_episodes(self) -> list[str]:
        require_packages("tfrecord", purpose="reading TFRecord")
        self._check_one_data_set()
        lengths = _shard_lengths(self.path)
        self._offsets: dict[Path, list[int]] = {}
        self._records = [
            Record(file, number)
            for file in self.find_files(self.path)
            for number in range(_check_length(file, lengths.get(file.name, 0)) or len(self._offsets_of(file)))
        ]
        return [f"{self.name_of(record.file)}:{record.number}" for record in self._records]

    def _offsets_of(self, file: Path) -> list[int]:
        """Where the records of a file begin, from their length fields."""
        if file not in self._offsets:
            offsets, size = [], file.stat().st_size
            with file.open("rb") as stream:
                while (offset := stream.tell()) < size:
                    offsets.append(offset)
                    header = stream.read(HEADER.size)
                    if len(header) < HEADER.size:
                        break
                    length = HEADER.unpack(header)[0]
                    if length > size:  # reading it says what is wrong
                        break
                    stream.seek(length + CHECKSUM.size, 1)
            self._offsets[file] = offsets
        return self._offsets[file]

    def files_of(self, index: int) -> list[Path]:
        return [self._records[index].file, *self._descriptions]

    @cached_property
    def _descriptions(self) -> list[Path]:
        """What is said of all records. A file's folder may hold anything else, also what it is converted to."""
        if self.path.is_file():
            return [self.path.parent / FEATURES_FILE]
        return natural_sort(file for name in (FEATURES_FILE, INFO_FILE) for file in self.path.rglob(name))

    def _read(self, index: int) -> Episode:
        record = self._records[index]
        offsets = self._offsets_of(record.file)
        if record.number >= len(offsets):
            raise ValueError(f"{record.file} has {len(offsets)} records, dataset_info.json says more: it is truncated")
        values = _parse(_read_record(record.file, offsets[record.number]))
        features = self._features
        return self._read_bair(values, index) if features is None else self._read_steps(values, features, index)

    def _check_one_data_set(self) -> None:
        """Raise ValueError if there are several data sets, or several versions of one."""
        folders = {self._features_file(file) for file in self.find_files(self.path)}
        if len(folders) > 1:
            names = sorted("files without features.json" if file is None else str(file.parent) for file in folders)
            raise ValueError(f"{self.path} holds several data sets: {', '.join(names)}; name the folder of one")

    def _features_file(self, record_file: Path) -> Path | None:
        """The features.json of a file of records, in its folder or, within the source, the nearest one above."""
        last = self.path if self.path.is_dir() else self.path.parent
        for folder in record_file.parents:
            if (folder / FEATURES_FILE).is_file():
                return folder / FEATURES_FILE
            if folder == last:
                break
        return None

    @cached_property
    def _features(self) -> dict[str, Any] | None:
        """Path of each feature of a step -> its description, from features.json; None where there is none."""
        file = self._features_file(self._records[0].file)
        if file is None:
            return None
        try:
            features = dict(_flatten(read_object(file), ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"{file} is not a features.json of TensorFlow Datasets: {error!r}") from error
        steps = {path: feature for path, feature in features.items() if path.startswith(STEPS)}
        return steps or features

    @property
    def source_name(self) -> str:
        """The data set's folder, which lies above that of the version."""
        path = self.path.resolve() if self.path.is_dir() else self.path.resolve().parent
        return path.parent.name if re.fullmatch(r"\d+\.\d+\.\d+", path.name) else path.name

    def _read_steps(self, values: dict[str, Any], features: dict[str, Any], index: int) -> Episode:
        images = {path: feature["image"] for path, feature in features.items() if "image" in feature}
        names = _short_names(list(images))
        rgb = {names[path]: path for path, image in images.items() if path in values and _is_rgb(image)}
        if not any(len(values[path]) for path in values if path in features):
            raise ValueError("it has no steps")
        cameras = self._select_cameras(list(rgb), [name for name in names.values() if name not in rgb])
        frames: dict[str, CameraFrames] = {camera: values[rgb[camera]] for camera in cameras}
        for camera, encoded in frames.items():
            empty = [step for step, image in enumerate(encoded) if not image]
            if empty:
                raise ValueError(f"camera {camera!r} has no image in step {empty[0]}, nor in {len(empty) - 1} others")
        num_frames = len(frames[cameras[0]])
        prefix = STEPS if any(path.startswith(STEPS) for path in features) else ""
        actions, action_names = self._actions(values, prefix, num_frames)
        rewards = values.get(prefix + "reward")
        instructions = (values.get(prefix + key) for key in INSTRUCTION_KEYS)
        task = next((text[0].decode("utf-8", "replace") for text in instructions if _is_text(text)), "")
        order = [] if action_names is None else [f"actions side by side: {', '.join(action_names)}"]
        return self._make_episode(
            index,
            frames,
            actions=actions,
            rewards=rewards,
            task=task,
            action_names=action_names,
            left_out=set(names.values()) - set(cameras),
            notes=order,
        )

    def _actions(
        self, values: dict[str, Any], prefix: str, num_frames: int
    ) -> tuple[np.ndarray | None, list[str] | None]:
        """The action tensor, or the tensors below its path side by side, with a name for each dimension then."""
        wanted = self.options.action_key
        path = prefix + (wanted or "action").removeprefix(prefix)
        keys = [path] if path in values else sorted(key for key in values if key.startswith(f"{path}/"))
        tensors = {key: values[key] for key in keys if isinstance(values[key], np.ndarray)}
        if not tensors:
            if wanted is not None:
                numbers = sorted(
                    key.removeprefix(prefix) for key, value in values.items() if isinstance(value, np.ndarray)
                )
                raise ValueError(f"there are no actions {wanted!r}; there are {numbers}")
            return None, None
        for key, tensor in tensors.items():
            if len(tensor) % num_frames:
                raise ValueError(f"{key} has {len(tensor)} numbers for {num_frames} steps")
        parts = {key.removeprefix(f"{path}/"): tensor.reshape(num_frames, -1) for key, tensor in tensors.items()}
        if keys == [path]:
            return (tensors[path] if len(tensors[path]) == num_frames else parts[path]), None
        actions = np.concatenate(list(parts.values()), axis=1)
        return actions, [f"{key}[{i}]" for key, part in parts.items() for i in range(part.shape[1])]

    def _read_bair(self, values: dict[str, Any], index: int) -> Episode:
        matches = [match for match in map(BAIR_KEY.match, values) if match]
        if not matches:
            raise ValueError(
                f"there is neither features.json nor <t>/image_<camera>/encoded as in BAIR: {sorted(values)}"
            )
        cameras = self._select_cameras(sorted({match[2] for match in matches}, key=natural_key))
        steps = sorted({int(match[1]) for match in matches})
        if steps != list(range(len(steps))):
            missing = next(t for t in range(len(steps)) if t not in steps)
            raise ValueError(f"it has no frame {missing}, but frame {steps[-1]}")
        frames = {camera: np.stack([_bair_image(values, t, camera) for t in steps]) for camera in cameras}
        key = self.options.action_key or "action"
        actions = [values[f"{t}/{key}"] for t in steps if f"{t}/{key}" in values]
        if not actions and self.options.action_key is not None:
            raise ValueError(
                f"there are no actions {key!r}; there are {sorted(key for key in values if key[:2] == '0/')}"
            )
        return self._make_episode(index, frames, actions=actions or None)


def _bair_image(values: dict[str, Any], step: int, camera: str) -> np.ndarray:
    """One of BAIR's frames, which are raw pixels."""
    key = f"{step}/image_{camera}/encoded"
    images = values.get(key) or [b""]
    if len(images[0]) != math.prod(BAIR_SIZE):
        raise ValueError(f"{key} has {len(images[0])} bytes, BAIR's raw pixels {BAIR_SIZE} are {math.prod(BAIR_SIZE)}")
    return np.frombuffer(images[0], np.uint8).reshape(BAIR_SIZE)


def _is_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and bool(value[0])


def _shard_lengths(path: Path) -> dict[str, int]:
    """File name -> number of records, where dataset_info.json tells it: then nothing needs to be scanned to count."""
    lengths: dict[str, int] = {}
    if not path.is_dir():
        return lengths
    for file in path.rglob(INFO_FILE):
        info = read_object(file)
        try:
            for split in info.get("splits", ()):
                shards = [int(length) for length in split.get("shardLengths", ())]
                for number, length in enumerate(shards):
                    name = f"{info['name']}-{split['name']}.{info.get('fileFormat', 'tfrecord')}"
                    lengths[f"{name}-{number:05d}-of-{len(shards):05d}"] = length
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise OSError(f"{file} is not a dataset_info.json of TensorFlow Datasets: {error!r}") from error
    return lengths


def _check_length(file: Path, length: int) -> int:
    """A number of records that dataset_info.json states, which the file must be able to hold."""
    if not 0 <= length <= file.stat().st_size // (HEADER.size + CHECKSUM.size):
        raise ValueError(
            f"dataset_info.json states {length} records in {file}, whose {file.stat().st_size} bytes cannot hold them"
        )
    return length


def _read_record(file: Path, offset: int) -> bytes:
    from crc32c import crc32c

    with file.open("rb") as stream:
        stream.seek(offset)
        header = stream.read(HEADER.size)
        length = HEADER.unpack(header)[0] if len(header) == HEADER.size else 0
        is_whole = length <= file.stat().st_size - offset - HEADER.size - CHECKSUM.size
        data, footer = (stream.read(length), stream.read(CHECKSUM.size)) if is_whole else (b"", b"")
    if len(header) < HEADER.size or len(footer) < CHECKSUM.size:
        raise ValueError(f"the record at byte {offset} of {file} is truncated")
    if _masked(crc32c(header[:8])) != HEADER.unpack(header)[1] or _masked(crc32c(data)) != CHECKSUM.unpack(footer)[0]:
        raise ValueError(f"the record at byte {offset} of {file} is corrupt: its checksum is wrong")
    return data


def _masked(checksum: int) -> int:
    """TFRecord's masking of a CRC."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _parse(data: bytes) -> dict[str, Any]:
    """Feature name -> list of bytes, or float32 or int64 array."""
    from tfrecord import example_pb2

    example = example_pb2.Example()
    example.ParseFromString(data)
    values: dict[str, Any] = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            values[key] = list(feature.bytes_list.value)
        elif kind is not None:
            dtype = np.float32 if kind == "float_list" else np.int64
            values[key] = np.array(getattr(feature, kind).value, dtype=dtype)
    return values


def _flatten(feature: dict[str, Any], path: str) -> Any:
    """(path, description) of every leaf of a features.json."""
    if "sequence" in feature:
        yield from _flatten(feature["sequence"]["feature"], path)
    elif "featuresDict" in feature:
        for name, child in feature["featuresDict"]["features"].items():
            yield from _flatten(child, f"{path}/{name}" if path else name)
    else:
        yield path, feature


def _is_rgb(image: dict[str, Any]) -> bool:
    """Whether an image feature holds 8-bit pictures of three channels, by what its description states."""
    channels = image.get("shape", {}).get("dimensions", ["3"])[-1]
    return str(channels) == "3" and image.get("dtype", "uint8") == "uint8"


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """A unique name for each path: its last part, or as many of its last parts as no other path has.

    The folders that all paths share do not count.
    """
    folders = [path.split("/")[:-1] for path in paths]
    num_shared = 0
    while all(len(folder) > num_shared for folder in folders) and len({folder[num_shared] for folder in folders}) == 1:
        num_shared += 1
    parts = {path: path.split("/")[num_shared:] for path in paths}
    names: dict[str, str] = {}
    for path, own in parts.items():
        others = [other for other in parts.values() if other is not own]
        length = next(
            (n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)),
            len(own),
        )
        names[path] = "_".join(own[-length:])
    repeated = [name for name, number in Counter(names.values()).items() if number > 1]
    if repeated:
        raise ValueError(f"several image features would have the name {repeated[0]!r}: {sorted(paths)}")
    return names
