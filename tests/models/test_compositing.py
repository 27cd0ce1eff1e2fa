"""Context compositing: frames that are made of the context's pixels where these are better than the decoder's."""

import pytest
import torch

from ivideogpt_hf import IVideoGPTVQModel, Sampling, WorldModel
from ivideogpt_hf.checkpoints.released import save_released
from ivideogpt_hf.world.state import WorldState
from tests.conftest import build_vq_model, build_world, random_actions, random_frames

GREEDY = Sampling(greedy=True)


def compositing_model(copies: float | None = None, **config):
    """A VQ model that composites, with weights that differ from pixel to pixel, or with a logit for the last frame."""
    model = build_vq_model(composites_context=True, **config)
    layer = model.cond_decoder.compositor.logits_out
    torch.manual_seed(1)
    if copies is None:
        torch.nn.init.normal_(layer.weight)
    else:
        layer.bias.data[:] = -copies
        layer.bias.data[-2] = copies
    return model


def compositing_world(**transformer):
    world = build_world(vq={"composites_context": True}, **transformer)
    torch.nn.init.normal_(world.vq_model.cond_decoder.compositor.logits_out.weight)
    return world


def clips(num_clips, num_frames):
    return random_frames(num_clips, num_frames).float() / 255


def test_weights_that_choose_the_last_context_frame_copy_it():
    model = compositing_model(copies=100.0)
    frames = clips(2, 4)
    output = model(frames[:, :2], frames[:, 2:])
    last = frames[:, 1:2].expand(-1, 2, -1, -1, -1)
    # What the bound of the logits leaves to the others is below half a level of 8 bits.
    assert (output.future_reconstruction - last).abs().max() < 0.5 / 255 * 2


def test_weights_that_choose_the_decoder_give_what_a_model_without_compositing_decodes():
    model = compositing_model(copies=0.0)
    bias = model.cond_decoder.compositor.logits_out.bias.data
    bias[:], bias[-1] = -100.0, 100.0
    plain = build_vq_model()
    plain.load_state_dict({name: x for name, x in model.state_dict().items() if "compositor" not in name})
    frames = clips(1, 4)
    expected = plain(frames[:, :2], frames[:, 2:]).future_reconstruction
    assert (model(frames[:, :2], frames[:, 2:]).future_reconstruction - expected).abs().max() < 2e-3


def test_a_new_model_copies_more_than_it_decodes():
    model = build_vq_model(composites_context=True)
    frames = clips(1, 3)
    error = (model(frames[:, :2], frames[:, 2:]).future_reconstruction - frames[:, 1:2]).abs().mean()
    assert error < (frames[:, 0] - frames[:, 1]).abs().mean() / 2


def test_every_weight_has_a_gradient_at_the_beginning():
    model = build_vq_model(composites_context=True).train()
    frames = clips(2, 4)
    (model(frames[:, :2], frames[:, 2:]).future_reconstruction - frames[:, 2:]).square().mean().backward()
    assert model.cond_decoder.compositor.logits_out.bias.grad.abs().min() > 0
    assert model.cond_decoder.conv_out.weight.grad.abs().max() > 0


