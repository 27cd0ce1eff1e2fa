import re
import warnings

import pytest
import torch

from ivideogpt_hf import Sampling, WorldModel
from ivideogpt_hf.world import engine as engine_module
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

GREEDY = Sampling(greedy=True)


def test_spec_tells_sizes():
    processor = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
    spec = build_world(action_dim=2, predict_reward=True, num_trained_frames=4, processor=processor).spec
    assert spec.frame_size == (16, 16)
    assert (spec.num_context_frames, spec.action_dim, spec.has_reward) == (2, 2, True)
    assert (spec.action_low, spec.action_high) == ((-1.0, -1.0), (1.0, 1.0))
    assert spec.max_future_frames == 4


def test_it_shows_what_it_is():
    world = build_world(action_dim=3, predict_reward=True)
    shown = r"WorldModel\(frames of 16 x 16, 2 context frames, 3 actions, rewards; 0\.\d M parameters on cpu\)"
    assert re.fullmatch(shown, repr(world))


@pytest.mark.parametrize("habit", ["eval", "parameters", "config"])
def test_who_takes_it_for_a_module_reads_where_the_modules_are(world, habit):
    with pytest.raises(AttributeError, match=rf"no '{habit}': .* world\.vq_model and world\.transformer"):
        getattr(world, habit)
    with pytest.raises(AttributeError, match=r"no 'rolout'$"):
        world.rolout  # noqa: B018


def test_candidate_axis_follows_the_actions(world):
    frames = random_frames(2, 2)
    assert world.rollout(frames, random_actions(2, 3, 3)).frames.shape == (2, 3, 3, 16, 16)
    many = world.rollout(frames, random_actions(2, 5, 3, 3))
    assert many.frames.shape == (2, 5, 3, 3, 16, 16)
    assert many.rewards.shape == many.log_probs.shape == (2, 5, 3)
    assert many.tokens.shape == (2, 5, 3, 4)
    assert many.state.batch_size == 10


def test_candidates_are_independent_rollouts(world):
    frames, actions = random_frames(2, 2), random_actions(2, 5, 3, 3)
    many = world.rollout(frames, actions, sampling=GREEDY)
    for candidate in range(5):
        alone = world.rollout(frames, actions[:, candidate], sampling=GREEDY)
        assert_same_frames(alone.frames, many.frames[:, candidate])


def test_num_samples_of_the_same_actions(world):
    rollout = world.rollout(random_frames(1, 2), random_actions(1, 3, 3), num_samples=4, sampling=Sampling(seed=0))
    assert rollout.frames.shape[:3] == (1, 4, 3)
    assert rollout.actions.shape == (1, 4, 3, 3)
    assert rollout.actions[0, 0].equal(rollout.actions[0, 3])


def test_rollout_goes_on_from_a_state(world):
    actions = random_actions(1, 4, 3)
    whole = world.rollout(random_frames(1, 2), actions, sampling=Sampling(seed=1))
    first = world.rollout(random_frames(1, 2), actions[:, :2], sampling=Sampling(seed=1))
    rest = world.rollout(first.state, actions[:, 2:], sampling=Sampling(seed=1))
    assert_same_frames(rest.frames, whole.frames[:, 2:])


@pytest.mark.parametrize(("decode_steps", "steps"), [("last", (3,)), ((2, 0), (0, 2)), ("all", (0, 1, 2, 3))])
def test_only_wanted_steps_are_decoded(world, decode_steps, steps):
    actions = random_actions(1, 4, 3)
    everything = world.rollout(random_frames(1, 2), actions, sampling=GREEDY)
    some = world.rollout(random_frames(1, 2), actions, sampling=GREEDY, decode_steps=decode_steps)
    assert some.decoded_steps == steps
    assert_same_frames(some.frames, everything.frames[:, list(steps)])


def test_nothing_is_decoded_when_frames_are_not_wanted(world):
    calls = []
    hook = world.vq_model.cond_decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    rollout = world.rollout(random_frames(1, 2), random_actions(1, 2, 3), outputs=("rewards",))
    hook.remove()
    assert rollout.frames is None
    assert rollout.tokens is None
    assert rollout.rewards is not None
    assert not calls


