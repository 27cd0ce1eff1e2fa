"""Put a trained world model of push2d into the package, with an episode that it has not seen.

python scripts/embed_push2d.py outputs/push2d/world src/ivideogpt_hf/embedded/push2d
"""

import argparse
from pathlib import Path

from embedding import embed, write_episode

from ivideogpt_hf.checkpoints.layout import TRAINING_FILE, read_json

EPISODE_LENGTH = 21


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, help="folder that the transformer's training left")
    parser.add_argument("target", type=Path)
    parser.add_argument("--data", default="configs/push2d/2_data.yaml")
    parser.add_argument("--root", default="datasets")
    args = parser.parse_args()
    vq_model = Path(read_json(args.world / TRAINING_FILE)["arguments"]["vq_model"])
    stages = {"vq_model": {"vq": vq_model}, "transformer": {"world": args.world}}
    embed(args.world, args.target, "configs/push2d/run.sh", stages)
    write_episode(args.target, args.data, args.root, EPISODE_LENGTH)


if __name__ == "__main__":
    main()
