import pytest
import torch
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    MaxLengthCriteria,
    StaticCache,
    StoppingCriteriaList,
    Trainer,
    TrainingArguments,
)

from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM
from tests.conftest import build_transformer, build_vq_model, random_actions

VQ_CONFIG = build_vq_model().config
LAYOUT = VQ_CONFIG.layout


def tokens(num_clips=2, num_frames=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, 24, (num_clips, LAYOUT.prompt_length), generator=generator)
    codes = torch.randint(24, 64, (num_clips, num_frames, 4), generator=generator)
    blocks = torch.nn.functional.pad(codes, (1, 0), value=LAYOUT.slot_id)
    return torch.cat([prompt, blocks.flatten(1)], dim=1)


def test_action_free_model_is_a_llama():
    model = build_transformer(VQ_CONFIG)
    llama = LlamaForCausalLM(model.config)
    llama.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(tokens()).logits, llama.eval()(tokens()).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_converting_is_loading_in_that_dtype(tmp_path, dtype):
    """Positions are told apart by frequencies that half precision would round."""
    model = build_transformer(VQ_CONFIG)
    model.save_pretrained(tmp_path)
    loaded = IVideoGPTForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    logits = build_transformer(VQ_CONFIG).to(dtype)(tokens()).logits
    assert logits.dtype == dtype
    assert logits.equal(loaded(tokens()).logits)
    there_and_back = build_transformer(VQ_CONFIG).to(dtype).float().model.rotary_emb.inv_freq
    assert there_and_back.equal(model.model.rotary_emb.inv_freq)


def test_action_input_starts_at_zero(tmp_path):
    free = build_transformer(VQ_CONFIG)
    free.save_pretrained(tmp_path)
    conditioned = IVideoGPTForCausalLM.from_pretrained(tmp_path, action_dim=3)
    assert conditioned.action_linear.weight.eq(0).all()
    logits = conditioned(tokens(), actions=random_actions(2, 3, 3)).logits
    torch.testing.assert_close(logits, free(tokens()).logits)


def test_an_action_changes_nothing_before_its_slot():
    model = build_transformer(VQ_CONFIG, action_dim=3)
    actions = random_actions(2, 3, 3)
    changed = actions.clone()
    changed[:, 1] += 1
    slot = LAYOUT.slot(1)
    before, after = model(tokens(), actions=actions).logits, model(tokens(), actions=changed).logits
    assert before[:, :slot].equal(after[:, :slot])
    assert (before[:, slot] - after[:, slot]).abs().max() > 1e-3


def test_an_action_is_added_to_the_embedding_of_its_slot():
    model = build_transformer(VQ_CONFIG, action_dim=3)
    actions = random_actions(2, 3, 3)
    embeds = model.model.embed_tokens(tokens()).clone()
    for i in range(3):
        embeds[:, LAYOUT.slot(i)] += model.action_linear(actions[:, i])
    expected = model.lm_head(model.model(inputs_embeds=embeds).last_hidden_state)
    torch.testing.assert_close(model(tokens(), actions=actions).logits, expected)


def test_reward_is_read_at_the_last_token_of_each_frame():
    model = build_transformer(VQ_CONFIG, predict_reward=True, reconstruct_actions=True, action_dim=2)
    output = model(tokens(), actions=random_actions(2, 3, 2), output_hidden_states=True)
    ends = [LAYOUT.slot(i + 1) - 1 for i in range(3)]
    hidden = output.hidden_states[-1][:, ends]
    torch.testing.assert_close(output.rewards, model.reward_linear(hidden)[..., 0])
    assert output.reconstructed_actions.shape == (2, 3, 2)


