"""Runs of agents: what is in the folder, that a stopped run ends as one that was not, and what is refused at the
start."""

import json
import pickle
import signal

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

pytest.importorskip("stable_baselines3")
pytest.importorskip("accelerate")
pytest.importorskip("scipy")

import gymnasium

from ivideogpt_hf import WorldModel
from ivideogpt_hf.cli import main, rl
from ivideogpt_hf.extras import how_to_install
from ivideogpt_hf.media.video import read_video
from ivideogpt_hf.rl.agents.drqv2 import DrQv2
from ivideogpt_hf.rl.environments.simulator import SimulatorEnv, episode_seed
from ivideogpt_hf.rl.results.comparison import compare_runs
from ivideogpt_hf.rl.results.finished_runs import read_run
from ivideogpt_hf.rl.runs import agent_run
from ivideogpt_hf.rl.runs import settings as run_settings
from ivideogpt_hf.rl.runs.agent_run import AgentRun
from ivideogpt_hf.rl.runs.baselines import DreamingRun
from ivideogpt_hf.rl.runs.entrance import AgentRunSettings, run_agent
from tests.conftest import build_world, hide_package, locked_elsewhere
from tests.started import Started
from tests.training.conftest import _fresh_accelerate, assert_same_weights  # noqa: F401 (it is a fixture)

TINY = {
    "environment": "push2d/goal-shown",
    "num_steps": 24,
    "max_steps": 8,
    "action_repeat": 1,
    "evaluate_every": 12,
    "num_evaluation_episodes": 2,
    "learning_starts": 8,
    "batch_size": 8,
}
IMAGINED = {
    "first_step": 8,
    "warmup_updates": 2,
    "transformer_every": 4,
    "vq_every": 10,
    "imagine_every": 4,
    "num_starts": 2,
    "horizon": 3,
    "model_batch_size": 2,
}

NEW_WORLD = """
vq_config: {resolution: 32, block_out_channels: [32, 32], layers_per_block: 1, latent_channels: 8, patch_size: 8,
  num_context_codes: 24, num_dynamics_codes: 40, max_att_resolution: 8}
transformer_config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 4,
  max_position_embeddings: 600}
"""


