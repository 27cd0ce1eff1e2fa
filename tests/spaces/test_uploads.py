"""Files of visitors: images and videos are read, and what asks for much memory or for other files is refused first."""

import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ivideogpt_hf import read_video, write_video
from tests.conftest import random_frames
from tests.spaces import conftest  # noqa: F401 (finds the Space's modules)

import scenes  # isort: skip

GROWTH_MB = 100


@pytest.fixture
def refused(world):
    """Refuses a file, without much memory and without telling where it lies."""

    def refused(file, reason):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValueError, match=reason) as error:
            scenes.read_upload(world, str(file))
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < GROWTH_MB
        assert str(file.parent) not in str(error.value)

    return refused


def write_png(file, side):
    """A black PNG, written row by row."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    stream = zlib.compressobj(9)
    rows = [stream.compress(bytes(1 + 3 * side)) for _ in range(side)]
    header = chunk(b"IHDR", struct.pack(">II5B", side, side, 8, 2, 0, 0, 0))
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"".join(rows) + stream.flush()) + chunk(b"IEND", b"")
    )
    return file


def test_images_and_videos_are_read(world, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    assert scenes.read_upload(world, str(tmp_path / "a.png")).shape == (1, 3, 16, 16)
    video = write_video(random_frames(5), tmp_path / "a.mp4")
    assert scenes.read_upload(world, str(video)).equal(read_video(video))


def test_a_photo_of_a_telephone_is_not_too_large(world, tmp_path):
    Image.new("RGB", (4032, 3024), "red").save(tmp_path / "a.jpg")
    assert scenes.read_upload(world, str(tmp_path / "a.jpg")).shape == (1, 3, 16, 16)


def test_a_picture_that_is_small_only_as_a_file_is_refused(refused, tmp_path):
    file = write_png(tmp_path / "a.png", 13000)
    assert file.stat().st_size < 2**20
    refused(file, "13000 x 13000 pixels")


def test_arrays_are_refused_whatever_their_name(refused, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", frames=np.zeros((300, 512, 512, 3), np.uint8))
    file = tmp_path / "a.npz"
    assert file.stat().st_size < 2**20
    refused(file, "neither an image nor a video, but an array")
    refused(file.rename(tmp_path / "a.mp4"), "neither an image nor a video, but an array")


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a"])
def test_a_playlist_does_not_show_another_file(refused, tmp_path, name):
    other = write_video(torch.full((6, 3, 32, 32), 200, dtype=torch.uint8), tmp_path / "other.mp4")
    file = tmp_path / name
    file.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.2,\n{other}\n#EXT-X-ENDLIST\n", encoding="utf-8")
    refused(file, "neither an image nor a video")


def test_a_file_that_is_too_large_is_not_opened(refused, tmp_path):
    with (tmp_path / "a.mp4").open("wb") as content:
        content.truncate(scenes.MAX_UPLOAD_BYTES + 1)
    refused(tmp_path / "a.mp4", "larger than 20 MB")
