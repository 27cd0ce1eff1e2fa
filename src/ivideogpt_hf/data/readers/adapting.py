"""What `ReadOptions` ask of the episodes of all formats alike: rate, bounds of actions, and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...media.streams import resample_frames
from ..episodes import Episode, decode_frames
from ..fitting import Size, aspects_differ, fit_frames
from ..read_options import ReadOptions


def adapt(episode: Episode, options: ReadOptions) -> Episode:
    """An episode at the rate and size, and with the bounds of actions, that were asked for.

    Raises:
        ValueError: if they mean nothing for the episode.
    """
    return _with_size(_with_bounds(_with_rate(episode, options), options), options)


def check_resampling(options: ReadOptions, *, has_rows: bool) -> None:
    """Refuse to resample frames that have rows of actions or rewards between them.

    Args:
        options: rate that is asked for.
        has_rows: whether there are such rows.

    Raises:
        ValueError: if a rate was asked for, and there are rows.
    """
    if options.fps is not None and has_rows:
        raise ValueError(
            "it has a row of actions or rewards for each step between frames, so its frames cannot be resampled: "
            "leave out fps, and train with a stride"
        )


def check_aspects(episode: Episode, first_sizes: Mapping[str, Size]) -> None:
    """Refuse frames that would be squashed in another way than those of other episodes.

    Args:
        episode: episode as `adapt` returns it.
        first_sizes: size of each camera's frames in the source, of the source's first episode.

    Raises:
        ValueError: if the aspects differ.
    """
    for camera, size in (episode.source_sizes or {}).items():
        if camera in first_sizes and aspects_differ(size, first_sizes[camera]):
            first, own = ("x".join(map(str, pair)) for pair in (first_sizes[camera], size))
            raise ValueError(
                f"frames of camera {camera!r} have another aspect ({own}) than the first episode's ({first}): "
                f"choose how they come to one size with fit, --fit crop, pad or squash"
            )


def _with_rate(episode: Episode, options: ReadOptions) -> Episode:
    """The episode at the rate that was asked for; video files have it already."""
    fps = options.fps
    if fps is None:
        return episode
    check_resampling(options, has_rows=episode.actions is not None or episode.rewards is not None)
    if episode.fps is None:
        raise ValueError(
            "it does not say when its frames were taken, so they cannot be resampled: leave out fps, and train "
            "with a stride"
        )
    if np.isclose(episode.fps, fps):
        return episode
    indices = resample_frames(np.arange(episode.num_frames) / episode.fps, fps)
    frames = {camera: [frames[i] for i in indices] for camera, frames in episode.frames.items()}
    return replace(
        episode,
        frames={
            camera: np.stack(chosen) if isinstance(episode.frames[camera], np.ndarray) else chosen
            for camera, chosen in frames.items()
        },
        fps=fps,
        notes=[*episode.notes, f"resampled from {episode.fps:.4g} frames per second to {fps:.4g}"],
    )


def _with_bounds(episode: Episode, options: ReadOptions) -> Episode:
    low, high = options.action_low, options.action_high
    if low is None or high is None:
        return episode
    if episode.actions is None:
        raise ValueError("bounds of actions were given, but it has no actions")
    if len(low) != episode.action_dim:
        raise ValueError(
            f"action_low and action_high have {len(low)} numbers, its actions have {episode.action_dim} dimensions"
        )
    return replace(episode, action_low=list(low), action_high=list(high))


def _with_size(episode: Episode, options: ReadOptions) -> Episode:
    """The episode with frames of the size that was asked for; those that have it stay as they are."""
    size = options.size
    if size is None:
        return episode
    sizes, frames, notes = dict(episode.source_sizes or {}), dict(episode.frames), list(episode.notes)
    for camera, encoded in episode.frames.items():
        if camera not in sizes:
            pixels = decode_frames(encoded)
            sizes[camera] = pixels.shape[1:3]
            if sizes[camera] != size:
                frames[camera] = fit_frames(pixels, size, options.fit or "squash")
        if aspects_differ(sizes[camera], size):
            before, after = ("x".join(map(str, pair)) for pair in (sizes[camera], size))
            how = {"crop": "cropped", "pad": "padded"}.get(options.fit or "", "squashed")
            notes.append(f"camera {camera}: {how} from {before} to {after}")
    return replace(episode, frames=frames, source_sizes=sizes, notes=notes)
