"""Files that ask for more memory than a clip may take are refused before it is taken, and a limit can be raised."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf.media import read_video
from ivideogpt_hf.media.decoded_bytes import DecodedBytes, TooLargeError, decoded_within
from ivideogpt_hf.media.images import decode_images, encode_png
from ivideogpt_hf.media.numpy_files import opened_npz, read_array
from tests.data.files import make_frames, write_mp4

MEGABYTE = 2**20


def by_pillow(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


def compressed_zeros(megabytes):
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(MEGABYTE)) for _ in range(megabytes)) + stream.flush()


def write_claim(path, shape, *, megabytes, header=None):
    """An npz file whose array claims a shape, and may hold less."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("image.npy", "w") as array:
        if header is None:
            np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
        else:
            array.write(header)
        for _ in range(megabytes):
            array.write(bytes(MEGABYTE))
    return path


@pytest.fixture
def little_memory():
    """Fail where more than 50 MB are taken meanwhile."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * MEGABYTE


def test_a_png_with_data_beyond_its_size_is_refused(little_memory):
    frame = encode_png(make_frames(1)[0])
    data = compressed_zeros(200)
    bomb = frame[:33] + struct.pack(">I4s", len(data), b"IDAT") + data + struct.pack(">I", 0) + frame[-12:]
    with pytest.raises(ValueError, match="frame 1: its data do not end after the 16 x 16 pixels"):
        decode_images([frame, bomb])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_large_pictures_are_refused_by_their_headers(little_memory, tmp_path, kind):
    image = make_frames(1, 40)[0]
    (tmp_path / f"a.{kind.lower()}").write_bytes(by_pillow(image, format=kind))
    with pytest.raises(ValueError, match="is 40 x 40 pixels; a picture may have 1000"):
        read_video(tmp_path / f"a.{kind.lower()}", max_bytes=16 * 3 * 1000)
    assert read_video(tmp_path / f"a.{kind.lower()}", max_bytes=16 * 3 * 1600).shape == (1, 3, 40, 40)


def test_later_pages_of_a_tiff_are_measured_too(tmp_path):
    pages = [Image.fromarray(make_frames(1, size)[0]) for size in (8, 40)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"frame 1 of .*is 40 x 40 pixels"):
        read_video(tmp_path / "a.tiff", max_bytes=16 * 3 * 1000)


@pytest.mark.parametrize("source", ["images", "png", "mp4"])
def test_all_frames_of_a_clip_count_together(tmp_path, source):
    frames = make_frames(40)
    clip = list(map(encode_png, frames))
    if source == "mp4":
        write_mp4(tmp_path / "a.mp4", 40, (16, 16))
    enough, few = 40 * 16 * 16 * 3, 39 * 16 * 16 * 3

    def read(max_bytes):
        if source == "mp4":
            return read_video(tmp_path / "a.mp4", max_bytes=max_bytes)
        with decoded_within(max_bytes):
            return decode_images(clip if source == "png" else [by_pillow(frame, format="BMP") for frame in frames])

    assert len(read(enough)) == 40
    with pytest.raises(TooLargeError if source == "mp4" else ValueError, match="max_bytes"):
        read(few)


def test_arrays_are_refused_by_their_headers(little_memory, tmp_path):
    for shape in ((20_000, 512, 512, 3), (2**40, 2**20, 3, 3)):
        path = write_claim(tmp_path / "a.npz", shape, megabytes=1)
        with pytest.raises(ValueError, match="takes more than 4295 MB"):
            read_array(path, ["image"])
        with pytest.raises(ValueError, match="takes more than 4295 MB"):
            read_video(path)


def test_a_header_of_an_array_that_does_not_end_is_refused(little_memory, tmp_path):
    path = write_claim(tmp_path / "a.npz", (), header=b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), megabytes=200)
    with pytest.raises(OSError, match="cannot be read"), opened_npz(path) as content:
        content.headers()


def test_arrays_of_one_file_count_together(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: np.zeros(1000, np.uint8) for name in "abc"})
    with decoded_within(2500), opened_npz(tmp_path / "a.npz") as content:
        assert len(content.read("a")) == len(content.read("b")) == 1000
        with pytest.raises(TooLargeError):
            content.read("c")


def test_pixels_that_are_said_to_be_wide_count_as_wide(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 8
        file.mux(stream.encode(av.VideoFrame.from_ndarray(make_frames(1)[0], format="rgb24")))
        file.mux(stream.encode())
    with pytest.raises(ValueError, match="is 16 x 128 pixels"):
        read_video(tmp_path / "a.mp4", max_bytes=16 * 3 * 1000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile '{}'\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile 'real.mp4'\n"),
        ("list.sdp", "v=0\nm=video 5000 RTP/AVP 96\nc=IN IP4 127.0.0.1\n"),
    ],
)
def test_files_that_name_other_files_are_refused(tmp_path, name, text):
    real = write_mp4(tmp_path / "real.mp4", 3)
    (tmp_path / name).write_text(text.format(real))
    with pytest.raises(OSError, match="no container that is read"):
        read_video(tmp_path / name)


def test_a_limit_must_be_positive_and_ends_with_its_block():
    with pytest.raises(ValueError, match="at least 1"), decoded_within(0):
        pass
    with decoded_within(10), pytest.raises(TooLargeError):
        DecodedBytes("it").add(11)
    DecodedBytes("it").add(11)
