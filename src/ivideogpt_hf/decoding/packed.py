"""Weights in oneDNN's own order, which it fetches up to twice as fast: a second copy, made when it is first needed.

Whoever changes a model's weights need not know of the copies. A weight that has changed since the last prompt or frame
is packed anew. torch counts changes, but for those that are made by ``.data``, as when adapters are merged, or by fused
optimizers. So some of the numbers are compared, too: one of each row and of each column at least, since adapters of
tokens change single rows. Only who writes single numbers past torch's count may not be noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

# The order does not depend on the number of rows, but for one row in float32, for which it is worse.
ROWS_HINT = 8


@dataclass
class _Packed:
    """A copy.

    Attributes:
        num_changes: torch's count of changes of the weights that it was made of.
        compared: numbers of these weights.
        weight: weights in oneDNN's order.
        seen_at: number of the look at which they were last compared.
    """

    num_changes: int
    compared: Tensor
    weight: Tensor
    seen_at: int

    def is_of(self, weight: Tensor) -> bool:
        """Whether it was made of weights as they are now."""
        old, new = self.compared, _some(weight)
        is_alike = old.dtype == new.dtype and old.shape == new.shape
        return self.num_changes == _num_changes(weight) and is_alike and bool(old.equal(new))


_copies: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_parts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_look = 0


def look_again() -> None:
    """Compare each weight once more, when it is next asked for: a frame or a prompt begins."""
    global _look
    _look += 1


def packed(weight: Tensor) -> Tensor:
    """The copy of contiguous weights (out, in) on a CPU."""
    copy = _copies.get(weight)
    if copy is None or (copy.seen_at != _look and not copy.is_of(weight)):
        order = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)
        _copies[weight] = copy = _Packed(_num_changes(weight), _some(weight), order, _look)
    copy.seen_at = _look
    return copy.weight


def part_of(weight: nn.Parameter, first: int, stop: int | None) -> nn.Parameter:
    """Rows ``first`` to ``stop`` of weights: a view that is the same tensor each time, so that a copy can be kept."""
    parts = _parts.setdefault(weight, {})
    now, kept = weight.detach()[first:stop], parts.get((first, stop))
    # What is kept holds its memory, so that no other weights can have been put there.
    if kept is None or (kept.data_ptr(), kept.dtype, kept.shape) != (now.data_ptr(), now.dtype, now.shape):
        kept = parts[first, stop] = nn.Parameter(now, requires_grad=False)
    return kept


def forget(weights: Iterable[Tensor]) -> None:
    """Free the copies of weights that go to another device or into another dtype, where they may not be used again."""
    for weight in weights:
        for one in (weight, *_parts.pop(weight, {}).values()):
            _copies.pop(one, None)


def _num_changes(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _some(weight: Tensor) -> Tensor:
    return weight.detach().flatten()[_places(*weight.shape)]


@cache
def _places(num_rows: int, num_columns: int) -> Tensor:
    """Places of the numbers that are compared, evenly spread: no further apart than a row is long, so that each row has
    one, and as many as there are columns, which they come to in turn."""
    distance = min(num_rows, num_columns)
    while math.gcd(distance, num_columns) > 1:
        distance -= 1
    return torch.arange(0, num_rows * num_columns, distance, device="cpu")
