"""Places of the tokens of each frame in the sequence: lengths, ids and positions. They are computed only here.

The sequence of a clip with C context frames and n future frames (Wu et al., 2024, section 3.1)::

    c1 [S1] c2 ... [S1] cC  [S2] d1  [S2] d2 ... [S2] dn
    |---------- prompt ---| |-block-| ...

``c`` is the full set of tokens of a context frame, ``d`` the few dynamics tokens of a future frame. ``[S2]`` is the
*slot*: the position that starts a future frame, at which the action that causes it is added. A slot and the ``d``
after it are a *block*. Dynamics ids are shifted by the number of context codes. The two separators are the last two ids
of the vocabulary.

With `repeat_last_context`, which is not in the paper, a block ``[S2] d`` of the last context frame ends the prompt.
Then the first future frame, too, follows a frame in dynamics tokens, most of which do not change from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLayout:
    """Geometry of the token sequence.

    Args:
        num_context_frames: number C of context frames, which are coded in full.
        tokens_per_context_frame: number of tokens of one context frame (256 in the released checkpoints).
        tokens_per_future_frame: number of dynamics tokens of one future frame (16 in the released checkpoints).
        num_context_codes: size of the context codebook.
        num_dynamics_codes: size of the dynamics codebook.
        repeat_last_context: whether the last context frame is coded a second time, as a future frame is.

    Raises:
        ValueError: if a count is smaller than one.

    Example:
        >>> from ivideogpt_hf.models.token_layout import TokenLayout
        >>> layout = TokenLayout(2, 256, 16, num_context_codes=8192, num_dynamics_codes=8192)
        >>> layout.prompt_length, layout.block_length, layout.sequence_length(14)
        (513, 17, 751)
    """

    num_context_frames: int
    tokens_per_context_frame: int
    tokens_per_future_frame: int
    num_context_codes: int
    num_dynamics_codes: int
    repeat_last_context: bool = False

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if name != "repeat_last_context" and value < 1:
                raise ValueError(f"TokenLayout needs {name} >= 1, got {value}")

    # -- vocabulary ---------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of context codes, dynamics codes and the two separators."""
        return self.num_context_codes + self.num_dynamics_codes + 2

    @property
    def dynamics_offset(self) -> int:
        """Vocabulary id of dynamics code 0."""
        return self.num_context_codes

    @property
    def context_separator_id(self) -> int:
        """``[S1]``: the next frame is a context frame."""
        return self.vocab_size - 2

    @property
    def slot_id(self) -> int:
        """``[S2]``: the next frame is a future frame."""
        return self.vocab_size - 1

    # -- positions ----------------------------------------------------------------------------------------------------

    @property
    def prompt_length(self) -> int:
        """Number of tokens of all context frames, the separators between them, and the block that repeats the last."""
        num_tokens = (self.tokens_per_context_frame + 1) * self.num_context_frames - 1
        return num_tokens + self.block_length if self.repeat_last_context else num_tokens

    @property
    def block_length(self) -> int:
        """Number of tokens of one future frame together with its slot."""
        return self.tokens_per_future_frame + 1

    def sequence_length(self, num_future_frames: int) -> int:
        """Length of the sequence with this many future frames."""
        return self.prompt_length + self.block_length * num_future_frames

    def num_future_frames(self, sequence_length: int) -> int:
        """Number of future frames in a complete sequence of this length.

        Raises:
            ValueError: if the length does not end on a frame border.
        """
        num_frames, rest = divmod(sequence_length - self.prompt_length, self.block_length)
        if num_frames < 0 or rest:
            raise ValueError(
                f"{sequence_length} tokens are no whole number of frames: expected {self.prompt_length} for "
                f"{self.num_context_frames} context frames plus a multiple of {self.block_length}"
            )
        return num_frames

    def max_future_frames(self, num_positions: int) -> int:
        """Number of future frames that fit into a model with this many positions; zero or less if not even one fits."""
        return (num_positions - self.prompt_length) // self.block_length

    def context_frame_start(self, index: int) -> int:
        """Position of the first token of context frame ``index`` (its separator, if any, stands before it)."""
        return (self.tokens_per_context_frame + 1) * index

    def slot(self, index: int) -> int:
        """Position of the slot of future frame ``index``."""
        return self.prompt_length + self.block_length * index

    def num_slots_before(self, position: int) -> int:
        """Number of slots at positions smaller than ``position``."""
        return max(0, -((self.prompt_length - position) // self.block_length))

    def num_frame_ends_before(self, position: int) -> int:
        """Number of future frames whose last token is at a position smaller than ``position``."""
        return max(0, (position - self.prompt_length) // self.block_length)

    def acting_frames(self, start: int, stop: int) -> range:
        """Future frames that a position in ``[start, stop)`` decides on: their slot, or one of their tokens but the
        last."""
        num_positions = self.tokens_per_future_frame
        first = max(0, -((self.prompt_length + num_positions - 1 - start) // self.block_length))
        return range(first, self.num_slots_before(stop))

    def slot_positions(self, start: int, stop: int) -> range:
        """Positions of all slots in ``[start, stop)``."""
        return range(self.slot(self.num_slots_before(start)), stop, self.block_length)

    def frame_end_positions(self, start: int, stop: int) -> range:
        """Positions in ``[start, stop)`` of the last tokens of future frames."""
        first = self.slot(self.num_frame_ends_before(start) + 1) - 1
        return range(first, stop, self.block_length)
