import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from diffusers.callbacks import PipelineCallback
from diffusers.quantizers import PipelineQuantizationConfig
from PIL import Image
from transformers import TorchAoConfig

from ivideogpt_hf import IVideoGPTPipeline, Sampling, WorldModel
from ivideogpt_hf.checkpoints.released import save_released
from ivideogpt_hf.media import video as video_module
from ivideogpt_hf.media.video import write_video
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

GREEDY = Sampling(greedy=True)


def as_pipeline(world):
    pipeline = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(world):
    return as_pipeline(world)


@pytest.fixture(scope="module")
def free_pipeline(free_world):
    return as_pipeline(free_world)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(frames):
    return [Image.fromarray(frame.movedim(0, -1).numpy()) for frame in frames]


def test_pipeline_is_a_rollout_of_the_first_frames(pipeline, world):
    frames, actions = random_frames(5), random_actions(1, 3, 3)
    output = pipeline(frames, actions[0], sampling=GREEDY, output_type="pt")
    expected = world.rollout(frames[None, :2], actions, sampling=GREEDY)
    assert_same_frames(output.frames, expected.frames)
    torch.testing.assert_close(output.rewards, expected.rewards)


def test_samples_are_those_of_a_rollout(free_pipeline, free_world):
    output = free_pipeline(random_frames(2), num_frames=3, num_samples=4, sampling=Sampling(seed=5), output_type="pt")
    expected = free_world.rollout(random_frames(1, 2), num_frames=3, num_samples=4, sampling=Sampling(seed=5))
    assert_same_frames(output.frames, expected.frames)
    assert output.rewards is None


