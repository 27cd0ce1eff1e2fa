import av
import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ivideogpt_hf.media.streams import describe_video
from ivideogpt_hf.media.video import read_video, side_by_side, write_video
from tests.conftest import random_frames
from tests.data.files import write_mp4


def smooth_frames(num_frames=5, height=32, width=48):
    """Frames that lossy codecs keep well."""
    ramp = torch.linspace(0, 200, width).expand(num_frames, 3, height, width)
    return (ramp + 10 * torch.arange(num_frames)[:, None, None, None]).to(torch.uint8)


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [32, 33])
def test_mp4_round_trip(tmp_path, height):
    frames = smooth_frames(height=height)
    path = write_video(frames, tmp_path / "new" / "clip.mp4")
    read = read_video(path)
    assert read.shape[0] == 5
    assert (read[:, :, :height].int() - frames.int()).abs().float().mean() < 4


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_relative_name_with_a_colon_is_a_file(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    write_video(smooth_frames(), f"12:30{suffix}")
    assert (tmp_path / f"12:30{suffix}").is_file()
    assert read_video(f"12:30{suffix}").shape == (5, 3, 32, 48)


def test_gif_round_trip_of_few_colours(tmp_path):
    frames = (random_frames(4, size=16) // 128) * 255
    assert read_video(write_video(frames, tmp_path / "clip.gif")).equal(frames)


def test_frames_that_are_alike_are_all_read_from_a_gif(tmp_path):
    frames = ((random_frames(3, size=16) // 128) * 255)[[0, 0, 1, 1, 1, 2]]
    assert read_video(write_video(frames, tmp_path / "clip.gif")).equal(frames)


def in_few_colours(num_frames):
    """Frames of which some equal the one before."""
    frames = (random_frames(4, size=16) // 128) * 255
    return frames[torch.randint(0, 4, (num_frames,), generator=torch.Generator().manual_seed(0)).sort().values]


@pytest.mark.parametrize("fps", [1, 7, 12.5, 30, 50])
def test_any_viewer_shows_all_frames_of_a_gif(tmp_path, fps):
    frames = in_few_colours(12)
    path = write_video(frames, tmp_path / "clip.gif", fps=fps)
    with Image.open(path) as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert image.info["loop"] == 0
    assert np.array_equal(shown, frames.movedim(1, -1))
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert np.array_equal([frame.to_ndarray(format="rgb24") for frame in decoded], frames.movedim(1, -1))
    assert np.allclose([frame.time for frame in decoded], np.arange(12) / fps, atol=0.006)


def test_equal_frames_of_a_gif_need_no_room(tmp_path):
    frames = ((random_frames(1, size=64) // 128) * 255).expand(20, -1, -1, -1)
    still = write_video(frames[:1], tmp_path / "still.gif").stat().st_size
    assert write_video(frames, tmp_path / "clip.gif").stat().st_size < still + 20 * 60


def test_a_gif_of_an_earlier_version_is_read_as_it_is_stored(tmp_path):
    """Equal frames were merged into one that is shown longer."""
    images = [Image.fromarray(frame.movedim(0, -1).numpy()) for frame in (random_frames(3, size=16) // 128) * 255]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], duration=[100, 300, 100])
    assert len(read_video(tmp_path / "clip.gif")) == 3


@pytest.mark.parametrize("fps", [0.5, 10, 29.97, 30000 / 1001, 240, np.float32(12.5), np.int64(10)])
def test_a_rate_of_an_mp4_is_kept(tmp_path, fps):
    path = write_video(smooth_frames(), tmp_path / "clip.mp4", fps=fps)
    assert describe_video(path, "clip.mp4").rate == pytest.approx(fps, rel=1e-9)


def test_scale_enlarges_pixels(tmp_path):
    frames = (random_frames(2, size=16) // 128) * 255
    read = read_video(write_video(frames, tmp_path / "clip.gif", scale=3))
    assert read.equal(frames.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3))


def test_folder_of_images_is_read_in_natural_order(tmp_path):
    frames = random_frames(11)
    for i, frame in enumerate(frames):
        Image.fromarray(frame.movedim(0, -1).numpy()).save(tmp_path / f"frame_{i}.png")
    assert read_video(tmp_path).equal(frames)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", ["tensor", "array", "float", "int64", "uint16", "list", "tensors", "npy", "npz"])
def test_arrays_of_every_kind(tmp_path, kind, channels_last):
    frames = random_frames(4)
    array = (frames.movedim(1, -1) if channels_last else frames).numpy()
    if kind == "npy":
        np.save(tmp_path / "clip.npy", array)
    elif kind == "npz":
        np.savez(tmp_path / "clip.npz", image=array, other=np.zeros(3))
    source = {
        "tensor": torch.from_numpy(array),
        "array": array,
        "float": array.astype(np.float32) / 255,
        "int64": array.astype(np.int64),
        "uint16": array.astype(np.uint16),
        "list": list(array),
        "tensors": list(torch.from_numpy(array)),
        "npy": tmp_path / "clip.npy",
        "npz": str(tmp_path / "clip.npz"),
    }[kind]
    assert read_video(source).equal(frames)


def test_an_array_may_be_a_reversed_view():
    frames = random_frames(4)
    assert read_video(frames.numpy()[::-1]).equal(frames.flip(0))


def test_list_of_pil_images():
    frames = random_frames(3)
    assert read_video([Image.fromarray(frame.movedim(0, -1).numpy()) for frame in frames]).equal(frames)


@pytest.mark.parametrize("in_memory", [True, False])
def test_undecoded_datasets_video(tmp_path, in_memory):
    path = write_video(smooth_frames(), tmp_path / "clip.mp4")
    value = {"bytes": path.read_bytes(), "path": None} if in_memory else {"bytes": None, "path": str(path)}
    features = datasets.Features({"video": datasets.Video(decode=False)})
    row = datasets.Dataset.from_dict({"video": [value]}, features=features)[0]["video"]
    assert read_video(row).equal(read_video(path))


def test_corrupt_mp4_is_named(tmp_path):
    path = write_video(smooth_frames(), tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match=r"clip\.mp4 cannot be decoded as video"):
        read_video(path)


def test_truncated_gif_is_named(tmp_path):
    path = write_video(random_frames(4), tmp_path / "clip.gif")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match=r"frame 3 of .*clip\.gif cannot be decoded, it is not a readable gif"):
        read_video(path)


def test_corrupt_gif_and_npz_are_named(tmp_path):
    for name, message in (("clip.gif", "cannot be decoded"), ("clip.npz", "cannot be read")):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(OSError, match=message):
            read_video(tmp_path / name)


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.save(tmp_path / "clip.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OSError, match="pickled objects"):
        read_video(tmp_path / "clip.npy")


def test_npz_without_frames_lists_its_keys(tmp_path):
    np.savez(tmp_path / "clip.npz", depth=np.zeros(3))
    with pytest.raises(ValueError, match=r"it holds \['depth'\]"):
        read_video(tmp_path / "clip.npz")


def test_empty_folder_and_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no images"):
        read_video(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_video(tmp_path / "none.mp4")


def test_addresses_are_not_read():
    with pytest.raises(FileNotFoundError, match=r"https://host/clip.mp4 is an address, .*: download it"):
        read_video("https://host/clip.mp4")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(4, 16, 16, 1, dtype=torch.uint8), "3 colour channels"),
        (torch.zeros(4, 3, 16, 3, dtype=torch.uint8), "3 colour channels"),
        (torch.zeros(16, 16, 3, dtype=torch.uint8), "3 colour channels"),
        (torch.zeros(0, 3, 16, 16, dtype=torch.uint8), "holds no frames"),
        (torch.zeros(4, 3, 0, 16, dtype=torch.uint8), "must have pixels"),
        (torch.full((4, 3, 16, 16), 256), "got torch.int64 from 256"),
        (torch.full((4, 3, 16, 16), 1.5), "got torch.float32 from 1.5"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.bool), "got torch.bool"),
        (np.full((4, 16, 16, 3), None), "an array of dtype object"),
        (torch.full((4, 3, 16, 16), float("nan")), "NaN"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)], "different sizes"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.float32)], "different sizes or dtypes"),
        ([Image.new("RGB", (16, 16)), Image.new("L", (16, 16))], "frame 1 of the list has mode L"),
        ([Image.new("RGBA", (16, 16))], "mode RGBA"),
        (["clip.mp4"], "got str"),
        ([], "holds no frames"),
        ({"array": 1}, "'bytes' or 'path'"),
        (3, "got int"),
    ],
)
def test_what_is_no_video_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_video(source)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_side_by_side_keeps_the_clips_apart():
    clips = [random_frames(3, seed=seed) for seed in range(3)]
    joined = side_by_side(*clips)
    assert joined.shape == (3, 3, 16, 16 * 3 + 4)
    assert joined[..., :16].equal(clips[0])
    assert joined[..., 16:18].eq(255).all()
    assert joined[..., -16:].equal(clips[2])


def test_side_by_side_refuses_clips_of_different_lengths_and_dtypes():
    with pytest.raises(ValueError, match="one length and size"):
        side_by_side(random_frames(3), random_frames(2))
    with pytest.raises(ValueError, match="must be uint8"):
        side_by_side(random_frames(3), random_frames(3) / 255)


@pytest.mark.parametrize(
    ("frames", "name", "options", "message"),
    [
        (torch.zeros(2, 3, 16, 16), "a.gif", {}, "must be uint8"),
        (random_frames(0), "a.gif", {}, "must be uint8"),
        (random_frames(2), "a.avi", {}, r"\.mp4 or \.gif"),
        (random_frames(2), "a.gif", {"fps": 0}, "from 0.01 to 50, got 0"),
        (random_frames(2), "a.gif", {"fps": 60}, "from 0.01 to 50, got 60"),
        (random_frames(2), "a.mp4", {"fps": -1}, "from 0.01 to 1000, got -1"),
        (random_frames(2), "a.mp4", {"fps": float("nan")}, "got nan"),
        (random_frames(2), "a.mp4", {"fps": True}, "got True"),
        (random_frames(2), "a.mp4", {"fps": "10"}, "got '10'"),
        (random_frames(2), "a.mp4", {"scale": 1.5}, "scale must be an integer of at least 1, got 1.5"),
    ],
)
def test_bad_video_is_not_written(tmp_path, frames, name, options, message):
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / name, **options)


def test_no_more_frames_are_read_than_asked_for(tmp_path):
    frames = read_video(write_mp4(tmp_path / "clip.mp4", 8))
    assert read_video(tmp_path / "clip.mp4", max_frames=3).equal(frames[:3])
    assert read_video(frames, max_frames=20).equal(frames)
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        read_video(frames, max_frames=0)


@pytest.mark.parametrize("kind", ["npy", "npz", "fortran npz"])
def test_no_more_rows_of_an_array_are_loaded_than_asked_for(tmp_path, kind):
    frames = random_frames(9)
    array, path = frames.movedim(1, -1).numpy(), tmp_path / f"clip.{kind.split()[-1]}"
    if kind == "npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, image=np.asfortranarray(array) if "fortran" in kind else array)
    assert read_video(path, max_frames=3).equal(frames[:3])
    assert read_video(path, max_frames=30).equal(frames)
    assert read_video(path).equal(frames)


def test_frames_are_resized_as_they_are_read(tmp_path):
    def resize(frame):
        seen.append(frame.shape)
        return frame[:, ::2, ::2]

    seen = []
    frames = read_video(write_mp4(tmp_path / "clip.mp4", 8))
    assert read_video(tmp_path / "clip.mp4", max_frames=3, resize=resize).equal(frames[:3, :, ::2, ::2])
    assert seen == [(3, 48, 64)] * 3
    assert read_video(list(frames), resize=lambda frame: frame[..., ::2]).equal(frames[..., ::2])
    assert read_video(frames, resize=lambda frame: frame[..., ::2]).equal(frames[..., ::2])