def test_frames_of_one_context_do_not_depend_on_those_beside_them():
    model = compositing_model()
    frames = clips(2, 5)
    context = model.encode_context(frames[:, :2])
    codes = model.encode_future(context.encoder_memory, frames[:, 2:])
    together = model.decode_future(context.decoder_memory, codes, frames[:, :2])
    alone = [model.decode_future(context.decoder_memory, codes[:, i : i + 1], frames[:, :2]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-5, rtol=0)


def test_detokenize_copies_from_reconstructed_frames():
    model = compositing_model()
    frames = clips(1, 4)
    tokens, _ = model.tokenize(frames)
    context = model.encode_context(frames[:, :2])
    codes = model.encode_future(context.encoder_memory, frames[:, 2:])
    expected = model.decode_future(context.decoder_memory, codes, context.reconstruction.clamp(0, 1))
    torch.testing.assert_close(model.detokenize(tokens)[:, 2:], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_copies_pixels_exactly(dtype):
    model = compositing_model(copies=100.0).to(dtype)
    frames = clips(1, 3)
    copied = model(frames[:, :2], frames[:, 2:]).future_reconstruction
    assert copied.dtype == torch.float32
    assert (copied[:, 0] - frames[:, 1]).abs().max() < 1 / 255


def test_frames_to_copy_from_are_asked_for():
    model = compositing_model()
    context = model.encode_context(clips(1, 2))
    codes = torch.zeros(1, 1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="pass context_frames"):
        model.decode_future(context.decoder_memory, codes)
    with pytest.raises(ValueError, match="context_frames must have shape"):
        model.decode_future(context.decoder_memory, codes, clips(1, 2)[..., :8])


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_model_of_another_number_of_context_frames_runs_and_is_saved(number, tmp_path):
    model = compositing_model()
    model.resize_context(number)
    frames = clips(1, number + 2)
    expected = model(frames[:, :number], frames[:, number:]).future_reconstruction
    model.save_pretrained(tmp_path)
    loaded = IVideoGPTVQModel.from_pretrained(tmp_path)
    assert loaded(frames[:, :number], frames[:, number:]).future_reconstruction.equal(expected)


def test_gradient_checkpointing_gives_the_same_gradients():
    frames, gradients = clips(1, 4), []
    for checkpoints in (False, True):
        model = compositing_model(attention_dropout=0.0).train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        model(frames[:, :2], frames[:, 2:]).future_reconstruction.square().mean().backward()
        gradients.append(model.cond_decoder.compositor.context_in.weight.grad)
    torch.testing.assert_close(*gradients)


# -- in a world model -------------------------------------------------------------------------------------------------


def test_a_batched_rollout_equals_a_loop_of_steps():
    world = compositing_world(action_dim=3)
    frames, actions = random_frames(2, 2), random_actions(2, 4, 3)
    rollout = world.rollout(frames, actions, sampling=GREEDY)
    state, stepped = world.reset(frames), []
    for t in range(4):
        step, state = world.step(state, actions[:, t], sampling=GREEDY)
        stepped.append(step.frame)
    assert (rollout.frames.int() - torch.stack(stepped, dim=1).int()).abs().max() <= 1


def test_a_world_copies_from_the_true_context():
    world = compositing_world(action_dim=3)
    layer = world.vq_model.cond_decoder.compositor.logits_out
    layer.weight.data.zero_()
    layer.bias.data[:], layer.bias.data[-2] = -100.0, 100.0
    frames = random_frames(1, 2)
    rollout = world.rollout(frames, random_actions(1, 2, 3), sampling=GREEDY)
    assert (rollout.frames[0].int() - frames[0, 1].int()).abs().max() <= 1


def test_re_anchoring_copies_from_the_new_context():
    world = compositing_world(action_dim=3)
    frames, actions = random_frames(1, 2), random_actions(1, 9, 3)
    limit = world.spec.max_future_frames
    whole = world.rollout(frames, actions, sampling=GREEDY).frames
    context = whole[:, limit - 2 : limit]
    again = world.rollout(context, actions[:, limit:], sampling=GREEDY).frames
    assert (whole[:, limit:].int() - again.int()).abs().max() <= 1


def test_a_saved_state_goes_on_with_its_context(tmp_path):
    world = compositing_world(action_dim=3)
    _, state = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=GREEDY)
    state.save(tmp_path / "state.safetensors")
    loaded = WorldState.load(tmp_path / "state.safetensors")
    action = random_actions(1, 3, seed=1)
    steps = [world.step(start, action, sampling=GREEDY)[0].frame for start in (state, loaded)]
    assert steps[0].equal(steps[1])


def test_a_goal_conditioned_world_composites():
    world = compositing_world(action_dim=3, goal_conditioned=True)
    rollout = world.rollout(random_frames(1, 2), random_actions(1, 2, 3), sampling=GREEDY)
    assert rollout.frames.shape == (1, 2, 3, 16, 16)


def test_a_checkpoint_is_the_same_after_saving(tmp_path):
    world = compositing_world(action_dim=3)
    world.save_pretrained(tmp_path)
    frames, actions = random_frames(1, 2), random_actions(1, 3, 3)
    loaded = WorldModel.from_pretrained(tmp_path)
    rollouts = [w.rollout(frames, actions, sampling=GREEDY).frames for w in (world, loaded)]
    assert rollouts[0].equal(rollouts[1])


def test_the_released_layout_cannot_hold_it(tmp_path):
    world = compositing_world(action_dim=3)
    with pytest.raises(ValueError, match="composites_context"):
        save_released(tmp_path, (world.vq_model, world.transformer, world.processor))
    assert not any(tmp_path.iterdir())
