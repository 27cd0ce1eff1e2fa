"""Publishing of a checkpoint: weights, code, card, results and a picture, as one commit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from .cards.facts import facts_of
from .cards.model_card import CardText, leaderboard_results, render_card
from .checkpoints.layout import EPISODE_FILE, copy_companions, read_metrics
from .checkpoints.loading import fetch
from .checkpoints.origins import read_training
from .decoding.sampling import Sampling
from .hub.upload import push_folder, validate_card
from .media.actions import read_future_actions
from .media.video import read_video, side_by_side, write_video
from .settings import packaged_folder
from .spec import WorldModelSpec, first_action, split_clip
from .world.world_model import WorldModel

# What a page of the Hub shows.
PREVIEW_SUFFIXES = (".gif", ".png", ".jpg", ".jpeg", ".webp", ".mp4", ".webm")
PREVIEW_FILE, ENVIRONMENT_FILE = "preview.gif", "env.py"
LEADERBOARD_FILE = ".eval_results/ivideogpt.yaml"

# Code that LeRobot's `make_env("user/model", trust_remote_code=True)` calls, where this package is not installed.
ENVIRONMENT_CODE = Path(__file__).parent / "serving" / "env_hub.py"
# A Space with the checkpoint as an environment of OpenEnv, and its client. The word stands for the checkpoint's id.
OPENENV_FOLDER, CHECKPOINT_WORD = "ivideogpt_world", "__CHECKPOINT__"


@dataclass(frozen=True)
class Publication:
    """A folder that is ready for upload.

    Attributes:
        folder: folder, which is deleted when the context manager ends.
        files: sizes in bytes of the files in it, by path.
        card: model card.
        preview: name of the card's picture among the files; None: the card has none.
    """

    folder: Path
    files: dict[str, int]
    card: ModelCard
    preview: str | None = None


@contextmanager
def prepare(folder: Path, repo_id: str, card: Path | None, preview: Path | None = None) -> Iterator[Publication]:
    """Put together what `publish` uploads.

    Args:
        folder: checkpoint in either layout, or the name of an embedded one. Its metrics.json, training.json and
            episode.npz are published too.
        repo_id: Hub id of the repository.
        card: yaml file with the text of the card, see `CardText`; None: the card has no text of a person.
        preview: picture or video for the card; None: a video is predicted from episode.npz, if there is one.

    Raises:
        OSError: if a file is missing or cannot be read.
        ValueError: if checkpoint or card do not fit, or the preview is no picture or video by its name.
    """
    if preview is not None:
        check_preview(Path(preview))
    folder = fetch(folder)
    text = None if card is None else CardText.read(card)
    world = WorldModel.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        world.save_pretrained(stage, remote_code=True)
        copy_companions(folder, stage)
        if preview is not None:
            preview_name = PREVIEW_FILE if Path(preview).suffix == ".gif" else f"preview{Path(preview).suffix}"
            shutil.copy(preview, stage / preview_name)
        else:
            preview_name = PREVIEW_FILE if _draw_preview(world, stage) else None
        if _is_environment(world.spec) and (stage / EPISODE_FILE).is_file():
            shutil.copy(ENVIRONMENT_CODE, stage / ENVIRONMENT_FILE)
            _write_openenv(stage / OPENENV_FOLDER, repo_id)
        metrics = read_metrics(stage)
        leaderboard = leaderboard_results(metrics)
        if leaderboard is not None:
            (stage / LEADERBOARD_FILE).parent.mkdir()
            (stage / LEADERBOARD_FILE).write_text(leaderboard, encoding="utf-8")
        facts = facts_of(world.vq_model, world.transformer, world.spec)
        model_card = render_card(facts, repo_id, text, metrics, preview_name, training=read_training(stage))
        model_card.save(stage / "README.md")
        files = {
            path.relative_to(stage).as_posix(): path.stat().st_size
            for path in sorted(stage.rglob("*"))
            if path.is_file()
        }
        yield Publication(stage, files, model_card, preview_name)


def check_preview(file: Path) -> None:
    """Check that a file can be the picture of a card.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a page cannot show it.
    """
    if file.suffix.lower() not in PREVIEW_SUFFIXES:
        raise ValueError(f"a preview is one of {', '.join(PREVIEW_SUFFIXES)}, not {file.name}")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")


def _is_environment(spec: WorldModelSpec) -> bool:
    """Whether an agent can act in the world as it is: it knows rewards, and the bounds of actions."""
    return bool(spec.action_dim) and spec.has_reward and spec.action_low is not None


def _write_openenv(folder: Path, repo_id: str) -> None:
    """Write the Space of OpenEnv that plays a checkpoint of the Hub."""
    shutil.copytree(packaged_folder(OPENENV_FOLDER), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in filter(Path.is_file, folder.rglob("*")):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(CHECKPOINT_WORD, repo_id), encoding="utf-8")


def _draw_preview(world: WorldModel, folder: Path) -> bool:
    """Predict the beginning of the folder's episode, and draw it. Returns whether there is an episode."""
    episode = folder / EPISODE_FILE
    if not episode.is_file():
        return False
    spec = world.spec
    num_context = spec.num_context_frames
    clip = split_clip(
        read_video(episode)[None], num_context_frames=num_context, num_future_frames=spec.max_future_frames
    )
    num_frames, actions = clip.future.shape[1], None
    if spec.action_dim:
        rows = read_future_actions(episode, episode, first_row=first_action(num_context)).actions
        actions = rows[None, :num_frames]
    rollout = world.rollout(clip.context, actions, num_frames=num_frames, sampling=Sampling(seed=0))
    write_video(side_by_side(clip.future[0], rollout.frames[0]), folder / PREVIEW_FILE, scale=4)
    return True


def publish(
    publication: Publication,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> str:
    """Upload a prepared folder as one commit.

    Args:
        publication: prepared folder.
        repo_id: Hub id of the repository, which is created if there is none.
        private: whether a new repository is private.
        revision: branch to commit to.
        create_pr: whether to open a pull request instead.
        token: token for the Hub.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ValueError: if the Hub would refuse the card's metadata; nothing is uploaded then.
        OSError: if the Hub refuses the upload or cannot be reached.
    """
    validate_card(publication.card, repo_id)
    return push_folder(
        publication.folder,
        repo_id,
        private=private,
        revision=revision,
        token=token,
        create_pr=create_pr,
        commit_message="Publish iVideoGPT world model",
    )
