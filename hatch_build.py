"""The description of the built package: README.md, with absolute addresses.

PyPI shows the description away from the repository, where relative pictures and links lead nowhere.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A picture or a link in Markdown whose address is a path in the repository.
RELATIVE = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!\w+:|#)[^)\s]+)\)")


def with_absolute_addresses(text: str, source: str | None, version: str) -> str:
    """The text of a README whose relative pictures and links lead to a repository, at the tag of a version.

    Args:
        text: text in Markdown.
        source: address of the repository, as on GitHub; None: there is none, so that pictures are left out and links
            are plain text.
        version: version of the package.
    """

    def replace(match: re.Match[str]) -> str:
        picture, words, path = match["picture"], match["text"], match["path"]
        if source is None:
            return "" if picture else words
        return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{path})"

    return RELATIVE.sub(replace, text)


class DescriptionHook(MetadataHookInterface):
    """Sets the description, which hatchling calls the readme."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set it in the metadata of the project."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        text = with_absolute_addresses(text, source, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
