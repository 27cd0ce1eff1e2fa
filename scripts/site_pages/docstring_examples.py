"""An extension of griffe, which reads docstrings for the site: our sections `Example:` are its `Examples:`.

Griffe takes code for code only below the second name.
"""

import re
from typing import Any

import griffe


class DocstringExamples(griffe.Extension):
    """Renames the sections before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename those of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
