"""Put a trained checkpoint into the package, with an episode that it has not seen.

python scripts/embed_default.py outputs/default src/ivideogpt_hf/default
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from ivideogpt_hf.checkpoints.layout import (
    EPISODE_FILE,
    METRICS_FILE,
    PROCESSOR_FOLDER,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    write_json,
)
from ivideogpt_hf.data.clips.mixture import load_mixture
from ivideogpt_hf.data.clips.store import open_store
from ivideogpt_hf.media.images import decode_images

EPISODE_LENGTH, SCENE_LENGTH = 25, 4
MAX_BYTES = 40e6
# The stages of each network's training, each by a file of configs/default into a folder of this name.
STAGES = {"vq_model": ("vq_l1", "vq"), "transformer": ("world_constant", "world")}
COMMANDS = ["configs/default/run.sh"]


def store_in_half(file):
    """Write weights anew in float16. The config beside them still says float32, which is what they are loaded as."""
    weights = {name: value.half() for name, value in load_file(file).items()}
    too_large = [name for name, value in weights.items() if not value.isfinite().all()]
    assert not too_large, f"{too_large} do not fit into float16"
    save_file(weights, file, metadata={"format": "pt"})


def copy_checkpoint(source, target):
    """The parts that `WorldModel.from_pretrained` reads, with half the bytes."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in (VQ_FOLDER, TRANSFORMER_FOLDER, PROCESSOR_FOLDER):
        shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("*.py"))  # the package is there
    for file in target.rglob("*.safetensors"):
        store_in_half(file)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    assert size <= MAX_BYTES, f"{size / 1e6:.1f} MB are too many to ship"


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


def write_episode(path, data, root):
    """The beginning of the held-out episode in which most moves."""
    best, motion = None, -1.0
    for source in load_mixture(data, root=root).sources:
        store = open_store(source.path, "test")
        for index, length in enumerate(store.num_frames):
            if length < EPISODE_LENGTH:
                continue
            frames = decode_images(store.images(index, store.cameras[0], range(EPISODE_LENGTH)))
            moved = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean()
            if moved > motion:
                best, motion = (frames, store.actions(index), store.rewards(index)), moved
    frames, actions, rewards = best
    np.savez_compressed(
        path,
        frames=np.moveaxis(frames, -1, 1),
        actions=actions[: EPISODE_LENGTH - 1],
        rewards=rewards[: EPISODE_LENGTH - 1],
    )


def write_scenes(path, data, root):
    """The beginnings of held-out episodes, one of each task, for the gallery of the playground."""
    scenes = {}
    for source in load_mixture(data, root=root).sources:
        store = open_store(source.path, "test")
        frames = decode_images(store.images(0, store.cameras[0], range(SCENE_LENGTH)))
        scenes.setdefault(store.metadata(0, "task"), np.moveaxis(frames, -1, 1))
    np.savez_compressed(path, frames=np.stack(list(scenes.values())), tasks=list(scenes))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the stages' output folders")
    parser.add_argument("target", type=Path)
    parser.add_argument("--scenes", type=Path, default=Path("spaces_demo/scenes.npz"))
    parser.add_argument("--data", default="configs/default/2_data.yaml")
    parser.add_argument("--root", default="datasets")
    args = parser.parse_args()
    source = args.runs / STAGES["transformer"][-1]
    copy_checkpoint(source, args.target)
    training = json.loads((source / "training.json").read_text())
    metrics = {
        "commands": COMMANDS,
        "versions": training["versions"],
        "data": training["data"]["data"],
        "curves": {
            network: {stage: curve(args.runs / stage / "metrics.jsonl") for stage in stages}
            for network, stages in STAGES.items()
        },
    }
    write_json(args.target / METRICS_FILE, metrics)
    write_episode(args.target / EPISODE_FILE, args.data, args.root)
    write_scenes(args.scenes, args.data, args.root)


if __name__ == "__main__":
    main()
