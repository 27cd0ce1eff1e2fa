"""What a picture's file says of itself is obeyed or refused, the same wherever a picture comes in."""

import io
import re
import struct
import zlib

import datasets
import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageCms, ImageOps, PngImagePlugin

from ivideogpt_hf import read_video
from ivideogpt_hf.media.images import decode_images, encode_png, images_to_store
from ivideogpt_hf.media.pictures import read_picture
from tests.data.files import make_frames

ORIENTATION = 0x0112
# What EXIF's standard says of the first row and the first column of what is stored.
UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def make_image(height=6, width=10):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, kind, **options):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(kind, orientation, image):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, kind, exif=exif, **LOSSLESS.get(kind, {}))


def channels_last(frames):
    return frames.movedim(1, -1).numpy()


def every_entrance(data, folder):
    """What each entrance makes of an encoded picture."""
    (folder / "images").mkdir()
    (folder / "images" / "0.png").write_bytes(data)
    (folder / "one.png").write_bytes(data)
    return {
        "file": lambda: channels_last(read_video(folder / "one.png"))[0],
        "folder": lambda: channels_last(read_video(folder / "images"))[0],
        "bytes of a video": lambda: channels_last(read_video({"bytes": data}))[0],
        "PIL": lambda: channels_last(read_video([Image.open(io.BytesIO(data))]))[0],
        "data set": lambda: decode_images([data])[0],
        "stored in a data set": lambda: decode_images(images_to_store([data]))[0],
    }


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_orientation_is_obeyed_everywhere(tmp_path, kind, orientation):
    image = make_image()
    for name, read in every_entrance(oriented(kind, orientation, image), tmp_path).items():
        assert np.array_equal(read(), UPRIGHT[orientation](image)), name


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_orientation_is_obeyed_in_lossy_files(kind, orientation):
    image = np.kron(make_image(4, 6), np.ones((16, 16, 1), np.uint8))
    read = decode_images([oriented(kind, orientation, image)])[0].astype(int)
    assert read.shape == UPRIGHT[orientation](image).shape
    assert np.abs(read - UPRIGHT[orientation](image)).mean() < 12


def test_orientation_in_xmp_is_obeyed():
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    image = make_image()
    assert np.array_equal(decode_images([encode(image, "PNG", pnginfo=text)])[0], UPRIGHT[6](image))


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_is_none_says_nothing(orientation):
    image = make_image()
    assert np.array_equal(decode_images([oriented("PNG", orientation, image)])[0], image)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_datasets_shows_what_is_decoded(kind, orientation):
    data = oriented(kind, orientation, make_image(16, 24))
    shown = datasets.Image().decode_example({"bytes": images_to_store([data])[0], "path": None})
    assert np.array_equal(np.asarray(shown), decode_images([data])[0])


def test_what_any_program_shows_is_stored_as_it_is():
    plain = [encode(make_image(), "PNG"), encode(make_image(), "JPEG"), oriented("PNG", 1, make_image())]
    assert images_to_store(plain) == plain
    ours = [encode_png(make_image())]
    assert images_to_store(ours) == ours


# -- transparency -----------------------------------------------------------------------------------------------------


def with_alpha(alpha):
    pixels = np.concatenate([make_image(8, 8), np.full((8, 8, 1), 255, np.uint8)], axis=-1)
    pixels[2:4, 2:4, 3] = alpha
    return Image.fromarray(pixels)


