"""Write the pages that mkdocs builds the site from.

python -m scripts.site_pages build/docs
"""

import argparse
from pathlib import Path

from .staging import stage

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path, help="folder to write; what was in it is removed")
stage(parser.parse_args().folder)
