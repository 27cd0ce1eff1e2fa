"""Tables of what is installed, rendered from pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

# What each extra is for. A test compares the names with pyproject.toml.
PURPOSES = {
    "data": "converting data, training clips",
    "hdf5": "HDF5 files",
    "rlds": "TFRecord files (RLDS)",
    "gymnasium": "a world model as a gymnasium environment",
    "metaworld": "Meta-world",
    "robodesk": "RoboDesk",
    "pusht": "Push-T",
    "train": "training",
    "rl": "agents that learn with imagined experience",
    "quantize": "int8 weights",
    "eval": "measuring and planning",
    "transnet": "a Frechet distance without a download",
    "serve": "serving, and the client",
    "ray": "many machines",
    "openenv": "a published checkpoint as an environment of OpenEnv",
    "demo": "the playground",
    "completion": "completion in the shell",
    "all": "everything above",
    "docs": "building this site",
    "dev": "the tests",
}


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))["project"]


def split_requirement(requirement: str) -> tuple[str, str]:
    """The name of a package, and its bounds."""
    match = re.match(r"([\w.-]+(?:\[[\w,]+\])?)(.*)", requirement)
    assert match is not None
    return match[1], match[2]


def extras() -> str:
    """The extras, what they are for, and the packages that they bring."""
    lines = ["| extra | for | packages |", "|---|---|---|"]
    for name, requirements in project()["optional-dependencies"].items():
        packages = ", ".join(split_requirement(requirement)[0] for requirement in requirements)
        lines.append(f"| `{name}` | {PURPOSES[name]} | {packages} |")
    return "\n".join(lines)


def requirements() -> str:
    """Python and the packages that are always needed, with their bounds."""
    content = project()
    lines = ["| package | versions |", "|---|---|", f"| Python | `{content['requires-python']}` |"]
    lines += [f"| {name} | `{bounds}` |" for name, bounds in map(split_requirement, content["dependencies"])]
    return "\n".join(lines)


TABLES = {"extras": extras, "requirements": requirements}
