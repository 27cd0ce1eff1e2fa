"""Random shifts, truncated noise, and the parts of DrQ-v2's policy."""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from gymnasium.spaces import Box

from ivideogpt_hf.rl.agents.networks import DrQv2Policy, random_shift, truncated_normal

STACKS, ACTIONS = Box(0, 255, (9, 24, 24), np.uint8), Box(-1, 1, (2,), np.float32)


def make_policy(**options):
    torch.manual_seed(0)
    return DrQv2Policy(STACKS, ACTIONS, lambda _: 1e-3, **{"num_channels": 4, "hidden_dim": 8} | options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shifts_move_whole_stacks_by_whole_pixels():
    """Each result is one of the 81 crops of the frames with repeated edges, the same for all channels; all occur."""
    observations = torch.randint(0, 256, (1, 9, 12, 10), dtype=torch.uint8, generator=generator())
    padded = torch.nn.functional.pad(observations.float(), (4, 4, 4, 4), mode="replicate").byte()[0]
    crops = {padded[:, y : y + 12, x : x + 10].numpy().tobytes() for y in range(9) for x in range(9)}
    moved = random_shift(observations.expand(2000, -1, -1, -1), 4, generator())
    assert moved.shape == (2000, 9, 12, 10)
    assert {row.numpy().tobytes() for row in moved} == crops


def test_a_shift_by_no_pixel_changes_nothing():
    observations = torch.randint(0, 256, (3, 9, 12, 10), dtype=torch.uint8)
    assert torch.equal(random_shift(observations, 0, generator()), observations)


def test_noise_stays_within_its_clip_and_actions_within_their_bounds():
    mean = torch.linspace(-1, 1, 50)[:, None].expand(50, 200)
    actions = truncated_normal(mean, 5.0, generator(), clip=0.3)
    assert (actions - mean).abs().max() <= 0.3 + 1e-6
    assert actions.abs().max() < 1
    assert truncated_normal(mean, 5.0, generator()).abs().max() < 1


def test_the_noise_has_the_given_deviation():
    actions = truncated_normal(torch.zeros(1000, 100), 0.1, generator())
    assert actions.std().item() == pytest.approx(0.1, rel=0.02)


def test_the_gradient_reaches_the_mean_at_the_bounds():
    mean = torch.ones(4, 2, requires_grad=True)
    truncated_normal(mean, 1.0, generator(), clip=0.3).sum().backward()
    assert torch.equal(mean.grad, torch.ones(4, 2))


def test_the_paper_s_networks_have_its_sizes():
    policy = DrQv2Policy(Box(0, 255, (9, 64, 64), np.uint8), ACTIONS, lambda _: 1e-4)
    assert policy.encoder.num_features == 20_000
    assert policy.actor.trunk[0].weight.shape == (50, 20_000)
    assert policy.actor.head[0].weight.shape == (1024, 50)
    assert policy.critic.heads[0][0].weight.shape == (1024, 52)


def test_bfloat16_gives_nearly_the_same_actions():
    observations = torch.randint(0, 256, (8, 9, 24, 24), dtype=torch.uint8, generator=generator())
    exact, rough = (
        make_policy(mixed_precision=precision)(observations, deterministic=True) for precision in ("no", "bf16")
    )
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, atol=0.02)


def test_a_policy_alone_is_saved_and_loaded(tmp_path):
    policy = make_policy(strides=(2, 2))
    policy.save(tmp_path / "policy.pth")
    observations = np.random.default_rng(0).integers(0, 256, (2, 9, 24, 24)).astype(np.uint8)
    loaded = DrQv2Policy.load(tmp_path / "policy.pth", device="cpu")
    assert np.array_equal(*(one.predict(observations, deterministic=True)[0] for one in (policy, loaded)))


def test_frames_too_small_for_the_strides_are_refused():
    with pytest.raises(ValueError, match="too small for strides"):
        make_policy(strides=(2, 2, 2, 2, 2))


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="mixed_precision must be 'no' or 'bf16'"):
        make_policy(mixed_precision="fp16")
