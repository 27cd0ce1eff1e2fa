"""What the original code computes, on real frames, in the released layout and in ours (../shared/parity)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ivideogpt_hf import IVideoGPTForCausalLM, IVideoGPTVQModel, Sampling, WorldModel
from ivideogpt_hf.cli import main

CASES = ("act_free_64", "act_cond_64", "act_cond_reward_64", "act_free_256")
TIES = 0.002  # share of positions at which nearest codes are too close to call
ORIGINAL = Sampling(greedy=True, restrict_to_codes=False)


class Case:
    """A case and its world model; actions are those that lead to the future frames."""

    def __init__(self, folder, golden):
        self.world = WorldModel.from_pretrained(folder)
        self.golden = golden
        self.frames = golden["frames"]
        self.num_context = self.world.spec.num_context_frames
        self.num_future = self.frames.shape[1] - self.num_context
        actions = golden.get("actions")
        self.actions = None if actions is None else actions[:, self.num_context - 1 :][:, : self.num_future]

    def future_tokens(self, tokens):
        return tokens[:, self.world.layout.prompt_length :].unflatten(1, (self.num_future, -1))[:, :, 1:]


@pytest.fixture(scope="module", params=[f"{case}-{layout}" for case in CASES for layout in ("released", "ours")])
def case(request, shared, tmp_path_factory):
    name, layout = request.param.split("-")
    folder = shared(f"parity/{name}")
    golden = load_file(folder / "golden.safetensors")
    if layout == "ours":
        converted = tmp_path_factory.mktemp("converted")
        assert main(["convert", str(folder), str(converted)]) == 0
        folder = converted
    return Case(folder, golden)


def share_that_differs(tokens, expected):
    assert tokens.shape == expected.shape
    return (tokens != expected).float().mean()


def test_tokenize(case):
    tokens, labels = case.world.vq_model.tokenize(case.frames / 255)
    assert share_that_differs(tokens, case.golden["tokens"]) <= TIES
    assert share_that_differs(labels, case.golden["labels"]) <= TIES


def test_detokenize(case):
    frames = case.world.vq_model.detokenize(case.golden["tokens"])
    torch.testing.assert_close(frames, case.golden["reconstruction"], atol=1e-3, rtol=0)


def test_training_forward(case):
    pixels = case.frames / 255
    with torch.no_grad():
        output = case.world.vq_model(pixels[:, : case.num_context], pixels[:, case.num_context :])
    for name, ours in (
        ("forward_sample", output.future_reconstruction),
        ("forward_context_sample", output.context_reconstruction),
    ):
        torch.testing.assert_close(ours.flatten(0, 1), case.golden[name].flatten(0, -4), atol=1e-3, rtol=0)
    for name, ours in (
        ("commit_loss", output.context_commitment_loss),
        ("dyn_commit_loss", output.future_commitment_loss),
    ):
        torch.testing.assert_close(ours, case.golden[name][0], atol=0, rtol=1e-4)


def test_logits_and_loss(case):
    golden = case.golden
    with torch.no_grad():
        output = case.world.transformer(golden["tokens"], actions=case.actions, labels=golden["labels"])
    torch.testing.assert_close(output.logits[:, -40:], golden["logits"], atol=1e-3, rtol=0)
    torch.testing.assert_close(output.loss, golden["loss"][0], atol=0, rtol=1e-4)


def test_rewards(case):
    if not case.world.spec.has_reward:
        assert "reward_pred" not in case.golden
        return
    for tokens, rewards in (("tokens", "reward_pred"), ("generated_tokens", "generated_reward")):
        with torch.no_grad():
            output = case.world.transformer(case.golden[tokens], actions=case.actions)
        torch.testing.assert_close(output.rewards, case.golden[rewards], atol=1e-5, rtol=1e-4)


def test_greedy_rollout(case):
    context = case.frames[:, : case.num_context]
    rollout = case.world.rollout(context, case.actions, num_frames=case.num_future, sampling=ORIGINAL)
    expected = case.future_tokens(case.golden["generated_tokens"])
    assert share_that_differs(rollout.tokens, expected) <= TIES
    frames = case.golden["generated_frames"][:, case.num_context :].clamp(0, 1)
    torch.testing.assert_close(rollout.frames / 255, frames, atol=1e-3 + 0.5 / 255, rtol=0)
    if case.world.spec.has_reward:
        torch.testing.assert_close(rollout.rewards, case.golden["generated_reward"], atol=1e-5, rtol=1e-4)


def test_generated_frames(case):
    layout, tokens = case.world.layout, case.golden["generated_tokens"].clone()
    codes = case.future_tokens(tokens)  # a view: the original clamps what is no dynamics code
    codes.clamp_(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes - 1)
    frames = case.world.vq_model.detokenize(tokens)
    torch.testing.assert_close(frames, case.golden["generated_frames"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_converting_back_gives_the_released_files(shared, tmp_path, name):
    folder = shared(f"parity/{name}")
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "released"), "--to", "released"]) == 0
    for file in ("tokenizer/diffusion_pytorch_model.safetensors", "transformer/model.safetensors"):
        weights, expected = load_file(tmp_path / "released" / file), load_file(folder / file)
        assert weights.keys() == expected.keys()
        for key, tensor in expected.items():
            assert weights[key].equal(tensor), key
    for file in ("tokenizer/config.json", "transformer/config.json"):
        written, expected = (json.loads((place / file).read_text()) for place in (tmp_path / "released", folder))
        never_counts = {"pretraining_tp", "transformers_version"}
        assert {name: written.get(name) for name in expected.keys() - never_counts} == {
            name: value for name, value in expected.items() if name not in never_counts
        }


@pytest.mark.parametrize("name", CASES)
def test_the_parts_load_from_the_released_folders_on_their_own(shared, name):
    folder = shared(f"parity/{name}")
    world = WorldModel.from_pretrained(folder)
    for part, network in (
        (IVideoGPTVQModel.from_pretrained(folder, subfolder="tokenizer"), world.vq_model),
        (IVideoGPTForCausalLM.from_pretrained(folder, subfolder="transformer"), world.transformer),
        (IVideoGPTForCausalLM.from_pretrained(folder / "transformer"), world.transformer),
    ):
        assert part.config.layout == world.layout
        for key, tensor in network.state_dict().items():
            assert part.state_dict()[key].equal(tensor), key


def test_the_cross_attentions_norms_have_the_originals_epsilon(shared, tmp_path):
    """Features of tiny variance, so that the epsilon decides; before and after a conversion to our layout."""
    folder = shared("parity/small_features_64")
    golden = load_file(folder / "golden.safetensors")
    frames = golden["frames_float"]
    released = IVideoGPTVQModel.from_pretrained(folder, subfolder="tokenizer")
    released.save_pretrained(tmp_path)
    for model in (released, IVideoGPTVQModel.from_pretrained(tmp_path)):
        context = model.config.num_context_frames
        with torch.no_grad():
            output = model.eval()(frames[:, :context], frames[:, context:])
        expected = golden["forward_sample"]
        torch.testing.assert_close(output.future_reconstruction.view_as(expected), expected, atol=1e-3, rtol=0)
        assert share_that_differs(model.tokenize(frames)[0], golden["tokens"]) <= TIES
        torch.testing.assert_close(model.detokenize(golden["tokens"]), golden["reconstruction"], atol=1e-3, rtol=0)
