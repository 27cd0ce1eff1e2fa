"""Compiled frames are the frames of the plain path, whichever states go through them in whatever order."""

import gc

import pytest
import torch

from ivideogpt_hf import Sampling, WorldModel
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

SAMPLING = Sampling(seed=0)


@pytest.fixture(scope="module")
def worlds():
    """The same world twice: plain, and compiled."""
    plain = build_world(action_dim=3, predict_reward=True, num_key_value_heads=2)
    return plain, WorldModel(plain.vq_model, plain.transformer, plain.processor).compile()


def assert_same(one, other):
    assert one.tokens.equal(other.tokens)
    assert_same_frames(one.frames, other.frames)
    torch.testing.assert_close(one.rewards, other.rewards, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.log_probs, other.log_probs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("contexts", "candidates"), [(1, 3), (2, 2)])
def test_compiled_equals_eager(worlds, contexts, candidates):
    """Rows are added where there are not a power of two; the horizon is passed, so that it re-anchors."""
    frames, actions = random_frames(contexts, 2), random_actions(contexts, candidates, 8, 3)
    plain, compiled = (world.rollout(frames, actions, sampling=SAMPLING) for world in worlds)
    assert_same(plain, compiled)


def test_branches_that_take_turns_do_not_disturb_each_other(worlds):
    """They share one storage: what is still needed is moved out of it, and copied in again."""
    _, compiled = worlds
    frames, actions = random_frames(1, 2), random_actions(1, 6, 3)
    alone = compiled.rollout(frames, actions, sampling=SAMPLING)
    state = compiled.reset(frames)
    tokens = []
    for i in range(6):
        compiled.step(state, actions[:, i] + 1, sampling=SAMPLING)  # another future of the same state
        compiled.rollout(random_frames(1, 2, seed=i + 1), actions[:, :2], sampling=SAMPLING)  # another context
        step, state = compiled.step(state, actions[:, i], sampling=SAMPLING)
        tokens.append(step.tokens)
    assert torch.stack(tokens, dim=1).equal(alone.tokens)


def test_states_go_back_and_forth_between_compiled_and_plain(worlds):
    frames, actions = random_frames(1, 2), random_actions(1, 6, 3)
    alone = worlds[0].rollout(frames, actions, sampling=SAMPLING)
    state = worlds[0].reset(frames)
    for i in range(6):
        step, state = worlds[i % 2].step(state, actions[:, i], sampling=SAMPLING)
        assert step.tokens.equal(alone.tokens[:, i])


def test_rows_of_different_ages(worlds):
    """Two rows of each age, for which there is a program: to compile takes long."""
    actions = random_actions(4, 3)
    results = []
    for world in worlds:
        _, old = world.step(world.reset(random_frames(1, 2)), actions[:1], sampling=SAMPLING)
        joined = type(old).cat([old, world.reset(random_frames(1, 2, seed=1))]).fork(2)
        results.append(world.step(joined, actions, sampling=SAMPLING)[0])
    assert results[0].tokens.equal(results[1].tokens)


@pytest.mark.parametrize("path", ["model.layers.0", "model.embed_tokens", "action_linear", "reward_linear"])
def test_a_hook_that_came_later_is_not_missed(worlds, path):
    """Compiled programs do not notice hooks, so they are not used then."""
    plain, compiled = worlds
    frames, actions = random_frames(1, 2), random_actions(1, 3, 3, 3)
    before = compiled.rollout(frames, actions, sampling=SAMPLING)
    hook = plain.transformer.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: output * 0.5)
    try:
        one, other = (world.rollout(frames, actions, sampling=SAMPLING) for world in worlds)
    finally:
        hook.remove()
    assert_same(one, other)
    assert not torch.allclose(other.rewards, before.rewards, atol=1e-2)
    assert_same(compiled.rollout(frames, actions, sampling=SAMPLING), before)


def test_weights_that_were_trained_since_are_not_missed(worlds):
    frames, actions = random_frames(1, 2), random_actions(1, 3, 3, 3)
    before = worlds[1].rollout(frames, actions, sampling=SAMPLING)
    weight = worlds[0].transformer.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        weight.mul_(-1)
        one, other = (world.rollout(frames, actions, sampling=SAMPLING) for world in worlds)
        weight.mul_(-1)
    assert_same(one, other)
    assert not torch.allclose(other.rewards, before.rewards, atol=1e-2)


def test_a_program_keeps_nothing_alive_that_nobody_holds(worlds):
    """Neither the tail of the last rollout, which the next one would copy, nor its context."""
    _, compiled = worlds
    rollout = compiled.rollout(random_frames(1, 2), random_actions(1, 3, 3), sampling=SAMPLING)
    program = compiled._engine.compiled.program(1, 1, SAMPLING)
    assert program._resident() is rollout.state.tail.buffer
    assert program._loaded_prefix() is rollout.state.contexts.prefix
    del rollout
    gc.collect()
    assert program._resident() is None
    assert program._loaded_prefix() is None


def test_a_world_that_was_cast_gets_other_programs():
    """Whoever casts the network: the world model, or a pipeline that shares it."""
    world = build_world(action_dim=3).compile()
    frames = world._engine.compiled
    before = frames.program(1, 1, SAMPLING)
    world.transformer.to(torch.bfloat16)
    assert frames.program(1, 1, SAMPLING) is not before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_can_be_compiled(dtype, monkeypatch):
    """Few rows and many, by the part of the compiler that may refuse; the other part takes long."""
    of_torch = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: of_torch(function, backend="eager", fullgraph=True, dynamic=False)
    )
    plain = build_world(action_dim=3).to(dtype)
    compiled = WorldModel(plain.vq_model, plain.transformer).compile()
    for candidates in (1, 16):
        one, other = (
            world.rollout(
                random_frames(1, 2), random_actions(1, candidates, 2, 3), sampling=SAMPLING, outputs=("tokens",)
            )
            for world in (plain, compiled)
        )
        assert one.tokens.equal(other.tokens)


def test_shapes_share_programs():
    """Programs are made without being compiled, which happens when they run."""
    frames = build_world(action_dim=3).compile()._engine.compiled
    assert frames.program(1, 5, SAMPLING) is frames.program(1, 8, Sampling(seed=3))
    assert frames.program(3, 2, SAMPLING) is frames.program(4, 2, SAMPLING)
    assert frames.program(1, 8, SAMPLING) is not frames.program(1, 8, Sampling(greedy=True))


def test_an_unknown_mode(world):
    with pytest.raises(ValueError, match="mode must be one of default, reduce-overhead, max-autotune"):
        WorldModel(world.vq_model, world.transformer, world.processor).compile("fast")
