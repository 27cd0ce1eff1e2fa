"""Finite scalar quantisation in place of a codebook."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ivideogpt_hf import IVideoGPTVQConfig, IVideoGPTVQModel
from ivideogpt_hf.models.vq_layers import FiniteScalarQuantizer
from tests.conftest import SHARED, build_vq_model, random_frames

CASE = SHARED / "parity" / "rlvr" / "fsq"
COMPRESSIVE = SHARED / "parity" / "rlvr" / "compressive_small"
needs_case = pytest.mark.skipif(not CASE.is_dir(), reason=f"needs {CASE}")


def golden(name):
    levels = json.loads((CASE / "case.json").read_text())["levels"][name]
    values = load_file(CASE / "golden.safetensors")
    return FiniteScalarQuantizer(levels), {
        key.removeprefix(f"{name}."): x for key, x in values.items() if key.startswith(f"{name}.")
    }


@needs_case
@pytest.mark.parametrize("name", ["8", "10", "12", "14", "16"])
def test_codes_and_vectors_are_the_originals(name):
    quantizer, expected = golden(name)
    quantized = quantizer(expected["z"].movedim(1, -1))
    assert quantized.codes.equal(expected["indices"].long())
    assert quantized.vectors.movedim(-1, 1).equal(expected["codes"])


@needs_case
@pytest.mark.parametrize("name", ["8", "12", "16"])
def test_half_precision_is_quantised_in_float32(name):
    quantizer, expected = golden(name)
    quantized = quantizer(expected["z"].bfloat16().movedim(1, -1))
    assert quantized.codes.equal(expected["bf16_indices"].long())
    assert quantized.vectors.dtype == torch.bfloat16


@needs_case
@pytest.mark.parametrize("name", ["8", "10", "12", "14", "16"])
def test_vectors_of_codes_are_the_originals(name):
    quantizer, expected = golden(name)
    vectors = quantizer.lookup(expected["lookup_indices"].long())
    assert vectors.movedim(-1, 1).equal(expected["lookup_codes"])


@pytest.mark.parametrize("levels", [(2,), (3, 4), (7, 5, 5, 5, 5)])
def test_every_code_is_that_of_its_vector(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.num_codes)
    limit = torch.tensor(levels).float()
    vectors = quantizer.lookup(codes)
    # Back through the bound: the inverse of what the forward does before it rounds.
    reach = (limit - 1) * 1.001 / 2
    offset = torch.where(limit % 2 == 0, 0.5, 0.0)
    values = vectors * (torch.tensor(levels) // 2)
    inputs = ((values + offset) / reach).atanh() - (offset / reach).atanh()
    assert quantizer(inputs).codes.equal(codes)


def test_the_gradient_goes_straight_through():
    vectors = torch.zeros(3, 2, requires_grad=True)
    FiniteScalarQuantizer((5, 4))(vectors).vectors.sum().backward()
    assert (vectors.grad > 0).all()


@pytest.mark.parametrize(
    "config",
    [
        {"dynamics_fsq_levels": (4, 5)},
        {"context_fsq_levels": (3, 5)},
        {"context_fsq_levels": (8, 6, 5), "dynamics_fsq_levels": (4, 4)},
    ],
)
def test_a_model_counts_codes_by_levels_and_has_no_weights_for_them(config):
    model = build_vq_model(**config)
    for name, levels in config.items():
        assert getattr(model.config.layout, f"num_{name.split('_')[0]}_codes") == torch.tensor(levels).prod()
    expected = {"quantize.embedding.weight", "dynamics_quantize.embedding.weight"}
    without = {"context_fsq_levels": "quantize", "dynamics_fsq_levels": "dynamics_quantize"}
    expected -= {f"{without[name]}.embedding.weight" for name in config}
    assert {name for name in model.state_dict() if "quantize." in name} == expected


def test_tokens_go_there_and_back():
    model = build_vq_model(context_fsq_levels=(8, 6, 5), dynamics_fsq_levels=(4, 4))
    frames = random_frames(2, 4).float() / 255
    tokens, _ = model.tokenize(frames)
    with torch.no_grad():
        output = model(frames[:, :2], frames[:, 2:])
    torch.testing.assert_close(model.detokenize(tokens), torch.cat([output[0], output[1]], dim=1), atol=1e-4, rtol=0)
    assert output.context_commitment_loss == output.future_commitment_loss == 0


@pytest.mark.parametrize("levels", [(), (1, 4)])
def test_levels_below_two_are_refused(levels):
    with pytest.raises(ValueError, match="dynamics_fsq_levels must hold a number of at least 2"):
        IVideoGPTVQConfig(resolution=64, dynamics_fsq_levels=levels)


# -- RLVR-World's compressive tokenizer -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compressive():
    if not COMPRESSIVE.is_dir():
        pytest.skip(f"needs {COMPRESSIVE}")
    return IVideoGPTVQModel.from_pretrained(COMPRESSIVE / "tokenizer"), load_file(COMPRESSIVE / "golden.safetensors")


@torch.no_grad()
def test_its_tokens_and_frames_are_the_originals(compressive):
    model, golden = compressive
    frames = golden["frames"].float() / 255
    context = model.encode_context(frames[:, :1])
    codes = model.encode_future(context.encoder_memory, frames[:, 1:])
    assert context.tokens.equal(golden["ctx_tokens"].long())
    assert codes.equal(golden["dyn_tokens"].long())
    decoded = torch.cat([context.reconstruction, model.decode_future(context.decoder_memory, codes)], dim=1)
    assert (decoded - golden["reconstruction"]).abs().max() < 1e-4


@torch.no_grad()
def test_any_of_its_tokens_are_decoded_as_by_the_original(compressive):
    model, golden = compressive
    context = model.context_from_tokens(golden["random_ctx_tokens"].long())
    decoded = model.decode_future(context.decoder_memory, golden["random_dyn_tokens"].long())
    assert (torch.cat([context.reconstruction, decoded], dim=1) - golden["random_frames"]).abs().max() < 1e-4


def test_it_is_the_same_in_our_layout(compressive, tmp_path):
    model, golden = compressive
    model.save_pretrained(tmp_path)
    frames = golden["frames"].float() / 255
    assert IVideoGPTVQModel.from_pretrained(tmp_path).tokenize(frames)[0].equal(model.tokenize(frames)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vq_fsq_levels": 11}, "vq_fsq_levels is 11; known are"),
        ({"dyn_fsq_levels": None}, "lacks dyn_fsq_levels"),
        ({"norm_type": "spatial"}, "norm_type is 'spatial'"),
    ],
)
def test_a_config_that_its_code_does_not_know_is_refused(compressive, change, message):
    config = json.loads((COMPRESSIVE / "tokenizer" / "config.json").read_text()) | change
    config = {name: value for name, value in config.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        IVideoGPTVQConfig.from_dict(config)
