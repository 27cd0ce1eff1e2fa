import pytest

from ivideogpt_hf.media.files import list_images, natural_key


def test_digits_are_sorted_as_numbers():
    names = ["frame_10", "frame_2", "b", "10", "9", "frame_2_10", "frame_2_9", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "b", "frame_2", "frame_2_9", "frame_2_10", "frame_10"]


def make_files(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["frame_2.png", "frame_10.png"],
        ["-10.png", "-2.png", "0.png", "3.png"],
        ["0.50.png", "0.75.png", "10.25.png"],
        ["frame.png", "frame (1).png", "frame (2).png", "frame (10).png"],
        ["1.jpg", "2.png", "3.TIFF", "4.avif"],
    ],
)
def test_images_are_in_the_order_of_their_numbers(tmp_path, names):
    make_files(tmp_path, *sorted(names), "._" + names[0], ".hidden.png", "actions.csv")
    assert [file.name for file in list_images(tmp_path)] == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.5.png", "0.25.png"], "the order of the images of .* is not clear"),
        (["0.png", "0.jpg"], "holds 0.jpg and 0.png; a clip has one image of each name"),
        (["0.png", "1.heic"], "holds 1.heic, which is not read; convert it"),
        (["0.png", "clip.gif"], "holds clip.gif, which is not read"),
    ],
)
def test_a_folder_whose_clip_is_not_clear_is_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        list_images(make_files(tmp_path, *names))


def test_a_folder_of_other_pictures_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no images .*; it holds 1\.heic"):
        list_images(make_files(tmp_path, "1.heic"))