def test_loss_is_the_shifted_cross_entropy_of_the_labelled_tokens():
    model = build_transformer(VQ_CONFIG)
    labels = tokens().clone()
    labels[:, : LAYOUT.slot(0) + 1] = -100
    output = model(tokens(), labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
def test_cached_equals_recomputed_at_every_position(key_value_heads):
    model = build_transformer(VQ_CONFIG, action_dim=3, predict_reward=True, num_key_value_heads=key_value_heads)
    actions = random_actions(2, 3, 3)
    whole = model(tokens(), actions=actions)
    cache, logits, rewards, first = None, [], [], 0
    for stop in (LAYOUT.prompt_length - 3, LAYOUT.slot(0) + 2, LAYOUT.slot(1), LAYOUT.slot(1) + 1, LAYOUT.slot(3)):
        rows = slice(LAYOUT.num_slots_before(first), LAYOUT.num_slots_before(stop))
        output = model(tokens()[:, first:stop], actions=actions[:, rows], past_key_values=cache, use_cache=True)
        cache, first = output.past_key_values, stop
        logits.append(output.logits)
        rewards.append(output.rewards)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(rewards, dim=1), whole.rewards, atol=1e-4, rtol=1e-4)


def test_scale_and_shift_leave_an_ordinary_checkpoint_unchanged(tmp_path):
    ordinary = build_transformer(VQ_CONFIG, action_dim=3)
    ordinary.save_pretrained(tmp_path)
    modulated = IVideoGPTForCausalLM.from_pretrained(tmp_path, action_conditioning="scale_shift")
    actions = random_actions(2, 3, 3)
    torch.testing.assert_close(modulated(tokens(), actions=actions).logits, ordinary(tokens(), actions=actions).logits)


def test_scale_and_shift_act_where_a_frame_is_decided():
    model = build_transformer(VQ_CONFIG, action_dim=3, action_conditioning="scale_shift")
    actions = random_actions(2, 3, 3)
    x = model.model.embed_tokens(tokens()).clone()
    for i in range(3):
        x[:, LAYOUT.slot(i)] += model.action_linear(actions[:, i])
    first = model.model.layers[0]
    for i in range(3):
        acting = slice(LAYOUT.slot(i), LAYOUT.slot(i + 1) - 1)  # the slot, and all tokens but the last
        scale, shift = first.action_modulation(actions[:, i, None]).chunk(2, dim=-1)
        x[:, acting] = x[:, acting] * (1 + scale) + shift
    seen = []
    first.input_layernorm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(tokens(), actions=actions)
    torch.testing.assert_close(seen[0], x)


def test_scale_and_shift_cached_equal_recomputed_within_frames():
    model = build_transformer(VQ_CONFIG, action_dim=3, action_conditioning="scale_shift")
    actions = random_actions(2, 3, 3)
    whole = model(tokens(), actions=actions).logits
    cache, logits, first = None, [], 0
    for stop in (LAYOUT.prompt_length, LAYOUT.slot(0) + 2, LAYOUT.slot(1) + 1, LAYOUT.slot(1) + 4, LAYOUT.slot(3)):
        acting = LAYOUT.acting_frames(first, stop)
        given = actions[:, acting.start : acting.stop]
        output = model(tokens()[:, first:stop], actions=given, past_key_values=cache, use_cache=True)
        cache, first = output.past_key_values, stop
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conditioning", ["add", "scale_shift"])
def test_generate_takes_actions_for_every_slot(conditioning):
    model = build_transformer(VQ_CONFIG, action_dim=3, action_conditioning=conditioning)
    prompt = tokens()[:, : LAYOUT.slot(0) + 1]
    settings = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt), "max_new_tokens": 4}
    generated = [model.generate(prompt, actions=random_actions(2, 1, 3, seed=seed), **settings) for seed in (0, 0, 1)]
    assert generated[0].equal(generated[1])
    assert not generated[0].equal(generated[2])


