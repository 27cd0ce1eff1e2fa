"""The released layout, both ways: what is written means the same when it is read, and all else is refused."""

import json
import shutil
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from ivideogpt_hf import (
    IVideoGPTConfig,
    IVideoGPTForCausalLM,
    IVideoGPTVQConfig,
    IVideoGPTVQModel,
    Sampling,
    WorldModel,
)
from ivideogpt_hf.checkpoints.released import save_released
from ivideogpt_hf.models import released_config as original
from ivideogpt_hf.models.token_layout import TokenLayout
from ivideogpt_hf.models.vq_layers import ContextCrossAttention
from tests.conftest import build_original_world, build_vq_model, random_actions, random_frames

GREEDY = Sampling(greedy=True)
VQ_FILE, TRANSFORMER_FILE = "tokenizer/diffusion_pytorch_model.safetensors", "transformer/model.safetensors"


def save(world, folder):
    save_released(folder, (world.vq_model, world.transformer, world.processor))


@pytest.fixture(scope="module")
def written(original_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "checkpoint"
    save(original_world, folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A released checkpoint of one's own, to edit."""
    return shutil.copytree(written, tmp_path / "edited")


def edit_config(folder, part, **values):
    file = folder / part / "config.json"
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def edit_weights(file, change):
    weights = load_file(file)
    save_file(change(weights) or weights, file, metadata={"format": "pt"})


# -- every field ------------------------------------------------------------------------------------------------------


def own_fields(config_class):
    return {field.name for field in fields(config_class)} - {field.name for field in fields(PreTrainedConfig)}


def test_every_field_of_the_vq_config_is_written_or_has_one_value_or_counts_in_training_only():
    written = {IVideoGPTVQConfig.attribute_map.get(name, name) for name in original.VQ_FIELDS}
    groups = (written, set(original.VQ_FIXED), set(original.VQ_TRAINING))
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert set.union(*groups) == own_fields(IVideoGPTVQConfig)


def test_every_field_of_the_transformer_config_is_written_or_has_one_value_or_never_counts():
    written = set(original.LLAMA_FIELDS) - {"rope_theta", "rope_scaling"} | {"rope_parameters"}
    in_the_tokenizers_config = {field.name for field in fields(TokenLayout)} - {"repeat_last_context"}
    in_the_weights = {"action_dim", "predict_reward", "reconstruct_actions"}
    checked = {"head_dim"}
    never_count = {"use_cache", "pretraining_tp", "pad_token_id", "bos_token_id", "eos_token_id"}
    groups = (
        *(written, set(original.TRANSFORMER_FIXED), set(original.TRANSFORMER_EXTRA)),
        *(in_the_tokenizers_config, in_the_weights, checked, never_count),
    )
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert set.union(*groups) >= own_fields(IVideoGPTConfig)


# -- written and read again -------------------------------------------------------------------------------------------

VARIATIONS = {
    "action-free": {},
    "actions and reward": {"action_dim": 3, "predict_reward": True},
    "all heads": {"action_dim": 7, "predict_reward": True, "reconstruct_actions": True},
    "one context frame": {"vq": {"num_context_frames": 1}, "action_dim": 2},
    "three context frames": {"vq": {"num_context_frames": 3}, "max_position_embeddings": 900},
    "fine context": {"vq": {"max_att_resolution": 32}},
    "levels": {"vq": {"resolution": 64, "block_out_channels": (16, 32, 64), "norm_num_groups": 16,
                      "cross_attention_norm_groups": 32}},
    "width of codes": {"vq": {"vq_embed_dim": 5, "mid_block_add_attention": True, "layers_per_block": 2}},
    "activations": {"vq": {"act_fn": "gelu"}, "hidden_act": "relu"},
    "grouped queries": {"num_key_value_heads": 2, "attention_bias": True, "rms_norm_eps": 1e-5},
    "rotation": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "goal": {"goal_conditioned": True, "num_trained_frames": 2},
    "training only": {"vq": {"attention_dropout": 0.0, "commitment_cost": 0.25}, "attention_dropout": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIATIONS)
def test_what_is_written_predicts_the_same_when_it_is_read(tmp_path, name):
    world = build_original_world(**VARIATIONS[name])
    save(world, tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path)
    assert loaded.spec == world.spec
    layout, size = world.layout, world.spec.frame_size[0]
    frames = random_frames(1, layout.num_context_frames + 2, size=size)
    actions = random_actions(1, 2, world.spec.action_dim) if world.spec.action_dim else None
    tokens = [one.vq_model.tokenize(frames / 255)[0] for one in (loaded, world)]
    assert tokens[0].equal(tokens[1])
    with torch.no_grad():
        ours, theirs = (one.transformer(tokens[0], actions=actions) for one in (loaded, world))
    assert ours.logits.equal(theirs.logits)
    context = frames[:, : layout.num_context_frames]
    ours, theirs = (one.rollout(context, actions, num_frames=2, sampling=GREEDY) for one in (loaded, world))
    assert ours.tokens.equal(theirs.tokens)
    assert ours.frames.equal(theirs.frames)
    if world.spec.has_reward:  # MKL rounds by where weights lie in memory
        torch.testing.assert_close(ours.rewards, theirs.rewards)


def test_action_statistics_are_folded_into_the_released_weights(tmp_path):
    statistics = {"action_mean": [1.0, -2.0, 0.5], "action_std": [0.5, 2.0, 4.0]}
    world = build_original_world(action_dim=3, reconstruct_actions=True, processor=statistics)
    save(world, tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path)
    args = (random_frames(1, 2, size=32), random_actions(1, 3, 3))
    expected, released = (one.rollout(*args, sampling=GREEDY) for one in (world, loaded))
    assert released.tokens.equal(expected.tokens)
    torch.testing.assert_close(released.log_probs, expected.log_probs, atol=1e-3, rtol=1e-3)
    tokens = world.vq_model.tokenize(random_frames(1, 5, size=32) / 255)[0]
    with torch.no_grad():
        normalised = world.transformer(tokens, actions=world.processor.normalize_actions(args[1]))
        plain = loaded.transformer(tokens, actions=args[1]).reconstructed_actions
    mean, std = torch.tensor(statistics["action_mean"]), torch.tensor(statistics["action_std"])
    torch.testing.assert_close(plain, normalised.reconstructed_actions * std + mean, atol=1e-3, rtol=1e-3)


def test_heads_and_statistics_are_in_the_weights_and_dropout_is_never_written(tmp_path):
    save(build_original_world(action_dim=3, attention_dropout=0.1), tmp_path)
    config = json.loads((tmp_path / "transformer/config.json").read_text())
    assert config["attention_dropout"] == 0.0
    assert "action_dim" not in config


def test_shards_are_written_as_one_file(original_world, tmp_path):
    for part, network in (("tokenizer", original_world.vq_model), ("transformer", original_world.transformer)):
        network.save_pretrained(tmp_path / "ours" / part, max_shard_size="50KB")
    save(WorldModel.from_pretrained(tmp_path / "ours"), tmp_path / "released")
    assert len(list((tmp_path / "released").rglob("*.safetensors"))) == 2
    assert WorldModel.from_pretrained(tmp_path / "released").spec == original_world.spec


# -- refused, with nothing written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "config"),
    [
        ("resolution is 32 x 64", {"vq": {"resolution": (32, 64), "max_att_resolution": 64}}),
        ("8 x 8 tokens", {"vq": {"resolution": 16}}),
        ("32 x 32 tokens", {"vq": {"resolution": 64, "max_att_resolution": 32}}),
        ("patch_size", {"vq": {"patch_size": 2}}),
        ("num_attention_heads", {"vq": {"num_attention_heads": 8}}),
        ("normalize_latents", {"vq": {"normalize_latents": True}}),
        ("repeat_last_context", {"vq": {"repeat_last_context": True}}),
        ("cross_attention_norm_groups is 16.* norm_num_groups", {"vq": {"norm_num_groups": 16}}),
        ("cross_attention_norm_eps", {"vq": {"cross_attention_norm_eps": 1e-6}}),
        ("max_att_resolution is 8, so that there is no cross-attention", {"vq": {"max_att_resolution": 8}}),
        ("action_conditioning", {"action_dim": 3, "action_conditioning": "scale_shift"}),
        ("mlp_bias", {"mlp_bias": True}),
        ("mlp_bias", {"mlp_bias": True, "action_dim": 3}),
        ("head_dim", {"head_dim": 16}),
        ("tie_word_embeddings", {"tie_word_embeddings": True}),
        ("rope_parameters", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("hidden_act", {"hidden_act": "relu2"}),
        ("predict_reward", {"predict_reward": True}),
        ("draft_head", {"draft_head": True}),
        ("num_reward_bins", {"action_dim": 3, "predict_reward": True, "num_reward_bins": 5}),
        ("goal_conditioned", {"goal_conditioned": True, "action_dim": 3}),
        ("padded_action_dim", {"action_dim": 5, "processor": {"padded_action_dim": 5, "action_names": ["a", "b"]}}),
        ("padded_action_dim", {"action_dim": 5, "processor": {"padded_action_dim": 5}}),
        (
            "embodiments",
            {"action_dim": 5, "processor": {"padded_action_dim": 5, "embodiments": {"arm": {"action_dim": 2}}}},
        ),
        ("reward_transform", {"action_dim": 3, "predict_reward": True, "processor": {"reward_transform": "symlog"}}),
    ],
)
def test_what_the_original_code_cannot_run_is_refused(tmp_path, option, config):
    world = build_original_world(**{"max_position_embeddings": 3000, **config})
    with pytest.raises(ValueError, match=f"the original code cannot run this checkpoint.*{option}"):
        save(world, tmp_path / "released")
    assert not list(tmp_path.iterdir())


def test_all_that_is_in_the_way_is_named_at_once(tmp_path):
    world = build_original_world({"patch_size": 2}, max_position_embeddings=3000, mlp_bias=True)
    with pytest.raises(ValueError, match=r"patch_size.*mlp_bias"):
        save(world, tmp_path / "released")


def test_half_precision_is_refused(tmp_path):
    world = build_original_world()
    world.transformer.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"is torch\.bfloat16, it computes in float32"):
        save(world, tmp_path / "released")


def test_weights_that_are_not_in_memory_are_refused(tmp_path):
    world = build_original_world()
    world.transformer.lm_head.to("meta")
    with pytest.raises(ValueError, match=r"lm_head\.weight.*not in memory"):
        save(world, tmp_path / "released")


def test_parts_of_two_checkpoints_are_refused(tmp_path):
    world, other = build_original_world(), build_original_world({"num_context_frames": 1})
    with pytest.raises(ValueError, match="disagree on the token layout"):
        save_released(tmp_path / "released", (other.vq_model, world.transformer, world.processor))


@pytest.mark.parametrize("inside", [False, True])
def test_adapters_are_refused_until_they_are_merged(tmp_path, inside):
    """Around the model, or inside it."""
    peft = pytest.importorskip("peft")
    world = build_original_world()
    config = peft.LoraConfig(target_modules=["q_proj"], r=2)
    if inside:
        transformer = world.transformer
        peft.inject_adapter_in_model(config, transformer)
    else:
        transformer = peft.get_peft_model(world.transformer, config)
    with pytest.raises(ValueError, match="merge adapters"):
        save_released(tmp_path / "released", (world.vq_model, transformer, world.processor))
    if not inside:
        save_released(tmp_path / "released", (world.vq_model, transformer.merge_and_unload(), world.processor))


def test_quantised_weights_are_refused(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    world = build_original_world()
    quantization.quantize_(world.transformer, quantization.Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match="is quantised"):
        save(world, tmp_path / "released")


def test_weights_that_share_memory_are_written_twice(tmp_path):
    world = build_original_world()
    world.transformer.lm_head.weight = world.transformer.model.embed_tokens.weight
    save(world, tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path).transformer
    assert loaded.lm_head.weight.equal(loaded.model.embed_tokens.weight)


@pytest.mark.parametrize("exists", [False, True])
def test_a_write_that_fails_leaves_nothing(original_world, tmp_path, exists):
    resource = pytest.importorskip("resource")
    folder = tmp_path / "released"
    if exists:
        folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # as on a disk that is full
    try:
        with pytest.raises(OSError, match="cannot be written"):
            save(original_world, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.rglob("*")] == (["released"] if exists else [])


def test_other_files_are_never_mixed_with_a_released_checkpoint(original_world, tmp_path):
    """The processor of another one would normalise actions a second time."""
    original_world.save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="is not empty"):
        save(original_world, tmp_path)


# -- read as the original reads it ------------------------------------------------------------------------------------


def test_the_norms_of_the_cross_attention_are_the_originals_whatever_the_config_says(folder):
    edit_config(folder, "tokenizer", norm_num_groups=16, cross_attention_norm_eps=1e-6, cross_attention_norm_groups=4)
    model = IVideoGPTVQModel.from_pretrained(folder, subfolder="tokenizer")
    assert model.encoder.conv_norm_out.num_groups == 16
    norms = [norm for block in model.modules() if isinstance(block, ContextCrossAttention) for norm in block.children()
             if isinstance(norm, torch.nn.GroupNorm)]  # fmt: skip
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-5)}


