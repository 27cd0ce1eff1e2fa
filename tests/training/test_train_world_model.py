"""What the transformer is trained on and from: conditioning, heads, tokens, adapters, and what comes out."""

import ast
import copy
import json
import re
import warnings

import numpy as np
import pytest
import torch

from ivideogpt_hf import IVideoGPTVideoProcessor, Mixture, SegmentDataset, SegmentSpec, Source, WorldModel
from ivideogpt_hf.data.clips.dataset import ClipKey
from ivideogpt_hf.data.clips.tokens import TokenDataset
from ivideogpt_hf.extras import how_to_install
from ivideogpt_hf.publish import prepare
from ivideogpt_hf.training.arguments import (
    DataArguments,
    OptimizationArguments,
    RunArguments,
    TokenizeArguments,
    WorldModelArguments,
)
from ivideogpt_hf.training.export import merge_adapters, save_adapters
from ivideogpt_hf.training.networks import add_lora, make_transformer
from ivideogpt_hf.training.tokenizing import tokenize
from ivideogpt_hf.training.train_world_model import WorldModelLosses, train_world_model
from tests.conftest import build_transformer, build_vq_model, build_world, hide_package, random_frames
from tests.data.files import make_dataset
from tests.training.conftest import run

pytest.importorskip("accelerate")

NUM_FRAMES = 5
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LAYOUT = build_vq_model().config.layout


def asked(**changes):
    """WorldModelArguments for a new transformer, unless one to start from is named."""
    default = {} if "transformer" in changes else {"transformer_config": SIZES | {"max_position_embeddings": 160}}
    return WorldModelArguments(**{"vq_model": "vq"} | default | changes)


def batch_of(num_clips=2, seed=0, action_dim=3):
    """A batch as the loader gives it."""
    generator = torch.Generator().manual_seed(seed)
    steps = NUM_FRAMES - 1
    return {
        "frames": random_frames(num_clips, NUM_FRAMES, seed=seed),
        "actions": torch.randn(num_clips, steps, action_dim, generator=generator),
        "action_mask": torch.ones(num_clips, action_dim, dtype=torch.bool),
        "rewards": torch.randn(num_clips, steps, generator=generator) * 5,
        "source": torch.zeros(num_clips, dtype=torch.int64),
    }


def losses_of(arguments, **processor):
    size = {"height": 16, "width": 16}
    processor = IVideoGPTVideoProcessor(size=size, reward_transform=arguments.reward_transform, **processor)
    return WorldModelLosses(arguments, build_vq_model(), processor, (-10.0, 10.0))


