"""The folder of pages: docs/ as it is, other Markdown files of the repository, and pages that are generated.

Links lead to files of the repository, so that they work on GitHub. Here each is made to lead to the page that the file
became. A file without a page is linked in the public repository, and is plain text as long as there is none.
"""

import os
import posixpath
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import yaml

from . import packages, reference, results

ROOT = Path(__file__).parents[2]
# Files of the repository that are pages of the site, beside all of docs/.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "results/speed.md",
    "configs/README.md": "experiments/index.md",
    **{
        f"configs/{file.parent.name}/README.md": f"experiments/{file.parent.name}.md"
        for file in sorted((ROOT / "configs").glob("*/README.md"))
    },
}
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!\w+:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
CODE = re.compile(r"(```.*?```)", re.DOTALL)
# What the tests read of a block of code: whether it is run. Readers of the site need not see it.
MARK = re.compile(r"^<!-- (?:not run|serves): [^\n]+ -->\n", re.MULTILINE)
# What stands in a page in place of `<!-- generated: NAME -->`.
TABLES = {**results.TABLES, **packages.TABLES}
NOTEBOOK = "<!-- generated: notebook -->"
GITHUB, COLAB = "https://github.com/", "https://colab.research.google.com/github"
GENERATED = re.compile(r"^<!-- generated: (?P<name>\w+) -->$", re.MULTILINE)


def page_of(file: str) -> str | None:
    """The page of the site that a file of the repository becomes; None without one."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    return PAGES.get(file)


def pages_in_order() -> list[str]:
    """The pages of the site in the order of mkdocs.yml."""

    class Loader(yaml.SafeLoader):
        """Reads the file without the values of the environment that it names."""

    Loader.add_constructor("!ENV", lambda loader, node: None)
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    return pages(navigation)


def source_address() -> str | None:
    """The address of the public repository; None as long as there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Source")


def with_links_of_the_site(text: str, file: str, page: str, source: str | None) -> str:
    """The text of a file with links that are right on its page.

    Args:
        text: text in Markdown.
        file: path of the file in the repository.
        page: path of its page in the site.
        source: address of the public repository; None: there is none.

    Raises:
        ValueError: if a link leads to no file.
    """

    def replace(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), match["path"]))
        if target not in GENERATED_FILES and not (ROOT / target).exists():
            raise ValueError(f"{file} links to {match['path']}, which is not there")
        if (linked := page_of(target)) is not None:
            address = posixpath.relpath(linked, posixpath.dirname(page) or ".") + (match["anchor"] or "")
        elif source is not None:
            address = f"{source.rstrip('/')}/{'tree' if (ROOT / target).is_dir() else 'blob'}/HEAD/{target}"
        else:
            return match["text"]
        return f"{match['picture']}[{match['text']}]({address})"

    parts = CODE.split(text)
    return "".join(part if CODE.match(part) else LINK.sub(replace, part) for part in parts)


def links_of_notebook(page: str, source: str | None) -> str:
    """Where the notebook of a tutorial is: beside the page, and in Colab as soon as the repository is on GitHub.

    Args:
        page: path of the page in the site.
        source: address of the public repository; None: there is none.
    """
    notebook = posixpath.basename(page).removesuffix(".md") + ".ipynb"
    text = f"This page is also a notebook: [{notebook}]({notebook})."
    if source is None or not source.startswith(GITHUB):
        return f"{text} A link that opens it in Colab needs the repository's public address, which is not set yet."
    address = f"{COLAB}/{source.removeprefix(GITHUB).strip('/')}/blob/main/docs/{page.removesuffix('.md')}.ipynb"
    return f"{text} [Open in Colab]({address}), and run `!pip install 'ivideogpt-hf[all] @ git+{source}'` there first."


def generated_pages() -> dict[str, str]:
    """The content of the pages that are made from code, by their paths in the site."""
    return {f"reference/{name}.md": make() for name, make in reference.PAGES.items()}


# Links may lead to them, though they are in no checkout.
GENERATED_FILES = {f"docs/reference/{name}.md" for name in reference.PAGES}


def read_page(file: str, source: str | None) -> str:
    """The content of the page that a file of the repository becomes."""
    page = page_of(file)
    assert page is not None
    text = (ROOT / file).read_text(encoding="utf-8")
    text = MARK.sub("", text).replace(NOTEBOOK, links_of_notebook(page, source))
    text = GENERATED.sub(lambda match: TABLES[match["name"]](), text)
    return with_links_of_the_site(text, file, page, source)


def stage(folder: Path) -> None:
    """Write all pages into a folder.

    Raises:
        ValueError: if a link leads nowhere, or a file of docs/ has the name of a generated page.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = source_address()
    files = [os.fspath(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").rglob("*")) if file.is_file()]
    for file in [*files, *PAGES]:
        target = folder / str(page_of(file))
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".md"):
            target.write_text(read_page(file, source), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / file, target)
    for page, text in generated_pages().items():
        if (folder / page).exists():
            raise ValueError(f"docs/{page} is written by hand, and generated as well: remove one")
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text(text, encoding="utf-8")
