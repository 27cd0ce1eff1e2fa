"""Frames of video files: which stream is the video, which frames it has, and when they are shown.

- The video is the one stream that is no cover picture, thumbnail or still image. Several are refused.
- A damaged or lost frame is an error, and so is a file that holds fewer frames than it states.
- Containers are those of `CONTAINERS`, which name no other files, and nothing but the file itself is opened.
- Frames of more pixels than `decoded_bytes.py` allows are refused before they are decoded.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .decoded_bytes import check_picture, max_picture_pixels
from .stream_pixels import INTERLACED_ORDERS, FrameReader

# Intervals between frames that differ by a tenth and two ticks of the clock are no rounding any more.
UNEVEN = 0.1
SEEKABLE = ("mov", "matroska")  # formats with an index of key frames; others may go to a place behind the key frame
# ffmpeg's names for what `pictures.py` reads by other rules
ANIMATIONS, PICTURES = ("gif", "apng"), "_pipe"
# Names of ffmpeg's readers. Others play lists of files (hls, concat, dash), read devices, or run filters (lavfi).
# A decoder counts rows as multiples of 64 pixels, of which there may be so many.
ALIGNED_PIXELS = 64 * 2**16
# fmt: off
CONTAINERS = (
    "mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpegtsraw", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "flv",
    "asf", "ogg", "mjpeg", "mpjpeg", "mxf", "dv", "ivf", "nut", "obu", "av1", "yuv4mpegpipe",
)
# fmt: on
PICTURE_KINDS = ("png", "jpeg", "bmp", "webp", "tiff", "j2k", "ppm", "pgm")
PICTURE_CONTAINERS = (*ANIMATIONS, *(f"{kind}{PICTURES}" for kind in PICTURE_KINDS))
# The tag DURATION as muxers write it. Anybody may write other text there, which states nothing.
STATED_DURATION = re.compile(r"([0-9]{1,6}):([0-9]{1,2}):([0-9]{1,2}(?:\.[0-9]*)?)")
HIDDEN_FRAMES = ("vp8", "libvpx")  # decoders whose packets may hold a frame that is never shown


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        times: (N,) float64, time of each frame in seconds of the file's clock, which may begin anywhere; ascending.
        frame_size: size (height, width) of a frame as it is shown.
        stated_rate: number of frames per second that the file states; None if it does not.
        is_interlaced: whether the file states that frames consist of two fields, of different times.
        tick: smallest difference between two times, in seconds.
    """

    times: np.ndarray
    frame_size: tuple[int, int]
    stated_rate: float | None
    is_interlaced: bool
    tick: float

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.times)

    @property
    def duration(self) -> float:
        """Time from the first frame to the last one, in seconds."""
        return float(self.times[-1] - self.times[0])

    @cached_property
    def is_variable(self) -> bool:
        """Whether an interval between two frames differs from the median by more than a tenth and rounding."""
        intervals = np.diff(self.times)
        if not len(intervals):
            return False
        median = np.median(intervals)
        return bool(np.abs(intervals - median).max() > UNEVEN * median + 2 * self.tick)

    @property
    def rate(self) -> float | None:
        """Number of frames per second: as stated, if the times agree to 1 %, and otherwise their mean rate.

        None for a single frame of a file that does not state it.
        """
        if self.duration <= 0:
            return self.stated_rate
        measured = (self.num_frames - 1) / self.duration
        stated = self.stated_rate
        return stated if stated is not None and abs(stated - measured) <= 0.01 * measured else measured


def describe_video(file: Any, name: str) -> VideoInfo:
    """Describe a video file. Only its first frame is decoded.

    Args:
        file: path or binary file.
        name: name of the file in errors.

    Raises:
        OSError, ValueError: as in `iterate_video`.
    """
    import av

    first = next(iterate_video(file, name))
    try:
        with _open(file, name) as container:
            stream = _video_stream(container, name)
            rate, tick = stream.average_rate, float(stream.time_base)
            is_interlaced = stream.codec_context.field_order in INTERLACED_ORDERS
            if _hides_frames(stream):
                times = [frame.time for frame in container.decode(stream)]
            else:
                times = [
                    float(_time_of(packet) * stream.time_base)
                    for packet in container.demux(stream)
                    if _is_shown(packet)
                ]
    except (av.FFmpegError, TypeError) as error:
        raise OSError(f"{name} does not say when its frames are shown: {error}") from error
    return VideoInfo(
        np.sort(np.array(times)), first.shape[:2], None if rate is None else float(rate), is_interlaced, tick
    )


