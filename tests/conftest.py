"""Tiny real models: every part is the real class, with few channels and random weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from ivideogpt_hf import (
    IVideoGPTConfig,
    IVideoGPTForCausalLM,
    IVideoGPTVideoProcessor,
    IVideoGPTVQConfig,
    IVideoGPTVQModel,
    WorldModel,
)
from ivideogpt_hf.run_folder import lock

# The models are too small to gain from threads, and several test processes on few cores lose much by them.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # the same for processes that tests start
os.environ.setdefault("MUJOCO_GL", "egl")  # `importorskip` imports mujoco before a simulator can choose

SHARED = Path(__file__).parents[2] / "shared"
VQ_SETTINGS = {
    "resolution": 16,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "latent_channels": 8,
    "num_context_codes": 24,
    "num_dynamics_codes": 40,
    "max_att_resolution": 8,
    "patch_size": 4,
}
TRANSFORMER_SETTINGS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
}


def build_vq_model(seed: int = 0, **config: Any) -> IVideoGPTVQModel:
    """A VQ model of 16 x 16 frames: 64 tokens for a context frame, 4 for a future frame. Arguments are those of its
    config, beside `VQ_SETTINGS`."""
    torch.manual_seed(seed)
    return IVideoGPTVQModel(IVideoGPTVQConfig(**(VQ_SETTINGS | config))).eval()


def build_transformer(vq_config: IVideoGPTVQConfig, seed: int = 0, **config: Any) -> IVideoGPTForCausalLM:
    """A transformer for a VQ model, with room for six future frames after two context frames of 64 tokens.

    Weights are large, so that predictions are far from ties, and actions have an effect.
    """
    defaults = TRANSFORMER_SETTINGS | {"initializer_range": 0.3}
    torch.manual_seed(seed)
    model = IVideoGPTForCausalLM(IVideoGPTConfig(**(defaults | asdict(vq_config.layout) | config))).eval()
    if model.config.action_dim:
        torch.nn.init.normal_(model.action_linear.weight)
        torch.nn.init.normal_(model.action_linear.bias)
        if model.config.action_conditioning == "scale_shift":
            for layer in model.model.layers:
                torch.nn.init.normal_(layer.action_modulation.weight, std=0.3)
    return model


def build_world(
    vq: dict[str, Any] | None = None, processor: dict[str, Any] | None = None, **transformer: Any
) -> WorldModel:
    """A world model of the two above; keyword arguments are fields of the transformer's config."""
    vq_model = build_vq_model(**(vq or {}))
    height, width = vq_model.config.frame_size
    processor = IVideoGPTVideoProcessor(size={"height": height, "width": width}, **(processor or {}))
    return WorldModel(vq_model, build_transformer(vq_model.config, **transformer), processor)


def build_original_world(vq: dict[str, Any] | None = None, **config: Any) -> WorldModel:
    """A world of 32 x 32 frames, with the token grids that the released layout needs; arguments of `build_world`."""
    sizes = {"resolution": 32, "max_att_resolution": 16}
    return build_world(vq=sizes | (vq or {}), **({"max_position_embeddings": 640} | config))


def is_released(folder: Path) -> bool:
    """Whether a checkpoint is in the released layout: its VQ model's config names a class of diffusers."""
    return "_class_name" in json.loads((folder / "tokenizer" / "config.json").read_text(encoding="utf-8"))


def random_frames(*leading: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """uint8 frames (*leading, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*leading, 3, size, size), dtype=torch.uint8, generator=generator)


def random_actions(*shape: int, seed: int = 0) -> torch.Tensor:
    """float32 actions."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_frames(frames: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding of pixels: other batch sizes take other kernels."""
    assert frames.shape == expected.shape
    assert (frames.int() - expected.int()).abs().max() <= 1


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def hide_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let every import of a package and of what is in it fail, as if it were not installed."""
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)


def _hold(folder: Path, ready: Any, with_child: bool) -> None:
    with lock(folder):
        if with_child and not os.fork():  # such as a process that loads clips
            time.sleep(5)
            os._exit(0)
        ready.set()
        time.sleep(60)


@contextmanager
def locked_elsewhere(folder: Path, *, with_child: bool = False) -> Iterator[None]:
    """Another process holds the lock of a folder; it is killed at the end of the block."""
    forks = multiprocessing.get_context("fork")
    ready = forks.Event()
    process = forks.Process(target=_hold, args=(folder, ready, with_child))
    process.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


@pytest.fixture(scope="session")
def world() -> WorldModel:
    """Action-conditioned (3 wide), with a reward head, two context frames."""
    return build_world(action_dim=3, predict_reward=True)


@pytest.fixture(scope="session")
def original_world() -> WorldModel:
    """As `world`, of the sizes that the released layout can hold."""
    return build_original_world(action_dim=3, predict_reward=True)


@pytest.fixture(scope="session")
def free_world() -> WorldModel:
    """Action-free, two context frames."""
    return build_world()


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Resolves a path in the material beside the checkout, and skips the test where it is absent."""

    def resolve(path: str) -> Path:
        if not (SHARED / path).exists():
            pytest.skip(f"needs ../shared/{path}, which is not there")
        return SHARED / path

    return resolve


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in singletons, and refuses a second run with other settings in one process."""
    state = pytest.importorskip("accelerate.state")

    def reset() -> None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()

    reset()  # a test without this fixture may have left its own
    yield
    reset()
