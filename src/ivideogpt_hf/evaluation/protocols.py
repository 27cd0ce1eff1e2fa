"""Protocols of evaluations: which clips are predicted, of what length, and with how many samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..decoding.sampling import Sampling


@dataclass(frozen=True)
class EvaluationProtocol:
    """A way to measure video prediction.

    Attributes:
        name: name of the protocol on the command line.
        num_context_frames: number of a clip's frames that the model sees.
        num_future_frames: number of a clip's frames that the model predicts.
        num_clips: number of clips from the test split.
        num_samples: number of futures that are predicted for each clip.
        temperature: temperature of the sampled tokens, see `Sampling`.
        starts: place where clips begin: "first" is the beginning of an episode, "random" is anywhere in it.
        uses_actions: True for action-conditioned models only, False for action-free models only, None for both.
        crop_to_aspect: whether frames of another aspect ratio are cropped, to the largest centred window, before they
            are resized.
        camera: name of the camera, for data sets that have several, unless their mixture names one.
        card: stem of the file in model_cards/ that quotes the published numbers.

    Raises:
        ValueError: if a count is below 1, or `Sampling` refuses the temperature.
    """

    name: str
    num_context_frames: int
    num_future_frames: int
    num_clips: int = 256
    num_samples: int = 100
    temperature: float = 1.0
    starts: str = "first"
    uses_actions: bool | None = None
    crop_to_aspect: bool = False
    camera: str | None = None
    card: str | None = None

    def __post_init__(self) -> None:
        counts = ("num_context_frames", "num_future_frames", "num_clips", "num_samples")
        low = [f"{count}={getattr(self, count)}" for count in counts if getattr(self, count) < 1]
        if low:
            raise ValueError(f"a protocol's counts must be at least 1, got {', '.join(low)}")
        Sampling(temperature=self.temperature)  # refuses what no token can be drawn with

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.num_context_frames + self.num_future_frames

    def changed(self, **changes: float | None) -> EvaluationProtocol:
        """A copy with other counts or another temperature. A change to None is no change.

        Raises:
            ValueError: if a change would make it another protocol. Only the custom one may change in more than its
                numbers of clips and samples.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        definition = {"num_context_frames", "num_future_frames", "temperature"}
        conflicts = [name for name in sorted(definition & set(changes)) if changes[name] != getattr(self, name)]
        if conflicts and self.name != CUSTOM:
            name = conflicts[0]
            raise ValueError(
                f"protocol {self.name} has {name} = {getattr(self, name)}; take --protocol {CUSTOM} for another value"
            )
        return replace(self, **changes)


CUSTOM = "custom"
# The first four are those of Wu et al. (2024): the beginnings of 256 test episodes, with 100 samples of each.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        EvaluationProtocol("bair", 1, 15, uses_actions=True, camera="aux1", card="ivideogpt-bair-64-act-cond"),
        EvaluationProtocol(
            "bair-act-free", 1, 15, uses_actions=False, camera="aux1", card="ivideogpt-bair-64-act-free"
        ),
        EvaluationProtocol(
            "robonet", 2, 10, uses_actions=True, crop_to_aspect=True, card="ivideogpt-robonet-64-act-cond"
        ),
        EvaluationProtocol("vp2", 2, 10, uses_actions=True),
        EvaluationProtocol(CUSTOM, 2, 10, num_samples=8, starts="random"),
    )
}
