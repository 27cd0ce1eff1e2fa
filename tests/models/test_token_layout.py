import pytest

from ivideogpt_hf import TokenLayout

RELEASED = {
    "tokens_per_context_frame": 256,
    "tokens_per_future_frame": 16,
    "num_context_codes": 8192,
    "num_dynamics_codes": 8192,
}


@pytest.mark.parametrize(("num_context", "num_frames", "length"), [(1, 16, 511), (2, 12, 683), (2, 16, 751)])
def test_sequence_lengths_are_those_of_the_paper(num_context, num_frames, length):
    layout = TokenLayout(num_context_frames=num_context, **RELEASED)
    assert layout.sequence_length(num_frames - num_context) == length
    assert layout.num_future_frames(length) == num_frames - num_context


def test_vocabulary_of_the_released_checkpoints():
    layout = TokenLayout(num_context_frames=2, **RELEASED)
    assert (layout.vocab_size, layout.context_separator_id, layout.slot_id) == (16386, 16384, 16385)


@pytest.mark.parametrize(("num_context", "frames"), [(1, 45), (2, 30)])
def test_position_limit(num_context, frames):
    assert TokenLayout(num_context_frames=num_context, **RELEASED).max_future_frames(1024) == frames


def test_slots_and_frame_ends_are_found_in_every_window():
    layout = TokenLayout(2, 5, 3, 7, 7)
    end = layout.sequence_length(3)
    slots = [layout.slot(i) for i in range(3)]
    frame_ends = [layout.slot(i + 1) - 1 for i in range(3)]
    for start in range(end):
        for stop in range(start, end + 1):
            assert list(layout.slot_positions(start, stop)) == [s for s in slots if start <= s < stop]
            acting = [i for i, s in enumerate(slots) if s < stop and s + layout.tokens_per_future_frame > start]
            assert list(layout.acting_frames(start, stop)) == acting
            assert list(layout.frame_end_positions(start, stop)) == [e for e in frame_ends if start <= e < stop]


def test_incomplete_frame_is_an_error():
    with pytest.raises(ValueError, match="no whole number of frames"):
        TokenLayout(2, 5, 3, 7, 7).num_future_frames(13)


def test_counts_must_be_positive():
    with pytest.raises(ValueError, match="num_context_frames >= 1"):
        TokenLayout(0, 5, 3, 7, 7)