def small_world(**options):
    """Of 32 x 32 frames, the smallest that the agent's convolutions take."""
    vq = {"resolution": 32, "max_att_resolution": 8, "patch_size": 8}
    sizes = {"max_position_embeddings": 600, "action_dim": 2, "predict_reward": True, "attention_dropout": 0.1}
    return build_world(vq=vq, processor={"reward_transform": "symlog"}, **sizes | options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    small_world().save_pretrained(folder)
    return str(folder)


def evaluations(folder):
    """All but the time."""
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def learning_curves(folder):
    """The metrics, but for those of speed."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if not name.startswith("time/")} for entry in entries]


def start(settings, output, **changes):
    return run_agent(AgentRunSettings(**TINY | settings | changes, output=output))


def state_of(folder):
    return torch.load(folder / "state" / "state.pt", weights_only=True)


def assert_same(one, other, path=""):
    """States, compared to the bit wherever they are."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            if key != "seconds":
                assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{path}/{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other or one != one, path


def assert_same_run(one, other):
    assert evaluations(one) == evaluations(other)
    assert learning_curves(one) == learning_curves(other)
    assert_same(state_of(one), state_of(other))
    buffers = [load_file(folder / "state" / "buffer.safetensors") for folder in (one, other)]
    assert_same(*buffers)


# -- the folder -------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_run(checkpoint, tmp_path):
    output = tmp_path / "run"
    assert start(IMAGINED, output, world_model=checkpoint, demos=1, max_steps=20) is None
    assert [entry["step"] for entry in evaluations(output)] == [0, 12, 24]
    assert evaluations(output)[-1]["imagined_steps"] == 5 * 2 * 3 + 2 * 3  # two rounds at first, then four
    run = read_run(output)
    assert run.imagined_steps == evaluations(output)[-1]["imagined_steps"]
    assert WorldModel.from_pretrained(output / "world_model").spec.action_dim == 2
    agent = DrQv2.load(output / "agent.zip", device="cpu")
    observation = np.zeros((9, 32, 32), np.uint8)
    assert agent.predict(observation, deterministic=True)[0].shape == (2,)
    assert agent.num_timesteps == 24
    assert not list(output.glob("*.partial*"))


def test_videos_show_real_frames_beside_imagined_ones(checkpoint, tmp_path):
    output = tmp_path / "run"
    start(IMAGINED, output, world_model=checkpoint)
    video = read_video(output / "videos" / "step-00000024.gif")
    assert len(video) == 2 * 3  # two rollouts fit into the episode
    assert video.shape[-1] == 6 * (32 + 2 + 32)
    environment = SimulatorEnv("push2d/goal-shown", (32, 32), purpose="evaluation", action_repeat=1, max_steps=8)
    observation, _ = environment.reset(seed=0)
    agent = DrQv2.load(output / "agent.zip", device="cpu")
    for _ in range(2):
        observation, *_ = environment.step(agent.predict(observation, deterministic=True)[0])
    shown = video[0, :, 3::6, 3 : 32 * 6 : 6].float()
    assert (shown - torch.from_numpy(observation[-3:].copy())).abs().mean() < 12  # of a gif's 256 colours


def test_what_a_run_without_a_world_model_leaves(tmp_path):
    output = tmp_path / "run"
    assert start({}, output) is None
    assert {path.name for path in output.iterdir()} == {
        "run.json",
        "evaluations.jsonl",
        "metrics.jsonl",
        "state",
        "videos",
        "agent.zip",
    }
    settings = json.loads((output / "run.json").read_text())
    assert settings["world_model"] == "none"
    assert "horizon" not in settings
    assert evaluations(output)[-1]["imagined_steps"] == 0


def test_runs_of_seeds_are_compared(tmp_path):
    for seed in (0, 1):
        start({}, tmp_path / str(seed), seed=seed, num_steps=12)
    comparison = compare_runs([read_run(tmp_path / str(seed)) for seed in (0, 1)])
    assert len(comparison["groups"]) == 1


@pytest.mark.parametrize("kind", ["new", "grown"])
def test_runs_whose_new_weights_follow_from_the_seed_are_one_group(kind, tmp_path):
    """New weights differ from seed to seed, and say nothing of how a run was made."""
    world = tmp_path / "world"
    if kind == "new":
        world = tmp_path / "new.yaml"
        world.write_text(NEW_WORLD)
    else:
        small_world(predict_reward=False).save_pretrained(world)
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    options = {"num_steps": 4, "evaluate_every": 4, "videos": False, "world_model": str(world), "warmup_vq_updates": 2}
    for seed, folder in enumerate(folders):
        start(IMAGINED | options, folder, seed=seed)
    (group,) = compare_runs([read_run(folder) for folder in folders])["groups"]
    assert group["seeds"] == [0, 1]


def test_the_last_evaluation_is_at_the_last_step(tmp_path):
    start({}, tmp_path / "run", num_steps=15)
    assert [entry["step"] for entry in evaluations(tmp_path / "run")] == [0, 12, 15]


def test_demonstrations_are_in_the_buffer_and_are_nobody_else_s_episodes(tmp_path):
    settings = AgentRunSettings(**TINY | {"demos": 2, "max_steps": 20}, output=tmp_path / "run")
    run = AgentRun(settings)
    run._begin()
    assert run.buffer.num_real == 40
    seeds = {episode.episode_seed for episode in run.demonstrations.episodes}
    others = {episode_seed(purpose, 0, number) for purpose in ("training", "evaluation") for number in range(50)}
    assert not seeds & others
    run.close()


@pytest.mark.parametrize("agent", ["sac", "td3"])
def test_other_agents_imagine_too(agent, checkpoint, tmp_path):
    start(IMAGINED, tmp_path / "run", world_model=checkpoint, agent=agent, num_steps=12)
    assert evaluations(tmp_path / "run")[-1]["imagined_steps"] > 0


def test_an_agent_is_updated_as_often_as_asked(tmp_path, monkeypatch):
    updates = []
    monkeypatch.setattr(DrQv2, "_update", lambda agent, batch: updates.append(agent.num_timesteps) or {})
    run_agent(AgentRunSettings(**TINY | {"output": tmp_path / "run", "gradient_steps": 3}))
    first, last = TINY["learning_starts"] + 1, TINY["num_steps"]
    assert updates == [step for step in range(first, last + 1) for _ in range(3)]


def test_the_first_updates_are_shown_while_the_steps_wait(checkpoint, tmp_path, capsys):
    start(IMAGINED, tmp_path / "run", world_model=checkpoint, warmup_vq_updates=1)
    shown = capsys.readouterr().err
    assert all(f"first updates of the {network}: " in shown for network in ("VQ model", "transformer"))


def test_with_a_world_model_an_agent_has_more_updates(checkpoint, tmp_path):
    settings = AgentRunSettings(**TINY | IMAGINED | {"output": tmp_path / "run", "world_model": checkpoint})
    run = AgentRun(settings)
    assert (run.agent.gradient_steps, run.buffer.real_ratio) == (3, 1 / 3)
    only_real = AgentRunSettings(**TINY | IMAGINED | {"output": tmp_path, "world_model": checkpoint, "real_ratio": 1.0})
    alone = AgentRunSettings(**TINY | {"output": tmp_path})
    for settings in (only_real, alone):
        run = AgentRun(settings)
        assert (run.agent.gradient_steps, run.buffer.real_ratio) == (1, 1.0)


def test_a_record_says_what_presets_chose(checkpoint, tmp_path):
    """Else a run of a later version, with another preset, would seem to be the same."""
    settings = TINY | {"output": tmp_path, "learning_starts": None}
    record = AgentRunSettings(**settings | {"world_model": checkpoint, "horizon": 3}).record()
    chosen = {
        "learning_starts": 500,
        "gradient_steps": 3,
        "learning_rate": 2e-4,
        "real_ratio": 1 / 3,
        "first_rounds": 2,
    }
    chosen |= {"warmup_updates": 100, "model_learning_rate": 6e-4, "model_batch_size": 4, "horizon": 3}
    assert record == record | chosen
    record = AgentRunSettings(**settings).record()
    assert record == record | {"gradient_steps": 1, "learning_rate": 2e-4}


def test_real_ratio_0_is_learning_from_imagination_alone(checkpoint, tmp_path, monkeypatch):
    batches, sample = [], agent_run.MixedReplayBuffer.sample

    def watch(self, *args, **options):
        batches.append((self.real_ratio, self.num_imagined))
        return sample(self, *args, **options)

    monkeypatch.setattr(agent_run.MixedReplayBuffer, "sample", watch)
    start(IMAGINED, tmp_path / "run", world_model=checkpoint, real_ratio=0.0, demos=1, num_steps=12, max_steps=20)
    assert batches
    assert all(ratio == 0 and num_imagined for ratio, num_imagined in batches)


def test_what_is_imagined_alone_must_last_until_the_next_round(checkpoint, tmp_path, monkeypatch):
    """Else the agent would learn from real steps in between."""
    options = {"world_model": checkpoint, "real_ratio": 0.0, "transformer_every": 3, "imagine_every": 10}
    with pytest.raises(ValueError, match="raise max_imagined_age to 4"):
        start(IMAGINED | options, tmp_path / "run", max_imagined_age=3)
    counts, sample = [], agent_run.MixedReplayBuffer.sample

    def watch(self, *args, **others):
        counts.append(self.num_imagined)
        return sample(self, *args, **others)

    monkeypatch.setattr(agent_run.MixedReplayBuffer, "sample", watch)
    start(IMAGINED | options, tmp_path / "run", max_imagined_age=4, num_steps=40, gradient_steps=1, videos=False)
    assert min(counts) > 0


# -- cloning ----------------------------------------------------------------------------------------------------------


def test_a_clone_is_evaluated_once_and_stands_for_each_step(tmp_path):
    output = tmp_path / "run"
    settings = {"agent": "clone", "learning_starts": None, "demos": 2, "clone_updates": 3, "max_steps": 20}
    start(settings, output)
    assert [entry["step"] for entry in evaluations(output)] == [0, 12, 24]
    assert len({entry["return"] for entry in evaluations(output)}) == 1
    assert read_run(output).imagined_steps == 0


def test_a_clone_s_actor_is_fitted(tmp_path):
    settings = {"agent": "clone", "learning_starts": None, "demos": 1, "max_steps": 20, "num_steps": 12}
    start(settings, tmp_path / "one", clone_updates=1)
    start(settings, tmp_path / "many", clone_updates=60)
    environment = SimulatorEnv("push2d/goal-shown", purpose="demonstration", action_repeat=1, max_steps=20)
    from ivideogpt_hf.rl.environments.demonstrations import demonstrate
    from ivideogpt_hf.rl.environments.simulator import stack_frames

    (episode,) = demonstrate(environment, 1).episodes
    observations = np.stack([stack_frames(episode.frames, step, 3) for step in range(20)])
    errors = []
    for name in ("one", "many"):
        agent = DrQv2.load(tmp_path / name / "agent.zip", device="cpu")
        errors.append(np.square(agent.predict(observations, deterministic=True)[0] - episode.actions).mean())
    assert errors[1] < errors[0]


def test_a_clone_needs_demonstrations_and_no_world_model(tmp_path):
    with pytest.raises(ValueError, match="learns from demonstrations alone"):
        AgentRunSettings(environment="push2d", output=tmp_path, agent="clone")


# -- imagination alone -------------------------------------------------------------------------------------------------

DREAMS = {"agent": "ppo", "demos": 1, "max_steps": 20, "evaluate_every": 6, "num_steps": 12}
DREAMS |= dict.fromkeys(run_settings.UNUSED["ppo"])


def test_ppo_takes_imagined_steps_only(checkpoint, tmp_path, monkeypatch):
    purposes, step = [], SimulatorEnv.step

    def watch(self, action):
        purposes.append(self.purpose)
        return step(self, action)

    monkeypatch.setattr(SimulatorEnv, "step", watch)
    output = tmp_path / "run"
    start(IMAGINED | DREAMS, output, world_model=checkpoint)
    assert "training" not in purposes
    assert [(entry["step"], entry["imagined_steps"]) for entry in evaluations(output)] == [(0, 0), (6, 6), (12, 12)]
    assert read_run(output).imagined_steps == 12


def test_its_world_model_learns_from_the_demonstrations_first(checkpoint, tmp_path):
    start(IMAGINED | DREAMS, tmp_path / "run", world_model=checkpoint)
    learner = state_of(tmp_path / "run")["learner"]
    assert (learner["num_transformer_updates"], learner["num_vq_updates"]) == (2, 0)


def test_imagined_episodes_begin_in_demonstrations(checkpoint, tmp_path):
    run = DreamingRun(AgentRunSettings(**TINY | IMAGINED | DREAMS, world_model=checkpoint, output=tmp_path / "run"))
    run._begin()
    (episode,) = run.demonstrations.episodes
    pairs = {episode.frames[step : step + 2].tobytes() for step in range(20)}
    assert {frames.numpy().tobytes() for frames in run.worlds.start_frames} <= pairs
    run.close()


def test_ppo_needs_a_world_model_and_demonstrations(tmp_path):
    with pytest.raises(ValueError, match="give demos, and a world model"):
        AgentRunSettings(environment="push2d", output=tmp_path, agent="ppo", demos=1)


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def config_of(tmp_path):
    def make(**settings):
        file = tmp_path / "run.yaml"
        given = {name: value for name, value in (TINY | settings).items() if value is not None}
        file.write_text(yaml.safe_dump(given | {"without_videos": True}))
        return file

    return make


def last_step(folder):
    """The step of the newest saved state; -1 where there is none."""
    try:
        return state_of(folder)["agent"]["attributes"]["num_timesteps"]
    except (OSError, RuntimeError, ValueError, EOFError):
        return -1


@pytest.mark.parametrize("agent", ["drqv2", "sac", "ppo"])
def test_a_run_that_is_killed_ends_as_one_that_is_not(agent, config_of, checkpoint, tmp_path):
    """B11 of the original: it resumed the agent only."""
    dreams = {name: DREAMS[name] for name in ("demos", "max_steps", *run_settings.UNUSED["ppo"])}
    settings = dreams if agent == "ppo" else {"truncate_quantile": 0.1}
    config = config_of(**IMAGINED | settings, world_model=checkpoint, agent=agent, save_minutes=0.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["rl", "--config", str(config), "--output", str(whole)]) == 0
    for step in (3, 14) if agent == "drqv2" else (10,):
        process = Started("rl", "--config", config, "--output", killed, log=tmp_path / "log")
        process.wait_for(lambda step=step: last_step(killed) >= step)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert step <= last_step(killed) < 24
    assert main(["rl", "--config", str(config), "--output", str(killed)]) == 0
    assert_same_run(killed, whole)
    assert_same_weights(killed / "world_model", whole / "world_model")


def test_a_run_in_meta_world_that_is_killed_ends_as_one_that_is_not(config_of, tmp_path):
    pytest.importorskip("metaworld")
    settings = {
        "action_repeat": 2,
        "max_steps": 50,
        "num_steps": 60,
        "evaluate_every": 40,
        "demos": 1,
        "frame_size": 32,
    }
    config = config_of(**settings, environment="metaworld/button-press-v3", save_minutes=0.0, num_evaluation_episodes=1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["rl", "--config", str(config), "--output", str(whole)]) == 0
    process = Started("rl", "--config", config, "--output", killed, log=tmp_path / "log")
    process.wait_for(lambda: last_step(killed) >= 12)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 12 <= last_step(killed) < 30
    assert main(["rl", "--config", str(config), "--output", str(killed)]) == 0
    assert_same_run(killed, whole)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", ""), (b"nothing", ""), (pickle.dumps(print), ""), ({}, "lacks agent")]
)
def test_a_state_that_no_run_wrote_is_refused(content, message, tmp_path):
    start({}, tmp_path / "run", num_steps=8, evaluate_every=8)
    file = tmp_path / "run" / "state" / "state.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(OSError, match=rf"state\.pt is no state that a run can go on from: .*{message}"):
        start({}, tmp_path / "run", num_steps=8, evaluate_every=8)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(config_of, checkpoint, tmp_path):
    config = config_of(**IMAGINED, world_model=checkpoint, save_minutes=0.0)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["rl", "--config", str(config), "--output", str(whole)]) == 0
    process = Started("rl", "--config", config, "--output", stopped, log=tmp_path / "log")
    process.wait_for(lambda: last_step(stopped) >= 9)
    process.send(signal.SIGTERM)
    assert process.wait() == 75
    assert "the same command goes on" in process.output
    assert main(["rl", "--config", str(config), "--output", str(stopped)]) == 0
    assert_same_run(stopped, whole)