@pytest.mark.parametrize("kind", ["mp4", "gif", "folder", "npz", "pil", "array", "float", "bytes"])
def test_every_kind_of_clip(free_pipeline, tmp_path, kind):
    frames = (random_frames(3) // 128) * 255
    if kind in ("mp4", "gif", "bytes"):
        source = write_video(frames, tmp_path / f"clip.{'gif' if kind == 'gif' else 'mp4'}")
        source = {"bytes": source.read_bytes(), "path": None} if kind == "bytes" else str(source)
    elif kind == "folder":
        source = tmp_path
        for i, image in enumerate(images(frames)):
            image.save(tmp_path / f"{i}.png")
    elif kind == "npz":
        source = tmp_path / "clip.npz"
        np.savez(source, frames=frames.numpy())
    else:
        array = frames.movedim(1, -1).numpy()
        source = {"pil": images(frames), "array": array, "float": array / 255}[kind]
    output = free_pipeline(source, num_frames=2, sampling=GREEDY, output_type="pt")
    assert output.frames.shape == (1, 2, 3, 16, 16)
    if kind not in ("mp4", "bytes"):  # which are lossy
        assert_same_frames(output.frames, free_pipeline(frames, num_frames=2, sampling=GREEDY, output_type="pt").frames)


def test_clips_are_resized_to_what_the_model_takes(free_pipeline):
    large = random_frames(2, size=40)
    small = free_pipeline.processor.resize_frames(large)
    outputs = [free_pipeline(clip, num_frames=1, sampling=GREEDY, output_type="pt").frames for clip in (large, small)]
    assert_same_frames(*outputs)


def test_a_batch_of_clips(pipeline, tmp_path):
    clips, actions = [random_frames(4, seed=seed) for seed in (1, 2)], random_actions(2, 2, 3)
    np.save(tmp_path / "actions.npy", torch.cat([torch.zeros(1, 3), actions[1]]).numpy())  # begin at the first frame
    both = pipeline(clips, [actions[0], tmp_path / "actions.npy"], sampling=GREEDY, output_type="pt").frames
    tensor = pipeline(torch.stack(clips), actions, sampling=GREEDY, output_type="pt").frames
    assert both.equal(tensor)
    for i in range(2):
        assert_same_frames(both[i : i + 1], pipeline(clips[i], actions[i], sampling=GREEDY, output_type="pt").frames)


def test_output_types(free_pipeline):
    def call(output_type):
        settings = {"num_frames": 2, "num_samples": 3, "sampling": GREEDY}
        return free_pipeline(random_frames(2), output_type=output_type, **settings).frames

    tensor, array, pil = call("pt"), call("np"), call("pil")
    assert tensor.shape == (1, 3, 2, 3, 16, 16)
    assert np.array_equal(array, tensor.movedim(-3, -1).numpy())
    assert np.array_equal(np.asarray(pil[0][2][1]), array[0, 2, 1])


def test_the_generator_decides(free_pipeline):
    def call(source):
        return free_pipeline(random_frames(2), num_frames=2, generator=source, output_type="np").frames

    assert np.array_equal(call(generator(3)), call(generator(3)))
    assert not np.array_equal(call(generator(3)), call(generator(4)))


def test_every_clip_may_have_its_generator(free_pipeline):
    clips = [random_frames(2, seed=seed) for seed in (1, 2)]
    settings = {"num_frames": 2, "num_samples": 2, "output_type": "pt"}
    both = free_pipeline(clips, generator=[generator(3), generator(4)], **settings).frames
    assert_same_frames(both[1:], free_pipeline(clips[1], generator=generator(4), **settings).frames)


def test_a_goal_conditioned_checkpoint_takes_a_goal(tmp_path):
    world = build_world(goal_conditioned=True)
    pipeline, goal, frames = as_pipeline(world), random_frames(1, seed=9), random_frames(3)
    images(goal)[0].save(tmp_path / "goal.png")
    expected = world.rollout(torch.cat([goal, frames[:1]])[None], num_frames=2, sampling=GREEDY).frames
    for given in (tmp_path / "goal.png", images(goal)[0], goal[0]):
        output = pipeline(frames, goal=given, num_frames=2, sampling=GREEDY, output_type="pt")
        assert_same_frames(output.frames, expected)


def test_every_clip_may_have_its_seed(free_pipeline, free_world):
    clips, sampling = random_frames(2, 2), Sampling(seed=(3, 4))
    output = free_pipeline(clips, num_frames=2, num_samples=2, sampling=sampling, output_type="pt")
    expected = free_world.rollout(clips, num_frames=2, num_samples=2, sampling=sampling)
    assert_same_frames(output.frames, expected.frames)


def test_a_seed_may_be_a_number_of_numpy(free_pipeline):
    videos = [
        free_pipeline(random_frames(2), num_frames=1, sampling=Sampling(seed=seed), output_type="pt").frames
        for seed in (np.int64(3), 3)
    ]
    assert videos[0].equal(videos[1])


@pytest.mark.parametrize("stacked", [True, False])
def test_every_clip_has_its_goal(stacked):
    pipeline, goals, clips = (
        as_pipeline(build_world(goal_conditioned=True)),
        random_frames(2, seed=9),
        random_frames(2, 1),
    )
    given = goals if stacked else images(goals)
    both = pipeline(clips, goal=given, num_frames=1, sampling=GREEDY, output_type="pt").frames
    one = pipeline(clips[1], goal=goals[1], num_frames=1, sampling=GREEDY, output_type="pt").frames
    assert_same_frames(both[1:], one)


@pytest.mark.parametrize("layout", ["released", "ours", "pipeline"])
def test_every_layout_loads(original_world, tmp_path, layout):
    world, pipeline = original_world, as_pipeline(original_world)
    if layout == "released":
        save_released(tmp_path, (world.vq_model, world.transformer, world.processor))
    else:
        (world if layout == "ours" else pipeline).save_pretrained(tmp_path)
    loaded = IVideoGPTPipeline.from_pretrained(tmp_path)
    args = (random_frames(2, size=32), random_actions(2, 3))
    frames = [p(*args, sampling=GREEDY, output_type="pt").frames for p in (loaded, pipeline)]
    assert_same_frames(*frames)
    assert WorldModel.from_pretrained(tmp_path).spec == world.spec


def test_components_can_be_given_and_have_dtypes_of_their_own(world, tmp_path):
    world.save_pretrained(tmp_path)
    loaded = IVideoGPTPipeline.from_pretrained(
        tmp_path, transformer=world.transformer, dtype={"tokenizer": torch.bfloat16}
    )
    assert loaded.transformer is world.transformer
    assert loaded.tokenizer.dtype == torch.bfloat16
    assert set(loaded.components) == {"tokenizer", "transformer", "processor"}


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_to_moves_and_casts_the_networks(monkeypatch, fast, expected):
    """As in `WorldModel.to`, on a CPU with and without instructions for half precision."""
    monkeypatch.setattr("ivideogpt_hf.decoding.layers.has_fast_products", lambda dtype: fast)
    pipeline = as_pipeline(build_world())
    for arguments in (("cpu", torch.bfloat16), (torch.bfloat16,)):
        assert pipeline.to(*arguments) is pipeline
        assert pipeline.transformer.dtype == torch.bfloat16
        assert pipeline.tokenizer.dtype == expected
    assert pipeline(random_frames(2), num_frames=1, output_type="pt").frames.dtype == torch.uint8


def test_arguments_that_diffusers_users_write(world, tmp_path):
    as_pipeline(world).save_pretrained(
        tmp_path / "sub", variant="fp16", max_shard_size="100KB", safe_serialization=True
    )
    assert len(list((tmp_path / "sub/tokenizer").glob("model.fp16-*.safetensors"))) > 1
    loaded = IVideoGPTPipeline.from_pretrained(
        tmp_path,
        subfolder="sub",
        variant="fp16",
        torch_dtype={"transformer": torch.bfloat16},
        use_safetensors=True,
        device_map="cpu",
    )
    assert loaded.transformer.dtype == torch.bfloat16
    assert loaded.tokenizer.dtype == torch.float32
    assert loaded.name_or_path == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_safetensors": False}, "only loaded from safetensors"),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, "two names of one thing: pass dtype"),
    ],
)
def test_arguments_that_are_refused(world, tmp_path, arguments, message):
    world.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        IVideoGPTPipeline.from_pretrained(tmp_path, **arguments)
    with pytest.raises(ValueError, match="only saved as safetensors"):
        as_pipeline(world).save_pretrained(tmp_path, safe_serialization=False)


