"""Check the prose of Markdown files, by proselint and by a few rules of ours.

python scripts/check_prose.py README.md docs

Code, tables and comments are no prose. Ends with 1, and with a line for each place, where something is found.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_WORDS = 32
# What technical writing does without, and what to write in place of it; "" means nothing.
WORDS = {
    "utilize": "use",
    "utilise": "use",
    "leverage": "use",
    "in order to": "to",
    "due to the fact that": "because",
    "a number of": "several",
    "simply": "",
    "easily": "",
    "obviously": "",
    "of course": "",
    "basically": "",
    "please": "",
    "hereby": "",
    "thereof": "of it",
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "the things themselves",
    "and/or": "or",
}
# Symbols and spellings of code are meant: x in 64 x 64, and straight quotes. "resume" is a verb here.
OFF = ("typography", "misc.but", "restricted", "redundancy.misc.many", "spelling", "dates_times")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_`A-Z])")


class Finding(NamedTuple):
    """What was found, and in which line."""

    line: int
    text: str


def prose_of(markdown: str) -> str:
    """The text with as many lines, in which what is no prose is empty. Headings end with a full stop."""
    text = re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), markdown, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$", lambda m: "Code." + "\n" * m[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)(\{[^}]*\})?", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text, flags=re.DOTALL)
    number = itertools.count()  # else "code in code" would be taken for a phrase that is repeated
    text = re.sub(r"`[^`]*`", lambda match: f"code{next(number)}" + "\n" * match[0].count("\n"), text)
    lines = []
    for line in text.split("\n"):
        if line.startswith(("|", ":::", "!!!", "    ")) and not line.strip().startswith("- "):
            lines.append("")
        elif line.startswith("#"):
            lines.append(f"{line.lstrip('#').strip()}.")
        else:
            lines.append(line)
    return "\n".join(lines)


def sentences(prose: str) -> Iterator[Finding]:
    """The sentences, each with the line in which it begins. A paragraph and an item of a list end one."""
    start, paragraph = 1, ""
    for number, line in enumerate([*prose.split("\n"), ""], start=1):
        begins_item = re.match(r"\s*(?:[-*]|\d+\.)\s", line) is not None
        if (not line.strip() or begins_item) and paragraph:
            offset = 0
            for sentence in SENTENCE_END.split(paragraph):
                place = paragraph.index(sentence, offset)
                offset = place + len(sentence)
                yield Finding(start + paragraph.count("\n", 0, place), " ".join(sentence.split()))
            paragraph = ""
        if line.strip():
            if not paragraph:
                start = number
            paragraph += f"{line}\n"


def our_findings(prose: str) -> Iterator[Finding]:
    """What breaks the rules of ours."""
    for line, sentence in sentences(prose):
        number = len(re.findall(r"[\w']+", sentence))
        if number > MAX_WORDS:
            yield Finding(line, f"a sentence of {number} words, more than {MAX_WORDS}: {sentence[:60]}...")
        if len(re.findall(r"[;:](?=\s)", sentence)) > 1:
            yield Finding(line, f"fragments between colons and semicolons: {sentence[:60]}...")
        for word, better in WORDS.items():
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, re.IGNORECASE):
                yield Finding(line, f"{word!r}: " + (f"write {better!r}" if better else "leave it out"))


def findings_of_proselint(files: dict[Path, str]) -> Iterator[tuple[Path, Finding]]:
    """What proselint finds in the prose of files."""
    with tempfile.TemporaryDirectory() as folder:
        copies = {}
        for number, (file, prose) in enumerate(files.items()):
            copy = Path(folder) / f"{number}.md"
            copy.write_text(prose, encoding="utf-8")
            copies[copy.resolve().as_posix()] = file
        done = subprocess.run(
            [sys.executable, "-m", "proselint", "check", "--output-format", "json", *copies],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise OSError(f"proselint failed: {done.stderr}")
        for path, result in json.loads(done.stdout)["result"].items():
            for found in result.get("diagnostics", ()):
                if not found["check_path"].startswith(OFF):
                    yield copies[path.removeprefix("file://")], Finding(found["pos"][0], found["message"])


def main() -> int:
    """Check the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="Markdown files, and folders of them")
    paths = parser.parse_args().paths
    names = [file for path in paths for file in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]
    files = {file: prose_of(file.read_text(encoding="utf-8")) for file in names}
    found = [(file, finding) for file, prose in files.items() for finding in our_findings(prose)]
    found += findings_of_proselint(files)
    for file, finding in sorted(found):
        print(f"{file}:{finding.line}: {finding.text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
