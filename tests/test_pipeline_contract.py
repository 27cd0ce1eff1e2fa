"""What diffusers promises of every pipeline, on ours. diffusers' distributions hold no tests of pipelines, so these are
our own. What is special to this pipeline is in tests/test_pipeline.py."""

import inspect

import pytest
import torch
from diffusers import DiffusionPipeline

from ivideogpt_hf import IVideoGPTPipeline, Sampling
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

CLIP = {"video": random_frames(2), "actions": random_actions(3, 3), "output_type": "pt"}
NETWORKS = ("tokenizer", "transformer")


@pytest.fixture
def pipeline():
    return quiet(IVideoGPTPipeline(**build_pipeline_parts()))


def build_pipeline_parts():
    world = build_world(action_dim=3, predict_reward=True)
    return {"tokenizer": world.vq_model, "transformer": world.transformer, "processor": world.processor}


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def predict(pipeline, seed=0, **arguments):
    return pipeline(**(CLIP | {"generator": torch.Generator().manual_seed(seed)} | arguments))


@pytest.mark.parametrize("options", [{}, {"variant": "fp16"}, {"max_shard_size": "100KB"}], ids=str)
def test_what_was_saved_predicts_the_same(pipeline, tmp_path, options):
    pipeline.save_pretrained(tmp_path, **options)
    variant = {"variant": options["variant"]} if "variant" in options else {}
    for loaded in (
        IVideoGPTPipeline.from_pretrained(tmp_path, **variant),
        DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True, **variant),
    ):
        assert predict(quiet(loaded)).frames.equal(predict(pipeline).frames)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dtype_lasts_through_saving(pipeline, tmp_path, dtype):
    pipeline.to(dtype)
    assert pipeline.transformer.dtype == dtype
    pipeline.save_pretrained(tmp_path)
    loaded = quiet(IVideoGPTPipeline.from_pretrained(tmp_path, torch_dtype=dtype))
    assert [getattr(loaded, name).dtype for name in NETWORKS] == [getattr(pipeline, name).dtype for name in NETWORKS]
    assert_same_frames(predict(loaded).frames, predict(pipeline).frames)


def test_a_component_may_be_passed_in_place_of_the_saved_one(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    other = build_world(action_dim=3, predict_reward=True, seed=1).transformer
    loaded = quiet(IVideoGPTPipeline.from_pretrained(tmp_path, transformer=other))
    assert loaded.transformer is other
    assert not predict(loaded).frames.equal(predict(pipeline).frames)


def test_the_optional_component_may_be_left_out(pipeline, tmp_path):
    parts = pipeline.components | {"processor": None}
    without = quiet(IVideoGPTPipeline(**parts))
    without.save_pretrained(tmp_path)
    loaded = quiet(IVideoGPTPipeline.from_pretrained(tmp_path))
    assert predict(loaded).frames.equal(predict(without).frames)


def test_components_make_the_same_pipeline(pipeline):
    assert pipeline.components.keys() == {"tokenizer", "transformer", "processor"}
    again = quiet(IVideoGPTPipeline(**pipeline.components))
    assert predict(again).frames.equal(predict(pipeline).frames)
    assert predict(quiet(IVideoGPTPipeline.from_pipe(pipeline))).frames.equal(predict(pipeline).frames)


def test_a_batch_predicts_what_each_clip_alone_does(pipeline):
    clips, actions = random_frames(3, 2), random_actions(3, 2, 3)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    together = predict(pipeline, video=clips, actions=actions, generator=generators)
    for i in range(3):
        alone = predict(pipeline, i, video=clips[i], actions=actions[i])
        assert_same_frames(together.frames[i : i + 1], alone.frames)
        torch.testing.assert_close(together.rewards[i : i + 1], alone.rewards, atol=1e-4, rtol=1e-4)


def test_a_tuple_has_the_fields_in_their_order(pipeline):
    frames, rewards = predict(pipeline, return_dict=False)
    output = predict(pipeline)
    assert frames.equal(output.frames)
    assert rewards.equal(output.rewards)
    assert output.to_tuple()[0].equal(frames)


def test_a_call_leaves_no_trace_in_the_next(pipeline):
    greedy = {"sampling": Sampling(greedy=True), "generator": None}
    first = predict(pipeline, **greedy).frames
    predict(pipeline, seed=1, num_samples=2)
    assert predict(pipeline, **greedy).frames.equal(first)


@pytest.mark.parametrize("names", [[name] for name in IVideoGPTPipeline._callback_tensor_inputs] + [[]], ids=str)
def test_callbacks_get_the_tensors_that_they_name(pipeline, names):
    parameters = inspect.signature(pipeline.__call__).parameters
    assert {"callback_on_step_end", "callback_on_step_end_tensor_inputs"} <= parameters.keys()
    seen = []

    def callback(pipe, index, timestep, tensors):
        seen.append(sorted(tensors))
        return tensors

    predict(pipeline, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert seen == [names] * 3


def test_the_networks_move_together(pipeline):
    pipeline.to("cpu", torch.bfloat16)
    pipeline.to(device="cpu", dtype=torch.float32)
    assert {getattr(pipeline, name).dtype for name in NETWORKS} == {torch.float32}
    assert pipeline.device == torch.device("cpu")
    assert not any(getattr(pipeline, name).training for name in NETWORKS)


def test_groups_of_layers_may_be_offloaded(pipeline):
    expected = predict(pipeline).frames
    pipeline.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert predict(pipeline).frames.equal(expected)
