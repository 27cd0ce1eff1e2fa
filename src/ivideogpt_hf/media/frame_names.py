"""The order of a clip's frames, from the numbers in the names of their files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from statistics import median_low

# A minus belongs to a number only where it separates nothing: at the beginning, or after another separator.
NUMBER = re.compile(r"(?:(?<![^\W_])-)?\d+(?:\.\d+)?")
WAY_OUT = "name frames by one number, such as 000012, and put each clip into a folder of its own"


def order_frames(stems: Sequence[str]) -> list[int]:
    """Find the order of frames: the indices of their names, first frame first.

    All names must have one pattern: the same text around as many numbers. They are ordered by the first number that
    differs, and then by the next one. Numbers may be negative, and may have decimals. The first of "a", "a (1)" and
    "a (2)" has no number.

    Args:
        stems: names of the files without their suffixes.

    Raises:
        ValueError: if the names have several patterns or no numbers, numbers repeat, or the order is not clear.
    """
    if len(stems) < 2:
        return list(range(len(stems)))
    copies = _copies(stems)
    if copies:
        return copies
    patterns = Counter(NUMBER.sub("#", stem) for stem in stems)
    examples = {NUMBER.sub("#", stem): stem for stem in stems}
    if len(patterns) > 1:
        first, second = (examples[pattern] for pattern, _ in patterns.most_common(2))
        raise ValueError(f"{first!r} and {second!r} are named in different ways: {WAY_OUT}")
    if "#" not in next(iter(patterns)):
        raise ValueError(f"frames named {stems[0]!r} have no numbers: {WAY_OUT}")
    keys: list[tuple[Decimal, ...]] = [()] * len(stems)
    for column in _changing_numbers(stems):
        keys = [(*key, value) for key, value in zip(keys, _values(column), strict=True)]
        if len(set(keys)) == len(keys):  # later numbers decide nothing
            break
    indices = sorted(range(len(stems)), key=lambda index: keys[index])
    for index, following in pairwise(indices):
        if keys[index] == keys[following]:
            raise ValueError(f"frames {stems[index]!r} and {stems[following]!r} have the same number: {WAY_OUT}")
    _check_one_sequence(keys, stems)
    return indices


def frame_gaps(stems: Sequence[str]) -> str | None:
    """A remark about numbers that are missing among frames in their order; None where none are.

    A gap is a step between numbers that is at least twice the usual one. It is looked for in the first number that
    changes, if all frames differ in it.
    """
    values = [Decimal(number) for number in next(iter(_changing_numbers(stems)), ())]
    if len(values) < 2 or len(set(values)) < len(values):
        return None
    steps = [later - earlier for earlier, later in pairwise(values)]
    usual = median_low(steps)
    gaps = [index for index, step in enumerate(steps) if step >= 2 * usual]
    if not gaps:
        return None
    plural = "s" if len(gaps) > 1 else ""
    return (
        f"the numbers of frames have {len(gaps)} gap{plural}, the first from {values[gaps[0]]} to {values[gaps[0] + 1]}"
    )


def _copies(stems: Sequence[str]) -> list[int] | None:
    """The order of names of which all but the first are the first with a number in brackets; None for others."""
    first = min(stems, key=len)
    matches = [re.fullmatch(re.escape(first) + r" ?\((\d+)\)", stem) for stem in stems]
    if stems.count(first) != 1 or sum(match is None for match in matches) != 1:
        return None
    numbers = [int(match[1]) if match else -1 for match in matches]
    return sorted(range(len(stems)), key=lambda index: numbers[index]) if len(set(numbers)) == len(numbers) else None


def _changing_numbers(stems: Sequence[str]) -> list[tuple[str, ...]]:
    """The numbers of all names, for each place in their pattern where they differ."""
    columns = zip(*map(NUMBER.findall, stems), strict=False)  # the first of several copies has a number less
    return [column for column in columns if len(set(map(Decimal, column))) > 1]


def _values(column: Sequence[str]) -> list[Decimal]:
    """The values of a number in each name."""
    values = list(map(Decimal, column))
    if all(value < 0 for value in values):
        raise ValueError(f"{column[0]!r} may be a negative number or one after a hyphen: {WAY_OUT}")
    fractions = [text.partition(".")[2] for text in column]
    if len(set(map(len, fractions))) > 1 and not any(len(text) > 1 and text.startswith("0") for text in fractions):
        # 0.9 and 0.10 may be decimals, or a counter behind another, which has no zeros in front of some numbers only.
        counters = [tuple(map(int, text.lstrip("-").split("."))) for text in column]
        by_value = sorted(range(len(values)), key=lambda i: values[i])
        by_counter = sorted(range(len(values)), key=lambda i: counters[i])
        if by_value != by_counter:
            longest = max(column, key=len)
            raise ValueError(f"{longest!r} may be a decimal, or a number behind another: {WAY_OUT}")
    return values


def _check_one_sequence(keys: Sequence[tuple[Decimal, ...]], stems: Sequence[str]) -> None:
    """Raise ValueError if numbers begin anew for each value of the first one, as for several cameras in one folder."""
    groups = defaultdict(set)
    for key in keys:
        groups[key[0]].add(key[1:])
    members = list(groups.values())
    if len(members) > 1 and len(members[0]) > 1 and all(group == members[0] for group in members):
        raise ValueError(f"frames such as {stems[0]!r} are several sequences with the same numbers: {WAY_OUT}")
