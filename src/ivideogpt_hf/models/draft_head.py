"""A head that guesses the tokens after the next one, for rollouts to try several in a pass (`Sampling.num_guesses`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .token_layout import TokenLayout

# Tokens ahead that the head learns to guess, one after the other. A rollout may ask for more.
NUM_AHEAD = 3


class DraftHead(nn.Module):
    """One step of a recurrence that guesses a frame's tokens from left to right (compare Hydra, Ankner et al., 2024).

    Its state begins as the hidden state from which a token was drawn. The transformer's own `lm_head` reads the guess
    of the next token from the state after the step.

    Args:
        hidden_size: width d of hidden states and embeddings.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(hidden_size) for _ in range(3))
        self.gate_up_proj = nn.Linear(3 * hidden_size, 4 * hidden_size, bias=False)
        self.down_proj = nn.Linear(2 * hidden_size, hidden_size, bias=False)

    def forward(self, state: Tensor, token: Tensor, before: Tensor) -> Tensor:
        """The state (..., d) after one token more.

        Args:
            state: state (..., d) before.
            token: embedding (..., d) of the token that follows that state.
            before: embedding (..., d) of the token that the frame before has in the place to guess.
        """
        parts = (norm(part) for norm, part in zip(self.norms, (state, token, before), strict=True))
        gate, up = self.gate_up_proj(torch.cat(list(parts), -1)).chunk(2, -1)
        return state + self.down_proj(F.silu(gate) * up)


def draft_loss(
    head: DraftHead, lm_head: nn.Module, embed_tokens: nn.Module, hidden: Tensor, tokens: Tensor, layout: TokenLayout
) -> Tensor | None:
    """Cross-entropy of the head's distributions against the transformer's own, a mean over tokens ahead; scalar. None
    where the sequence has fewer than two whole future frames.

    Only the head gets a gradient: what the transformer predicts is not changed by what is guessed of it.

    Args:
        head: head to train.
        lm_head, embed_tokens: the transformer's output layer and its token embeddings.
        hidden: final hidden states (B, L, d) of clips, from their beginning.
        tokens: vocabulary ids (B, L) int64 that the transformer has seen.
        layout: token layout of the transformer.
    """
    num_frames = max(0, tokens.shape[1] - layout.prompt_length) // layout.block_length
    if num_frames < 2:
        return None
    blocks = slice(layout.prompt_length, layout.sequence_length(num_frames))
    count = layout.tokens_per_future_frame
    num_ahead = min(NUM_AHEAD, count - 1)
    codes = slice(layout.dynamics_offset, layout.dynamics_offset + layout.num_dynamics_codes)
    with torch.no_grad():
        # The state at place i of a block is the one from which token i of its frame is drawn.
        states = hidden[:, blocks].unflatten(1, (num_frames, -1))[:, 1:, :count]
        embedded = embed_tokens(tokens[:, blocks].unflatten(1, (num_frames, -1))[..., 1:])
        targets = lm_head(states)[..., codes].float().softmax(-1)
    before, embedded = embedded[:, :-1], embedded[:, 1:]
    num_starts = count - num_ahead
    state, losses = states[:, :, :num_starts], []
    for ahead in range(1, num_ahead + 1):
        places = slice(ahead, ahead + num_starts)
        state = head(state, embedded[:, :, ahead - 1 : ahead - 1 + num_starts], before[:, :, places])
        log_probs = lm_head(state)[..., codes].float().log_softmax(-1)
        losses.append(-(targets[:, :, places] * log_probs).sum(-1).mean())
    return torch.stack(losses).mean()
