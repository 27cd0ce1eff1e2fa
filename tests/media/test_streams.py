"""Which frames a video file has, how they are turned, coloured and timed, and what is missing."""

import gc
import re
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from ivideogpt_hf import read_video
from ivideogpt_hf.media.streams import (
    describe_video,
    iterate_timed_video,
    iterate_video,
    read_frames_at,
    resample_frames,
)
from tests.data.files import make_frames, write_mp4

# Containers, codecs and pixel formats that lose nothing.
LOSSLESS = {
    "h264.mp4": ("libx264rgb", "rgb24", {"crf": "0"}),
    "ffv1.mkv": ("ffv1", "bgr0", {}),
    "utvideo.avi": ("utvideo", "gbrp", {}),
    "qtrle.mov": ("qtrle", "rgb24", {}),
    "png.mov": ("png", "rgb24", {}),
    "raw.avi": ("rawvideo", "bgr24", {}),
}
# As ISO/IEC 14496-12 has them: what is stored at (x, y) is shown at (a x + c y, b x + d y).
TURNED = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "rotated by 90": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "rotated by 180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "rotated by 270": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "transversed": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
}


def add_stream(container, frames, codec="ffv1", pix_fmt="bgr0", options=None, rate=10):
    stream = container.add_stream(codec, rate=rate, options=options or {})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pix_fmt
    return stream


def write(
    path, frames, codec="ffv1", pix_fmt="bgr0", options=None, *, times=None, prepare=None, source="rgb24", **file
):
    """Write frames (T, H, W, 3) uint8, at times in milliseconds."""
    with av.open(str(path), "w", **file) as container:
        stream = add_stream(container, frames, codec, pix_fmt, options)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if prepare is not None:
            prepare(stream)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=source)
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_lossless(path, frames, name="ffv1.mkv", **more):
    codec, pix_fmt, options = LOSSLESS[name]
    return write(path, frames, codec, pix_fmt, options, **more)


def read(path, **more):
    return read_video(path, **more).movedim(1, -1).numpy()


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_video_is_read_pixel_for_pixel(tmp_path, name):
    frames = make_frames(5, 16)
    assert np.array_equal(read(write_lossless(tmp_path / name, frames, name)), frames)


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("name", ["h264.mp4", "qtrle.mov"])
def test_a_display_matrix_is_obeyed(tmp_path, name, turn):
    (a, b, c, d), upright = TURNED[turn]
    frames = make_frames(2, 16)[:, :, :12]
    path = write_lossless(tmp_path / name, frames, name)
    data, matrix = bytearray(path.read_bytes()), np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14]) << 16
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = matrix.astype(">i4").tobytes()
    path.write_bytes(data)
    assert np.array_equal(read(path), [upright(image) for image in frames])


def test_any_other_angle_is_refused(tmp_path):
    path = write_lossless(
        tmp_path / "a.mp4", make_frames(2, 16), "h264.mp4", prepare=lambda s: s.set_display_rotation(30)
    )
    with pytest.raises(ValueError, match="other than quarter turns"):
        read_video(path)


@pytest.mark.parametrize("colorspace", [1, 5, 6, 7, 9], ids=["709", "470bg", "170m", "240m", "2020"])
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
def test_matrix_and_range_of_the_colours_are_obeyed(tmp_path, colorspace, color_range):
    colours = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = add_stream(container, colours, "ffv1", "yuv444p")
        context = stream.codec_context
        context.colorspace, context.color_range = colorspace, color_range
        frame = av.VideoFrame.from_ndarray(colours[0], format="rgb24").reformat(
            format="yuv444p", dst_colorspace=colorspace, dst_color_range=color_range
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(read(tmp_path / "a.mkv").astype(int) - colours).max() <= 3


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "prepare", "message"),
    [
        ("ffv1", "gray", None, "greyscale"),
        ("ffv1", "gray10le", None, "greyscale"),
        ("ffv1", "yuv444p16le", None, "more than 12 bits"),
        ("ffv1", "yuv420p10le", {"color_trc": 16}, r"HDR \(PQ\)"),
        ("ffv1", "yuv420p10le", {"color_trc": 18}, r"HDR \(HLG\)"),
        ("ffv1", "yuv420p", {"color_trc": 8}, "linear light"),
        ("ffv1", "yuv420p", {"color_primaries": 12}, "Display P3"),
        ("libx264", "yuv420p", {"colorspace": 8}, "number 8 of H.273"),
    ],
)
def test_what_rgb_of_8_bits_cannot_show_is_refused(tmp_path, codec, pix_fmt, prepare, message):
    def set_all(stream):
        for name, value in (prepare or {}).items():
            setattr(stream.codec_context, name, value)

    path = write(tmp_path / "a.mkv", make_frames(2, 16), codec, pix_fmt, prepare=set_all)
    with pytest.raises(ValueError, match=message):
        read_video(path)


