"""transformers' Auto classes find ours: with the package by importing it, without it by `trust_remote_code=True`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ivideogpt_hf

SOURCE = str(Path(ivideogpt_hf.__file__).parents[1])
AUTO_CLASSES = [
    ("AutoConfig", "tokenizer", "IVideoGPTVQConfig"),
    ("AutoModel", "tokenizer", "IVideoGPTVQModel"),
    ("AutoConfig", "transformer", "IVideoGPTConfig"),
    ("AutoModel", "transformer", "IVideoGPTForCausalLM"),
    ("AutoModelForCausalLM", "transformer", "IVideoGPTForCausalLM"),
]
# AutoVideoProcessor does not work without torchvision, and AutoProcessor does.
AUTO_PROCESSOR = ("AutoProcessor", "processor", "IVideoGPTVideoProcessor")
PROCESSOR_PLACES = ("{folder!r}", "{folder!r}, subfolder='processor'", "{folder!r} + '/processor'")


def run(code, *, with_package, home):
    """Run code in a fresh interpreter, with or without the package; returns its output."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = SOURCE if with_package else ""
    if not with_package:  # it may be installed in the environment that runs the tests
        code = "import sys; sys.modules['ivideogpt_hf'] = None\n" + code
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    world.save_pretrained(folder, remote_code=True)
    return folder


@pytest.mark.parametrize(
    "order", ["import ivideogpt_hf, transformers", "import transformers.models.auto, ivideogpt_hf"]
)
def test_importing_the_package_is_enough(checkpoint, tmp_path, order):
    lines = [
        f"print(type(transformers.{auto}.from_pretrained({str(checkpoint)!r}, subfolder={part!r})))"
        for auto, part, _ in AUTO_CLASSES
    ]
    output = run("\n".join([order, *lines]), with_package=True, home=tmp_path)
    for line, (_, _, name) in zip(output.splitlines(), AUTO_CLASSES, strict=True):
        assert line.startswith("<class 'ivideogpt_hf.models.")
        assert name in line


@pytest.fixture(scope="module")
def without_package(checkpoint, tmp_path_factory):
    """What is printed without the package: the class of each part, by the folder of the checkpoint and a subfolder, and
    by the subfolder itself; then the tokens of some frames."""
    places = (f"{str(checkpoint)!r}, subfolder={{part!r}}", f"{str(checkpoint)!r} + '/{{part}}'")
    lines = [
        f"print(type(transformers.{auto}.from_pretrained({place.format(part=part)}, trust_remote_code=True)))"
        for place in places
        for auto, part, _ in (*AUTO_CLASSES, AUTO_PROCESSOR)
    ]
    code = f"""
import torch, transformers
{chr(10).join(lines)}
model = transformers.AutoModel.from_pretrained({str(checkpoint)!r}, subfolder="tokenizer", trust_remote_code=True)
print(model.tokenize(torch.linspace(0, 1, 4 * 3 * 256).view(1, 4, 3, 16, 16))[0].tolist())
"""
    return run(code, with_package=False, home=tmp_path_factory.mktemp("home")).splitlines()


def test_remote_code_needs_no_package(without_package):
    for line, (_, _, name) in zip(without_package[:-1], [*AUTO_CLASSES, AUTO_PROCESSOR] * 2, strict=True):
        assert line.startswith("<class 'transformers_modules.")
        assert name in line


@torch.no_grad()
def test_remote_code_computes_the_same(without_package, checkpoint):
    model = ivideogpt_hf.IVideoGPTVQModel.from_pretrained(checkpoint, subfolder="tokenizer")
    tokens = model.tokenize(torch.linspace(0, 1, 4 * 3 * 256).view(1, 4, 3, 16, 16))[0]
    assert without_package[-1] == str(tokens.tolist())


@pytest.mark.parametrize(
    ("remote_code", "with_package", "trust"),
    [(False, True, False), (False, True, True), (True, True, False), (True, True, True), (True, False, True)],
)
def test_auto_processor_finds_it_by_the_checkpoint_and_by_its_folder(world, tmp_path, remote_code, with_package, trust):
    world.save_pretrained(tmp_path / "world", remote_code=remote_code)
    lines = ["from transformers import AutoProcessor", *["import ivideogpt_hf"] * with_package]
    for place in PROCESSOR_PLACES:
        argument = place.format(folder=str(tmp_path / "world"))
        lines.append(f"print(type(AutoProcessor.from_pretrained({argument}, trust_remote_code={trust})))")
    output = run("\n".join(lines), with_package=with_package, home=tmp_path / "home").splitlines()
    origin = "ivideogpt_hf.models." if with_package else "transformers_modules."
    assert len(output) == len(PROCESSOR_PLACES)
    assert all(line.startswith(f"<class '{origin}") and "IVideoGPTVideoProcessor" in line for line in output)


def test_networks_by_their_own_code_play_in_a_world(checkpoint, tmp_path):
    """A user of the Auto classes installs the package later."""
    code = f"""
from transformers import AutoModel, AutoModelForCausalLM
vq_model = AutoModel.from_pretrained({str(checkpoint)!r}, subfolder="tokenizer", trust_remote_code=True)
transformer = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, subfolder="transformer", trust_remote_code=True)
from ivideogpt_hf import Sampling, WorldModel
import torch
frames = torch.arange(2 * 3 * 256).view(1, 2, 3, 16, 16).remainder(256).to(torch.uint8)
actions = torch.linspace(-1, 1, 9).view(1, 3, 3)
worlds = WorldModel(vq_model, transformer), WorldModel.from_pretrained({str(checkpoint)!r})
tokens = [world.rollout(frames, actions, sampling=Sampling(greedy=True)).tokens for world in worlds]
print(type(transformer).__module__, tokens[0].equal(tokens[1]))
"""
    module, is_equal = run(code, with_package=True, home=tmp_path).split()[-2:]
    assert module.startswith("transformers_modules.")
    assert is_equal == "True"


def test_importing_the_package_and_help_load_nothing_heavy(tmp_path):
    code = """
import sys
import ivideogpt_hf, ivideogpt_hf.cli
try:
    ivideogpt_hf.cli.main(["--help"])
except SystemExit:
    pass
heavy = ("torch", "transformers", "diffusers", "gradio", "datasets", "accelerate")
print([name for name in heavy if name in sys.modules])
"""
    assert run(code, with_package=True, home=tmp_path).splitlines()[-1] == "[]"


def test_public_names_are_all_there():
    assert sorted(ivideogpt_hf._HOME_OF) == sorted(ivideogpt_hf.__all__)
    for name in ivideogpt_hf.__all__:
        assert getattr(ivideogpt_hf, name) is not None


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = ivideogpt_hf.Nonsense