def terms_of(arguments, transformer, batch):
    losses = losses_of(arguments)
    tokens = losses.tokens_of(batch)
    return losses.terms(transformer, tokens, tokens, batch)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_dataset(tmp_path_factory.mktemp("data") / "arm", [12, 9, 14, 11], test_fraction=0.3))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of complete checkpoints: without and with actions and rewards, for one VQ model."""
    root = tmp_path_factory.mktemp("checkpoints")
    build_world().save_pretrained(root / "free")
    build_world(action_dim=3, predict_reward=True).save_pretrained(root / "conditioned")
    return root


def train(folder, vq_model, output, num_updates=2, data=None, **changes):
    return train_world_model(
        RunArguments(
            output_dir=str(output),
            num_updates=num_updates,
            validate_every=0,
            log_every=1,
            save_every=50,
        ),
        data or DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none", validation_split=None),
        OptimizationArguments(batch_size=2, learning_rate=1e-3, warmup_updates=0),
        asked(vq_model=str(vq_model), **changes),
    )


# -- losses -----------------------------------------------------------------------------------------------------------


def test_an_action_free_checkpoint_starts_where_it_was(checkpoints):
    free = WorldModel.from_pretrained(checkpoints / "free").transformer
    grown = make_transformer(asked(transformer=str(checkpoints / "free"), actions=True), LAYOUT, 3, 3).eval()
    batch = batch_of()
    before = terms_of(asked(), free, batch)["loss"]
    torch.testing.assert_close(terms_of(asked(actions=True), grown, batch)["loss"], before)


def test_a_reward_head_is_left_out_on_request(checkpoints):
    before = WorldModel.from_pretrained(checkpoints / "conditioned").transformer
    wanted = asked(transformer=str(checkpoints / "conditioned"), actions=True, drop_reward_head=True)
    without = make_transformer(wanted, LAYOUT, 3, 3).eval()
    assert not without.config.predict_reward
    expected = terms_of(asked(actions=True), before, batch_of())["cross_entropy"]
    torch.testing.assert_close(terms_of(wanted, without, batch_of())["cross_entropy"], expected)


def test_a_draft_head_is_trained_alone(folder, checkpoints, tmp_path):
    start = {"transformer": str(checkpoints / "conditioned"), "actions": True, "rewards": True}
    train(folder, checkpoints / "conditioned", tmp_path / "drafting", **start, draft_head=True)
    before, after = (
        WorldModel.from_pretrained(path).transformer.state_dict()
        for path in (checkpoints / "conditioned", tmp_path / "drafting")
    )
    assert all(after[name].equal(weight) for name, weight in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"draft_head"}
    metrics = [json.loads(line) for line in (tmp_path / "drafting" / "metrics.jsonl").read_text().splitlines()]
    assert any("draft_cross_entropy" in key for row in metrics for key in row)

    # What is trained on from there draws other tokens than the head has learned.
    start["transformer"] = str(tmp_path / "drafting")
    assert not make_transformer(asked(**start), LAYOUT, 3, 3).config.draft_head


@pytest.mark.parametrize("source", ["free", "conditioned"])
def test_scale_and_shift_start_where_the_checkpoint_was(checkpoints, source):
    has_actions = source == "conditioned"
    wanted = asked(transformer=str(checkpoints / source), actions=True, rewards=True, action_conditioning="scale_shift")
    grown = make_transformer(wanted, LAYOUT, 3, 3).eval()
    before = WorldModel.from_pretrained(checkpoints / source).transformer
    expected = terms_of(asked(actions=has_actions), before, batch_of())["cross_entropy"]
    torch.testing.assert_close(terms_of(wanted, grown, batch_of())["cross_entropy"], expected)
    assert grown.config.action_conditioning == "scale_shift"


def test_the_loss_is_that_of_the_whole_sequence():
    """Logits are computed only where there is loss: the result is that of computing all."""
    arguments, transformer, batch = (
        asked(actions=True),
        build_transformer(build_vq_model().config, action_dim=3),
        batch_of(),
    )
    losses = losses_of(arguments)
    tokens, labels = losses.vq_model.tokenize(batch["frames"].float() / 255)
    expected = transformer(tokens, actions=batch["actions"][:, 1:], labels=labels).loss
    torch.testing.assert_close(losses.terms(transformer, tokens, tokens, batch)[0], expected)


@pytest.mark.parametrize("transform", ["symlog", "identity"])
def test_the_state_after_an_action_predicts_its_reward(transform):
    """Row t of a clip's rewards comes with the step from frame t to t + 1: it is compared with what the head reads at
    the end of frame t + 1."""
    arguments = asked(rewards=True, reward_transform=transform)
    transformer = build_transformer(build_vq_model().config, predict_reward=True)
    losses, batch = losses_of(arguments), batch_of()
    tokens = losses.tokens_of(batch)
    hidden = transformer.model(input_ids=tokens).last_hidden_state
    expected = []
    for t in range(LAYOUT.num_context_frames - 1, NUM_FRAMES - 1):
        future_frame = t + 1 - LAYOUT.num_context_frames
        predicted = transformer.reward_linear(hidden[:, LAYOUT.slot(future_frame + 1) - 1])[:, 0]
        reward = batch["rewards"][:, t]
        wanted = reward.sign() * reward.abs().log1p() if transform == "symlog" else reward
        expected.append((predicted - wanted).square())
    measured = losses.terms(transformer, tokens, tokens, batch)[1]["reward_mse"]
    torch.testing.assert_close(measured, torch.stack(expected).mean())


@pytest.mark.parametrize("num_bins", [None, 41])
def test_a_reward_head_learns_rewards_that_actions_cause(num_bins):
    """With rewards that equal the action of the same row, only the right alignment can be learnt."""
    torch.manual_seed(0)
    arguments = asked(actions=True, rewards=True, reward_transform="identity", num_reward_bins=num_bins)
    transformer = make_transformer(arguments, LAYOUT, 1, 3)
    losses = losses_of(arguments)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=3e-3)
    for step in range(120):
        batch = batch_of(8, seed=step, action_dim=1)
        batch["rewards"] = batch["actions"][:, :, 0]
        tokens = losses.tokens_of(batch)
        _, terms = losses.terms(transformer, tokens, tokens, batch)
        optimizer.zero_grad()
        terms["reward_cross_entropy" if num_bins else "reward_mse"].backward()
        optimizer.step()
    assert terms["reward_mse"] < 0.3  # the variance of the rewards is 1


def test_a_reward_head_of_other_bins_is_refused(checkpoints):
    wanted = asked(transformer=str(checkpoints / "conditioned"), actions=True, rewards=True, num_reward_bins=5)
    with pytest.raises(ValueError, match="num_reward_bins is 5"):
        make_transformer(wanted, LAYOUT, 3, 3)


def test_padded_action_dimensions_do_not_count():
    arguments = asked(actions=True, reconstruct_actions=True)
    transformer = build_transformer(build_vq_model().config, action_dim=3, reconstruct_actions=True)
    batch = batch_of()
    batch["action_mask"][0, 1:] = False
    batch["actions"][0, :, 1:] = 0
    measured = terms_of(arguments, transformer, batch)["action_mse"]
    losses = losses_of(arguments)
    output = transformer(losses.tokens_of(batch), actions=batch["actions"][:, 1:])
    error = (output.reconstructed_actions - batch["actions"][:, 1:]).square()
    torch.testing.assert_close(measured, (error[0, :, :1].mean() + error[1].mean()) / 2)


def test_the_terms_of_a_batch_are_the_means_of_its_parts():
    """So that neither micro-batches nor processes change the gradient, whatever the clips' numbers of dimensions."""
    arguments = asked(actions=True, reconstruct_actions=True, rewards=True)
    transformer = build_transformer(
        build_vq_model().config, action_dim=3, reconstruct_actions=True, predict_reward=True
    )
    batch = batch_of(num_clips=4)
    batch["action_mask"][0, 1:] = False
    batch["action_mask"][2, 2:] = False
    whole = terms_of(arguments, transformer, batch)
    parts = [
        terms_of(arguments, transformer, {name: value[i : i + 1] for name, value in batch.items()}) for i in range(4)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).mean(), value)