def test_video_of_10_bits_is_rounded_to_8(tmp_path):
    frames = make_frames(2, 4).repeat(8, 1).repeat(8, 2)
    path = write(tmp_path / "a.mkv", frames, "ffv1", "yuv444p10le")
    assert np.abs(read(path).astype(int) - frames).max() <= 2


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(4, 3), 32), (Fraction(1, 2), 12), (Fraction(640, 639), 24)])
def test_pixels_become_square(tmp_path, aspect, width):
    def set_aspect(stream):
        stream.codec_context.sample_aspect_ratio = aspect

    path = write_lossless(tmp_path / "a.mp4", np.full((2, 16, 24, 3), 90, np.uint8), "h264.mp4", prepare=set_aspect)
    assert np.array_equal(read(path), np.full((2, 16, width, 3), 90))


ALPHA = {
    "argb.mov": ("qtrle", "argb"),
    "png.mov": ("png", "rgba"),
    "ffv1.mkv": ("ffv1", "bgra"),
    "prores.mov": ("prores_ks", "yuva444p10le"),
}


@pytest.mark.parametrize("name", ALPHA)
def test_transparent_video_is_refused_and_opaque_video_is_read(tmp_path, name):
    codec, pix_fmt = ALPHA[name]
    frames = np.concatenate([np.full((3, 16, 16, 3), 90, np.uint8), np.full((3, 16, 16, 1), 255, np.uint8)], axis=-1)
    path = write(tmp_path / name, frames, codec, pix_fmt, source="rgba")
    assert np.abs(read(path).astype(int) - 90).max() <= 2
    frames[2, 4:8, 4:8, 3] = 0
    path = write(tmp_path / name, frames, codec, pix_fmt, source="rgba")
    with pytest.raises(ValueError, match="transparent pixels"):
        read_video(path)


def test_alpha_that_the_decoder_does_not_see_is_refused(tmp_path):
    def set_alpha(stream):
        stream.metadata["alpha_mode"] = "1"

    path = write(tmp_path / "a.webm", make_frames(2, 16), "libvpx-vp9", "yuv420p", prepare=set_alpha)
    with pytest.raises(ValueError, match="transparent pixels"):
        read_video(path)


