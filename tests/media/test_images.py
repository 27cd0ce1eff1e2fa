"""Our PNG files are everybody's, and our decoder decodes what Pillow does."""

import io

import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf.media.images import _decode_our_png, decode_images, encode_png
from tests.data.files import make_frames

SMOOTH = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None] * 3, (60, 40, 3))


def by_pillow(image, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "image", [make_frames(1, 33)[0], SMOOTH, SMOOTH.transpose(1, 0, 2)], ids=["noise", "up", "sub"]
)
def test_pillow_reads_our_png(image):
    with Image.open(io.BytesIO(encode_png(image))) as opened:
        opened.verify()
    assert (np.asarray(Image.open(io.BytesIO(encode_png(image)))) == image).all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((4, 4, 3), 0.5, np.float32),
        np.full((4, 4, 3), 300),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["float", "int64", "RGBA", "grey", "empty"],
)
def test_what_is_no_rgb_image_is_not_encoded(image):
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\)"):
        encode_png(image)


def test_our_decoder_takes_our_files_and_no_others():
    frames = make_frames(2)
    assert (_decode_our_png([encode_png(frame) for frame in frames]) == frames).all()
    assert _decode_our_png([by_pillow(frame) for frame in frames]) is None


@pytest.mark.parametrize(
    "encode",
    [
        by_pillow,
        lambda image: by_pillow(image, "WEBP", lossless=True),
        lambda image: by_pillow(image, "BMP"),
    ],
    ids=["png", "webp", "bmp"],
)
def test_images_of_others_are_decoded_too(encode):
    frames = make_frames(3)
    mixed = [encode_png(frames[0]), *(encode(frame) for frame in frames[1:])]
    assert (decode_images(mixed) == frames).all()


def test_real_frames_survive(shared):
    for name in ("bair", "fractal"):
        with np.load(shared(f"data/{name}_sample.npz")) as arrays:
            frames = arrays["image"][:5].astype(np.uint8)
        encoded = [encode_png(frame) for frame in frames]
        assert (decode_images(encoded) == frames).all()
        assert sum(map(len, encoded)) < 1.1 * sum(len(by_pillow(frame)) for frame in frames)


@pytest.mark.parametrize("place", [20, 60, -20], ids=["header", "data", "checksum"])
def test_a_changed_byte_is_noticed(place):
    frames = make_frames(2)
    encoded = [bytearray(encode_png(frame)) for frame in frames]
    encoded[1][place] ^= 1
    with pytest.raises(ValueError, match="frame 1"):
        decode_images([bytes(data) for data in encoded])


def test_a_cut_off_image_is_noticed():
    with pytest.raises(ValueError, match="frame 0: an image cannot be decoded"):
        decode_images([encode_png(make_frames(1)[0])[:-30]])


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="frame 1 is"):
        decode_images([encode_png(make_frames(1, size)[0]) for size in (16, 12)])


def test_alpha_is_refused():
    file = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(file, "PNG")
    with pytest.raises(ValueError, match="mode RGBA"):
        decode_images([file.getvalue()])


def test_no_images_are_no_clip():
    with pytest.raises(ValueError, match="no images"):
        decode_images([])