def in_colours(**options):
    """A picture of two colours, in a palette; the second may be the transparent one."""
    image = Image.fromarray(np.indices((8, 8)).sum(0).astype(np.uint8) % 2, mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encode(image, "PNG", **options)


TRANSPARENT = {
    "PNG": lambda: encode(with_alpha(254), "PNG"),
    "WebP": lambda: encode(with_alpha(0), "WEBP", lossless=True),
    "AVIF": lambda: encode(with_alpha(0), "AVIF"),
    "TIFF": lambda: encode(with_alpha(0), "TIFF"),
    "palette": lambda: in_colours(transparency=1),
    "one transparent colour": lambda: encode(np.zeros((8, 8, 3), np.uint8), "PNG", transparency=(0, 0, 0)),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_pixels_are_refused_everywhere(tmp_path, kind):
    for read in every_entrance(TRANSPARENT[kind](), tmp_path).values():
        with pytest.raises(ValueError, match="transparent pixels, and does not say what lies behind"):
            read()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_transparent_pixels_of_a_moving_picture_are_refused(tmp_path, kind):
    first = 255 if kind != "GIF" else 0  # Pillow writes transparency into all frames of a gif, or into none
    images = [with_alpha(first), with_alpha(0).transpose(Image.Transpose.ROTATE_90)]
    images[0].save(tmp_path / "a", kind, save_all=True, append_images=images[1:], disposal=2)
    with pytest.raises(ValueError, match=rf"frame {int(first == 255)} of .* transparent pixels"):
        read_video(tmp_path / "a")


def test_an_alpha_channel_that_hides_nothing_is_left_out(tmp_path):
    for read in every_entrance(encode(with_alpha(255), "PNG"), tmp_path).values():
        assert np.array_equal(read(), make_image(8, 8))


# -- modes and colours ------------------------------------------------------------------------------------------------


def test_a_palette_becomes_its_colours(tmp_path):
    expected = np.where(np.indices((8, 8)).sum(0)[..., None] % 2, (0, 255, 0), (255, 0, 0))
    for read in every_entrance(in_colours(), tmp_path).values():
        assert np.array_equal(read(), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "CMYK"])
def test_what_is_not_rgb_is_refused(mode):
    image = Image.new(mode, (8, 8))
    with pytest.raises(ValueError, match=f"mode {mode}, not RGB"):
        decode_images([encode(image, "TIFF" if mode == "CMYK" else "PNG")])
    with pytest.raises(ValueError, match=f"frame 0 of the list has mode {mode}, not RGB"):
        read_video([image])


def test_16_bits_are_refused():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\x00" + np.arange(24, dtype=">u2").tobytes()) * 4
    header = struct.pack(">IIBBBBB", 8, 4, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="16 bits per channel"):
        decode_images([b"\x89PNG\r\n\x1a\n" + chunks])


def swapped_profile():
    """The profile of colours whose red is blue, and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_colour_profile_is_obeyed_everywhere(tmp_path, kind):
    image = make_image()
    data = encode(image, kind, icc_profile=swapped_profile(), **LOSSLESS[kind])
    for name, read in every_entrance(data, tmp_path).items():
        assert np.abs(read().astype(int) - image[..., ::-1]).max() <= 1, name


def test_the_profile_of_srgb_changes_no_pixel():
    image, profile = make_image(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(image, "PNG", icc_profile=profile)
    assert np.array_equal(decode_images([data])[0], image)
    assert images_to_store([data]) == [data]


@pytest.mark.parametrize(
    "profile",
    [b"nonsense" * 30, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
    ids=["nonsense", "of Lab"],
)
def test_a_profile_that_cannot_be_obeyed_is_refused(profile):
    with pytest.raises(ValueError, match="colour profile that cannot be converted to sRGB"):
        decode_images([encode(make_image(), "PNG", icc_profile=profile)])


@pytest.mark.parametrize(("gamma", "is_srgb"), [(45455, True), (100000, False)])
def test_a_png_with_another_gamma_is_refused(gamma, is_srgb):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", gamma))
    data = encode(make_image(), "PNG", pnginfo=info)
    if is_srgb:
        assert np.array_equal(decode_images([data])[0], make_image())
    else:
        with pytest.raises(ValueError, match="colours are not sRGB"):
            decode_images([data])


# -- files of several pictures ----------------------------------------------------------------------------------------

MOVING = {"GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


@pytest.mark.parametrize("kind", MOVING)
def test_each_stored_picture_is_a_frame(tmp_path, kind):
    frames = (make_frames(5, 12) // 128) * 255
    images = [Image.fromarray(frame) for frame in frames]
    durations = {} if kind == "TIFF" else {"duration": [20, 1000, 50, 30, 400]}
    images[0].save(tmp_path / "clip", kind, save_all=True, append_images=images[1:], **durations, **MOVING[kind])
    assert np.array_equal(channels_last(read_video(tmp_path / "clip")), frames)
    assert np.array_equal(channels_last(read_video(tmp_path / "clip", max_frames=2)), frames[:2])


def test_the_still_of_an_animated_png_is_no_frame(tmp_path):
    frames = make_frames(4, 12)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / "clip.png", save_all=True, append_images=images[1:], default_image=True)
    assert np.array_equal(channels_last(read_video(tmp_path / "clip.png")), frames[1:])


def test_several_pictures_are_no_frame_of_a_folder(tmp_path):
    images = [Image.fromarray(frame) for frame in make_frames(3, 12)]
    images[0].save(tmp_path / "0.png", save_all=True, append_images=images[1:])
    with pytest.raises(ValueError, match="holds 3 pictures, not one"):
        read_video(tmp_path)


def test_the_preview_in_a_photo_is_no_frame(tmp_path):
    images = [Image.fromarray(np.kron(frame, np.ones((8, 8, 1), np.uint8))) for frame in make_frames(2, 4)]
    images[0].save(tmp_path / "0.jpg", "MPO", save_all=True, append_images=images[1:])
    assert len(read_video(tmp_path / "0.jpg")) == len(read_video(tmp_path)) == 1


def test_frames_are_not_alike_in_size(tmp_path):
    for i, size in enumerate((8, 8, 6)):
        Image.fromarray(make_frames(1, size)[0]).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"different sizes: \[\(6, 6\), \(8, 8\)\]"):
        read_video(tmp_path)
    assert len(read_video(tmp_path, max_frames=2)) == 2


# -- gif --------------------------------------------------------------------------------------------------------------


def test_unchanged_pixels_of_a_gif_are_those_of_the_frame_before(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[:, 2:6, 2:6] = 200
    for i in range(4):
        frames[i, 8:12, 3 * i : 3 * i + 4] = (0, 255, 0)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], optimize=True)
    assert re.search(rb"\x21\xf9\x04[\x01\x05]", (tmp_path / "clip.gif").read_bytes())  # transparency is used
    assert np.array_equal(channels_last(read_video(tmp_path / "clip.gif")), frames)


def test_a_gif_that_clears_what_it_does_not_draw_is_refused(tmp_path):
    images = [Image.fromarray(frame).quantize(8) for frame in (make_frames(2, 12) // 128) * 255]
    header, _ = GifImagePlugin.getheader(images[0].copy(), info={"loop": 0})
    parts = [
        *header,
        *GifImagePlugin.getdata(images[0], disposal=2, duration=50),
        *GifImagePlugin.getdata(images[1].crop((0, 0, 4, 4)), duration=50),
        b";",
    ]
    (tmp_path / "clip.gif").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"frame 1 of .* does not cover the picture"):
        read_video(tmp_path / "clip.gif")
    assert len(read_video(tmp_path / "clip.gif", max_frames=1)) == 1


def test_a_grey_gif_is_read(tmp_path):
    frames = np.repeat(make_frames(2, 8)[..., :1], 3, axis=-1)
    images = [Image.fromarray(frame[..., 0]) for frame in frames]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:])
    assert np.array_equal(channels_last(read_video(tmp_path / "clip.gif")), frames)


# -- errors -----------------------------------------------------------------------------------------------------------


def test_what_is_no_picture_is_named():
    with pytest.raises(OSError, match="the goal cannot be decoded: it is no picture"):
        read_picture(b"nonsense", "the goal")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_cut_off_picture_is_named(kind):
    data = encode(make_image(64, 64), kind)
    with pytest.raises(OSError, match=r"a\.x cannot be decoded"):
        read_picture(data[: len(data) // 2], "a.x")


def test_pillows_own_rule_for_orientation_is_the_same():
    for orientation in UPRIGHT:
        data = oriented("PNG", orientation, make_image())
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(read_picture(data, "").pixels, np.asarray(expected))
