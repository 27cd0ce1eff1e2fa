"""Write the pages that mkdocs builds the site from.

python -m scripts.site_pages build/docs
"""

import argparse
from pathlib import Path

from ivideogpt_hf.cli.arguments import be_quiet
from ivideogpt_hf.cli.main import quiet_libraries


def main() -> None:
    """Write them, without a word of other libraries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write; what was in it is removed")
    folder = parser.parse_args().folder
    quiet_libraries()
    be_quiet()
    from .staging import stage

    stage(folder)


if __name__ == "__main__":
    main()