@pytest.mark.parametrize("length", [{"max_new_tokens": 9}, {"max_length": LAYOUT.slot(0) + 10}])
def test_generate_counts_actions_before_it_begins(length):
    model = build_transformer(VQ_CONFIG, action_dim=3)
    prompt = tokens()[:, : LAYOUT.slot(0) + 1]
    settings = {"do_sample": False, "pad_token_id": 0, **length}
    assert model.generate(prompt, actions=random_actions(2, 2, 3), **settings).shape[1] == LAYOUT.slot(2)
    with pytest.raises(ValueError, match=r"begin 2 frames, and there are actions for 1: pass actions \(B, 2, 3\)"):
        model.generate(prompt, actions=random_actions(2, 1, 3), **settings)
    stops = StoppingCriteriaList([MaxLengthCriteria(LAYOUT.slot(1))])  # of which the count knows nothing
    generated = model.generate(prompt, actions=random_actions(2, 1, 3), stopping_criteria=stops, **settings)
    assert generated.shape[1] == LAYOUT.slot(1)


@pytest.mark.parametrize("conditioning", ["add", "scale_shift"])
def test_static_cache_gives_the_same_generation(conditioning):
    model = build_transformer(VQ_CONFIG, action_dim=3, action_conditioning=conditioning)
    prompt = tokens()[:, : LAYOUT.slot(0) + 1]
    settings = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt), "max_new_tokens": 4}
    settings["actions"] = random_actions(2, 1, 3)
    static = StaticCache(config=model.config, max_cache_len=160)
    assert model.generate(prompt, **settings).equal(model.generate(prompt, past_key_values=static, **settings))


def test_rewards_with_a_static_cache():
    """Which counts its tokens while the layers run."""
    model = build_transformer(VQ_CONFIG, predict_reward=True)
    rewards = []
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=160)):
        model(tokens()[:, : LAYOUT.slot(1)], past_key_values=cache, use_cache=True)
        output = model(tokens()[:, LAYOUT.slot(1) :], past_key_values=cache, use_cache=True)
        rewards.append(output.rewards)
    torch.testing.assert_close(*rewards, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = build_transformer(VQ_CONFIG, action_dim=3).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(tokens(), actions=random_actions(2, 3, 3), labels=tokens()).loss.backward()
        gradients.append(model.action_linear.weight.grad)
    torch.testing.assert_close(*gradients)


def test_eager_attention_equals_sdpa(tmp_path):
    build_transformer(VQ_CONFIG).save_pretrained(tmp_path)
    logits = [
        IVideoGPTForCausalLM.from_pretrained(tmp_path, attn_implementation=name)(tokens()).logits
        for name in ("eager", "sdpa")
    ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_tied_embeddings_are_saved_and_loaded(tmp_path):
    model = build_transformer(VQ_CONFIG, tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = IVideoGPTForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("max_shard_size", ["50GB", "20KB"])
def test_save_and_load_round_trip(tmp_path, max_shard_size):
    model = build_transformer(VQ_CONFIG, action_dim=3, predict_reward=True, reconstruct_actions=True)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    loaded = IVideoGPTForCausalLM.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor), name


@pytest.mark.parametrize(
    ("config", "count", "tolerance"),
    [
        ({}, 138_434_304, 0),
        (
            {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
            436_000_000,
            1_000_000,
        ),
    ],
)
def test_released_sizes(config, count, tolerance):
    with torch.device("meta"):
        model = IVideoGPTForCausalLM(IVideoGPTConfig(**config))
    assert abs(sum(parameter.numel() for parameter in model.parameters()) - count) <= tolerance


@pytest.mark.parametrize(
    ("action_dim", "actions", "message"),
    [
        (0, torch.zeros(2, 3, 3), "action-free"),
        (3, None, "are missing"),
        (3, torch.zeros(2, 2, 3), "one row for each slot"),
        (3, torch.zeros(2, 3, 4), "one row for each slot"),
    ],
)
def test_actions_that_do_not_fit_are_refused(action_dim, actions, message):
    model = build_transformer(VQ_CONFIG, action_dim=action_dim)
    with pytest.raises(ValueError, match=message):
        model(tokens(), actions=actions)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 100}, "does not fit the layout"),
        ({"max_position_embeddings": 130}, "leaves no room"),
        ({"action_dim": -1}, "action_dim must be"),
        ({"num_trained_frames": 0}, "num_trained_frames must be at least 1, or None"),
        ({"reconstruct_actions": True}, "needs action_dim"),
        ({"goal_conditioned": True, "num_context_frames": 1}, "num_context_frames >= 2"),
    ],
)
def test_config_that_contradicts_itself_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_transformer(VQ_CONFIG, **config) if "num_context_frames" not in config else IVideoGPTConfig(**config)


