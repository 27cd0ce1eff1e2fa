import importlib.util

import numpy as np
import pytest
import torch

from ivideogpt_hf import IVideoGPTVideoProcessor, Sampling, WorldModel
from tests.conftest import build_world, random_frames

NAN = float("nan")
STATISTICS = {"action_mean": [1.0, -1.0], "action_std": [2.0, 0.5], "action_low": [-1.0, -3.0], "action_high": [3, 1]}


def build_processor(height=16, width=16, **config):
    return IVideoGPTVideoProcessor(size={"height": height, "width": width}, **config)


def test_save_and_load_round_trip(tmp_path):
    config = {**STATISTICS, "action_names": ["x", "y"], "reward_transform": "symlog", "crop_to_aspect": True}
    processor = build_processor(16, 24, **config)
    processor.save_pretrained(tmp_path)
    loaded = IVideoGPTVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.frame_size == (16, 24)


def test_a_whole_checkpoint_has_it(tmp_path):
    build_world().save_pretrained(tmp_path)
    for place in ({}, {"subfolder": "processor"}):
        assert IVideoGPTVideoProcessor.from_pretrained(tmp_path, **place).frame_size == (16, 16)
    with pytest.raises(OSError, match="Can't load video processor"):
        IVideoGPTVideoProcessor.from_pretrained(tmp_path / "transformer")


def test_frames_of_the_right_size_are_unchanged():
    frames = random_frames(2, 4)
    assert build_processor().resize_frames(frames).equal(frames)


def test_resizing_averages():
    """With antialiasing, halving the size of a picture of constant blocks keeps the blocks' mean."""
    frames = random_frames(3, size=8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    resized = build_processor(8, 8).resize_frames(frames)
    assert resized.dtype == torch.uint8
    assert resized.shape == (3, 3, 8, 8)
    assert (resized.float().mean((2, 3)) - frames.float().mean((2, 3))).abs().max() < 2


def test_crop_to_aspect_keeps_the_centre():
    frames = torch.zeros(1, 3, 16, 48, dtype=torch.uint8)
    frames[..., 16:32] = 200
    assert build_processor(crop_to_aspect=True).resize_frames(frames).eq(200).all()
    assert not build_processor().resize_frames(frames).eq(200).all()


@pytest.mark.parametrize("channels_last", [True, False])
def test_call_gives_what_transformers_processors_give(channels_last):
    frames = random_frames(5, size=32)
    video = frames.movedim(1, -1).numpy() if channels_last else frames
    pixels = build_processor()([video, video], return_tensors="pt").pixel_values_videos
    assert pixels.shape == (2, 5, 3, 16, 16)
    expected = build_processor().resize_frames(frames) / 255
    torch.testing.assert_close(pixels[1], expected)
    assert np.isclose(pixels.min().item(), expected.min().item())


def test_settings_of_a_call_are_honoured_or_refused():
    frames = random_frames(2, size=32)
    processor = build_processor()
    assert processor(frames, size={"height": 8, "width": 24}).pixel_values_videos[0].shape == (2, 3, 8, 24)
    assert processor(frames, do_resize=False, do_rescale=False).pixel_values_videos[0].equal(frames)
    with pytest.raises(ValueError, match="do_normalize and do_center_crop are not supported"):
        processor(frames, do_normalize=True, image_mean=0.5, image_std=0.5)


@pytest.mark.parametrize("size", [16, 32])
def test_frames_in_other_units_are_refused(size):
    frames = random_frames(2, size=size) / 255
    for call in (build_processor(), build_processor().resize_frames):
        with pytest.raises(ValueError, match=r"must be uint8 with values 0 \.\.\. 255, got torch.float32"):
            call(frames)


def test_actions_are_normalised_by_mean_and_deviation():
    actions = torch.tensor([[3.0, -1.0], [1.0, 0.0]])
    assert build_processor(**STATISTICS).normalize_actions(actions).tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert build_processor().normalize_actions(actions).equal(actions)


@pytest.mark.parametrize("transform", ["identity", "symlog"])
def test_rewards_to_the_head_and_back(transform):
    rewards = torch.tensor([-30.0, -0.5, 0.0, 0.1, 1000.0])
    processor = build_processor(reward_transform=transform)
    torch.testing.assert_close(processor.rewards_from_head(processor.rewards_to_head(rewards)), rewards)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="AutoVideoProcessor needs torchvision")