def resample_frames(times: np.ndarray, fps: float) -> np.ndarray:
    """Choose frames for a constant rate.

    Output k stands for the time k / fps after the first frame. It is the frame that is shown then: the last one that
    begins no later than half a frame (the median interval) after this time. There is no output after the last frame.
    So frames are left out where the clip is faster, and repeated where it is slower or paused.

    Args:
        times: (N,) ascending times of the frames, in seconds.
        fps: number of frames per second to choose.

    Returns:
        (M,) int64, indices of the frames, ascending.

    Raises:
        ValueError: if fps is not a positive number, or the times do not ascend.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}")
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not len(times) or (np.diff(times) < 0).any():
        raise ValueError("times must be the ascending times of at least one frame")
    half = 0.5 * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    num_outputs = int(np.floor((times[-1] - times[0]) * fps + min(half * fps, 0.5) - 1e-9)) + 1 if len(times) > 1 else 1
    wanted = times[0] + np.arange(num_outputs) / fps
    return np.searchsorted(times, wanted + half, side="right") - 1


def iterate_video(file: Any, name: str) -> Iterator[np.ndarray]:
    """Decode a video frame by frame, in the order in which it is shown.

    Args:
        file: path or binary file.
        name: name of the file in errors.

    Yields:
        A frame (H, W, 3) uint8.

    Raises:
        OSError: if the file cannot be decoded, holds no frames, or fewer than it states.
        ValueError: if it holds several videos, or says something of its picture that cannot be obeyed.
    """
    return (frame for frame, _ in iterate_timed_video(file, name))


def read_frames_at(file: Any, name: str, times: Sequence[float], *, tolerance: float) -> Iterator[np.ndarray]:
    """Decode the frames of a video that are shown at some times.

    Args:
        file: path or binary file.
        name: name of the file in errors.
        times: ascending times in seconds of the file's clock.
        tolerance: largest distance in seconds between a wanted time and its frame's, such as half a frame.

    Yields:
        The nearest frame (H, W, 3) uint8 of each time.

    Raises:
        OSError: as in `iterate_video`.
        ValueError: as in `iterate_video`; also if times do not ascend, or if no frame is as near to a time as the
            tolerance. The message has the index, the wanted time and the nearest one.
    """
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"{name}: the times of frames must ascend")
    if not times:
        return
    frames = iterate_timed_video(file, name, start=times[0] - tolerance)
    near: list[tuple[np.ndarray, float]] = []  # the frame before the wanted time, and the one after
    for index, wanted in enumerate(times):
        while not near or near[-1][1] < wanted:
            following = next(frames, None)
            if following is None:
                break
            if following[1] is None:
                raise ValueError(f"{name} does not say when its frames are shown")
            near = [*near[-1:], (following[0], following[1])]
        if not near:
            raise ValueError(f"{name} has no frame from {times[0]:.4f} s on, where frame {index} is wanted")
        frame, time = min(near, key=lambda entry: abs(entry[1] - wanted))
        if abs(time - wanted) > tolerance:
            raise ValueError(
                f"{name}: frame {index} is wanted at {wanted:.4f} s, the nearest is at {time:.4f} s, farther than "
                f"{tolerance:.4f} s"
            )
        yield frame


def iterate_timed_video(file: Any, name: str, *, start: float = 0.0) -> Iterator[tuple[np.ndarray, float | None]]:
    """Decode a video as `iterate_video` does, with the time of each frame.

    Args:
        file: path or binary file.
        name: name of the file in errors.
        start: time of the first frame, in seconds of the file's clock. What comes long before it is not decoded, if the
            file has an index of key frames (mp4, mov, mkv, webm).

    Yields:
        A frame (H, W, 3) uint8, and its time in seconds of the file's clock, or None if the file has none.
    """
    import av

    count, stated = 0, None
    try:
        with _open(file, name) as container:
            stream = _video_stream(container, name)
            stated = _stated_frames(container, stream)
            tolerance = 0.5 / float(stream.average_rate or 1)
            if start > 0 and any(name in container.format.name for name in SEEKABLE):
                container.seek(round(start / stream.time_base), stream=stream)  # goes to the key frame before it
            ledger = _Ledger(stream, name, start - tolerance)
            picture = FrameReader(stream, name)
            for packet in container.demux(stream):
                ledger.enter(packet)
                for frame in packet.decode():
                    if not ledger.settle(frame):
                        continue
                    count += 1
                    yield picture.read(frame), frame.time
            ledger.close(container, None if start > 0 else stated)
    except av.FFmpegError as error:
        if count:
            raise OSError(f"{name} is cut off or damaged after {count} frames{_of(stated)}: {error}") from error
        raise OSError(f"{name} cannot be decoded as video, it is corrupt or holds none: {error}") from error
    if not count:
        raise OSError(f"{name} holds no frames{f' from {start} s on' if start > 0 else ''}")


def _of(stated: int | None) -> str:
    return "" if stated is None else f" of the {stated} that it states"


# -- which stream, which frames ---------------------------------------------------------------------------------------


def path_for_ffmpeg(path: str | os.PathLike[str]) -> str:
    """A path as ffmpeg takes it. Of a relative one such as "12:30.mp4", it would take "12" for a protocol."""
    return os.path.join(os.curdir, path)


def _open(file: Any, name: str) -> Any:
    """A container at its beginning, however far a binary file was read before."""
    import av

    if hasattr(file, "seek"):
        file.seek(0)
    else:
        file = path_for_ffmpeg(file)
    options = {
        "format_whitelist": ",".join((*CONTAINERS, *PICTURE_CONTAINERS)),
        "protocol_whitelist": "file",
        "max_pixels": _max_pixels(),  # to describe a stream, a frame may be decoded
    }
    try:
        return av.open(file, options=options)
    except av.ArgumentError as error:  # what ffmpeg answers where the reader that it found is not allowed
        raise OSError(
            f"{name} cannot be decoded as video, it is no container that is read: {', '.join(CONTAINERS)}; playlists "
            f"are not followed"
        ) from error


def _video_stream(container: Any, name: str) -> Any:
    from av.stream import Disposition

    if container.format.name in ANIMATIONS or container.format.name.endswith(PICTURES):
        kind = container.format.name.removesuffix(PICTURES)
        raise ValueError(
            f"{name} is a picture ({kind}), not a video; pictures are read as png, jpg and the like, by those suffixes"
        )

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    videos = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not videos:
        instead = ", only a picture such as a cover" if container.streams.video else ""
        raise OSError(f"{name} cannot be decoded as video, it holds none{instead}")
    if len(videos) > 1:
        sizes = ", ".join(f"stream {stream.index} ({stream.width} x {stream.height})" for stream in videos)
        raise ValueError(
            f"{name} holds {len(videos)} videos: {sizes}; copy one into a file of its own, such as "
            f"ffmpeg -i {name} -map 0:{videos[0].index} -c copy one.mkv"
        )
    if videos[0].codec_context is None:
        raise OSError(f"{name} cannot be decoded as video: its codec is unknown")
    if not videos[0].width:
        raise OSError(
            f"{name} cannot be decoded as video: its frames have no size that could be found, or more than the "
            f"{max_picture_pixels()} pixels that a picture may have"
        )
    check_picture(videos[0].height, videos[0].width, name)
    # The frames state a size of their own, which the decoder finds.
    videos[0].codec_context.options = {"max_pixels": _max_pixels()}
    return videos[0]


def _max_pixels() -> str:
    """The option of ffmpeg's decoders."""
    return str(max_picture_pixels() + ALIGNED_PIXELS)