def test_noise_replaces_dynamics_tokens_only(checkpoints):
    arguments = asked(token_noise=0.5)
    losses = losses_of(arguments)
    seen = []
    transformer = make_transformer(arguments, LAYOUT, None, 3)
    transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    batch = batch_of(4)
    losses.loss(transformer, batch, None, 0)
    tokens = losses.tokens_of(batch)
    changed = seen[0] != tokens
    slots = [LAYOUT.slot(i) for i in range(3)]
    assert changed.any()
    assert not changed[:, : LAYOUT.prompt_length].any()
    assert not changed[:, slots].any()


# -- whole trainings --------------------------------------------------------------------------------------------------


def test_the_output_is_a_checkpoint_that_says_how_it_was_made(folder, checkpoints, tmp_path):
    train(folder, checkpoints / "free", tmp_path / "out", actions=True, rewards=True)
    world = WorldModel.from_pretrained(tmp_path / "out")
    assert (world.spec.action_dim, world.spec.has_reward, world.spec.num_trained_frames) == (3, True, NUM_FRAMES - 2)
    rollout = world.rollout(random_frames(1, 2), torch.zeros(1, 2, 3))
    assert rollout.frames.shape == (1, 2, 3, 16, 16)
    made = json.loads((tmp_path / "out/training.json").read_text())
    assert made["arguments"]["learning_rate"] == 1e-3
    assert made["data"][0]["fingerprint"]
    assert made["versions"]["torch"] == torch.__version__
    card = (tmp_path / "out/README.md").read_text()
    assert 'WorldModel.from_pretrained("out")' in card
    assert "- arm" in card
    assert str(tmp_path) not in card


def test_a_held_out_clip_is_the_checkpoints_own_episode(folder, checkpoints, tmp_path):
    """As it is in the data, though the model was trained on normalised actions."""
    source = Source(folder, action_normalization="standardize")
    data = DataArguments(data=Mixture([source]), num_frames=NUM_FRAMES, augmentation="none")
    train(None, checkpoints / "free", tmp_path / "out", data=data, actions=True, rewards=True)
    clip = SegmentDataset(
        Source(folder, split="test"), SegmentSpec(NUM_FRAMES), size=(16, 16), actions=True, rewards=True
    )[0]
    with np.load(tmp_path / "out/episode.npz") as episode:
        np.testing.assert_array_equal(episode["frames"], clip["frames"])
        np.testing.assert_allclose(episode["actions"], clip["actions"], atol=1e-5)
        np.testing.assert_array_equal(episode["rewards"], clip["rewards"])