def test_an_interlaced_video_is_told(tmp_path):
    options = {"x264-params": "tff=1"}
    path = write(tmp_path / "a.mp4", make_frames(2, 32), "libx264", "yuv420p", options)
    with pytest.warns(UserWarning, match="is interlaced"):
        read_video(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_video(write_mp4(tmp_path / "b.mp4"))


def test_frames_do_not_change_their_size(tmp_path):
    first, second = (write(tmp_path / f"{size}.h264", make_frames(3, size), "libx264", "yuv420p") for size in (32, 48))
    path = tmp_path / "both.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(ValueError, match=r"changes its size from \(32, 32\) to \(48, 48\)"):
        read_video(path)


# -- which stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
def test_a_cover_is_not_the_video(tmp_path, is_first):
    frames, cover = make_frames(4, 16), make_frames(1, 32)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        order = ["cover", "video"] if is_first else ["video", "cover"]
        streams = {}
        for kind in order:
            name = "png.mov" if kind == "cover" else "h264.mp4"
            streams[kind] = add_stream(container, cover if kind == "cover" else frames, *LOSSLESS[name])
        streams["cover"].disposition = Disposition.attached_pic
        for kind, images in (("cover", cover), ("video", frames)):
            for image in images:
                container.mux(streams[kind].encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(streams[kind].encode())
    assert np.array_equal(read(tmp_path / "a.mp4"), frames)


def write_streams(path, *videos, audio=False):
    with av.open(str(path), "w") as container:
        streams = [add_stream(container, frames) for frames in videos]
        if audio:
            sound = container.add_stream("pcm_s16le", rate=8000)
        for stream, frames in zip(streams, videos, strict=True):
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80000), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def test_several_videos_in_a_file_are_refused_by_name(tmp_path):
    path = write_streams(tmp_path / "a.mkv", make_frames(2, 16), make_frames(2, 32))
    with pytest.raises(ValueError, match=r"2 videos: stream 0 \(16 x 16\), stream 1 \(32 x 32\); copy one .*-map 0:0"):
        read_video(path)


def test_sound_beside_a_video_changes_nothing(tmp_path):
    frames = make_frames(3, 16)
    assert np.array_equal(read(write_streams(tmp_path / "a.mkv", frames, audio=True)), frames)


def test_sound_is_no_video(tmp_path):
    with pytest.raises(OSError, match="cannot be decoded as video, it holds none"):
        read_video(write_streams(tmp_path / "a.mkv", audio=True))


# -- which frames -----------------------------------------------------------------------------------------------------

CONTAINERS = {
    "a.mp4": ("libx264", {"movflags": "faststart"}),
    "a.mov": ("libx264", {"movflags": "faststart"}),
    "a.mkv": ("libx264", {}),
    "a.webm": ("libvpx-vp9", {}),
    "a.avi": ("libx264", {}),
    "a.flv": ("libx264", {}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_that_is_cut_off_says_so(tmp_path, name):
    codec, options = CONTAINERS[name]
    path = write(tmp_path / name, make_frames(40, 32), codec, "yuv420p", {"g": "10"}, container_options=options)
    assert len(read_video(path)) == 40
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    assert len(read_video(path, max_frames=3)) == 3
    with pytest.raises(OSError, match=r"cut off or damaged|is damaged") as error:
        read_video(path)
    if name in ("a.mp4", "a.mov", "a.avi"):
        assert "of the 40 that it states" in str(error.value) or "damaged: frame" in str(error.value)
    if name in ("a.mkv", "a.webm"):
        assert re.search(r"about \d+ frames are missing", str(error.value))


def test_a_duration_that_is_no_time_states_nothing(tmp_path):
    path = write_lossless(tmp_path / "a.mkv", make_frames(4, 16))
    content = path.read_bytes()
    assert content.count(b"00:00:00.") == 1
    path.write_bytes(content.replace(b"00:00:00.", b"a moment."))
    assert np.array_equal(read(path), make_frames(4, 16))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv"])
def test_a_frame_that_is_lost_in_the_middle_is_told(tmp_path, name):
    """And no frame is decoded that was not asked for: the damage is not noticed before."""
    path = write(tmp_path / name, make_frames(40, 32), "libx264", "yuv420p", {"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[20]
    data = bytearray(path.read_bytes())
    place = data.index(bytes(packet))
    data[place : place + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    assert len(read_video(path, max_frames=10)) == 10
    with pytest.raises(OSError, match="damaged"):
        read_video(path)


def test_a_trimmed_clip_is_whole(tmp_path):
    """A clip that was trimmed without encoding keeps frames that are not to be shown."""
    path = write(tmp_path / "a.mp4", make_frames(30, 32), "libx264", "yuv420p", {"g": "30"})
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        shift = round(0.5 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream, packet.pts, packet.dts = copy, packet.pts - shift, packet.dts - shift
                target.mux(packet)
    assert np.array_equal(read(tmp_path / "b.mp4"), read(path)[5:])
    assert describe_video(str(tmp_path / "b.mp4"), "b.mp4").num_frames == 25


def test_vp8_with_frames_that_are_never_shown(tmp_path):
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}
    path = write(tmp_path / "a.webm", make_frames(60, 32) // 8 + 100, "libvpx", "yuv420p", options)
    assert len(read_video(path)) == describe_video(str(path), "a").num_frames == 60


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.npz", "a.png", "a"])
def test_an_empty_file_is_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(OSError, match=r"is empty \(0 bytes\)"):
        read_video(tmp_path / name)


@pytest.mark.parametrize(("name", "wrong"), [("h264.mp4", "a.gif"), ("ffv1.mkv", "a.png"), ("qtrle.mov", "a")])
def test_what_a_file_is_is_decided_by_its_content(tmp_path, name, wrong):
    frames = make_frames(3, 16)
    path = write_lossless(tmp_path / name, frames, name).rename(tmp_path / wrong)
    assert np.array_equal(read(path), frames)


# -- times ------------------------------------------------------------------------------------------------------------


def test_an_even_clip(tmp_path):
    info = describe_video(str(write_mp4(tmp_path / "a.mp4", 8, fps=25)), "a.mp4")
    assert (info.num_frames, info.frame_size, info.rate, info.is_variable) == (8, (48, 64), 25, False)
    assert np.allclose(info.times, np.arange(8) / 25)
    assert info.duration == pytest.approx(7 / 25)
    assert not info.is_interlaced


@pytest.mark.parametrize("fps", [24, 30, 50, 60])
def test_rounded_times_are_even(tmp_path, fps):
    times = np.round(np.arange(20) * 1000 / fps)
    info = describe_video(str(write(tmp_path / "a.mkv", make_frames(20, 16), times=times)), "a.mkv")
    assert not info.is_variable
    assert info.rate == pytest.approx(fps, rel=0.02)


@pytest.mark.parametrize(
    "times",
    [[0, 33, 66, 166, 200], [0, 33, 66, 106, 146, 186], [0, 100, 200, 210, 300]],
    ids=["pause", "slower", "early"],
)
def test_an_uneven_clip_is_told(tmp_path, times):
    path = write(tmp_path / "a.mkv", make_frames(len(times), 16), times=times)
    info = describe_video(str(path), "a.mkv")
    assert info.is_variable
    assert np.allclose(info.times, np.array(times) / 1000)
    assert info.rate == pytest.approx((len(times) - 1) / (times[-1] / 1000))


def test_frames_come_with_their_times(tmp_path):
    times, frames = [40, 140, 300], make_frames(3, 16)
    path = write(tmp_path / "a.mkv", frames, times=times)
    images, seconds = zip(*iterate_timed_video(str(path), "a.mkv"), strict=True)
    assert np.array_equal(images, frames)
    assert np.allclose(seconds, np.array(times) / 1000)


@settings(max_examples=200, deadline=None)
@given(
    num_frames=st.integers(1, 60),
    keep=st.integers(1, 7),
    fps=st.sampled_from([5, 10, 24, 30, 60]),
    start=st.floats(-5, 5),
)
def test_a_rate_that_divides_chooses_every_nth_frame(num_frames, keep, fps, start):
    times = start + np.round(np.arange(num_frames) / fps, 3)  # as a clock of milliseconds has them
    assert resample_frames(times, fps / keep).tolist() == list(range(0, num_frames, keep))


@settings(max_examples=200, deadline=None)
@given(gaps=st.lists(st.floats(0.01, 2), max_size=40), fps=st.floats(0.5, 100))
def test_a_frame_is_chosen_from_when_it_is_shown_until_the_next(gaps, fps):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    chosen = resample_frames(times, fps)
    half = 0.5 * np.median(gaps) if gaps else 0
    wanted = np.arange(len(chosen)) / fps
    assert chosen[0] == 0 or half >= times[1]
    assert (np.diff(chosen) >= 0).all()
    assert (times[chosen] <= wanted + half).all()
    following = np.append(times, np.inf)[chosen + 1]
    assert (following > wanted + half).all()
    assert wanted[-1] <= times[-1] + half + 1e-9


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_is_a_positive_number(fps):
    with pytest.raises(ValueError, match="fps must be a positive number"):
        resample_frames(np.arange(3.0), fps)


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.mp4", "libx265")])
def test_frames_between_key_frames_of_any_container(tmp_path, name, codec):
    path = str(write(tmp_path / name, make_frames(40, 32), codec, "yuv420p", {"g": "12"}))
    frames, times = list(iterate_video(path, name)), describe_video(path, name).times
    chosen = [17, 18, 31]
    read = list(read_frames_at(path, name, times[chosen].tolist(), tolerance=0.05))
    assert np.array_equal(read, [frames[index] for index in chosen])


@pytest.mark.parametrize("name", ["h264.mp4", "ffv1.mkv"])
@pytest.mark.parametrize("wanted", [[0.0, 0.1, 0.2], [2.51, 2.69, 2.8], [3.9]])
def test_frames_at_times(tmp_path, name, wanted):
    frames = make_frames(40, 16)
    path = str(write_lossless(tmp_path / name, frames, name))
    read = list(read_frames_at(path, name, wanted, tolerance=0.05))
    assert np.array_equal(read, frames[[round(time * 10) for time in wanted]])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([0.1, 0.3], r"frame 1 is wanted at 0\.3000 s, the nearest is at 0\.2000 s, farther than 0\.0500 s"),
        ([0.1, 9.0], r"frame 1 is wanted at 9\.0000 s, the nearest is at 0\.6000 s"),
        ([9.0], r"no frames? from"),
        ([0.2, 0.1], "must ascend"),
    ],
)
def test_a_lost_frame_is_named(tmp_path, wanted, message):
    path = str(write(tmp_path / "a.mkv", make_frames(5, 16), times=[0, 100, 200, 500, 600]))
    with pytest.raises((ValueError, OSError), match=message):
        list(read_frames_at(path, "a.mkv", wanted, tolerance=0.05))


def test_frames_that_were_read_are_freed_at_once(tmp_path):
    """Not only by the garbage collector, which looks at few objects seldom, however large they are."""
    path = write_mp4(tmp_path / "clip.mp4", 120)
    gc.collect()
    gc.disable()
    try:
        for _ in iterate_video(str(path), "clip"):
            alive = sum(isinstance(value, av.VideoFrame) for value in gc.get_objects())
    finally:
        gc.enable()
    assert alive < 30  # a decoder with threads holds some
