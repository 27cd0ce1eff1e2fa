"""The head that guesses tokens ahead: its loss, who learns from it, and what guesses become."""

import pytest
import torch

from ivideogpt_hf import IVideoGPTConfig, Sampling, WorldModel
from tests.conftest import build_transformer, build_vq_model, build_world, random_actions, random_frames

VQ_CONFIG = build_vq_model().config


def sequences(transformer, num_clips=3, num_frames=4):
    """Random tokens of clips, with slots in their places."""
    layout = transformer.config.layout
    tokens = torch.randint(0, layout.num_context_codes, (num_clips, layout.prompt_length))
    codes = torch.randint(0, layout.num_dynamics_codes, (num_clips, num_frames, layout.tokens_per_future_frame))
    slots = torch.full((num_clips, num_frames, 1), layout.slot_id)
    return torch.cat([tokens, torch.cat([slots, codes + layout.dynamics_offset], -1).flatten(1)], dim=1)


def test_the_loss_is_that_of_a_loop_written_out():
    transformer = build_transformer(VQ_CONFIG, draft_head=True).eval()
    layout, tokens = transformer.config.layout, sequences(transformer)
    count = layout.tokens_per_future_frame
    codes = slice(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)
    with torch.no_grad():
        output = transformer(tokens, labels=tokens, output_hidden_states=True)
        hidden, embed = output.hidden_states[-1], transformer.model.embed_tokens
        by_ahead = {ahead: [] for ahead in range(1, min(3, count - 1) + 1)}
        for clip in range(len(tokens)):
            for frame in range(1, 4):
                slot = layout.slot(frame)
                for start in range(count - len(by_ahead)):
                    state = hidden[clip, slot + start]
                    for ahead, losses in by_ahead.items():
                        last, before = slot + start + ahead, layout.slot(frame - 1) + 1 + start + ahead
                        state = transformer.draft_head(state, embed(tokens[clip, last]), embed(tokens[clip, before]))
                        target = transformer.lm_head(hidden[clip, slot + start + ahead])[codes].softmax(-1)
                        guess = transformer.lm_head(state)[codes].log_softmax(-1)
                        losses.append(-(target * guess).sum())
        expected = torch.stack([torch.stack(losses).mean() for losses in by_ahead.values()]).mean()
    torch.testing.assert_close(output.draft_loss, expected)


def test_only_the_head_learns_from_it():
    transformer = build_transformer(VQ_CONFIG, draft_head=True)
    tokens = sequences(transformer)
    transformer(tokens, labels=tokens).draft_loss.backward()
    learning = {name.split(".")[0] for name, weight in transformer.named_parameters() if weight.grad is not None}
    assert learning == {"draft_head", "lm_head"} or learning == {"draft_head"}
    assert all(weight.grad is not None for weight in transformer.draft_head.parameters())


def test_a_head_that_has_learned_is_right_more_often(tmp_path):
    """It learns what a world draws, and guesses these draws from then on, after saving and loading."""
    torch.manual_seed(0)
    world = build_world({"num_dynamics_codes": 6}, action_dim=3, draft_head=True, initializer_range=0.3)
    frames, actions = random_frames(8, 2), random_actions(8, 5, 3)

    def play(world):
        """Tokens of each row by itself, and how many of their guesses were right."""
        options = {"sampling": Sampling(seed=1, num_guesses=3), "outputs": ("tokens", "statistics")}
        rollouts = [world.rollout(frames[row, None], actions[row, None], **options) for row in range(8)]
        tokens = torch.cat([rollout.tokens for rollout in rollouts])
        return tokens, sum(rollout.statistics.num_right for rollout in rollouts)

    tokens_before, right_before = play(world)

    transformer, layout = world.transformer, world.transformer.config.layout
    rollout = world.rollout(frames, actions, sampling=Sampling(seed=1), outputs=("tokens",))
    prompts, _ = world.vq_model.tokenize(frames.float() / 255)
    slots = torch.full((8, 5, 1), layout.slot_id)
    tokens = torch.cat([prompts, torch.cat([slots, rollout.tokens], -1).flatten(1)], dim=1)
    optimizer = torch.optim.Adam(transformer.draft_head.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        transformer(tokens, actions=actions, labels=tokens).draft_loss.backward()
        optimizer.step()
    world.save_pretrained(tmp_path)
    tokens_after, right_after = play(WorldModel.from_pretrained(tmp_path))
    assert tokens_after.equal(tokens_before)
    assert right_after > 2 * right_before


@pytest.mark.parametrize(("num_frames", "cut", "has_loss"), [(4, 3, True), (2, 1, False), (1, 0, False)])
def test_what_is_no_whole_frame_does_not_count(num_frames, cut, has_loss):
    transformer = build_transformer(VQ_CONFIG, draft_head=True).eval()
    tokens = sequences(transformer, num_frames=num_frames)
    whole = transformer.config.layout.sequence_length(num_frames - 1)
    with torch.no_grad():
        seen = tokens[:, : tokens.shape[1] - cut]
        loss = transformer(seen, labels=seen).draft_loss
        assert (loss is not None) == has_loss
        if has_loss:
            torch.testing.assert_close(loss, transformer(tokens[:, :whole], labels=tokens[:, :whole]).draft_loss)


def test_frames_of_one_token_have_nothing_to_guess():
    with pytest.raises(ValueError, match="tokens_per_future_frame >= 2"):
        IVideoGPTConfig(tokens_per_future_frame=1, draft_head=True)
