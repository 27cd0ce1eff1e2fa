"""Video files, or folders of images, with optional actions: what a phone, a game or a robot's camera leaves behind."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ...media.decoded_bytes import DecodedBytes
from ...media.files import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    OTHER_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
    all_files,
    is_hidden,
    list_images,
    natural_sort,
    visible_files,
)
from ...media.frame_names import frame_gaps
from ..episodes import DEFAULT_CAMERA, CameraFrames, Episode
from .adapting import check_resampling
from .base import EpisodeReader, hidden_note
from .clip_actions import ClipActions
from .videos import VideoFrames, decode_video

OTHER_SUFFIXES = (*OTHER_IMAGE_SUFFIXES, *OTHER_VIDEO_SUFFIXES)
THUMBNAIL_FOLDERS = {"thumbnails", "thumbnail", "thumbs", "thumb", "covers", "posters", "previews"}


class VideoFolderReader(EpisodeReader):
    """A folder of video files, each an episode, or of folders of images, each an episode; or one of these.

    Actions are optional; `ClipActions` says where they are.
    """

    name = "video-folder"
    description = f"video files ({', '.join(VIDEO_SUFFIXES)}) or folders of images"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return bool(find_clips(path).clips)

    def _list_episodes(self) -> list[str]:
        listing = find_clips(self.path)
        self._clips, self.notes = listing.clips, listing.notes
        self._root = self.path if self.path.is_dir() and self._clips != [self.path] else self.path.parent
        self._actions = ClipActions(self._clips, self._root, self.options.action_alignment)
        if self._root == self.path:
            self.notes += self._actions.left_over()
        return [clip.relative_to(self._root).as_posix() for clip in self._clips]

    def files_of(self, index: int) -> list[Path]:
        clip = self._clips[index]
        images = [clip]
        if clip.is_dir():  # scandir, since a question for each of a million images takes long
            images = [Path(file.path) for file in os.scandir(clip) if file.is_file() and not file.name.startswith(".")]
        return [*images, *self._actions.files_of(clip)]

    @property
    def common(self) -> dict[str, Any]:
        return super().common | self._actions.common

    def _read(self, index: int) -> Episode:
        clip = self._clips[index]
        self._select_cameras([DEFAULT_CAMERA])
        check_resampling(self.options, has_rows=bool(self._actions.files))  # before resampled frames are counted
        frames, notes = _read_images(clip) if clip.is_dir() else (decode_video(str(clip), clip.name, self.options), [])
        actions = self._actions.read(clip, len(frames.pixels if isinstance(frames, VideoFrames) else frames))
        return self._make_episode(
            index,
            {DEFAULT_CAMERA: frames},
            actions=None if actions is None else actions.rows,
            action_names=None if actions is None else actions.names,
            told_alignment=None if actions is None else actions.alignment,
            fps=frames.fps if isinstance(frames, VideoFrames) else None,
            notes=notes if actions is None else [*notes, *actions.notes],
        )


def _read_images(folder: Path) -> tuple[CameraFrames, list[str]]:
    """The encoded images of a folder, and remarks on them."""
    files = list_images(folder)
    gaps, clip = frame_gaps([file.stem for file in files]), DecodedBytes("its files of images")
    for file in files:
        clip.add(file.stat().st_size)
    return [file.read_bytes() for file in files], [gaps] if gaps else []


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        clips: video files and folders of images, in natural order.
        notes: remarks about images and files that are no clips.
    """

    clips: list[Path]
    notes: list[str]


def find_clips(path: Path) -> Listing:
    """Find the clips of a folder.

    The images of a folder are a clip, unless they are covers or thumbnails: those in a folder that holds videos, too,
    or in one with a name such as "thumbnails", and a single image above the folders of clips.

    Raises:
        ValueError: if a folder holds several images, and clips of images in folders below.
    """
    if path.is_file():
        return Listing([path] if _is_video(path) else [], [])
    files = list(visible_files(path))
    videos = [file for file in files if _is_video(file)]
    images = Counter(file.parent for file in files if _is_image(file))
    video_folders = {file.parent for file in videos}
    above = {parent for clip in (*videos, *images) for parent in clip.parents}
    clips, covers = list(videos), []
    for folder, number in images.items():
        is_thumbnails = folder != path and _holds_thumbnails(folder)
        if folder in video_folders or is_thumbnails or (folder in above and number == 1):
            covers.append(folder)
        elif any(folder in other.parents and not _holds_thumbnails(other) for other in images):
            raise ValueError(
                f"{folder} holds {number} images, and there are images in folders below it: put each clip into a "
                f"folder of its own"
            )
        else:
            clips.append(folder)
    notes = [
        f"images in {_name(folder, path)} are no clip: {reason}"
        for folder in natural_sort(covers)
        for reason in [f"{images[folder]} beside videos or above clips, or thumbnails"]
    ]
    hidden = [file for file in all_files(path) if is_hidden(file, path) and (_is_video(file) or _is_image(file))]
    others = natural_sort(file for file in files if file.suffix.lower() in OTHER_SUFFIXES and file.parent not in clips)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        notes.append(
            f"not read as clips: {others[0].relative_to(path).as_posix()}{more}; clips end with "
            f"{', '.join(VIDEO_SUFFIXES)}, and images with {', '.join(IMAGE_SUFFIXES)}"
        )
    return Listing(natural_sort(clips), notes + hidden_note(natural_sort(hidden), path))


def _holds_thumbnails(folder: Path) -> bool:
    return folder.name.lower().strip("._-") in THUMBNAIL_FOLDERS


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _name(folder: Path, root: Path) -> str:
    return folder.name if folder == root else folder.relative_to(root).as_posix()