def test_fields_that_the_original_does_not_know_count_for_nothing(original_world, folder):
    edit_config(folder, "tokenizer", normalize_latents=True, num_attention_heads=8, repeat_last_context=True, other=1)
    edit_config(folder, "transformer", mlp_bias=True, head_dim=16, action_conditioning="scale_shift", other=1)
    loaded = WorldModel.from_pretrained(folder)
    args = (random_frames(1, 2, size=32), random_actions(1, 2, 3))
    assert loaded.rollout(*args, sampling=GREEDY).tokens.equal(original_world.rollout(*args, sampling=GREEDY).tokens)


def test_fields_that_are_left_out_take_the_originals_defaults(written):
    config = IVideoGPTVQConfig.from_dict({"_class_name": "CompressiveVQModel", "resolution": 16})
    assert (config.latent_channels, config.layers_per_block, config.num_context_frames) == (3, 1, 1)
    assert config.mid_block_add_attention
    assert (config.max_att_resolution, config.patch_size, config.num_context_codes) == (32, 4, 256)


def test_positions_that_are_left_out_are_those_of_the_original(folder):
    edit_config(folder, "transformer", max_position_embeddings=...)
    assert WorldModel.from_pretrained(folder).transformer.config.max_position_embeddings == 2048


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("tokenizer", {"_class_name": "CNNFSQModel256"}, "_class_name is 'CNNFSQModel256'"),
        ("tokenizer", {"norm_type": "spatial"}, "norm_type is 'spatial'"),
        ("tokenizer", {"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types is"),
        ("tokenizer", {"up_block_types": ...}, "up_block_types is"),
        ("tokenizer", {"resolution": 64}, "a context frame has 32 x 32 tokens"),
        ("tokenizer", {"patch_size": 2}, "patch_size is 2"),
        ("tokenizer", {"max_att_resolution": 8}, "max_att_resolution is 8"),
        ("tokenizer", {"num_vq_embeddings": 25}, "wrong shape: quantize.embedding.weight"),
        ("tokenizer", {"block_out_channels": 32}, "block_out_channels"),
        ("transformer", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ("transformer", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("transformer", {"vocab_size": 32}, "vocab_size 32 does not fit the layout"),
        ("transformer", {"vocab_size": ...}, "vocab_size 32000 does not fit the layout"),
        ("transformer", {"model_type": "gpt2"}, "holds a 'gpt2' model"),
        ("transformer", {"attention_bias": True}, "missing: model.layers.0.self_attn"),
    ],
)
def test_a_released_config_that_the_original_cannot_run_is_refused(folder, part, values, message):
    edit_config(folder, part, **values)
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {"lm_head.weight": weights.pop("llm.lm_head.weight")} | weights, "begin with 'llm.'"),
        (lambda weights: {k: v for k, v in weights.items() if "action" not in k}, "reward_linear.weight without"),
        (lambda weights: {k: v for k, v in weights.items() if k.startswith("llm.")}, "begin with 'llm.'"),
        (lambda weights: weights | {"action_linear.weight": torch.zeros(3)}, "wrong shape: action_linear.weight"),
        (lambda weights: weights | {"llm.model.layers.0.mlp.up_proj.bias": torch.zeros(48)}, "not used by this model"),
    ],
)
def test_released_weights_that_the_original_cannot_load_are_refused(folder, change, message):
    edit_weights(folder / TRANSFORMER_FILE, change)
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(folder)


