"""Decoding: attention over two places, tokens that are guessed, rewards that are read late."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from ivideogpt_hf import Sampling
from ivideogpt_hf.decoding import frames
from ivideogpt_hf.decoding.frames import attend, prefill
from ivideogpt_hf.decoding.sampling import draw
from tests.conftest import build_world, random_actions, random_frames


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("num_prefixes", [1, 3, 6])
def test_attention_over_prefix_and_tail_is_ordinary_attention(kv_heads, num_prefixes):
    rows, heads, num_queries, head_dim = 6, 4, 2, 8
    query = torch.randn(rows, heads, num_queries, head_dim)
    prefix = torch.randn(2, num_prefixes, kv_heads, 11, head_dim)
    tail = torch.randn(2, rows, kv_heads, 5, head_dim)
    hidden = torch.zeros(num_queries, 5, dtype=torch.bool)
    hidden[0, -1] = True  # the first of two new tokens does not see the second
    attended = attend(query, prefix, tail, hidden[None, None, None])

    repeated = prefix.repeat_interleave(rows // num_prefixes, dim=1)
    keys, values = torch.cat([repeated, tail], dim=3)
    mask = torch.cat([torch.ones(num_queries, 11, dtype=torch.bool), ~hidden], dim=1)
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0, enable_gqa=True)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-5)


def test_prompts_that_pass_one_after_another_have_the_keys_and_values_of_one_pass(monkeypatch):
    transformer = build_world(action_dim=3).transformer
    prompts = torch.randint(transformer.config.vocab_size, (5, 9))
    together = prefill(transformer, prompts)
    monkeypatch.setattr(frames, "TOKENS_PER_PASS", 16)  # two prompts, two, and one
    torch.testing.assert_close(prefill(transformer, prompts), together, atol=1e-5, rtol=1e-5)
    expected = transformer.model(prompts[:, :-1], use_cache=True).past_key_values
    for index, (key, value) in enumerate((layer.keys, layer.values) for layer in expected.layers):
        torch.testing.assert_close(together[index], torch.stack([key, value]), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def likely():
    """A world whose frames repeat tokens, so that some guesses are right: small weights, few codes."""
    return build_world({"num_dynamics_codes": 6}, action_dim=3, predict_reward=True, initializer_range=0.1)


@pytest.mark.parametrize("num_guesses", [1, 2, 3, 9])
@pytest.mark.parametrize("conditioning", ["add", "scale_shift"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("draft_head", [False, True])
def test_guessing_changes_nothing(num_guesses, conditioning, rows, draft_head):
    world = build_world(
        {"num_dynamics_codes": 6},
        action_dim=3,
        action_conditioning=conditioning,
        draft_head=draft_head,
        initializer_range=0.1,
    )
    frames, actions = random_frames(rows, 2), random_actions(rows, 6, 3)
    plain = world.rollout(frames, actions, sampling=Sampling(seed=0))
    guessed = world.rollout(frames, actions, sampling=Sampling(seed=0, num_guesses=num_guesses))
    assert guessed.tokens.equal(plain.tokens)
    torch.testing.assert_close(guessed.log_probs, plain.log_probs, atol=1e-4, rtol=1e-4)


def test_tokens_that_were_guessed_follow_the_models_distribution(likely):
    """Chi-square over many rows: how often each code is second, given the most frequent first one."""
    layout, rows = likely.layout, 4000
    frames, actions = random_frames(1, 2), random_actions(1, 2, 3)
    first = likely.rollout(frames, actions[:, :1], sampling=Sampling(greedy=True))
    sampling = Sampling(num_guesses=3, top_k=None, seed=1)
    step, _ = likely.step(first.state.fork(rows), actions[:, 1].expand(rows, -1), sampling=sampling)
    common = step.tokens[:, 0].mode().values
    second = step.tokens[step.tokens[:, 0] == common, 1] - layout.dynamics_offset

    pixels = frames.float() / 255
    slot = torch.tensor([[layout.slot_id]])
    prompt, _ = likely.vq_model.tokenize(pixels)
    sequence = torch.cat([prompt, slot, first.tokens[:, 0], slot, common.view(1, 1)], dim=1)
    with torch.no_grad():
        logits = likely.transformer(sequence, actions=actions).logits[0, -1, layout.dynamics_offset :]
    expected = logits[: layout.num_dynamics_codes].softmax(0) * len(second)
    counts = torch.bincount(second, minlength=layout.num_dynamics_codes)
    assert len(second) > 500
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # the 0.1 % point with five degrees of freedom


@pytest.mark.parametrize("num_frames", [1, 5, 14])
def test_rewards_that_are_read_late_are_those_of_stepping(likely, num_frames):
    """Also around a re-anchoring, which comes after six frames."""
    frames, actions = random_frames(2, 2), random_actions(2, num_frames, 3)
    rollout = likely.rollout(frames, actions, sampling=Sampling(seed=0))
    state = likely.reset(frames)
    for i in range(num_frames):
        step, state = likely.step(state, actions[:, i], sampling=Sampling(seed=0))
        torch.testing.assert_close(step.reward, rollout.rewards[:, i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("repeat", [False, True])
def test_logits_are_those_of_the_plain_model_at_every_position_of_14_frames(monkeypatch, repeat):
    vq = {"repeat_last_context": repeat}
    world = build_world(vq=vq, action_dim=3, max_position_embeddings=256, num_key_value_heads=2)
    layout, actions = world.layout, random_actions(1, 14, 3)
    seen = []
    monkeypatch.setattr(
        "ivideogpt_hf.decoding.frames.draw", lambda logits, *rest: (seen.append(logits), draw(logits, *rest))[1]
    )
    prompt, _ = world.vq_model.tokenize(random_frames(1, 2).float() / 255)
    rollout = world.rollout(random_frames(1, 2), actions, sampling=Sampling(seed=0), outputs=("tokens",))
    blocks = F.pad(rollout.tokens, (1, 0), value=layout.slot_id).flatten(1)
    sequence = torch.cat([prompt, blocks], dim=1)
    with torch.no_grad():
        logits = world.transformer(sequence, actions=actions).logits[0, layout.prompt_length :]
    logits = logits.unflatten(0, (14, layout.block_length))[:, :-1].flatten(0, 1)
    logits = logits[:, layout.dynamics_offset : layout.dynamics_offset + layout.num_dynamics_codes]
    torch.testing.assert_close(torch.cat(seen), logits, atol=1e-4, rtol=0)


def test_memory_does_not_grow_over_500_frames(likely):
    state, sizes = likely.reset(random_frames(1, 2)), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it re-anchors
        for _ in range(500):
            _, state = likely.step(state, torch.zeros(1, 3), sampling=Sampling(seed=0), outputs=())
            sizes.add((state.num_bytes, state.tokens.nbytes))
    assert len(sizes) <= 2 * likely.spec.max_future_frames
    assert state.num_steps == (500,)
