import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ivideogpt_hf import IVideoGPTForCausalLM, IVideoGPTPipeline, IVideoGPTVQModel, Sampling, WorldModel
from ivideogpt_hf.checkpoints.layout import read_json
from ivideogpt_hf.checkpoints.loading import load_transformer, load_vq_model
from ivideogpt_hf.checkpoints.released import save_released
from tests.conftest import assert_same_frames, build_world, is_released, random_actions, random_frames

GREEDY = Sampling(greedy=True)
WEIGHTS = {
    "released": ("tokenizer/diffusion_pytorch_model.safetensors", "transformer/model.safetensors"),
    "ours": ("tokenizer/model.safetensors", "transformer/model.safetensors"),
}


@pytest.fixture(params=["released", "ours"])
def saved(request, original_world, tmp_path):
    """A checkpoint in one layout: (layout, folder)."""
    world = original_world
    if request.param == "released":
        save_released(tmp_path, (world.vq_model, world.transformer, world.processor))
    else:
        world.save_pretrained(tmp_path)
    return request.param, tmp_path


def edit(file, change):
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_a_saved_world_is_the_same_world(original_world, saved):
    world, (layout, folder) = original_world, saved
    assert is_released(folder) == (layout == "released")
    loaded = WorldModel.from_pretrained(folder)
    assert loaded.spec == world.spec
    args = (random_frames(1, 2, size=32), random_actions(1, 2, 3))
    assert_same_frames(loaded.rollout(*args, sampling=GREEDY).frames, world.rollout(*args, sampling=GREEDY).frames)


def test_our_layout_keeps_what_the_released_one_cannot(tmp_path):
    processor = {"action_low": [-1.0] * 3, "action_high": [1.0] * 3, "reward_transform": "symlog"}
    world = build_world(
        action_dim=3, predict_reward=True, goal_conditioned=True, num_trained_frames=4, processor=processor
    )
    world.save_pretrained(tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path)
    assert loaded.spec == world.spec
    assert loaded.processor.reward_transform == "symlog"


@pytest.mark.parametrize("load", [WorldModel.from_pretrained, IVideoGPTPipeline.from_pretrained])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", torch.bfloat16), ("torch.float16", torch.float16), ("float32", torch.float32), (None, torch.float32)],
)
def test_a_dtype_may_be_a_name(saved, load, dtype, expected):
    assert load(saved[1], dtype=dtype).transformer.dtype == expected


@pytest.mark.parametrize("load", [WorldModel.from_pretrained, IVideoGPTPipeline.from_pretrained])
def test_an_automatic_dtype_is_that_of_the_stored_weights(saved, load, tmp_path):
    WorldModel.from_pretrained(saved[1], dtype="bfloat16").save_pretrained(tmp_path)
    assert load(tmp_path, dtype="auto").transformer.dtype == torch.bfloat16
    assert load(tmp_path).transformer.dtype == torch.float32


def test_options_that_users_of_transformers_write(world, tmp_path):
    """Placement, the older name of dtype, attention, subfolder, variant and size of files."""
    world.save_pretrained(tmp_path / "sub", variant="fp16", max_shard_size="100KB")
    loaded = WorldModel.from_pretrained(
        tmp_path, subfolder="sub", variant="fp16", torch_dtype="bfloat16", device_map="cpu", attn_implementation="eager"
    )
    assert loaded.transformer.dtype == torch.bfloat16
    assert loaded.transformer.config._attn_implementation == "eager"
    clip = random_frames(1, 2), random_actions(1, 2, 3)
    assert loaded.rollout(*clip, sampling=GREEDY).frames.shape == (1, 2, 3, 16, 16)


def test_weights_may_stay_on_disk(world, tmp_path):
    world.save_pretrained(tmp_path / "world")
    loaded = WorldModel.from_pretrained(
        tmp_path / "world", device_map={"": "disk"}, offload_folder=tmp_path / "weights"
    )
    assert all(weight.is_meta for weight in loaded.transformer.parameters())
    clip = random_frames(1, 2), random_actions(1, 2, 3)
    expected = world.rollout(*clip, sampling=GREEDY)
    assert loaded.rollout(*clip, sampling=GREEDY).tokens.equal(expected.tokens)


@pytest.mark.parametrize("dtype", ["half", torch.int8, 16])
def test_an_unknown_dtype_is_refused(saved, dtype):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, auto or None"):
        WorldModel.from_pretrained(saved[1], dtype=dtype)