def test_a_transformer_without_its_tokenizers_config_is_refused(folder):
    shutil.rmtree(folder / "tokenizer")
    for place, subfolder in ((folder, "transformer"), (folder / "transformer", "")):
        with pytest.raises(OSError, match=r"tokenizer/config\.json beside"):
            IVideoGPTForCausalLM.from_pretrained(place, subfolder=subfolder)


@pytest.mark.parametrize("file", [VQ_FILE, TRANSFORMER_FILE])
def test_weights_under_another_name_are_refused(folder, file):
    (folder / file).rename((folder / file).with_name("model-00001-of-00002.safetensors"))
    with pytest.raises(OSError, match=file.rsplit("/", 1)[-1].split(".")[0]):
        WorldModel.from_pretrained(folder)


def test_goal_conditioning_can_be_told_for_a_released_checkpoint(tmp_path):
    save(build_original_world(), tmp_path)
    assert not WorldModel.from_pretrained(tmp_path).spec.goal_conditioned
    assert WorldModel.from_pretrained(tmp_path, goal_conditioned=True).spec.goal_conditioned


# -- the norms of the cross-attention in our layout -------------------------------------------------------------------


def norms_of(model):
    (norm, *_) = (block.q_norm for block in model.modules() if isinstance(block, ContextCrossAttention))
    return norm.num_groups, norm.eps


