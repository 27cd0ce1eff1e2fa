"""What embed_default.py and embed_push2d.py share: a trained checkpoint becomes one that is embedded in the package."""

import json
import shutil

import numpy as np
from safetensors.torch import load_file, save_file

from ivideogpt_hf.checkpoints.layout import (
    EPISODE_FILE,
    METRICS_FILE,
    PROCESSOR_FOLDER,
    TRAINING_FILE,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    read_json,
    write_json,
)
from ivideogpt_hf.data.clips.mixture import load_mixture
from ivideogpt_hf.data.clips.store import open_store
from ivideogpt_hf.media.images import decode_images

MAX_BYTES = 40e6


def embed(source, target, command, stages):
    """Write the parts that `WorldModel.from_pretrained` reads, with half the bytes, and the record of the trainings.

    Args:
        source: folder that the transformer's last training left.
        target: folder to write; it is replaced.
        command: command that trained the checkpoint.
        stages: of each network, the folder of each stage of its training by name.

    Raises:
        OSError: if a file is missing.
    """
    training = read_json(source / TRAINING_FILE)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in (VQ_FOLDER, TRANSFORMER_FOLDER, PROCESSOR_FOLDER):
        shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("*.py"))  # the package is there
    for file in target.rglob("*.safetensors"):
        store_in_half(file)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    assert size <= MAX_BYTES, f"{size / 1e6:.1f} MB are too many to ship"
    metrics = {
        "commands": [command],
        "versions": training["versions"],
        "data": training["data"]["data"],
        "curves": {
            network: {name: curve(folder / "metrics.jsonl") for name, folder in folders.items()}
            for network, folders in stages.items()
        },
    }
    write_json(target / METRICS_FILE, metrics)


def store_in_half(file):
    """Write weights anew in float16. The config beside them still says float32, which is what they are loaded as."""
    weights = {name: value.half() for name, value in load_file(file).items()}
    too_large = [name for name, value in weights.items() if not value.isfinite().all()]
    assert not too_large, f"{too_large} do not fit into float16"
    save_file(weights, file, metadata={"format": "pt"})


def curve(file):
    """What the metrics file says of training and validation: every entry's update, losses and codebook use."""
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    kept = ("update", "loss", "cross_entropy", "reward_mse", "perceptual", "future_l1", "context_l1")
    picked = []
    for entry in entries:
        chosen = {k: round(v, 5) for k, v in entry.items() if k in kept or k.startswith(("validation/", "codebook/"))}
        if entry["update"] % 500 == 0 and len(chosen) > 1:
            picked.append(chosen)
    return picked


def write_episode(target, data, root, length):
    """Write the beginning of the held-out episode in which most moves.

    Args:
        target: folder of the checkpoint.
        data: data set or mixture that the checkpoint was trained on.
        root: folder of a mixture's data sets.
        length: number of frames.
    """
    best, motion = None, -1.0
    for source in load_mixture(data, root=root).sources:
        store = open_store(source.path, "test")
        for index, num_frames in enumerate(store.num_frames):
            if num_frames < length:
                continue
            frames = decode_images(store.images(index, store.cameras[0], range(length)))
            moved = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean()
            if moved > motion:
                best, motion = (frames, store.actions(index), store.rewards(index)), moved
    assert best is not None, f"no held-out episode of {data} has {length} frames"
    frames, actions, rewards = best
    np.savez_compressed(
        target / EPISODE_FILE,
        frames=np.moveaxis(frames, -1, 1),
        actions=actions[: length - 1],
        rewards=rewards[: length - 1],
    )
