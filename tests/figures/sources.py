"""What sentences and rows with figures are built from: results, records of trainings and settings."""

import json
import math
import struct
from pathlib import Path

import yaml

from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen"),
)
DTYPES = {"float32": "float32", "bfloat16": "bf16"}  # as the files and as the tables write them


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def metrics(folder=DEFAULT_FOLDER):
    return json.loads((folder / "metrics.json").read_text())


def settings(file):
    """What a yaml file of an experiment sets, such as "push2d/3_vq"."""
    return yaml.safe_load((ROOT / f"configs/{file}.yaml").read_text())


def collected(name):
    """The runs of an experiment's first file, with what they take over from others."""
    return settings(f"{name}/1_collect")


def last_updates(content, part):
    """The numbers of updates of each training of a part, in their order."""
    return [curve[-1]["update"] for curve in content["curves"][part].values()]


def held_out_cross_entropy(content):
    """After the first 1,000 updates, and at the end."""
    curves = list(content["curves"]["transformer"].values())
    first, last = (
        [entry for entry in curve if "validation/cross_entropy" in entry] for curve in (curves[0], curves[-1])
    )
    assert first[0]["update"] == 1000
    return first[0]["validation/cross_entropy"], last[-1]["validation/cross_entropy"]


def made_by(content):
    """How a document says which command wrote a file, and when."""
    return f"`{content['command']}`, {content['date']}"


def row(*cells):
    return f"| {' | '.join(cells)} |"


def number_of_parameters(folder):
    """Counted in the header of the weights."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def significant(seconds):
    """Three figures, and no more than one after the point."""
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def ratio(value):
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
