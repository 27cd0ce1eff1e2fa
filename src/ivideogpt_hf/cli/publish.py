"""``ivideogpt publish``: upload a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_hub_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``publish``."""
    publish = commands.add_parser(
        "publish",
        parents=[common],
        help="upload a checkpoint with card, results and picture",
        description="Upload a checkpoint to the Hub as one commit, with modelling code, a card, its results and a "
        "predicted picture. The card is made from the checkpoint itself, from its metrics.json and training.json, and "
        "from a yaml file like those in model_cards/.",
    )
    publish.add_argument(
        "folder",
        type=Path,
        help="checkpoint; its metrics.json, training.json and episode.npz are uploaded too",
    )
    publish.add_argument("repo", help="Hub id, owner/name; it is created where it does not exist")
    publish.add_argument(
        "--card",
        type=Path,
        help="yaml file with the card's text; --dry-run works without it",
    )
    publish.add_argument(
        "--preview",
        type=Path,
        help="picture or video for the card (default: one that is predicted from episode.npz)",
    )
    publish.add_argument("--private", action="store_true", help="make a new repository private")
    publish.add_argument("--revision", help="branch to commit to (default: main)")
    publish.add_argument("--pr", action="store_true", help="open a pull request instead")
    publish.add_argument("--token", help="Hub token (default: the one you are logged in with)")
    publish.add_argument("--dry-run", action="store_true", help="show files and card, and upload nothing")
    publish.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> None:
    from ..checkpoints.layout import EPISODE_FILE, TRANSFORMER_FOLDER, VQ_FOLDER, config_file
    from ..checkpoints.loading import fetch
    from ..hub.errors import check_new_id
    from ..publish import prepare, publish

    for part in (VQ_FOLDER, TRANSFORMER_FOLDER):  # a wrong folder is told before a card that is missing
        config_file(fetch(args.folder), part)
    check_new_id(args.repo)
    if args.card is None and not args.dry_run:
        raise ValueError(
            "--card is missing: a yaml file with title, summary and license, like those in model_cards/; --dry-run "
            "shows the card without it"
        )
    with prepare(args.folder, args.repo, args.card, args.preview) as publication:
        for name, size in publication.files.items():
            print(f"{size / 1e6:10.3f} MB  {name}")
        if publication.preview is None:
            print(f"no picture: {args.folder} has no {EPISODE_FILE} to predict one from; give --preview")
        if args.dry_run:
            print(f"\n{publication.card.content}")
            return
        address = publish(
            publication,
            args.repo,
            private=args.private or None,
            revision=args.revision,
            create_pr=args.pr,
            token=args.token,
        )
    print(address)
