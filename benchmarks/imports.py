"""What importing the package costs beyond importing torch, and how long ``ivideogpt --help`` and loading the embedded
checkpoint take.

Each figure is the smallest of several fresh interpreters.

    python benchmarks/imports.py --output benchmarks/results/imports.json
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from writing import write_results

REPEATS = 5
LOAD = "ivideogpt_hf.WorldModel.from_pretrained('default')"
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, ivideogpt_hf": [sys.executable, "-c", "import torch, ivideogpt_hf"],
    "import ivideogpt_hf": [sys.executable, "-c", "import ivideogpt_hf"],
    'from_pretrained("default")': [sys.executable, "-c", f"import ivideogpt_hf; {LOAD}"],
    "ivideogpt --help": [sys.executable, "-m", "ivideogpt_hf.cli", "--help"],
}


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json to write")
    args = parser.parse_args()
    # Interleaved, so that a busy moment of the machine does not fall on one command alone.
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(REPEATS)]
    best = {name: min(measured[name] for measured in rounds) for name in COMMANDS}
    best["package beyond torch"] = best["import torch, ivideogpt_hf"] - best["import torch"]
    for name, value in best.items():
        print(f"{name:<28}{value:.3f} s")
    write_results(args.output, best)


if __name__ == "__main__":
    main()
