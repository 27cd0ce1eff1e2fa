"""RoboDesk tasks as visual planning (VP2) uses them, rendered off screen without shadows: twenty times as fast."""

from __future__ import annotations

ACTION_REPEAT = 50  # of 20 ms: an action lasts a second, and a full one moves the hand by about 8 cm
RENDERED_SIZE = 120  # the least; the crop is given in pixels of a picture of this size
CROP_BOX = (16.75, 25.0, 105.0, 88.75)  # left, top, right, bottom
