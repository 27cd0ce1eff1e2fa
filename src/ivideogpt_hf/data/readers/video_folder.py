"""Video files, or folders of images, with optional actions: what a phone, a game or a robot's camera leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...media.files import VIDEO_SUFFIXES
from ...media.video import IMAGE_SUFFIXES, video_rate
from ..episodes import DEFAULT_CAMERA, Episode, step_rows
from .base import EpisodeReader, natural_sort
from .clip_actions import ClipActions


class VideoFolderReader(EpisodeReader):
    """A folder of video files, each an episode, or of folders of images, each an episode; or one of these.

    Actions are optional; `ClipActions` says where they are.
    """

    name = "video-folder"
    description = f"video files ({', '.join(VIDEO_SUFFIXES)}) or folders of images"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return bool(_find_clips(path))

    def _list_episodes(self) -> list[str]:
        self._clips = _find_clips(self.path)
        self._root = self.path if self.path.is_dir() and self._clips != [self.path] else self.path.parent
        self._actions = ClipActions(self._clips, self._root)
        if self._root == self.path:
            self.notes += self._actions.left_over()
        return [clip.relative_to(self._root).as_posix() for clip in self._clips]

    def _read(self, index: int) -> Episode:
        clip = self._clips[index]
        self._select_cameras([DEFAULT_CAMERA])
        frames = self._read_images(clip) if clip.is_dir() else self._decode_video(str(clip), clip.name)
        actions = self._actions.read(clip, len(frames))
        return Episode(
            frames={DEFAULT_CAMERA: frames},
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=None if actions is None else step_rows(actions.rows, len(frames), "actions"),
            action_names=None if actions is None else actions.names,
            fps=None if clip.is_dir() else video_rate(clip),
            notes=() if actions is None else actions.notes,
        )

    @staticmethod
    def _read_images(folder: Path) -> Sequence[bytes]:
        return [file.read_bytes() for file in natural_sort(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]


def _find_clips(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() in VIDEO_SUFFIXES else []
    videos = [file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES]
    folders = {file.parent for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    return natural_sort([*videos, *folders])
