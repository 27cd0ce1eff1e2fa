"""How checkpoints are measured: which clips, how long, how often."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Protocol:
    """A way to measure video prediction.

    Attributes:
        name: as on the command line.
        num_context_frames: given frames of a clip.
        num_future_frames: predicted frames of a clip.
        num_clips: clips of the test split.
        num_samples: futures for each clip.
        temperature: of their tokens, see `Sampling`.
        starts: "first": a clip is the beginning of an episode; "random": it may begin anywhere.
        uses_actions: whether the model is given the actions; None: if it takes any.
        crop_to_aspect: whether the largest centred window is cut from frames of another aspect, before resizing.
        camera: of a data set with several, unless another one is named.
        card: stem of the card in model_cards/ that quotes the published numbers.

    Raises:
        ValueError: if a count is below 1, or the temperature is not positive.
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
        if self.temperature <= 0:
            raise ValueError(f"a protocol's temperature must be positive, got {self.temperature}")

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.num_context_frames + self.num_future_frames

    def changed(self, **given: float | None) -> Protocol:
        """With other counts or another temperature, where they are not None.

        Raises:
            ValueError: if one that makes the protocol what it is would change: only clips and samples may be fewer.
        """
        given = {name: value for name, value in given.items() if value is not None}
        fixed = {"num_context_frames", "num_future_frames", "temperature"}
        wrong = [name for name in sorted(fixed & set(given)) if given[name] != getattr(self, name)]
        if wrong and self.name != CUSTOM:
            raise ValueError(
                f"protocol {self.name} has {wrong[0]} = {getattr(self, wrong[0])}; take --protocol {CUSTOM} for another"
            )
        return replace(self, **given)


CUSTOM = "custom"
# The first four are those of Wu et al. (2024): beginnings of 256 test episodes, 100 samples of each.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("bair", 1, 15, uses_actions=True, camera="aux1", card="ivideogpt-bair-64-act-cond"),
        Protocol("bair-act-free", 1, 15, uses_actions=False, camera="aux1", card="ivideogpt-bair-64-act-free"),
        Protocol("robonet", 2, 10, uses_actions=True, crop_to_aspect=True, card="ivideogpt-robonet-64-act-cond"),
        Protocol("vp2", 2, 10, uses_actions=True),
        Protocol(CUSTOM, 2, 10, num_samples=8, starts="random"),
    )
}
