"""The card of a data set: what its report says, and what a person says."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from ...cards.text import CARDS, TAGS, UNKNOWN_LICENSE, read_card_text
from .shards import DATA

TEMPLATE = CARDS / "dataset.md"
SHEET_FILE = "contact_sheet.png"
# What a card calls its data set: the first argument of `load_dataset`.
LOADED_NAME = re.compile(r'(?<=load_dataset\(")[^"]*')


@dataclass(frozen=True)
class DatasetText:
    """What a person has to say about a data set.

    Attributes:
        title: heading of the card; None takes the folder's name.
        summary: one or two sentences about what the episodes show.
        source: origin of the episodes, and how they were made.
        license: identifier of the licence on the Hub.
        license_note: owner of the episodes, and what the licence covers.
    """

    title: str | None = None
    summary: str = "Episodes of video for training iVideoGPT world models."
    source: str = "Not stated."
    license: str | None = None
    license_note: str = "No licence was stated."

    @classmethod
    def read(cls, file: Path) -> DatasetText:
        """Read a yaml file.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if a key is unknown or of the wrong kind.
        """
        return read_card_text(cls, file)


def render_dataset_card(
    folder: Path, report: dict[str, Any], text: str, sizes: dict[str, int], card: DatasetText | None
) -> DatasetCard:
    """A card whose metadata names the splits, so that plain ``load_dataset`` finds them.

    Args:
        folder: folder of the data set.
        report: content of report.json.
        text: the report for people.
        sizes: number of bytes of each split.
        card: text of a person about the data set; None takes the defaults.
    """
    card = card or DatasetText()
    splits = [split for split in sizes if report["splits"][split]]
    name = folder.resolve().name
    data = DatasetCardData(
        license=card.license or UNKNOWN_LICENSE,
        task_categories=["robotics", "image-to-video"] if report["actions"] else ["image-to-video"],
        tags=[*TAGS, "video"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{DATA}/{split}-*.parquet"} for split in splits],
            }
        ],
        # `datasets` tells a folder that was written again from the one in its cache by these numbers.
        dataset_info={
            "splits": [
                {"name": split, "num_examples": report["splits"][split], "num_bytes": sizes[split]} for split in splits
            ]
        },
    )
    words = asdict(card) | {"title": card.title or name}
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo_id=name,
        schema_version=report["schema_version"],
        sheet=SHEET_FILE,
        report=text,
        **words,
    )


def name_repository(card: DatasetCard, repo_id: str) -> DatasetCard:
    """A card whose `load_dataset` names a repository on the Hub, where it named a folder or another repository; so does
    its heading, unless a person wrote one."""
    before = LOADED_NAME.search(card.text)
    if before is None:
        return card  # a person took the lines out
    content = LOADED_NAME.sub(repo_id, card.content, count=1)
    old, new = (name.rsplit("/", 1)[-1] for name in (before[0], repo_id))
    return DatasetCard(re.sub(rf"^# {re.escape(old)}$", f"# {new}", content, count=1, flags=re.MULTILINE))
