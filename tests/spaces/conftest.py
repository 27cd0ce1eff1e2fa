"""The Space's modules, which lie beside the package."""

import sys
from pathlib import Path

SPACE = Path(__file__).parents[2] / "spaces_demo"
sys.path.insert(0, str(SPACE))