def test_a_trained_checkpoint_is_published_with_a_picture(folder, checkpoints, tmp_path):
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none")
    train(None, checkpoints / "free", tmp_path / "out", data=data, actions=True)
    with prepare(tmp_path / "out", "tester/arm", None) as publication:
        assert publication.preview == "preview.gif"


@pytest.mark.parametrize("lack", ["validation", "frames"])
def test_without_held_out_frames_there_is_no_episode(folder, checkpoints, tmp_path, lack):
    split = None if lack == "validation" else "test"
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none", validation_split=split)
    vq_model, changes = str(checkpoints / "free"), {}
    if lack == "frames":
        tokenize(TokenizeArguments(output_dir=str(tmp_path / "tokens"), vq_model=vq_model), data)
        data, changes = DataArguments(), {"tokens": str(tmp_path / "tokens")}
    train(None, vq_model, tmp_path / "out", data=data, **changes)
    assert not (tmp_path / "out/episode.npz").exists()


def test_goal_conditioned_training(folder, checkpoints, tmp_path):
    train(folder, checkpoints / "free", tmp_path / "out", goal_conditioned=True)
    assert WorldModel.from_pretrained(tmp_path / "out").spec.goal_conditioned
    assert not (tmp_path / "out/episode.npz").exists()


def test_a_checkpoint_goes_on_with_another_number_of_context_frames(folder, checkpoints, tmp_path):
    one = build_vq_model(num_context_frames=1)
    one.save_pretrained(tmp_path / "vq/tokenizer")
    train(folder, tmp_path / "vq", tmp_path / "out", transformer=str(checkpoints / "free"))
    assert WorldModel.from_pretrained(tmp_path / "out").spec.num_context_frames == 1


def test_a_checkpoint_goes_on_with_its_last_context_frame_coded_twice(folder, checkpoints, tmp_path):
    free = str(checkpoints / "free")
    train(folder, checkpoints / "free", tmp_path / "out", transformer=free, repeat_last_context=True)
    world = WorldModel.from_pretrained(tmp_path / "out")
    assert world.layout.prompt_length == LAYOUT.prompt_length + LAYOUT.block_length
    assert world.rollout(random_frames(1, 2), num_frames=2).frames.shape[1] == 2


def test_tokens_written_once_train_as_clips_do(folder, checkpoints, tmp_path):
    """The same clips, coded before or during training, give the same weights."""
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none", validation_split=None)
    wanted = {"actions": True, "rewards": True}
    tokenize(TokenizeArguments(output_dir=str(tmp_path / "tokens"), vq_model=str(checkpoints / "free"), **wanted), data)
    train(
        None, checkpoints / "free", tmp_path / "cached", data=DataArguments(), tokens=str(tmp_path / "tokens"), **wanted
    )
    cached = WorldModel.from_pretrained(tmp_path / "cached")
    clips = SegmentDataset(folder, SegmentSpec(NUM_FRAMES), size=(16, 16), actions=True, rewards=True)
    coded = TokenDataset(tmp_path / "tokens", "train")
    assert len(coded) == len(clips)
    for index in range(0, len(clips), 7):
        clip = clips[index]
        found = coded[ClipKey(0, 0, index)]
        tokens, _ = cached.vq_model.tokenize(clip["frames"][None].float() / 255)
        assert found["tokens"].equal(tokens[0])
        assert found["actions"].equal(clip["actions"])
        assert found["rewards"].equal(clip["rewards"])


def test_sources_of_different_widths_are_padded(folder, checkpoints, tmp_path):
    wide = make_dataset(tmp_path / "hand", [12, 12], width=5)
    data = DataArguments(
        data=Mixture([Source(folder), Source(str(wide))]),
        num_frames=NUM_FRAMES,
        augmentation="none",
        validation_split=None,
    )
    train(None, checkpoints / "free", tmp_path / "out", data=data, actions=True, reconstruct_actions=True)
    world = WorldModel.from_pretrained(tmp_path / "out")
    assert world.transformer.config.action_dim == 5
    assert world.processor.embodiments.keys() == {"arm", "hand"}


