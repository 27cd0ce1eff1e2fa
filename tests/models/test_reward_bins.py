import math

import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.models.reward_bins import mean_of_bins, two_hot_loss
from tests.conftest import build_transformer, build_vq_model, build_world, random_actions, random_frames

VQ_CONFIG = build_vq_model().config
RANGE = (-2.0, 2.0)
CENTRES = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])


def test_the_mean_of_one_certain_bin_is_its_centre():
    logits = torch.full((5, 5), -1e4).fill_diagonal_(0)
    torch.testing.assert_close(mean_of_bins(logits, RANGE), CENTRES)


def test_the_best_distribution_of_a_target_has_it_as_mean():
    """The cross-entropy is least where the mean is the target, at bin centres, between them and at both ends."""
    targets = torch.tensor([-2.0, -1.75, 0.0, 0.6, 2.0])
    logits = torch.zeros(5, 5, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], lr=1, max_iter=400, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = two_hot_loss(logits, targets, RANGE)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(mean_of_bins(logits, RANGE), targets, atol=2e-3, rtol=0)


def test_a_target_is_shared_by_its_two_neighbours():
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    log_probs = logits.log_softmax(-1)[0]
    expected = -(0.75 * log_probs[3] + 0.25 * log_probs[4])  # 1.25 lies a quarter of the way from 1 to 2
    torch.testing.assert_close(two_hot_loss(logits, torch.tensor([1.25]), RANGE), expected)


@pytest.mark.parametrize("target", [-2.001, 2.001, float("nan")])
def test_a_target_outside_the_range_is_refused(target):
    with pytest.raises(ValueError, match="reward_range"):
        two_hot_loss(torch.zeros(1, 5), torch.tensor([target]), RANGE)


def test_the_transformers_rewards_are_means_of_its_logits():
    model = build_transformer(VQ_CONFIG, predict_reward=True, num_reward_bins=5, reward_range=RANGE)
    layout = model.config.layout
    tokens = torch.randint(layout.num_dynamics_codes, (2, layout.sequence_length(3))) + layout.dynamics_offset
    output = model(tokens)
    assert output.reward_logits.shape == (2, 3, 5)
    torch.testing.assert_close(output.rewards, (output.reward_logits.softmax(-1) * CENTRES).sum(-1))


@pytest.mark.parametrize("compiled", [False, True])
def test_rollouts_give_the_rewards_of_the_whole_sequence(compiled):
    world = build_world(action_dim=3, predict_reward=True, num_reward_bins=7)
    frames, actions = random_frames(2, 2), random_actions(2, 3, 3)
    rollout = (world.compile() if compiled else world).rollout(frames, actions, sampling=Sampling(seed=0))
    layout = world.layout
    sequence, _ = world.vq_model.tokenize(frames.float() / 255)
    slots = torch.full((2, 3, 1), layout.slot_id)
    sequence = torch.cat([sequence, torch.cat([slots, rollout.tokens], dim=2).flatten(1)], dim=1)
    expected = world.transformer(sequence, actions=actions).rewards
    torch.testing.assert_close(rollout.rewards, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_reward_bins": 0}, "num_reward_bins"),
        ({"reward_range": (1.0, 1.0)}, "reward_range"),
        ({"reward_range": (0.0, math.inf)}, "both finite"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_transformer(VQ_CONFIG, predict_reward=True, **settings)