def test_a_new_model_has_the_originals_norms_and_keeps_them(tmp_path):
    model = build_vq_model()
    assert norms_of(model) == (32, 1e-5)
    model.save_pretrained(tmp_path)
    assert norms_of(IVideoGPTVQModel.from_pretrained(tmp_path)) == (32, 1e-5)


@pytest.mark.parametrize("remote_code", [False, True])
def test_a_model_that_was_saved_before_the_norms_were_fields_keeps_its_own(tmp_path, remote_code):
    from transformers import AutoModel

    build_original_world({"norm_num_groups": 8}).save_pretrained(tmp_path, remote_code=remote_code)
    file = tmp_path / "tokenizer/config.json"
    config = json.loads(file.read_text())
    del config["cross_attention_norm_eps"], config["cross_attention_norm_groups"]
    file.write_text(json.dumps(config))
    model = AutoModel.from_pretrained(tmp_path, subfolder="tokenizer", trust_remote_code=remote_code)
    assert norms_of_any(model) == (8, 1e-6)
    assert IVideoGPTVQConfig.from_json_file(file).cross_attention_norm_eps == 1e-6


def norms_of_any(model):
    """As `norms_of`, for a model whose classes may come from the checkpoint's code."""
    norm = model.cond_encoder.cross_att_blocks[0].q_norm
    return norm.num_groups, norm.eps


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cross_attention_norm_eps": 0.0}, "cross_attention_norm_eps must be in"),
        ({"cross_attention_norm_groups": 5}, "not divisible by all of"),
        ({"cross_attention_norm_groups": 0}, "not divisible by all of"),
    ],
)
def test_norms_that_cannot_be_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_vq_model(**config)


def test_levels_without_cross_attention_need_not_divide_by_its_norms():
    sizes = {"block_out_channels": (18, 64, 64), "resolution": 32, "max_att_resolution": 8, "patch_size": 2}
    assert norms_of(build_vq_model(**sizes, norm_num_groups=2, cross_attention_norm_groups=32)) == (32, 1e-5)