def test_clips_of_several_robots_make_no_episode(folder, checkpoints, tmp_path):
    """Their actions are padded, and normalised by each robot's own statistics."""
    wide = make_dataset(tmp_path / "hand", [12, 12], width=5)
    sources = [Source(folder), Source(str(wide))]
    data = DataArguments(data=Mixture(sources), num_frames=NUM_FRAMES, augmentation="none", validation_split="train")
    train(None, checkpoints / "free", tmp_path / "out", data=data, actions=True)
    assert not (tmp_path / "out/episode.npz").exists()


def test_adapters_are_merged_and_saved_with_the_action_input(folder, checkpoints, tmp_path):
    peft = pytest.importorskip("peft")
    train(
        folder,
        checkpoints / "conditioned",
        tmp_path / "out",
        num_updates=3,
        transformer=str(checkpoints / "conditioned"),
        lora_rank=2,
        actions=True,
        rewards=True,
    )
    before = WorldModel.from_pretrained(checkpoints / "conditioned").transformer
    whole = WorldModel.from_pretrained(tmp_path / "out").transformer
    assert not whole.action_linear.weight.equal(before.action_linear.weight)
    assert whole.model.embed_tokens.weight.equal(before.model.embed_tokens.weight)
    adapted = merge_adapters(peft.PeftModel.from_pretrained(copy.deepcopy(before), tmp_path / "out/adapter"))
    tokens = torch.randint(0, 24, (1, LAYOUT.prompt_length))
    torch.testing.assert_close(adapted(tokens).logits, whole.eval()(tokens).logits)
    texts = [(tmp_path / "out/adapter" / name).read_text() for name in ("README.md", "adapter_config.json")]
    assert not any(str(tmp_path) in text or "More Information Needed" in text for text in texts)
    assert 'PeftModel.from_pretrained(world.transformer, "adapter")' in texts[0]


@pytest.mark.parametrize("base", ["default", "owner/name", "folder"])
def test_the_card_of_adapters_loads_the_checkpoint_that_they_belong_to(tmp_path, monkeypatch, base):
    """It is Python, and a folder's name means nothing elsewhere."""
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    save_adapters(add_lora(build_transformer(build_vq_model().config), 2, None), tmp_path / "adapter", base)
    (code,) = re.findall("```python\n(.*?)```", (tmp_path / "adapter/README.md").read_text(), re.DOTALL)
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert texts == ["CHECKPOINT" if base == "folder" else base, "adapter"]


def test_what_a_training_began_from_stands_in_its_record(folder, tmp_path):
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, validation_split=None)
    tokenize(TokenizeArguments(output_dir=str(tmp_path / "tokens"), vq_model="default", clips_per_pass=1), data)
    record = json.loads((tmp_path / "tokens/tokens.json").read_text())["training"]
    assert (record["origins"], record["hub_datasets"]) == (["default"], [])


def test_adapters_train_little():
    pytest.importorskip("peft")
    transformer = build_transformer(build_vq_model().config, action_dim=3)
    adapted = add_lora(transformer, 2, None)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora" in name or "action_linear.modules_to_save" in name for name in trained)
    assert sum("action_linear" in name for name in trained) == 2


def test_adapters_come_without_a_warning():
    pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_lora(build_transformer(build_vq_model().config, action_dim=3), 2, None)


# -- what does not fit ------------------------------------------------------------------------------------------------


def test_noise_needs_another_clip_to_come_from(folder, checkpoints, tmp_path):
    with pytest.raises(ValueError, match="token_noise takes tokens of the other clips"):
        train_world_model(
            RunArguments(output_dir=str(tmp_path / "out"), num_updates=1),
            DataArguments(data=folder, num_frames=NUM_FRAMES),
            OptimizationArguments(batch_size=2, micro_batch_size=1),
            asked(vq_model=str(checkpoints / "free"), token_noise=0.1),
        )


def test_tokens_of_another_vq_model_are_refused(folder, checkpoints, tmp_path):
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none", validation_split=None)
    tokenize(TokenizeArguments(output_dir=str(tmp_path / "tokens"), vq_model=str(checkpoints / "free")), data)
    build_world(vq={"seed": 1}).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="made by another VQ model"):
        train(None, tmp_path / "other", tmp_path / "out", data=DataArguments(), tokens=str(tmp_path / "tokens"))


