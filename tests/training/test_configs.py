"""The config files that ship: every key is known, every model can be built, and clips fit the positions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ivideogpt_hf import IVideoGPTVQConfig, IVideoGPTVQModel
from ivideogpt_hf.training.arguments import (
    DataArguments,
    OptimizationArguments,
    RunArguments,
    TokenizeArguments,
    VQArguments,
    WorldModelArguments,
    parse,
)
from ivideogpt_hf.training.transformer import make_transformer

pytest.importorskip("accelerate")

CONFIGS = Path(__file__).parents[2] / "configs"
COMMON = (RunArguments, DataArguments, OptimizationArguments)
FILES = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("planning/*.yaml")])
# Whose VQ models are fine-tuned ones, and where their sizes stand.
FINE_TUNED = {
    "default_first": "default_vq_l1",
    "planning/pusht": "planning/push2d_vq",
    "planning/robodesk": "default_vq_l1",
}


def kinds_of(file):
    settings = yaml.safe_load(file.read_text())
    if "transformer_config" in settings or "transformer" in settings:
        return (*COMMON, WorldModelArguments)
    return (*COMMON, VQArguments) if "num_updates" in settings else (TokenizeArguments, DataArguments)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_can_be_read(file):
    parse(kinds_of(file), str(file), [], "test")


@pytest.mark.parametrize("file", [f for f in FILES if "vq_config" in f.read_text()], ids=lambda file: file.stem)
def test_its_vq_model_can_be_built(file):
    *_, vq = parse(kinds_of(file), str(file), [], "test")
    with torch.device("meta"):
        IVideoGPTVQModel(IVideoGPTVQConfig(**vq.vq_config))


@pytest.mark.parametrize("name", ["default_first", "oxe_64", "planning/push2d", "planning/pusht", "planning/robodesk"])
def test_its_transformer_continues_the_tokens_of_its_vq_model(name):
    vq_file = CONFIGS / FINE_TUNED.get(name, f"{name}_vq")
    *_, vq = parse((*COMMON, VQArguments), f"{vq_file}.yaml", [], "test")
    _, data, _, world = parse((*COMMON, WorldModelArguments), str(CONFIGS / f"{name}.yaml"), [], "test")
    if world.tokens is not None:
        _, data = parse((TokenizeArguments, DataArguments), str(CONFIGS / f"{name}_tokens.yaml"), [], "test")
    layout = IVideoGPTVQConfig(**vq.vq_config).layout
    with torch.device("meta"):
        make_transformer(world, layout, 4 if world.actions else None, data.num_frames - data.num_context_frames)


def test_the_first_stage_has_room_for_the_context_frame_that_the_second_repeats():
    *_, vq = parse((*COMMON, VQArguments), str(CONFIGS / "default_vq_l1.yaml"), [], "test")
    *_, first = parse((*COMMON, WorldModelArguments), str(CONFIGS / "default_first.yaml"), [], "test")
    _, data = parse((TokenizeArguments, DataArguments), str(CONFIGS / "default_tokens.yaml"), [], "test")
    layout = replace(IVideoGPTVQConfig(**vq.vq_config).layout, repeat_last_context=True)
    room = layout.max_future_frames(first.transformer_config["max_position_embeddings"])
    assert room >= data.num_frames - data.num_context_frames