def test_decoding_in_chunks_gives_the_same_frames(world, monkeypatch):
    args = (random_frames(3, 2), random_actions(3, 4, 5, 3))
    whole = world.rollout(*args, sampling=GREEDY)
    for frames_per_chunk in (1, 3, 24):
        monkeypatch.setattr(engine_module, "PIXELS_PER_CHUNK", frames_per_chunk * 16 * 16)
        chunked = world.rollout(*args, sampling=GREEDY)
        assert chunked.tokens.equal(whole.tokens)
        assert (chunked.frames.int() - whole.frames.int()).abs().max() <= 1


def test_log_probs_are_those_of_the_sampling_distribution(free_world):
    sampling = Sampling(temperature=2.0, top_k=5, seed=0)
    rollout = free_world.rollout(random_frames(1, 2), num_frames=1, sampling=sampling)
    layout = free_world.layout
    sequence, _ = free_world.vq_model.tokenize(random_frames(1, 2).float() / 255)
    sequence = torch.nn.functional.pad(sequence, (0, 1), value=layout.slot_id)
    total = 0
    for token in rollout.tokens[0, 0]:
        logits = free_world.transformer(sequence).logits[0, -1, layout.dynamics_offset : -2] / 2
        logits[logits < logits.topk(5).values[-1]] = float("-inf")
        total += logits.log_softmax(-1)[token - layout.dynamics_offset]
        sequence = torch.cat([sequence, token[None, None]], dim=1)
    torch.testing.assert_close(rollout.log_probs[0, 0], total.detach(), atol=1e-4, rtol=1e-4)


def test_rewards_are_in_reward_units():
    plain = build_world(action_dim=3, predict_reward=True)
    symlog = build_world(action_dim=3, predict_reward=True, processor={"reward_transform": "symlog"})
    args = (random_frames(1, 2), random_actions(1, 3, 3))
    outputs = plain.rollout(*args, sampling=GREEDY).rewards
    rewards = symlog.rollout(*args, sampling=GREEDY).rewards
    torch.testing.assert_close(rewards, outputs.sign() * (outputs.abs().exp() - 1))
    torch.testing.assert_close(symlog.processor.rewards_to_head(rewards), outputs)


# -- re-anchoring -----------------------------------------------------------------------------------------------------


def test_observe_is_a_reset_on_the_last_known_and_the_real_frame(world):
    frames, actions, real = random_frames(2, 2), random_actions(2, 2, 3), random_frames(2, seed=5)
    predicted, state = world.step(world.reset(frames), actions[:, 0], sampling=GREEDY)
    observed = world.observe(state, actions[:, 1], real)
    expected = world.reset(torch.stack([predicted.frame, real], dim=1))
    assert_same_frames(observed.contexts.frames, expected.contexts.frames)
    assert observed.num_steps == (2, 2)
    after, _ = world.step(observed, actions[:, 0], sampling=GREEDY)
    assert_same_frames(after.frame, world.step(expected, actions[:, 0], sampling=GREEDY)[0].frame)


def test_observing_each_frame_slides_the_context_over_the_real_video(world):
    video = random_frames(1, 5)
    state = world.reset(video[:, :2])
    for i in range(2, 5):
        state = world.observe(state, random_actions(1, 3), video[:, i])
    assert_same_frames(state.contexts.frames, video[:, 3:])


def test_beyond_the_position_limit_the_last_frames_become_the_context(world):
    limit = world.spec.max_future_frames
    frames, actions = random_frames(1, 2), random_actions(1, limit + 2, 3)
    with pytest.warns(UserWarning, match="re-anchored on its own predictions"):
        rollout = world.rollout(frames, actions, sampling=GREEDY)
    assert rollout.reanchored_at == (limit,)
    assert rollout.frames.shape[1] == limit + 2
    second = world.rollout(rollout.frames[:, limit - 2 : limit], actions[:, limit:], sampling=GREEDY)
    assert_same_frames(rollout.frames[:, limit:], second.frames)