def test_how_often_states_are_saved_and_videos_written_changes_nothing(checkpoint, tmp_path):
    start(IMAGINED, tmp_path / "often", world_model=checkpoint, save_minutes=0.0)
    start(IMAGINED, tmp_path / "seldom", world_model=checkpoint, videos=False)
    assert_same_run(tmp_path / "often", tmp_path / "seldom")


def test_a_finished_run_is_found_finished(tmp_path):
    start({}, tmp_path / "run", num_steps=12)
    before = evaluations(tmp_path / "run")
    start({}, tmp_path / "run", num_steps=12)
    assert evaluations(tmp_path / "run") == before


def test_a_simulator_that_changed_is_noticed(tmp_path, monkeypatch):
    stop = AgentRun.between_steps

    def stop_at_5(self):
        stop(self)
        if self.agent.num_timesteps == 5:
            self.save()
            raise agent_run.Interrupted

    monkeypatch.setattr(AgentRun, "between_steps", stop_at_5)
    assert start({}, tmp_path / "run") == 75
    monkeypatch.undo()
    monkeypatch.setattr("ivideogpt_hf.simulators.push2d.AGENT_RADIUS", 0.1)
    with pytest.raises(OSError, match="does not come to the frame at which the run"):
        start({}, tmp_path / "run")


