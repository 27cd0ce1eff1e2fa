"""RLDS / TFRecord: Open X-Embodiment data sets as TensorFlow Datasets writes them, and BAIR's original files.

The messages are parsed by the package tfrecord, without TensorFlow. A record is found by its length field, so that an
episode can be read by index, and its checksum is verified.
"""

from __future__ import annotations

import json
import re
import struct
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...extras import require_packages
from ...media.files import natural_key
from ..episodes import CameraFrames, Episode, step_rows
from .base import FileReader, natural_sort

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
BAIR_KEY = re.compile(r"^(\d+)/image_(\w+)/encoded$")
BAIR_SIZE = (64, 64, 3)
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
    step, whose encoded images are kept as they are; an action made of several tensors is concatenated in the order of
    their names. Without it, BAIR's ``<t>/image_<camera>/encoded`` with raw pixels and ``<t>/action``.

    Raises:
        ImportError: without the package tfrecord.
    """

    name = "rlds"
    description = "TFRecord files of Open X-Embodiment (with features.json) or BAIR"

    @classmethod
    def find_files(cls, path: Path) -> list[Path]:
        files = [path] if path.is_file() else path.rglob("*")
        return natural_sort(file for file in files if re.search(r"\.tfrecords?(-|$)", file.name))

    def _list_episodes(self) -> list[str]:
        require_packages("tfrecord", purpose="reading TFRecord")
        lengths = _shard_lengths(self.path)
        self._offsets: dict[Path, list[int]] = {}
        self._records = [
            Record(file, number)
            for file in self.find_files(self.path)
            for number in range(lengths.get(file.name) or len(self._offsets_of(file)))
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
                    stream.seek(HEADER.unpack(header)[0] + CHECKSUM.size, 1)
            self._offsets[file] = offsets
        return self._offsets[file]

    def files_of(self, index: int) -> list[Path]:
        return [self._records[index].file, *self._descriptions]

    @cached_property
    def _descriptions(self) -> list[Path]:
        """features.json, dataset_info.json."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return natural_sort(folder.rglob("*.json"))

    def _read(self, index: int) -> Episode:
        record = self._records[index]
        offsets = self._offsets_of(record.file)
        if record.number >= len(offsets):
            raise ValueError(f"{record.file} has {len(offsets)} records, dataset_info.json says more: it is truncated")
        values = _parse(_read_record(record.file, offsets[record.number]))
        return self._read_bair(values, index) if self._step_features is None else self._read_steps(values, index)

    @cached_property
    def _step_features(self) -> dict[str, Any] | None:
        """Path of each feature of a step -> its description, from features.json; None where there is none."""
        folder = self.path if self.path.is_dir() else self.path.parent
        file = next(iter(natural_sort(folder.rglob("features.json"))), None)
        return None if file is None else dict(_flatten(json.loads(file.read_text(encoding="utf-8")), ""))

    @property
    def source_name(self) -> str:
        """The data set's folder, which lies above that of the version."""
        path = self.path.resolve() if self.path.is_dir() else self.path.resolve().parent
        return path.parent.name if re.fullmatch(r"\d+\.\d+\.\d+", path.name) else path.name

    def _read_steps(self, values: dict[str, Any], index: int) -> Episode:
        features = self._step_features or {}
        images = {path.split("/")[-1]: path for path, feature in features.items() if "image" in feature}
        cameras = self._select_cameras([camera for camera, path in images.items() if path in values])
        frames: dict[str, CameraFrames] = {camera: values[images[camera]] for camera in cameras}
        num_frames = len(frames[cameras[0]])
        prefix = "steps/" if any(path.startswith("steps/") for path in features) else ""
        actions, names = _actions(values, prefix + "action", num_frames)
        rewards = values.get(prefix + "reward")
        instructions = (values.get(prefix + key) for key in INSTRUCTION_KEYS)
        task = next((text[0].decode("utf-8", "replace") for text in instructions if _is_text(text)), "")
        return Episode(
            frames=frames,
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=actions,
            rewards=None if rewards is None else step_rows(rewards, num_frames, "rewards"),
            task=task,
            action_names=names,
        )

    def _read_bair(self, values: dict[str, Any], index: int) -> Episode:
        matches = [match for match in map(BAIR_KEY.match, values) if match]
        if not matches:
            raise ValueError(
                f"there is neither features.json nor <t>/image_<camera>/encoded as in BAIR: {sorted(values)}"
            )
        cameras = self._select_cameras(sorted({match[2] for match in matches}, key=natural_key))
        steps = sorted({int(match[1]) for match in matches})
        frames = {
            camera: np.stack(
                [np.frombuffer(values[f"{t}/image_{camera}/encoded"][0], np.uint8).reshape(BAIR_SIZE) for t in steps]
            )
            for camera in cameras
        }
        actions = [values[f"{t}/action"] for t in steps if f"{t}/action" in values]
        return Episode(
            frames=frames,
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=step_rows(actions, len(steps), "actions") if actions else None,
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and bool(value[0])


def _shard_lengths(path: Path) -> dict[str, int]:
    """File name -> number of records, where dataset_info.json tells it: then nothing needs to be scanned to count."""
    lengths: dict[str, int] = {}
    if not path.is_dir():
        return lengths
    for file in path.rglob("dataset_info.json"):
        info = json.loads(file.read_text(encoding="utf-8"))
        for split in info.get("splits", ()):
            shards = [int(length) for length in split.get("shardLengths", ())]
            for number, length in enumerate(shards):
                name = f"{info['name']}-{split['name']}.{info.get('fileFormat', 'tfrecord')}"
                lengths[f"{name}-{number:05d}-of-{len(shards):05d}"] = length
    return lengths


def _read_record(file: Path, offset: int) -> bytes:
    from crc32c import crc32c

    with file.open("rb") as stream:
        stream.seek(offset)
        header = stream.read(HEADER.size)
        length = HEADER.unpack(header)[0] if len(header) == HEADER.size else 0
        data, footer = stream.read(length), stream.read(CHECKSUM.size)
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


def _actions(values: dict[str, Any], path: str, num_frames: int) -> tuple[np.ndarray | None, list[str] | None]:
    """The action tensor, or the tensors below ``path`` side by side, with a name for each dimension then."""
    keys = [path] if path in values else sorted(key for key in values if key.startswith(f"{path}/"))
    tensors = {key: values[key] for key in keys if isinstance(values[key], np.ndarray)}
    if not tensors:
        return None, None
    for key, tensor in tensors.items():
        if len(tensor) % num_frames:
            raise ValueError(f"{key} has {len(tensor)} numbers for {num_frames} steps")
    parts = {key.removeprefix(f"{path}/"): tensor.reshape(num_frames, -1) for key, tensor in tensors.items()}
    actions = step_rows(np.concatenate(list(parts.values()), axis=1), num_frames, "actions")
    if keys == [path]:
        return actions, None
    return actions, [f"{key}[{i}]" for key, part in parts.items() for i in range(part.shape[1])]