def _hides_frames(stream: Any) -> bool:
    return str(stream.codec_context.name).startswith(HIDDEN_FRAMES)


def _is_shown(packet: Any) -> bool:
    """Whether a packet holds a frame that the file wants to be shown: trimmed clips keep others, too."""
    return bool(packet.size) and not packet.is_discard


def _time_of(packet: Any) -> int:
    return packet.dts if packet.pts is None else packet.pts


def _stated_frames(container: Any, stream: Any) -> int | None:
    """The number of frames that a file states, without those that were trimmed off; None if it does not."""
    if not stream.frames:
        return None
    if "mov" in container.format.name:
        return sum(not entry.is_discard for entry in stream.index_entries)
    return int(stream.frames)


def _stated_end(container: Any, stream: Any) -> float | None:
    """The end of a Matroska video in seconds; None if the file does not state it, and for other containers."""
    if "matroska" not in container.format.name:
        return None
    text = next((value for key, value in stream.metadata.items() if key.upper() == "DURATION"), "")
    stated = STATED_DURATION.fullmatch(text)
    if stated:
        return 3600 * int(stated[1]) + 60 * int(stated[2]) + float(stated[3])
    # The duration of the whole file may be that of another stream.
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


class _Ledger:
    """Which frames went into the decoder and did not come out.

    Args:
        stream: stream of the video.
        name: name of the file in errors.
        first: time before which frames are skipped, in seconds; not positive: none.
    """

    def __init__(self, stream: Any, name: str, first: float) -> None:
        self._stream, self._name, self._first = stream, name, first
        self._waiting: list[int] = []  # a heap of the times of packets whose frames did not come yet
        self._is_kept = not _hides_frames(stream)
        self._is_damaged = False
        self._count, self._end = 0, 0.0
        self._times: list[float] = []

    def enter(self, packet: Any) -> None:
        """Write down a packet before it is decoded."""
        self._is_damaged |= packet.is_corrupt
        if self._is_kept and _is_shown(packet) and packet.pts is not None:
            heapq.heappush(self._waiting, packet.pts)

    def settle(self, frame: Any) -> bool:
        """Write down a decoded frame. Returns whether it is one to show.

        Raises:
            OSError: if it is damaged, or an earlier frame was lost.
        """
        lost = []
        while frame.pts is not None and self._waiting and self._waiting[0] <= frame.pts:
            time = heapq.heappop(self._waiting)
            if time == frame.pts:
                break
            lost.append(time)
        if self._first > 0 and frame.time is None:
            raise OSError(f"{self._name} does not say when its frames are shown")
        if self._first > 0 and frame.time < self._first:
            self._is_damaged = False
            return False
        self._check_lost(lost)
        if frame.is_corrupt or self._is_damaged:
            raise OSError(f"{self._name} is damaged: frame {self._count} cannot be decoded whole")
        self._count += 1
        if frame.time is not None:
            self._times.append(frame.time)
            self._end = frame.time + float((frame.duration or 0) * frame.time_base)
        return True

    def _check_lost(self, times: list[int]) -> None:
        seconds = [float(time * self._stream.time_base) for time in times]
        lost = sum(time >= self._first for time in seconds)
        if lost:
            raise OSError(f"{self._name} is damaged: {lost} frames, the first at {seconds[0]:.3f} s, cannot be decoded")

    def close(self, container: Any, stated: int | None) -> None:
        """Compare with what the file states, when it was read to its end.

        Raises:
            OSError: if frames are missing.
        """
        self._check_lost(sorted(self._waiting))
        if stated is not None and self._count < stated:
            raise OSError(f"{self._name} is cut off or damaged: it holds {self._count} frames{_of(stated)}")
        end = _stated_end(container, self._stream)
        if end is not None and len(self._times) > 1:
            interval = float(np.median(np.diff(self._times)))
            missing = round((end - max(self._end, self._times[-1] + interval)) / interval) if interval > 0 else 0
            if missing > 0:
                raise OSError(
                    f"{self._name} is cut off or damaged: it ends after {self._count} frames, at {self._end:.2f} s, "
                    f"and states {end:.2f} s, so about {missing} frames are missing"
                )
