"""Which frame a row of actions belongs to, in two words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

ActionAlignment = Literal["before", "after"]

MEANINGS: Mapping[ActionAlignment, str] = {
    "before": "row t of the actions led to frame t",
    "after": "row t of the actions leads from frame t to frame t + 1",
}
