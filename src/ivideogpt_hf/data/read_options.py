"""What a user asks of a reader: which cameras, at which size and rate, and which actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

from ..media.alignment import ActionAlignment

Fit = Literal["crop", "pad", "squash"]


@dataclass(frozen=True)
class ReadOptions:
    """What a user asks of a reader.

    Attributes:
        cameras: names of the cameras to read; None reads all that are RGB.
        size: (height, width) to resize frames to; None keeps their size.
        fit: way in which frames of another aspect come to ``size``: "crop" cuts what protrudes, "pad" adds black bars,
            "squash" stretches. None squashes, but refuses a source whose frames have different aspects.
        fps: rate to which video is resampled, in frames per second; None keeps every frame.
        action_key: name under which the format holds the actions; None takes the format's usual names.
        action_alignment: place of row t of the actions: "after" frame t (it leads to frame t + 1), or "before" frame t
            (it led to frame t). None takes what a flag of the format tells, and otherwise "after".
        action_low: lower bounds of the actions, one per dimension, in environment units; None takes the format's.
        action_high: upper bounds of the actions, one per dimension, in environment units; None takes the format's.
        max_bytes: number of bytes that the decoded frames of an episode's camera, and each array of its file, may take;
            a picture may take a sixteenth of it. None: 4 GiB. It does not change what is read.

    Raises:
        ValueError: if a value is not allowed, or contradicts another.
    """

    cameras: Sequence[str] | None = None
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    fps: float | None = None
    action_key: str | None = None
    action_alignment: ActionAlignment | None = None
    action_low: Sequence[float] | None = None
    action_high: Sequence[float] | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("fit", get_args(Fit)), ("action_alignment", get_args(ActionAlignment))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}")
        if self.fit is not None and self.size is None:
            raise ValueError("fit says how frames come to a size: give the size, too")
        if self.fps is not None and not (isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, got {self.fps}")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError("bounds of actions need both action_low and action_high")
        if self.action_low is not None and self.action_high is not None:
            if len(self.action_low) != len(self.action_high):
                raise ValueError(f"action_low has {len(self.action_low)} numbers, action_high {len(self.action_high)}")
            if not all(low < high for low, high in zip(self.action_low, self.action_high, strict=True)):
                raise ValueError(
                    f"each lower bound must be below the upper one, got {list(self.action_low)} and "
                    f"{list(self.action_high)}"
                )

    @property
    def needs_one_aspect(self) -> bool:
        """Whether all frames of a camera must have one aspect, since nobody said how others come to the size."""
        return self.size is not None and self.fit is None

    def to_json(self) -> dict[str, Any]:
        """The options that were given, as plain values: a conversion is recognised by them. The limit does not count,
        so that a conversion can go on with another one."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "max_bytes"}
