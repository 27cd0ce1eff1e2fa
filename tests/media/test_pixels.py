import re
from pathlib import Path

import pytest
import torch

import ivideogpt_hf
from ivideogpt_hf.media.pixels import clamp_to_uint8, pixels_to_uint8

PACKAGE = Path(ivideogpt_hf.__file__).parent
# Where floats become uint8; data/clips/augment.py says why it does so itself.
# The last one is published with checkpoints, and imports nothing of the package but its siblings.
HOMES = {Path("media/pixels.py"), Path("data/clips/augment.py"), Path("models/portable_pipeline.py")}


def test_both_conversions_round_to_256_levels():
    levels = torch.arange(256)
    pixels = (levels / 255 + 0.3 / 255).clamp(max=1)
    for convert in (pixels_to_uint8, clamp_to_uint8):
        assert convert(pixels).equal(levels.to(torch.uint8))
        assert convert(pixels.bfloat16()).dtype == torch.uint8


def test_what_a_network_overshoots_is_clamped_and_what_a_user_does_is_refused():
    pixels = torch.tensor([-0.1, 0.5, 1.2])
    assert clamp_to_uint8(pixels).tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match=r"got torch.float32 from -0.1 to 1.2"):
        pixels_to_uint8(pixels)


def test_floats_become_uint8_in_one_place():
    pattern = re.compile(r"\* ?(255|MAX_PIXEL)\b|mul_?\((255|MAX_PIXEL)\)")
    files = [file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if pattern.search(file.read_text("utf-8"))]
    assert set(files) == HOMES