def test_dtype_is_the_callers(saved):
    assert WorldModel.from_pretrained(saved[1], dtype=torch.bfloat16).transformer.dtype == torch.bfloat16
    assert WorldModel.from_pretrained(saved[1]).transformer.dtype == torch.float32


@pytest.mark.parametrize(("has_instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_convolutions_are_in_half_precision_only_where_the_cpu_has_instructions(
    saved, monkeypatch, has_instructions, expected
):
    monkeypatch.setattr("ivideogpt_hf.decoding.layers.has_fast_products", lambda dtype: has_instructions)
    assert WorldModel.from_pretrained(saved[1], dtype=torch.bfloat16).vq_model.dtype == expected
    assert WorldModel.from_pretrained(saved[1]).to(dtype=torch.bfloat16).vq_model.dtype == expected


# -- arguments of other libraries -------------------------------------------------------------------------------------

LOADERS = [WorldModel.from_pretrained, IVideoGPTPipeline.from_pretrained]


@pytest.mark.parametrize("load", LOADERS)
def test_arguments_that_change_nothing_are_taken(world, tmp_path, load):
    world.save_pretrained(tmp_path)
    load(tmp_path, trust_remote_code=True, low_cpu_mem_usage=True, use_safetensors=True, safety_checker=None)
    load(tmp_path, trust_remote_code=False, max_memory=None, custom_pipeline=None, proxies=None)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_memory": {0: "1GB"}}, r"unknown arguments \['max_memory'\]; max_memory: .* device_map"),
        ({"use_auth_token": "hf_"}, "use_auth_token: pass token"),
        ({"use_safetensors": False}, "only loaded from safetensors"),
        ({"custom_pipeline": "some/code"}, "diffusers.DiffusionPipeline loads other code"),
        ({"nonsense": None}, r"unknown arguments \['nonsense'\]"),
    ],
)
def test_arguments_that_ask_for_something_else_are_named(tmp_path, load, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **arguments)


def test_the_address_of_a_server_is_no_checkpoint():
    with pytest.raises(FileNotFoundError, match=r"is an address, .*RemoteWorldModel\('http://127.0.0.1:8000'\)"):
        WorldModel.from_pretrained("http://127.0.0.1:8000")
    with pytest.raises(FileNotFoundError, match="is an address, and no checkpoint: pass a folder, or an id on the Hub"):
        WorldModel.from_pretrained("https://huggingface.co/thuml/ivideogpt-bair-64-act-cond")


# -- broken checkpoints: each error names what is wrong ---------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1])
def test_a_missing_tensor_is_named(saved, part):
    layout, folder = saved
    file = folder / WEIGHTS[layout][part]
    name = ("quant_linear.weight", "reward_linear.bias")[part]
    edit(file, lambda weights: weights.pop(name))
    with pytest.raises(ValueError, match=f"missing: {name}"):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize("part", [0, 1])
