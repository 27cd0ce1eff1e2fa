"""`DiffusionPipeline.from_pretrained` with `trust_remote_code=True`, with this package and without it."""

import json

import pytest
import torch

from ivideogpt_hf.models import portable_pipeline
from tests.conftest import random_actions, random_frames
from tests.test_registration import run

PROGRAM = """
import json, sys
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
frames = (torch.arange(2 * 3 * 256).view(2, 3, 16, 16) % 256).to(torch.uint8)
actions = torch.linspace(-1, 1, 9).view(3, 3).tolist()
images = pipe.numpy_to_pil(frames.movedim(1, -1).numpy() / 255)
greedy = GREEDY
outputs = [pipe(clip, actions, output_type="np", **greedy) for clip in (frames, images)]
assert (outputs[0].frames == outputs[1].frames).all()
half = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True, torch_dtype=torch.bfloat16)
assert half.transformer.dtype == torch.bfloat16
refused = []
wrong = [{"num_frames": 1}, {"actions": actions * 5}, {"actions": [[0.0]]}, {"actions": actions, "output_type": "x"}]
wrong.append({"actions": actions, "callback_on_step_end": lambda *_: None, "num_samples": 2})  # right with the package
calls = [lambda arguments=arguments: pipe(frames, **arguments) for arguments in wrong]
for call in (*calls, lambda: pipe.enable_model_cpu_offload(device="cpu")):
    try:
        call()
    except (ValueError, NotImplementedError) as error:
        refused.append(str(error))
frames, rewards = outputs[0].frames.reshape(-1).tolist(), outputs[0].rewards.reshape(-1).tolist()
print(json.dumps([type(pipe).__module__, frames, rewards, refused]))
"""


def program(folder, greedy):
    return PROGRAM.replace("FOLDER", repr(str(folder))).replace("GREEDY", greedy)


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory):
    """A checkpoint with its models' code, and one without."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for remote_code in (True, False):
        world.save_pretrained(folder / str(remote_code), remote_code=remote_code)
    return folder


def test_the_same_frames_with_the_package_and_without(folders, tmp_path):
    with_it = "{'sampling': __import__('ivideogpt_hf').Sampling(greedy=True)}"
    module, frames, rewards, refused = json.loads(
        run(program(folders / "True", with_it), with_package=True, home=tmp_path / "with").splitlines()[-1]
    )
    assert module == "ivideogpt_hf.pipeline"
    assert len(refused) == 3
    alone = run(program(folders / "True", "{'top_k': 1}"), with_package=False, home=tmp_path / "without")
    module, other_frames, other_rewards, refused = json.loads(alone.splitlines()[-1])
    assert module == "diffusers_modules.local.portable_pipeline"
    assert max(abs(a - b) for a, b in zip(frames, other_frames, strict=True)) <= 1
    assert rewards == pytest.approx(other_rewards, abs=1e-3)
    messages = [
        "width 3 are missing",
        "num_frames must be from 1 to",
        "must have shape",
        "output_type must be",
        "takes no callback_on_step_end, num_samples; where it can be done, the package ivideogpt_hf does it",
        "offloading of whole networks: the package ivideogpt_hf does it",
    ]
    assert all(message in line for message, line in zip(messages, refused, strict=True))


def test_without_a_generator_the_seed_is_drawn_from_torchs_own(world):
    pipe = portable_pipeline.IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    outcomes = []
    for _ in range(2):
        torch.manual_seed(7)
        frames = pipe(random_frames(2), random_actions(2, 3), output_type="pt").frames
        outcomes.append((frames.tolist(), torch.rand(2).tolist()))  # and the caller's next numbers
    assert outcomes[0] == outcomes[1]


def test_without_package_and_code_it_says_what_to_do(folders, tmp_path):
    code = f"""
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained({str(folders / "False")!r}, trust_remote_code=True)
except ImportError as error:
    print(error)
"""
    assert "install ivideogpt_hf, or save it with remote_code=True" in run(code, with_package=False, home=tmp_path)
