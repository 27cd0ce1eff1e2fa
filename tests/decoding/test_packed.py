"""Copies of weights in oneDNN's order: they follow the weights, whatever changes these, and go with them."""

import gc

import pytest
import torch
from torch import nn

from ivideogpt_hf import Sampling
from ivideogpt_hf.decoding import packed, products
from tests.conftest import build_world, random_frames

if not torch.backends.mkldnn.is_available():
    pytest.skip("this torch has no oneDNN", allow_module_level=True)

SHAPE = (96, 704)  # so that even distances would miss columns


def weights():
    return nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), requires_grad=False)


def assert_follows(weight, first=0, stop=None):
    """The packed kernel multiplies with these rows of the weights as they are now."""
    x = torch.randn(3, SHAPE[1], generator=torch.Generator().manual_seed(1))
    part = packed.part_of(weight, first, stop) if stop else weight
    computed = products.KERNELS["packed"](x, part)
    expected = x.to(weight.dtype).float() @ weight[first:stop].float().t()
    torch.testing.assert_close(computed, expected, rtol=0, atol=0.5)


def merge(weight):
    """As an adapter is merged: past torch's counter of changes."""
    delta = torch.randn(SHAPE[0], 2) @ torch.randn(2, SHAPE[1])
    before = weight._version
    weight.data += 10 * delta
    assert weight._version == before


def clear_head(weight):
    weight.data[16:32] = 30.0


def clear_columns(weight):
    weight.data[:, 640:] = 30.0


def clear_row(weight):
    weight.data[19] = 30.0


def clear_column(weight):
    weight.data[:, 333] = 30.0


def set_one(weight):
    weight[3, 5] = 1000.0


def halve(weight):
    weight.data = weight.data.bfloat16()


def replace(weight):
    weight.data = -weight.data


@pytest.mark.parametrize("rows", [(0, None), (2, 30)])
@pytest.mark.parametrize("change", [merge, clear_head, clear_columns, clear_row, clear_column, set_one, halve, replace])
def test_the_next_frame_sees_changed_weights(change, rows):
    if change is halve and not products.has_fast_products(torch.bfloat16):
        pytest.skip("this processor has no instructions for bfloat16, and the kernel is never taken")
    weight = weights()
    with torch.inference_mode():  # as rollouts run
        assert_follows(weight, *rows)
    change(weight)
    packed.look_again()
    with torch.inference_mode():
        assert_follows(weight, *rows)


def test_weights_are_packed_once():
    weight = weights()
    copy = packed.packed(weight)
    packed.look_again()
    assert packed.packed(weight) is copy


def test_a_part_of_weights_stays_the_same_tensor():
    weight = weights()
    part = packed.part_of(weight, 8, 40)
    assert packed.part_of(weight, 8, 40) is part
    assert packed.part_of(weight, 8, 48) is not part
    assert part.equal(weight[8:40])


def test_a_copy_goes_with_its_weights():
    weight = weights()
    packed.packed(weight)
    packed.packed(packed.part_of(weight, 8, 40))
    count = len(packed._copies)
    del weight
    gc.collect()
    assert len(packed._copies) == count - 2


@pytest.mark.parametrize("shape", [(96, 704), (704, 96), (768, 768), (1, 64), (64, 1), (7, 7)])
def test_a_number_of_each_row_and_column_is_compared(shape):
    places = packed._places(*shape)
    assert set((places // shape[1]).tolist()) == set(range(shape[0]))
    assert set((places % shape[1]).tolist()) == set(range(shape[1]))


def test_a_world_that_is_moved_leaves_no_copies():
    world = build_world()
    head = world.transformer.lm_head.weight
    count = len(packed._copies)
    packed.packed(head)
    packed.packed(packed.part_of(head, 8, 40))
    world.to(torch.bfloat16)
    assert len(packed._copies) == count
    assert head not in packed._parts


def test_no_copy_is_kept_of_what_is_new_each_time():
    head = nn.Parameter(torch.randn(1024, 520), requires_grad=False)
    assert "packed" in products._candidates(1, head)
    with torch.inference_mode():
        assert "packed" not in products._candidates(1, head[8:520])
    assert "packed" not in products._candidates(1, nn.Parameter(torch.randn(520, 1024).t(), requires_grad=False))


def test_each_frame_of_a_world_looks_at_its_weights(monkeypatch):
    kernel = {True: "packed", False: "rows"}
    monkeypatch.setattr(products, "fastest_kernel", lambda _num_rows, weight: kernel[products._is_kept(weight)])
    world, frames = build_world(), random_frames(1, 2)

    def tokens():
        return world.rollout(frames, num_frames=2, sampling=Sampling(greedy=True), outputs=("tokens",)).tokens

    before = tokens()
    for layer in world.transformer.model.layers:
        layer.mlp.down_proj.weight.data *= -3
    changed = tokens()
    monkeypatch.undo()
    assert not changed.equal(before)
    assert changed.equal(tokens())