def test_an_unused_tensor_is_named(saved, part):
    layout, folder = saved
    edit(folder / WEIGHTS[layout][part], lambda weights: weights.update({"surplus.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"not used by this model: surplus\.weight"):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize("part", [0, 1])
def test_a_wrongly_shaped_tensor_is_named(saved, part):
    layout, folder = saved
    name = ("quant_linear.weight", "reward_linear.weight")[part]
    edit(folder / WEIGHTS[layout][part], lambda weights: weights.update({name: torch.zeros(2, 3)}))
    with pytest.raises(ValueError, match=rf"wrong shape: {name} is \(2, 3\), the config asks for"):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize("part", [0, 1])
def test_a_corrupt_file_is_named(saved, part):
    layout, folder = saved
    file = folder / WEIGHTS[layout][part]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match=f"{file.name} is corrupt or incomplete"):
        WorldModel.from_pretrained(folder)


def test_pickles_are_never_loaded(saved):
    layout, folder = saved
    file = folder / WEIGHTS[layout][0]
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    with pytest.raises(OSError, match=r"pytorch_model\.bin is a pickle, which is never loaded"):
        WorldModel.from_pretrained(folder)
    with pytest.raises(OSError, match="safetensors"):
        IVideoGPTVQModel.from_pretrained(folder, subfolder="tokenizer")


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_a_folder_without_a_part_is_no_checkpoint(saved, part):
    shutil.rmtree(saved[1] / part)
    with pytest.raises(OSError, match=f"is no iVideoGPT checkpoint: {part}/config.json is missing"):
        WorldModel.from_pretrained(saved[1])


def test_a_broken_config_is_named(saved):
    (saved[1] / "tokenizer/config.json").write_text("{")
    with pytest.raises(OSError, match=r"config\.json"):
        WorldModel.from_pretrained(saved[1])


def test_a_config_value_of_the_wrong_kind_is_named(saved):
    file = saved[1] / "tokenizer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"latent_channels": "many"}))
    with pytest.raises(ValueError, match=r"config\.json cannot be used: .*latent_channels"):
        WorldModel.from_pretrained(saved[1])


def test_parts_of_different_checkpoints_are_refused(world, tmp_path):
    world.save_pretrained(tmp_path)
    build_world(vq={"num_context_frames": 1}).vq_model.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="disagree on the token layout"):
        WorldModel.from_pretrained(tmp_path)


def test_what_is_neither_folder_nor_hub_id():
    with pytest.raises(OSError, match="no Hub id of the form 'owner/name'"):
        WorldModel.from_pretrained("/no/such/folder")


@pytest.mark.parametrize("variant", [None, "small"])
def test_the_transformer_is_found_by_the_checkpoint_alone(world, tmp_path, variant):
    world.save_pretrained(tmp_path, variant=variant)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(value.equal(world.transformer.state_dict()[name]) for name, value in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "alone")
    assert read_json(tmp_path / "alone/config.json") == read_json(tmp_path / "transformer/config.json")


def test_the_vq_model_is_not_made_of_a_transformers_config(world, tmp_path):
    world.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"of a 'ivideogpt' model, .* in the subfolder 'tokenizer'"):
        IVideoGPTVQModel.from_pretrained(tmp_path)


def test_the_transformer_can_be_quantised(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    build_world(action_dim=3, hidden_size=64).save_pretrained(tmp_path)
    whole = WorldModel.from_pretrained(tmp_path)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    small = WorldModel.from_pretrained(tmp_path, quantization_config=config)
    assert small.transformer.model.layers[0].mlp.up_proj.weight.qdata.dtype == torch.int8
    prompt = torch.randint(0, 24, (1, whole.layout.prompt_length))
    with torch.no_grad():
        logits = [one.transformer(prompt).logits[0, -1] for one in (whole, small)]
    assert not logits[0].equal(logits[1])
    assert torch.corrcoef(torch.stack(logits))[0, 1] > 0.99
    assert small.rollout(random_frames(1, 2), random_actions(1, 2, 3), sampling=GREEDY).frames.shape == (
        1,
        2,
        3,
        16,
        16,
    )


def test_weights_that_could_not_be_loaded_are_not_saved(tmp_path):
    peft = pytest.importorskip("peft")
    adapted, parametrised = build_world(action_dim=3), build_world(action_dim=3)
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), adapted.transformer)
    torch.nn.utils.parametrizations.weight_norm(parametrised.vq_model.quant_linear)
    for world in (adapted, parametrised):
        with pytest.raises(ValueError, match=r"has other weights than its config describes.*merge adapters"):
            world.save_pretrained(tmp_path / "world")
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("transformer", {"intermediate_size": 10**9}, r"wrong shape: .*the config asks for \(.*1000000000"),
        ("transformer", {"num_hidden_layers": 10**7}, "10000000 layers"),
        ("tokenizer", {"num_context_codes": 10**9}, r"wrong shape: .*the config asks for \(1000000000"),
        ("tokenizer", {"layers_per_block": 10**7}, "10000000 layers"),
        ("tokenizer", {"latent_channels": 10**9}, r"config\.json cannot be used: RuntimeError"),
    ],
)
def test_a_config_that_asks_for_more_than_the_files_hold_is_refused_before_memory_is_taken(
    original_world, tmp_path, monkeypatch, part, change, message
):
    original_world.save_pretrained(tmp_path)
    file = tmp_path / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    network = IVideoGPTForCausalLM if part == "transformer" else IVideoGPTVQModel
    monkeypatch.setattr(network, "from_pretrained", lambda *_, **__: pytest.fail("memory is taken"))
    with pytest.raises(ValueError, match=message):
        (load_transformer if part == "transformer" else load_vq_model)(tmp_path)
