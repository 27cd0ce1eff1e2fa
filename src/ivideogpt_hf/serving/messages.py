"""Messages between client and server: JSON, with frames as PNG (RFC 2083) in base64."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ..decoding.sampling import MIN_TEMPERATURE, Sampling
from ..media.images import decode_images, encode_png
from ..world.options import HorizonPolicy

FORMATS = ("PNG", "JPEG")
MAX_ROWS = 256  # number of worlds in a state, and of futures in a rollout
# The number of frames in one answer, and the number of steps of a rollout.
MAX_ANSWER_FRAMES, MAX_STEPS = 2048, 256
MAX_CONTEXT_FRAMES = 64

Number = Annotated[float, Field(allow_inf_nan=False)]
Png = Annotated[str, Field(description="base64 of a PNG or JPEG file")]
Context = Annotated[list[Png], Field(max_length=MAX_CONTEXT_FRAMES)]
# Nearly all of int64. OpenAPI states bounds as floats, and the bounds of int64 would be rounded to beyond it.
Seed = Annotated[int, Field(ge=-9 * 10**18, le=9 * 10**18)]
Outputs = list[Literal["frames", "rewards", "tokens"]]
# "rgb": base64 of H x W x 3 bytes, for clients that have no decoder of PNG.
FrameFormat = Literal["png", "rgb"]


class Message(BaseModel):
    """A message in which unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class SamplingMessage(Message):
    """An `ivideogpt_hf.Sampling`. The seed is one number for all rows, or a list with one for each row."""

    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = 100
    greedy: bool = False
    seed: Seed | Annotated[list[Seed], Field(max_length=MAX_ROWS)] | None = None
    common_random_numbers: bool = False

    def sampling(self) -> Sampling:
        """The `Sampling` that the world model takes."""
        return Sampling(**self.model_dump())


class ResetCall(Message):
    """Start B worlds from C context frames each."""

    call: Literal["reset"] = "reset"
    frames: Annotated[list[Context], Field(min_length=1, max_length=MAX_ROWS)]


class BeginCall(Message):
    """Start B worlds in the episode that came with the checkpoint, each at one of its ``num_starts`` starts."""

    call: Literal["begin"] = "begin"
    starts: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_ROWS)]
    frame_format: FrameFormat = "png"


class StepCall(Message):
    """Take one action in every world of a state. With ``replace`` the state is forgotten, and the new one takes its
    place."""

    call: Literal["step"] = "step"
    state: int
    actions: Annotated[list[list[Number]], Field(max_length=MAX_ROWS)] | None = None
    sampling: SamplingMessage = SamplingMessage()
    outputs: Outputs = ["frames", "rewards"]
    frame_format: FrameFormat = "png"
    horizon_policy: HorizonPolicy = "reanchor"
    replace: bool = False


class RolloutCall(Message):
    """Predict futures of a state, by ``actions`` (B, T, A) or (B, N, T, A). An action-free model takes ``num_frames``
    instead."""

    call: Literal["rollout"] = "rollout"
    state: int
    actions: list[Any] | None = None
    num_frames: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    num_samples: Annotated[int, Field(ge=1, le=MAX_ROWS)] | None = None
    sampling: SamplingMessage = SamplingMessage()
    outputs: Outputs = ["frames", "rewards", "tokens"]
    decode_steps: Literal["all", "last"] | Annotated[list[int], Field(max_length=MAX_STEPS)] = "all"
    horizon_policy: HorizonPolicy = "reanchor"


class ForkCall(Message):
    """Branch every world of a state."""

    call: Literal["fork"] = "fork"
    state: int
    num_branches: Annotated[int, Field(ge=1, le=MAX_ROWS)]


class IndexCall(Message):
    """Choose worlds of a state."""

    call: Literal["index"] = "index"
    state: int
    # Strictly, since a mask of true and false would be taken for rows 1 and 0.
    rows: Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1, max_length=MAX_ROWS)]


class CatCall(Message):
    """Join states, row after row."""

    call: Literal["cat"] = "cat"
    states: Annotated[list[int], Field(min_length=1, max_length=MAX_ROWS)]


class ShowCall(Message):
    """Show the last frame of every world of a state."""

    call: Literal["show"] = "show"
    state: int