def test_steps_reanchor_like_rollouts(world):
    limit = world.spec.max_future_frames
    frames, actions = random_frames(2, 2), random_actions(2, limit + 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rollout = world.rollout(frames, actions, sampling=Sampling(seed=0))
        state = world.reset(frames)
        for i in range(limit + 2):
            step, state = world.step(state, actions[:, i], sampling=Sampling(seed=0))
    assert_same_frames(step.frame, rollout.frames[:, -1])
    assert state.num_steps == (limit + 2,) * 2


def test_only_rows_at_the_limit_are_reanchored(world):
    limit = world.spec.max_future_frames
    old = world.rollout(random_frames(1, 2), random_actions(1, limit, 3), sampling=GREEDY).state
    new = world.reset(random_frames(1, 2, seed=1))
    with pytest.warns(UserWarning, match="re-anchored"):
        _, state = world.step(type(old).cat([new, old]), random_actions(2, 3), sampling=GREEDY)
    assert state.num_frames == (1, 1)
    alone, _ = world.step(new, random_actions(2, 3)[:1], sampling=GREEDY)
    assert state.tokens[0, -1].equal(alone.tokens[0])


def test_room_that_is_made_early_changes_nothing(world):
    limit, actions = world.spec.max_future_frames, random_actions(2, 1, 3)[:, 0]
    old = world.rollout(random_frames(1, 2), random_actions(1, limit, 3), sampling=GREEDY).state
    state = type(old).cat([world.reset(random_frames(1, 2, seed=1)), old])
    with warnings.catch_warnings(action="error"):  # whoever asks for it need not be warned
        with_room = world.make_room(state)
    assert (with_room.num_frames, with_room.num_steps) == ((0, 0), state.num_steps)
    with pytest.warns(UserWarning, match="re-anchored"):
        late, _ = world.step(state, actions, sampling=Sampling(seed=2))
    early, _ = world.step(with_room, actions, sampling=Sampling(seed=2))
    assert early.tokens.equal(late.tokens)
    assert early.frame.equal(late.frame)


UNRESTRICTED = Sampling(seed=0, temperature=5.0, restrict_to_codes=False)


@pytest.mark.parametrize("look", ["make_room", "last_frame", "observe", "step"])
def test_states_of_any_tokens_can_be_looked_at(look):
    """Whoever looks at a state does not say how its tokens were drawn."""
    world = build_world()
    limit = world.spec.max_future_frames
    state = world.rollout(random_frames(1, 2), num_frames=limit, sampling=UNRESTRICTED, outputs=()).state
    codes = state.tokens - world.layout.dynamics_offset
    assert codes.min() < 0 or codes.max() >= world.layout.num_dynamics_codes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(world, look)(state, *((None, random_frames(1)) if look == "observe" else ()))


def test_a_row_draws_its_slot_whatever_the_age_of_the_others():
    world = build_world()
    old = world.rollout(random_frames(1, 2), num_frames=2, sampling=UNRESTRICTED).state
    new = world.reset(random_frames(1, 2, seed=1))
    alone = [world.step(state, sampling=UNRESTRICTED)[0] for state in (old, new)]
    joined, _ = world.step(type(old).cat([old, new]), sampling=UNRESTRICTED)
    assert joined.tokens.equal(torch.cat([step.tokens for step in alone]))


def test_the_horizon_policy_error_refuses(world):
    limit = world.spec.max_future_frames
    with pytest.raises(ValueError, match=f"{limit + 1} future frames go beyond this model's {limit}"):
        world.rollout(random_frames(1, 2), random_actions(1, limit + 1, 3), horizon_policy="error")
    state = world.rollout(random_frames(1, 2), random_actions(1, limit, 3), horizon_policy="error").state
    with pytest.raises(ValueError, match="go beyond this model's"):
        world.step(state, random_actions(1, 3), horizon_policy="error")


def test_the_trained_horizon_counts_where_it_is_known():
    world = build_world(num_trained_frames=2)
    with pytest.warns(UserWarning, match="passed 2 frames"):
        assert world.rollout(random_frames(1, 2), num_frames=3).reanchored_at == (2,)


def test_the_goal_stays_first_when_a_goal_conditioned_model_reanchors():
    world = build_world(goal_conditioned=True, num_trained_frames=2)
    frames = random_frames(1, 2)
    with pytest.warns(UserWarning, match="re-anchored"):
        rollout = world.rollout(frames, num_frames=3, sampling=GREEDY)
    assert_same_frames(rollout.state.contexts.frames[:, 0], frames[:, 0])
    assert_same_frames(rollout.state.contexts.frames[:, 1], rollout.frames[:, 1])
    observed = world.observe(world.reset(frames), None, random_frames(1, seed=3))
    assert_same_frames(observed.contexts.frames[:, 0], frames[:, 0])


# -- imagining --------------------------------------------------------------------------------------------------------


def test_imagine_with_a_policy_equals_a_rollout_of_its_actions(world):
    seen = []

    def policy(observation):
        seen.append(observation)
        return observation.frame.float().mean(dim=(2, 3)) / 255

    state = world.reset(random_frames(2, 2))
    dream = world.imagine(state, policy, 4, sampling=Sampling(seed=2))
    rollout = world.rollout(state, dream.actions, sampling=Sampling(seed=2))
    assert_same_frames(dream.frames, rollout.frames)
    torch.testing.assert_close(dream.rewards, rollout.rewards)
    assert [observation.step for observation in seen] == [0, 1, 2, 3]
    assert seen[0].frame.equal(random_frames(2, 2)[:, -1])
    assert seen[2].frame.equal(dream.frames[:, 1])
    assert seen[0].reward is None
    assert seen[2].reward.equal(dream.rewards[:, 1])


def test_actions_are_kept_of_a_policy_that_returns_the_same_tensor_each_time(world):
    actions = torch.zeros(1, 3)
    dream = world.imagine(world.reset(random_frames(1, 2)), lambda seen: actions.fill_(seen.step), 3, sampling=GREEDY)
    assert dream.actions[0, :, 0].tolist() == [0, 1, 2]


def test_what_is_predicted_may_be_changed_and_learnt_from(world):
    """Tensors that were made in inference mode refuse both."""
    state, actions = world.reset(random_frames(2, 2)), random_actions(2, 3, 3)
    step, after = world.step(state, actions[:, 0])
    rollout = world.rollout(state, actions)
    weight = torch.ones((), requires_grad=True)
    for reward in (step.reward, rollout.rewards):
        (reward * weight).sum().backward()
    for frame in (step.frame, rollout.frames, world.last_frame(after)):
        frame.zero_()
    assert world.last_frame(after).any()


def test_imagine_with_an_action_tensor(world):
    state, actions = world.reset(random_frames(2, 2)), random_actions(2, 3, 3)
    dream = world.imagine(state, actions, 3, sampling=GREEDY)
    assert_same_frames(dream.frames, world.rollout(state, actions, sampling=GREEDY).frames)


def test_other_geometries_roll_out():
    vq = {"resolution": (16, 24), "num_context_frames": 3, "patch_size": 2}
    world = build_world(vq=vq, action_dim=5, max_position_embeddings=400)
    rollout = world.rollout(torch.zeros(1, 3, 3, 16, 24, dtype=torch.uint8), random_actions(1, 2, 5))
    assert rollout.frames.shape == (1, 2, 3, 16, 24)
    assert rollout.tokens.shape == (1, 2, 24)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rolls_out(dtype):
    world = build_world(action_dim=3, predict_reward=True).to(dtype=dtype)
    rollout = world.rollout(random_frames(1, 2), random_actions(1, 4, 2, 3), sampling=Sampling(seed=0))
    assert rollout.frames.dtype == torch.uint8
    assert rollout.rewards.dtype == rollout.log_probs.dtype == torch.float32
    assert rollout.rewards.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    args = (random_frames(2, 2), random_actions(2, 4, 3, 3))
    on_cpu = build_world(action_dim=3, predict_reward=True).rollout(*args, sampling=Sampling(seed=0))
    on_cuda = build_world(action_dim=3, predict_reward=True).to("cuda").rollout(*args, sampling=Sampling(seed=0))
    assert on_cuda.frames.device.type == "cuda"
    assert (on_cuda.tokens.cpu() == on_cpu.tokens).float().mean() > 0.99


def test_parts_that_do_not_fit_are_refused(world):
    other = build_world(vq={"num_context_frames": 1})
    with pytest.raises(ValueError, match="disagree on the token layout"):
        WorldModel(other.vq_model, world.transformer)
    with pytest.raises(ValueError, match="action dimensions"):
        build_world(action_dim=3, processor={"action_low": [0.0], "action_high": [1.0]})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("half", r"world\.to\(torch\.float16\)"),
        ("cuda", r'world\.to\("cuda"\)'),
        ("dtype", r"world\.transformer\.dtype"),
        ("generate", r"world\.rollout"),
    ],
)
def test_who_converts_or_generates_reads_what_does_it_here(world, name, hint):
    with pytest.raises(AttributeError, match=f"has no {name!r}: .*{hint}"):
        getattr(world, name)


