"""Put a trained checkpoint into the package, with an episode that it has not seen.

python scripts/embed_default.py outputs/default src/ivideogpt_hf/embedded/default
"""

import argparse
from pathlib import Path

import numpy as np
from embedding import embed, write_episode

from ivideogpt_hf.data.clips.mixture import load_mixture
from ivideogpt_hf.data.clips.store import open_store
from ivideogpt_hf.media.images import decode_images

EPISODE_LENGTH, SCENE_LENGTH = 25, 4
# The stages of each network's training, each by a file of configs/default into a folder of this name.
STAGES = {"vq_model": ("vq_l1", "vq"), "transformer": ("world_constant", "world")}


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
    # A training that goes on has not come to its last stage yet.
    stages = {
        network: {name: args.runs / name for name in names if (args.runs / name).is_dir()}
        for network, names in STAGES.items()
    }
    embed(list(stages["transformer"].values())[-1], args.target, "configs/default/run.sh", stages)
    write_episode(args.target, args.data, args.root, EPISODE_LENGTH)
    write_scenes(args.scenes, args.data, args.root)


if __name__ == "__main__":
    main()