def test_components_are_quantised(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    build_world(action_dim=3, hidden_size=64).save_pretrained(tmp_path)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    loaded = IVideoGPTPipeline.from_pretrained(tmp_path, quantization_config=config)
    assert loaded.transformer.model.layers[0].mlp.up_proj.weight.qdata.dtype == torch.int8
    mapping = PipelineQuantizationConfig(quant_mapping={"tokenizer": config})
    loaded = as_pipeline(IVideoGPTPipeline.from_pretrained(tmp_path, quantization_config=mapping).world)
    assert loaded.tokenizer.quant_linear.weight.qdata.dtype == torch.int8
    assert not hasattr(loaded.transformer.model.layers[0].mlp.up_proj.weight, "qdata")
    output = loaded(random_frames(2), random_actions(2, 3), sampling=GREEDY, output_type="pt")
    assert output.frames.shape == (1, 2, 3, 16, 16)


def offload_modules(pipeline):
    """What `enable_sequential_cpu_offload` does, whose devices Accelerate takes for one and the same on a CPU."""
    for network in (pipeline.tokenizer, pipeline.transformer):
        cpu_offload(network, torch.device("cpu"))


@pytest.mark.parametrize("offload", [lambda pipeline: pipeline.enable_model_cpu_offload(device="cpu"), offload_modules])
def test_offloaded_components_predict_the_same(offload):
    pipeline = as_pipeline(build_world(action_dim=3, predict_reward=True))
    clip = random_frames(2), random_actions(3, 3)
    expected = pipeline(*clip, sampling=GREEDY, output_type="pt").frames
    offload(pipeline)
    for _ in range(2):
        assert_same_frames(pipeline(*clip, sampling=GREEDY, output_type="pt").frames, expected)


def test_offloaded_components_are_brought_before_they_are_used(monkeypatch):
    """A GPU is not there for this test: each network counts how often it is brought."""
    pipeline, brought = as_pipeline(build_world()), []
    pipeline.enable_model_cpu_offload(device="cpu")
    monkeypatch.setattr(CpuOffload, "pre_forward", lambda hook, module, *args: brought.append(type(module).__name__))
    pipeline.world.rollout(random_frames(1, 2), num_frames=1)
    assert list(dict.fromkeys(brought)) == ["IVideoGPTVQModel", "IVideoGPTForCausalLM"]
    assert brought[-1] == "IVideoGPTVQModel"  # to decode


def test_the_progress_bar_counts_frames(world, capsys):
    pipeline = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    pipeline(random_frames(2), random_actions(3, 3))
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"video": random_frames(1), "num_frames": 2}, "1 frames, fewer than the 2 of the context"),
        ({"video": random_frames(2)}, "num_frames says how many"),
        ({"video": random_frames(2), "actions": [[0.0, 0.0]]}, "action-free model"),
        ({"video": random_frames(2), "num_frames": 2, "goal": random_frames(1)[0]}, "not goal-conditioned"),
        ({"video": random_frames(2), "num_frames": 2, "output_type": "mp4"}, "output_type must be"),
        ({"video": random_frames(0, 2), "num_frames": 2}, "at least one clip"),
        ({"video": random_frames(2), "num_frames": 2, "num_samples": 0}, "num_samples must be at least 1"),
        ({"video": [random_frames(2)] * 2, "num_frames": 2, "generator": [generator()]}, r"one per clip \(2\)"),
        ({"video": [random_frames(2)] * 2, "num_frames": 2, "sampling": Sampling(seed=(1,))}, r"one per clip \(2\)"),
        (
            {"video": random_frames(2), "num_frames": 2, "generator": generator(), "sampling": Sampling(seed=1)},
            "not both",
        ),
        ({"video": torch.full((2, 3, 16, 16), float("nan")), "num_frames": 2}, "NaN"),
    ],
)
def test_bad_input(free_pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        free_pipeline(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": random_frames(1)[0]}, "image: pass video"),
        ({"num_inference_steps": 50}, "no denoising steps; num_frames"),
        ({"num_videos_per_prompt": 2}, "pass num_samples"),
        ({"seed": 0}, r"pass sampling=Sampling\(seed=...\), or generator"),
        ({"callback": print}, "pass callback_on_step_end"),
        ({"guidance_scale": 7.5}, "there is no guidance"),
        ({"nonsense": 1}, r"unknown arguments \['nonsense'\]"),
        ({}, "is missing: pass video"),
    ],
)
def test_arguments_of_other_pipelines_are_named(free_pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        free_pipeline(num_frames=1, **arguments)


def test_bad_actions(pipeline):
    with pytest.raises(ValueError, match="is action-conditioned"):
        pipeline(random_frames(2), num_frames=2)
    with pytest.raises(ValueError, match="num_frames is 3, but there are 2 actions"):
        pipeline(random_frames(2), random_actions(2, 3), num_frames=3)
    with pytest.raises(ValueError, match=r"must have one shape \(T, A\)"):
        pipeline([random_frames(2)] * 2, [random_actions(2, 3), random_actions(3, 3)])
    for actions in (random_actions(1, 2, 3), "actions.npy"):
        with pytest.raises(ValueError, match="pass actions for each of the 2 clips"):
            pipeline([random_frames(2)] * 2, actions)


def test_a_goal_conditioned_checkpoint_without_a_goal():
    with pytest.raises(ValueError, match="pass one goal image per clip"):
        as_pipeline(build_world(goal_conditioned=True))(random_frames(2), num_frames=2)


def test_fewer_goals_than_clips():
    with pytest.raises(ValueError, match="pass a goal for each of the 2 clips"):
        as_pipeline(build_world(goal_conditioned=True))(random_frames(2, 1), goal=random_frames(1), num_frames=2)


def test_a_goal_that_is_no_image(tmp_path):
    (tmp_path / "goal.png").write_text("nonsense")
    with pytest.raises(OSError, match=r"goal\.png cannot be decoded: it is no picture"):
        as_pipeline(build_world(goal_conditioned=True))(random_frames(2), goal=tmp_path / "goal.png", num_frames=2)


def test_an_unknown_component_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown arguments \['scheduler'\]"):
        IVideoGPTPipeline.from_pretrained(tmp_path, scheduler=None)


def test_a_dtype_for_an_unknown_component_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown components \['vae'\]"):
        IVideoGPTPipeline.from_pretrained(tmp_path, dtype={"vae": torch.bfloat16})


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_the_callback_sees_each_frame(pipeline):
    seen = []

    def callback(pipe, index, timestep, tensors):
        assert pipe is pipeline
        seen.append((index, timestep, tensors))
        return tensors

    names = ("frames", "rewards", "tokens")
    output = pipeline(
        random_frames(2),
        random_actions(3, 3),
        num_samples=2,
        sampling=Sampling(seed=0),
        output_type="pt",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    )
    assert [(index, timestep) for index, timestep, _ in seen] == [(0, 0), (1, 1), (2, 2)]
    assert torch.stack([tensors["frames"] for *_, tensors in seen], 1).equal(output.frames[0])
    assert torch.stack([tensors["rewards"] for *_, tensors in seen], 1).equal(output.rewards[0])
    assert seen[0][2]["tokens"].shape == (2, 4)


def test_a_callback_can_stop(free_pipeline):
    def callback(pipe, index, timestep, tensors):
        pipe._interrupt = index == 1

    arguments = {"num_frames": 5, "sampling": GREEDY, "output_type": "pt"}
    stopped = free_pipeline(random_frames(2), callback_on_step_end=callback, **arguments)
    assert stopped.frames.shape[1] == 2
    assert free_pipeline(random_frames(2), **arguments).frames.shape[1] == 5  # the next call begins anew


def test_callbacks_of_diffusers_say_what_they_want(free_pipeline):
    class Count(PipelineCallback):
        tensor_inputs = ("tokens",)
        num_tokens = 0

        def callback_fn(self, pipe, index, timestep, tensors):
            Count.num_tokens += tensors["tokens"].numel()
            return tensors

    free_pipeline(random_frames(2), num_frames=2, callback_on_step_end=Count(cutoff_step_ratio=1.0))
    assert Count.num_tokens == 2 * 4


def test_what_was_predicted_cannot_be_replaced(free_pipeline):
    def callback(pipe, index, timestep, tensors):
        return {"frames": tensors["frames"] + 1}

    with pytest.raises(ValueError, match="returned other frames"):
        free_pipeline(random_frames(2), num_frames=2, callback_on_step_end=callback)
    with pytest.raises(ValueError, match=r"must be of .*, got \['latents'\]"):
        free_pipeline(random_frames(2), num_frames=2, callback_on_step_end_tensor_inputs=["latents"])


# -- what is not done -------------------------------------------------------------------------------------------------


def test_only_the_context_of_a_film_is_decoded(free_pipeline, tmp_path, monkeypatch):
    film = write_video(random_frames(300), tmp_path / "film.mp4")
    decoded = []
    iterate = video_module.iterate_video

    def counting(*args, **options):
        for frame in iterate(*args, **options):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(video_module, "iterate_video", counting)
    free_pipeline(film, num_frames=1)
    assert len(decoded) <= 3


def test_the_world_of_a_pipeline_stays_the_same(world):
    pipeline = as_pipeline(world)
    compiled = pipeline.world.compile()
    assert pipeline.world is compiled
    assert pipeline.world._engine.compiled is not None
    pipeline.transformer = build_world(action_dim=3, predict_reward=True).transformer
    assert pipeline.world.transformer is pipeline.transformer