class ObserveCall(Message):
    """Re-anchor every world of a state on the real frame that followed."""

    call: Literal["observe"] = "observe"
    state: int
    frames: Annotated[list[Png], Field(min_length=1, max_length=MAX_ROWS)]


Call = Annotated[
    ResetCall | BeginCall | StepCall | RolloutCall | ForkCall | IndexCall | CatCall | ObserveCall | ShowCall,
    Field(discriminator="call"),
]


def max_values(action_dim: int) -> int:
    """The largest number of values in the JSON of a call, as `limits.LimitBody` counts them: one for each number, row
    and table of actions, and one for each frame."""
    return MAX_ANSWER_FRAMES * (action_dim + 4) + MAX_ROWS * (MAX_CONTEXT_FRAMES + 4) + 4096


class StateAnswer(BaseModel):
    """A state: its number within the session, and ``num_frames``, the number of frames since the context of each
    row."""

    state: int
    num_rows: int
    num_frames: list[int]


class BeginAnswer(StateAnswer):
    """A state, and the newest frame of each of its worlds, in the format that was asked for."""

    frames: list[str]


class FramesAnswer(BaseModel):
    """The last frame of every world of a state."""

    frames: list[Png]


class StepAnswer(StateAnswer):
    """Result of one action. Each list has B entries, or is None if it was not asked for. Frames have the format asked
    for."""

    frames: list[str] | None
    rewards: list[float] | None
    tokens: list[list[int]] | None
    log_probs: list[float]


class RolloutAnswer(BaseModel):
    """Predicted futures. The ``shape`` is (B, T) or (B, N, T), and the lists are flat in that order."""

    shape: list[int]
    frames: list[Png] | None
    decoded_steps: list[int]
    rewards: list[float] | None
    tokens: list[list[int]] | None
    log_probs: list[float]
    reanchored_at: list[int]


Answer = StateAnswer | RolloutAnswer | FramesAnswer


class OpenedSession(BaseModel):
    """A session, in which a client's states live. It ends after ``expires_after`` seconds without a call."""

    session: str
    expires_after: float


class ServedSpec(BaseModel):
    """An `ivideogpt_hf.WorldModelSpec`, the name of the checkpoint that is served, and the number of starts that its
    episode offers to `BeginCall`."""

    checkpoint: str
    num_starts: int
    frame_size: Annotated[list[int], Field(min_length=2, max_length=2)]
    num_context_frames: int
    action_dim: int
    action_low: list[float] | None
    action_high: list[float] | None
    has_reward: bool
    goal_conditioned: bool
    num_trained_frames: int | None
    max_future_frames: int
    action_names: list[str] | None
    crop_to_aspect: bool


def num_frames_of(call: Call, num_rows: int) -> int:
    """The most frames that a call and its answer hold.

    Args:
        call: call.
        num_rows: number of worlds of the states that it names.
    """
    if isinstance(call, ResetCall):
        return sum(map(len, call.frames))
    if isinstance(call, BeginCall):
        return len(call.starts)
    if isinstance(call, RolloutCall):
        return MAX_ANSWER_FRAMES if "frames" in call.outputs else 0
    if isinstance(call, ObserveCall):
        return len(call.frames)
    if isinstance(call, StepCall):
        return num_rows if "frames" in call.outputs else 0
    return num_rows if isinstance(call, ShowCall) else 0


def frames_to_text(frames: Tensor, frame_format: FrameFormat = "png") -> list[str]:
    """Write frames (N, 3, H, W) uint8 as text."""
    images = np.ascontiguousarray(frames.movedim(1, -1).cpu().numpy())
    encode = encode_png if frame_format == "png" else np.ndarray.tobytes
    return [base64.b64encode(encode(image)).decode() for image in images]


def text_to_frames(texts: list[Png], size: tuple[int, int] | None = None) -> Tensor:
    """Read frames (N, 3, H, W) uint8 from text.

    Args:
        texts: base64 of PNG or JPEG files.
        size: size (height, width) that the frames must have, by which others are refused before they are decoded; None:
            any, the same for all.

    Raises:
        ValueError: if a text is no base64 of an RGB image, or a frame has another size.
    """
    try:
        images = decode_images([base64.b64decode(text, validate=True) for text in texts], size=size, formats=FORMATS)
    except binascii.Error as error:
        raise ValueError(f"frames must be base64 of PNG or JPEG files: {error}") from error
    return torch.from_numpy(images).movedim(-1, 1)