def test_another_run_s_folder_is_refused(tmp_path):
    start({}, tmp_path / "run", num_steps=12)
    with pytest.raises(FileExistsError, match="holds another run of an agent, they differ in seed"):
        start({}, tmp_path / "run", num_steps=12, seed=1)


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    with locked_elsewhere(tmp_path / "run"), pytest.raises(BlockingIOError):
        start({}, tmp_path / "run")


# -- what is refused at the start -------------------------------------------------------------------------------------


def fails(capsys, *argv):
    """The one line that a failing command prints."""
    assert main(["rl", *argv]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_dim": 3}, "are 2 wide"),
        ({"predict_reward": False}, "no rewards"),
        ({"goal_conditioned": True}, "is goal-conditioned"),
    ],
)
def test_checkpoints_that_do_not_fit(options, message, tmp_path, capsys):
    small_world(**options).save_pretrained(tmp_path / "world")
    updates = ["--warmup-updates", "0", "--transformer-every", "0"]
    argv = ["push2d", "--world-model", str(tmp_path / "world"), "--output", str(tmp_path / "out"), "--horizon", "3"]
    assert message in fails(capsys, *argv, *updates)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["push2d", "--world-model", "WORLD", "--horizon", "3", "--frame-size", "64"], "frames are 64 x 64 pixels"),
        (["push2d", "--world-model", "WORLD", "--horizon", "40"], "the horizon must be 1 to"),
        (["push2d", "--world-model", "WORLD", "--horizon", "3", "--max-steps", "3"], "raise max_steps"),
        (["push2d", "--horizon", "3"], "only for runs with a world model"),
        (
            ["push2d", "--world-model", "WORLD", "--horizon", "3", "--real-ratio", "0", "--first-step", "600"],
            "lower first",
        ),
        (["push2d", "--demos", "-1"], "demos must be at least 0"),
        (["push2d", "--gradient-steps", "0"], "gradient_steps must be at least 1"),
        (["push2d", "--batch-size", "0"], "batch_size must be at least 1"),
        (["push2d", "--frame-size", "0"], "frame_size must be at least 1"),
        (["push2d", "--truncate-quantile", "0.1"], "only for runs with a world model"),
        (["push2d", "--world-model", "WORLD", "--max-imagined", "9"], "at least the 10 steps of a rollout"),
        (["push2d", "--world-model", "WORLD", "--horizon", "3", "--first-step", "3"], "raise first_step to 4"),
        (["push2d", "--model-learning-rate", "1e-3"], "only for runs with a world model"),
        (["push2d", "--agent", "clone", "--demos", "1", "--learning-rate", "1e-3"], "'clone' has no use for it"),
        (["push2d", "--real-ratio", "2"], "real_ratio is the share"),
        (["Pendulum-v1", "--demos", "1"], "demonstrations were asked for, but"),
        (["nowhere"], "nowhere"),
    ],
)
def test_settings_that_do_not_fit(argv, message, checkpoint, tmp_path, capsys):
    if "Pendulum" in argv[0]:
        pytest.importorskip("pygame")
    argv = [checkpoint if word == "WORLD" else word for word in argv]
    assert message in fails(capsys, *argv, "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Blind(gymnasium.Env):
    """An environment that has no pictures."""

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode


def test_an_environment_without_rendering_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.envs.registration.registry))
    gymnasium.register("Blind-v0", Blind)
    line = fails(capsys, "Blind-v0", "--output", str(tmp_path / "out"))
    assert line == "ivideogpt: error: Blind-v0 does not render RGB images: its render modes are []"
    assert not (tmp_path / "out").exists()


