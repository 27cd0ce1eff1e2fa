"""What the benchmarks write: their figures, with the command and the day."""

import json
import platform
import sys
from pathlib import Path

import torch

from ivideogpt_hf.provenance import describe_date


def describe_cpu():
    """The machine of a benchmark, and how many of its cores compute."""
    return {
        "device": f"{platform.machine()} CPU",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def write_results(output, content):
    """Write a JSON file.

    Args:
        output: path of the file; None: nothing is written.
        content: dict of figures.
    """
    if output is None:
        return
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    content = {"command": command, "date": describe_date(), **content}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