def test_tokens_with_another_beginning_are_refused(folder, checkpoints, tmp_path):
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none", validation_split=None)
    settings = {"vq_model": str(checkpoints / "free"), "repeat_last_context": True}
    tokenize(TokenizeArguments(output_dir=str(tmp_path / "tokens"), **settings), data)
    with pytest.raises(ValueError, match="repeat_last_context"):
        train(None, checkpoints / "free", tmp_path / "out", data=DataArguments(), tokens=str(tmp_path / "tokens"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer": "conditioned", "rewards": True}, "is action-conditioned: set actions"),
        ({"transformer": "conditioned", "actions": True}, "predicts rewards: set rewards"),
        ({"transformer": "free", "drop_reward_head": True}, "has no reward head"),
        ({"tokens": "somewhere"}, "give either data"),
        ({"transformer_config": SIZES | {"max_position_embeddings": 140}}, "has room for"),
    ],
)
def test_contradictions_are_refused(folder, checkpoints, tmp_path, changes, message):
    if "transformer" in changes:
        changes = changes | {"transformer": str(checkpoints / changes["transformer"])}
    with pytest.raises(ValueError, match=message):
        train(folder, checkpoints / "free", tmp_path / "out", **changes)


def test_a_draft_head_needs_a_frame_before(checkpoints):
    wanted = asked(transformer=str(checkpoints / "free"), draft_head=True)
    with pytest.raises(ValueError, match="two future frames or more"):
        make_transformer(wanted, LAYOUT, None, 1)


def test_actions_of_another_width_are_refused(checkpoints, tmp_path):
    wide = make_dataset(tmp_path / "hand", [12, 12], width=5)
    start = {"transformer": str(checkpoints / "conditioned"), "actions": True, "rewards": True}
    with pytest.raises(ValueError, match=r"actions have width 5, .* takes width 3"):
        train(str(wide), checkpoints / "conditioned", tmp_path / "out", **start)


def test_a_new_action_head_takes_actions_of_another_width(checkpoints, tmp_path):
    """All weights but those that read actions are the checkpoint's, before the first update."""
    start = asked(transformer=str(checkpoints / "conditioned"), actions=True, rewards=True, new_action_head=True)
    grown = make_transformer(start, LAYOUT, 5, NUM_FRAMES - 2)
    before = WorldModel.from_pretrained(checkpoints / "conditioned").transformer.state_dict()
    assert grown.config.action_dim == 5
    assert grown.action_linear.weight.shape[1] == 5
    others = {name: value for name, value in grown.state_dict().items() if not name.startswith("action_")}
    assert others.keys() == {name for name in before if not name.startswith("action_")}
    assert all(torch.equal(value, before[name]) for name, value in others.items())


def test_settings_of_clips_that_contradict_the_tokens_are_refused(folder, checkpoints, tmp_path):
    data = DataArguments(data=folder, num_frames=NUM_FRAMES, augmentation="none", validation_split=None)
    tokens, vq_model = str(tmp_path / "tokens"), str(checkpoints / "free")
    tokenize(TokenizeArguments(output_dir=tokens, vq_model=vq_model), data)
    with pytest.raises(ValueError, match=r"num_frames is 4, but the tokens in .* were written with 5"):
        train(None, vq_model, tmp_path / "out", data=DataArguments(num_frames=4), tokens=tokens)


def test_too_few_clips_for_a_batch_are_refused(checkpoints, tmp_path):
    short = make_dataset(tmp_path / "short", [5])
    with pytest.raises(ValueError, match="lower batch_size"):
        train(str(short), checkpoints / "free", tmp_path / "out")


def test_a_transformer_for_another_vq_model_is_refused(folder, checkpoints, tmp_path):
    build_world(vq={"num_dynamics_codes": 41}).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="continues other tokens"):
        train(folder, tmp_path / "other", tmp_path / "out", transformer=str(checkpoints / "free"))


def test_adapters_without_peft_name_the_extra_before_the_data_are_read(world_config, tmp_path, monkeypatch, capsys):
    hide_package(monkeypatch, "peft")
    adapters = ("--lora_rank", 2, "--transformer", "nowhere", "--transformer_config", "null")
    assert run("train", world_config, *adapters, "--data", "nowhere") == 2
    assert f"LoRA needs peft: {how_to_install('train')}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