def test_an_agent_without_its_package_is_refused(monkeypatch, tmp_path, capsys):
    hide_package(monkeypatch, "sb3_contrib")
    line = fails(capsys, "push2d", "--agent", "tqc", "--output", str(tmp_path / "out"))
    assert f"the agent tqc needs sb3-contrib: {how_to_install('rl')}" in line


def test_new_networks_need_updates_of_the_vq_model(tmp_path, capsys):
    file = tmp_path / "new.yaml"
    file.write_text(NEW_WORLD)
    argv = ["push2d/goal-shown", "--world-model", str(file), "--horizon", "3", "--output", str(tmp_path / "out")]
    assert "give warmup_vq_updates" in fails(capsys, *argv)
    options = {"world_model": str(file), "warmup_vq_updates": 2, "num_steps": 12}
    start(IMAGINED, tmp_path / "out", **options)
    assert evaluations(tmp_path / "out")[-1]["imagined_steps"] > 0


def test_the_command_line_names_what_there_is():
    assert set(rl.AGENTS) == set(run_settings.AGENTS)
    assert set(rl.TRACKERS) == set(run_settings.TRACKERS)


def test_defaults_of_the_command_are_those_of_the_settings(tmp_path):
    from ivideogpt_hf.cli.main import build_parser

    args = vars(build_parser().parse_args(["rl", "push2d"]))
    settings = AgentRunSettings(environment="push2d", output=args["output"])
    different = [name for name, value in vars(settings).items() if name in args and args[name] != value]
    assert not different
    assert vars(settings).keys() - args.keys() == {"videos"}


@pytest.mark.parametrize("part", ["agent", "random", "environment", "seconds", "successes"])
def test_a_state_with_a_part_that_is_none_is_refused(part, tmp_path):
    start({}, tmp_path / "run", num_steps=8, evaluate_every=8)
    file = tmp_path / "run" / "state" / "state.pt"
    torch.save(torch.load(file, weights_only=True) | {part: None}, file)
    with pytest.raises(ValueError, match=r"state\.pt cannot be used"):
        start({}, tmp_path / "run", num_steps=8, evaluate_every=8)