@pytest.mark.parametrize("part", ["vq_model", "transformer", "processor"])
def test_a_part_is_replaced_in_a_new_world_model_only(world, part):
    with pytest.raises(AttributeError, match=r"cannot be replaced: make a new one of all three parts, WorldModel\("):
        setattr(world, part, getattr(world, part))


def test_a_compiled_network_is_refused_with_the_call_that_compiles(world):
    for vq_model, transformer in (
        (torch.compile(world.vq_model), world.transformer),
        (world.vq_model, torch.compile(world.transformer)),
    ):
        with pytest.raises(ValueError, match=r"is compiled by torch.compile.* world\.compile\(\)"):
            WorldModel(vq_model, transformer)


def test_a_resized_context_is_a_new_world_model():
    world = build_world(action_dim=3)
    world.vq_model.resize_context(1)
    world.transformer.config.num_context_frames = 1
    resized = WorldModel(world.vq_model, world.transformer, world.processor)
    assert resized.rollout(random_frames(1, 1), random_actions(1, 2, 3)).frames.shape[1] == 2


def test_statistics_tell_what_a_rollout_cost(world):
    frames, actions = random_frames(2, 2), random_actions(2, 3, 4, 3)
    options = {"sampling": Sampling(seed=0, num_guesses=1), "outputs": ("frames", "statistics")}
    rollout = world.rollout(frames, actions, **options)
    statistics = rollout.statistics
    assert (statistics.num_frames, statistics.num_tokens) == (2 * 3 * 4, 2 * 3 * 4 * 4)
    assert min(statistics.prefill_seconds, statistics.decode_seconds, statistics.vq_seconds) > 0
    assert statistics.frames_per_second > 0
    assert 0 <= statistics.num_right <= statistics.num_guessed
    assert statistics.cache_bytes == rollout.state.num_bytes > rollout.state.contexts.prefix.nbytes
    without_vq = world.rollout(rollout.state, random_actions(6, 2, 3), outputs=("tokens", "statistics"))
    assert without_vq.statistics.vq_seconds == without_vq.statistics.prefill_seconds == 0
    assert world.rollout(frames, actions).statistics is None


