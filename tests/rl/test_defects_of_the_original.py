"""What was wrong in the original's code and shows in several modules here. Each test fails with the defect.

The others have their tests where they belong: B1 in test_imagination.py, B2, B3, B5 and B13 in test_learner.py, B4, B5,
B6 and B10 in test_replay.py, and B11 in test_replay.py and test_run.py.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("accelerate")

from ivideogpt_hf.cli import main
from ivideogpt_hf.rl.runs.agent_run import AgentRun
from ivideogpt_hf.rl.runs.entrance import AgentRunSettings
from ivideogpt_hf.simulators.push2d import Push2DSimulator
from tests.conftest import build_world
from tests.rl.imagining import imagined_only, learnt, make_imagined


def imagining(monkeypatch, world, **schedule):
    """The callback of an agent that has learnt, whose rollouts tell their tokens."""
    _, imagined = learnt(imagined=make_imagined(schedule, world))
    rollout = world.rollout
    monkeypatch.setattr(
        world, "rollout", lambda *args, outputs, **options: rollout(*args, outputs=(*outputs, "tokens"), **options)
    )
    imagined.buffer.clear_imagined()
    return imagined


def test_b7_every_demonstration_in_the_buffer_has_a_step_that_solved_its_task(monkeypatch, tmp_path):
    """B7: three of five demonstrations of a task held no step with the bonus for success."""
    act, reset, seeds = Push2DSimulator.expert_action, Push2DSimulator.reset, []
    monkeypatch.setattr(Push2DSimulator, "reset", lambda self, seed: (seeds.append(seed), reset(self, seed))[1])
    # An expert that fails in every other episode.
    monkeypatch.setattr(
        Push2DSimulator,
        "expert_action",
        lambda self: act(self) if len(set(seeds)) % 2 else np.zeros(2, np.float32),
    )
    settings = AgentRunSettings(
        environment="push2d/goal-shown", output=tmp_path / "run", demos=3, action_repeat=1, max_steps=20
    )
    run = AgentRun(settings)
    run._begin()
    assert run.demonstrations.failed_seeds  # else the test says nothing
    clips = run.buffer.sample_segments(200, 21)  # whole episodes, since they have no more frames
    assert len({clip.numpy().tobytes() for clip in clips.frames}) == 3
    assert (clips.rewards.max(dim=1).values > settings.success_bonus - 1).all()  # without it, rewards are negative
    run.close()


def test_b8_the_context_is_read_once_for_all_frames_of_a_rollout(monkeypatch):
    """B8: for each frame, the transformer read the prompt again, and the VQ model encoded frames of zeros."""
    world = build_world(action_dim=2, predict_reward=True)
    imagined = imagining(monkeypatch, world)
    positions, encoded = [], []

    def count(_, args, options):
        states = args[0] if args else options["hidden_states"]
        positions.append(states.shape[:2].numel())

    hooks = [
        world.transformer.model.layers[0].register_forward_pre_hook(count, with_kwargs=True),
        world.vq_model.encoder.register_forward_pre_hook(lambda _, args: encoded.append(args[0])),
    ]
    imagined.imagine()
    for hook in hooks:
        hook.remove()
    layout, context = world.layout, world.spec.num_context_frames
    prompt = context * (layout.tokens_per_context_frame + 1)
    frame = layout.tokens_per_future_frame + 2  # its slot, its tokens, and a pass for the reward
    assert sum(positions) <= 3 * (prompt + 3 * frame)  # of three rollouts of three steps
    assert sum(positions) < 2 * 3 * prompt  # else the test says nothing
    frames = torch.cat(encoded)
    assert len(frames) == 3 * context
    assert frames.flatten(1).std(dim=1).min() > 0  # none of them is empty


def test_b9_only_codes_of_frames_are_imagined(monkeypatch):
    """B9: ids of context codes and slots could be drawn, and were clamped when they were decoded."""
    world = build_world(action_dim=2, predict_reward=True)
    layout, head = world.layout, world.transformer.lm_head
    codes = range(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)
    others = [number for number in range(len(head.weight)) if number not in codes]
    with torch.no_grad():
        head.weight[others] *= 1000
    imagined = imagining(monkeypatch, world, horizon=3)
    assert set(imagined.imagine().rollout.tokens.flatten().tolist()) <= set(codes)


def test_b12_frames_are_rounded_where_they_become_whole_numbers(monkeypatch):
    """B12: they were cut off, so that all of them were darker by half a step."""
    world = build_world(action_dim=2, predict_reward=True)
    imagined, decode = imagining(monkeypatch, world), world.vq_model.decode_future

    def almost(*args, **options):
        return torch.full_like(decode(*args, **options), 199.6 / 255)

    monkeypatch.setattr(world.vq_model, "decode_future", almost)
    imagined.imagine()
    newest = imagined_only(imagined.model, 50).next_observations[:, -3:]
    assert newest.unique().tolist() == [200]


@pytest.mark.parametrize("option", ["beta", "camera"])
def test_b12_settings_without_effect_do_not_exist(option, tmp_path, capsys):
    """B12: a bonus that was never defined, and a camera that was ignored, could be set."""
    file = tmp_path / "run.yaml"
    file.write_text(f"environment: push2d\n{option}: 1\n")
    assert main(["rl", "--config", str(file), "--output", str(tmp_path / "out")]) == 2
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_b12_clips_of_updates_are_as_long_as_rollouts(tmp_path):
    """B12: the lengths of both could be set apart, and were not compared."""
    settings = AgentRunSettings(environment="push2d", output=tmp_path, world_model="default", horizon=7)
    assert settings.learner_settings().num_future_frames == settings.schedule().horizon == 7


def test_b14_imagined_rewards_are_those_that_the_updates_train(monkeypatch):
    """B14: rewards of rollouts came from code of their own, which was wrong."""
    world = build_world(action_dim=2, predict_reward=True, processor={"reward_transform": "symlog"})
    imagined = imagining(monkeypatch, world)
    result = imagined.imagine()
    world.transformer.eval()
    contexts, _ = world.vq_model.tokenize(result.starts.context_frames.float() / 255)
    blocks = torch.nn.functional.pad(result.rollout.tokens, (1, 0), value=world.layout.slot_id).flatten(1)
    actions = world.processor.normalize_actions(result.rollout.actions)
    with torch.no_grad():
        output = world.transformer(torch.cat([contexts, blocks], dim=1), actions=actions)
    expected = world.processor.rewards_from_head(output.rewards)
    torch.testing.assert_close(result.rollout.rewards, expected, atol=1e-4, rtol=1e-4)
    batch = imagined_only(imagined.model, 200)
    one_step = batch.rewards[(batch.discounts - imagined.model.gamma).abs().flatten() < 1e-6].flatten()
    assert len(one_step)
    assert torch.isclose(one_step[:, None], result.rollout.rewards[:, -1], atol=1e-5).any(dim=1).all()