def test_auto_video_processor_finds_it(tmp_path):
    from transformers import AutoVideoProcessor

    build_processor().save_pretrained(tmp_path)
    assert isinstance(AutoVideoProcessor.from_pretrained(tmp_path), IVideoGPTVideoProcessor)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"action_mean": [0.0]}, "must be given together"),
        ({"action_low": [0.0]}, "must be given together"),
        ({"action_mean": [0.0], "action_std": [0.0]}, "action_std must be positive"),
        ({"action_mean": [0.0, 0.0], "action_std": [1.0, NAN]}, "action_std must be positive"),
        ({"action_mean": [0.0, NAN], "action_std": [1.0, 1.0]}, "action_mean must be finite"),
        ({"action_low": [1.0], "action_high": [1.0]}, "action_low must be below action_high"),
        ({"action_low": [0.0], "action_high": [NAN]}, "action_low must be below action_high"),
        ({"action_low": [0.0], "action_high": [1.0], "action_names": ["x", "y"]}, "must have one width"),
        ({"reward_transform": "log"}, "reward_transform must be"),
    ],
)
def test_statistics_that_contradict_each_other_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_processor(**config)


EMBODIMENTS = {
    "arm": {"action_dim": 2, "action_mean": [1.0, -1.0], "action_std": [2.0, 0.5]},
    "hand": {"action_dim": 3},
}


def test_a_chosen_embodiments_actions_are_normalized_and_padded():
    processor = build_processor(embodiments=EMBODIMENTS, padded_action_dim=3).for_embodiment("arm")
    assert processor.action_dim == 2
    assert processor.normalize_actions(torch.tensor([[3.0, 0.0]])).tolist() == [[1.0, 2.0, 0.0]]


def test_embodiments_survive_saving(tmp_path):
    build_processor(embodiments=EMBODIMENTS, padded_action_dim=3).save_pretrained(tmp_path)
    loaded = IVideoGPTVideoProcessor.from_pretrained(tmp_path)
    assert loaded.for_embodiment("hand").action_dim == 3


def test_a_world_takes_the_chosen_embodiments_width():
    world = build_world(action_dim=3, processor={"embodiments": EMBODIMENTS, "padded_action_dim": 3})
    arm = WorldModel(world.vq_model, world.transformer, world.processor.for_embodiment("arm"))
    assert arm.spec.action_dim == 2
    narrow = torch.tensor([[[3.0, 0.0]]])
    padded = torch.tensor([[[1.0, 2.0, 0.0]]])
    greedy = Sampling(greedy=True)
    expected = world.rollout(random_frames(1, 2), padded, sampling=greedy)
    assert arm.rollout(random_frames(1, 2), narrow, sampling=greedy).tokens.equal(expected.tokens)


@pytest.mark.parametrize(
    "config",
    [
        {"embodiments": EMBODIMENTS},
        {"embodiments": EMBODIMENTS, "padded_action_dim": 2},
        {"embodiments": {"arm": {"action_mean": [0.0]}}, "padded_action_dim": 2},
    ],
    ids=["no padded width", "too narrow", "no width"],
)
def test_contradictory_embodiments_are_refused(config):
    with pytest.raises(ValueError, match=r"padded_action_dim|action_dim"):
        build_processor(**config)


def test_an_unknown_embodiment_is_refused():
    with pytest.raises(ValueError, match="there are"):
        build_processor(embodiments=EMBODIMENTS, padded_action_dim=3).for_embodiment("leg")