# -- looking at each step ---------------------------------------------------------------------------------------------


def watched(world, *args, **options):
    """A rollout, and the steps that were shown on the way."""
    steps = []
    rollout = world.rollout(*args, on_step=lambda index, step: steps.append((index, step)), **options)
    return rollout, steps


@pytest.mark.parametrize("length", [3, 8], ids=["within the horizon", "beyond it"])
@pytest.mark.filterwarnings("ignore:a rollout passed")
def test_a_rollout_that_is_watched_is_the_same(world, length):
    args = (random_frames(2, 2), random_actions(2, 3, length, 3))
    plain = world.rollout(*args, sampling=Sampling(seed=1))
    rollout, steps = watched(world, *args, sampling=Sampling(seed=1))
    assert rollout.tokens.equal(plain.tokens)
    assert_same_frames(rollout.frames, plain.frames)
    torch.testing.assert_close(rollout.rewards, plain.rewards, atol=1e-5, rtol=1e-5)
    assert rollout.reanchored_at == plain.reanchored_at
    assert [index for index, _ in steps] == list(range(length))
    assert torch.stack([step.frame for _, step in steps], 1).equal(rollout.frames.flatten(0, 1))
    assert torch.stack([step.reward for _, step in steps], 1).equal(rollout.rewards.flatten(0, 1))