# -- transformers' Trainer --------------------------------------------------------------------------------------------


def trained(tmp_path, batch, accumulation, **options):
    """Loss and gradient norm of one update, on eight clips with different numbers of labels."""
    model = build_transformer(VQ_CONFIG, action_dim=3, predict_reward=True)
    ids, clips = tokens(8), []
    for row, actions in enumerate(random_actions(8, 3, 3)):
        labels = ids[row].clone()
        labels[: LAYOUT.slot(0) + row] = -100
        clips.append({"input_ids": ids[row], "labels": labels, "actions": actions})
    arguments = TrainingArguments(
        str(tmp_path / "trainer"),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=1e9,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=clips)
    trainer.train()
    with torch.no_grad():
        logits = model(ids, actions=torch.stack([clip["actions"] for clip in clips])).logits[:, :-1].flatten(0, 1)
    labels = torch.stack([clip["labels"] for clip in clips])[:, 1:].flatten()
    smoothing = options.get("label_smoothing_factor", 0.0)
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(loss.item(), rel=1e-4)
    return entry["grad_norm"]


@pytest.mark.parametrize("options", [{}, {"label_smoothing_factor": 0.1}])
def test_trainers_gradients_do_not_depend_on_the_accumulation(tmp_path, options):
    whole = trained(tmp_path, 8, 1, **options)
    for batch, accumulation in ((4, 2), (1, 8)):
        assert trained(tmp_path, batch, accumulation, **options) == pytest.approx(whole, rel=1e-4)


# -- as a causal language model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["add", "scale_shift"])
def test_generate_takes_embeddings(conditioning):
    model = build_transformer(VQ_CONFIG, action_dim=3, action_conditioning=conditioning)
    prompt = tokens()[:, : LAYOUT.slot(0) + 1]
    settings = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 4, "actions": random_actions(2, 1, 3)}
    settings["attention_mask"] = torch.ones_like(prompt)
    embeddings = model.get_input_embeddings()(prompt)
    new = model.generate(prompt, **settings)[:, prompt.shape[1] :]
    assert model.generate(inputs_embeds=embeddings, **settings).equal(new)


def test_shifted_labels_replace_the_others():
    model, labels = build_transformer(VQ_CONFIG), tokens()
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    expected = model(tokens(), labels=labels).loss
    torch.testing.assert_close(model(tokens(), labels=labels.flip(0), shift_labels=shifted).loss, expected)


def test_checkpointing_in_the_config_holds_for_modulated_layers():
    config = build_transformer(VQ_CONFIG, action_dim=3, action_conditioning="scale_shift").config
    config.gradient_checkpointing = True
    assert all(layer.gradient_checkpointing for layer in IVideoGPTForCausalLM(config).model.layers)


def test_an_adapter_needs_no_names_of_modules_and_finds_its_base(tmp_path):
    peft = pytest.importorskip("peft")
    build_transformer(VQ_CONFIG).save_pretrained(tmp_path / "world/transformer")
    base = IVideoGPTForCausalLM.from_pretrained(tmp_path / "world", subfolder="transformer")
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    assert adapted.peft_config["default"].target_modules == {"q_proj", "v_proj"}
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded(tokens()).logits, adapted.eval()(tokens()).logits)