def test_only_wanted_frames_are_shown(world):
    args = (random_frames(1, 2), random_actions(1, 3, 3))
    rollout, steps = watched(world, *args, sampling=GREEDY, decode_steps=(1,))
    assert [step.frame is None for _, step in steps] == [True, False, True]
    assert rollout.decoded_steps == (1,)
    without, steps = watched(world, *args, sampling=GREEDY, outputs=("rewards",))
    assert without.frames is None
    assert all(step.frame is None for _, step in steps)


def test_a_rollout_ends_where_its_watcher_says(world):
    actions = random_actions(2, 2, 4, 3)
    whole = world.rollout(random_frames(2, 2), actions, sampling=GREEDY)
    rollout = world.rollout(random_frames(2, 2), actions, sampling=GREEDY, on_step=lambda index, step: index == 1)
    assert rollout.tokens.equal(whole.tokens[:, :, :2])
    assert rollout.actions.equal(actions[:, :, :2])
    assert rollout.decoded_steps == (0, 1)
    assert rollout.state.num_frames == (2,) * 4


def test_the_last_frame_is_that_of_the_step_where_the_watcher_ends(world):
    args, settings = (random_frames(2, 2), random_actions(2, 4, 3)), {"sampling": GREEDY, "decode_steps": "last"}
    rollout = world.rollout(*args, **settings, on_step=lambda index, step: index == 1)
    assert rollout.decoded_steps == (1,)
    assert_same_frames(rollout.frames, world.rollout(args[0], args[1][:, :2], **settings).frames)


def test_a_policy_may_act_in_many_candidates(world):
    def policy(seen):
        return seen.frame.float().mean(dim=(2, 3)) / 255

    frames, sampling = random_frames(2, 2), Sampling(seed=3)
    rollout = world.rollout(frames, policy, num_frames=3, num_samples=4, sampling=sampling)
    assert rollout.frames.shape[:3] == (2, 4, 3)
    again = world.rollout(frames, rollout.actions, sampling=sampling)
    assert again.tokens.equal(rollout.tokens)
    with pytest.raises(ValueError, match="a rollout of a policy needs num_frames"):
        world.rollout(frames, policy)
    with pytest.raises(ValueError, match="takes actions of width 3, got width 2"):
        world.rollout(frames, lambda seen: torch.zeros(2, 2), num_frames=1)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_policy_runs_in_the_callers_gradient_mode(world, enabled):
    seen = []

    def policy(observation):
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return torch.zeros(1, 3)

    with torch.set_grad_enabled(enabled):
        world.imagine(world.reset(random_frames(1, 2)), policy, 2)
    assert seen == [(enabled, False)] * 2


def test_warnings_point_to_whoever_called(world):
    frames, actions = random_frames(1, 2), random_actions(1, 7, 3)
    state = world.rollout(frames, actions[:, :6]).state
    for call in (
        lambda: world.rollout(frames, actions),
        lambda: world.step(state, actions[:, 0]),
        lambda: world.imagine(state, actions[:, :1], 1),
    ):
        with pytest.warns(UserWarning, match="re-anchored") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_the_last_frame_is_predicted_or_real(world):
    state = world.reset(random_frames(2, 2))
    assert world.last_frame(state).equal(random_frames(2, 2)[:, -1])
    step, state = world.step(state, random_actions(2, 3))
    assert world.last_frame(state).equal(step.frame)


def test_a_dtype_may_be_all_that_it_is_moved_to():
    world = build_world()
    assert world.to(torch.bfloat16) is world
    assert world.transformer.dtype == torch.bfloat16
