"""A run of an agent, in its folder: demonstrations, learning with or without a world model, evaluations, and going on
after any stop."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints.loading import weights_hash
from ..data.clips.segments import check_choice
from ..decoding.sampling import Sampling
from ..extras import require_packages
from ..media.video import side_by_side, write_video
from ..provenance import describe_command, describe_versions
from ..run_folder import PARTIAL, RUN_FILE, claim, lock, recover_folder, replace_folder, write_text
from .curves import EVALUATIONS_FILE
from .demonstrations import Demonstrations, MeanActionPolicy, clone, demonstrate
from .drqv2 import DrQv2
from .environments import SimulatorEnv, play_episode
from .evaluation import evaluate_policy
from .imagination import ImaginationSchedule, ImaginedExperience, RolloutDtype, schedule_preset
from .learner import LearnerSettings, MixedPrecision, WorldModelLearner
from .networks import random_shift
from .replay import MixedReplayBuffer
from .worlds import StartingWorld, check_world, open_world

require_packages("stable_baselines3", "accelerate", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback, CallbackList  # noqa: E402
from stable_baselines3.common.logger import KVWriter, Logger  # noqa: E402
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm  # noqa: E402
from stable_baselines3.common.save_util import recursive_getattr  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from ..planning.trials import require_trial_packages  # noqa: E402
from ..training.arguments import RunArguments  # noqa: E402
from ..training.callbacks import TRAINING_LOG_FILE, drop_entries_after  # noqa: E402
from ..training.launch import start_run, start_trackers  # noqa: E402
from ..training.loop import Stop, stop_signals  # noqa: E402
from ..training.trainer import INTERRUPTED  # noqa: E402
from .agents import OFF_POLICY, check_agent, make_agent  # noqa: E402

NO_WORLD = "none"
CLONE = "clone"
AGENTS = (*OFF_POLICY, CLONE)
TRACKERS = ("trackio", "tensorboard", "wandb", "none")
STATE_FOLDER, STATE_FILE, BUFFER_FILE = "state", "state.pt", "buffer.safetensors"
AGENT_FILE, WORLD_FOLDER, VIDEO_FOLDER = "agent.zip", "world_model", "videos"
# Settings that change what a run writes beside its results, or how fast.
NOT_RECORDED = ("output", "save_minutes", "tracker", "run_name", "device", "revision", "token", "videos")
FRAME_PIXELS = 64  # of an environment without a world model
NUM_VIDEO_CHUNKS = 4  # number of rollouts, one after the other, in a video
NUM_RECENT_EPISODES = 20  # over which the bar shows success
DRAWN_PIXELS = 192
LOG_EPISODES = 1
CLONE_RATE = 1e-3  # learning rate of cloning


@dataclass(frozen=True, kw_only=True)
class AgentRunSettings:
    """Settings of a run. None takes the preset's value.

    Attributes:
        environment: name of a simulator, see `make_simulator`.
        output: folder to write.
        world_model: "default", Hub id, folder of a checkpoint, yaml file of new networks; "none": without imagination.
        agent: name of an agent of `ivideogpt_hf.rl.agents`; "clone": the networks of DrQ-v2, whose actor is fitted
            to the demonstrations, without any step of its own.
        preset: "cpu" or "paper": sizes of the agent, and schedule of the world model.
        demos: number of demonstrations in the buffer before the first step.
        num_steps: number of real steps of the agent.
        seed: seed of everything: episodes, networks, actions, clips, rollouts.
        label: name of the run's group in comparisons; None: it is named by its settings.
        real_ratio: share of real transitions in a batch.
        frame_size: height and width of the frames; None: those of the world model, or 64 without one.
        num_stack, action_repeat, max_steps, success_bonus: arguments of `SimulatorEnv`.
        evaluate_every: number of steps from one evaluation to the next.
        num_evaluation_episodes: number of episodes of an evaluation, always the same ones.
        learning_starts, batch_size, learning_rate: arguments of the agent.
        clone_updates: number of updates of the agent "clone".
        first_step, warmup_updates, warmup_vq_updates, transformer_every, vq_every, imagine_every, num_starts, horizon:
            fields of `ImaginationSchedule`; 0 for one of the "every" of updates: never.
        max_imagined, max_imagined_age: arguments of `MixedReplayBuffer`.
        truncate_quantile, dtype: arguments of `ImaginedExperience`.
        model_batch_size, model_learning_rate, mixed_precision, lpips_weights, data, data_root, data_share: fields of
            `LearnerSettings`.
        save_minutes: number of minutes after which the state is saved, at the next step.
        tracker: tracker that gets the metrics: "trackio", "tensorboard", "wandb" or "none".
        run_name: name of the run in the tracker; None: that of the folder.
        videos: whether each evaluation writes a video.
        device: device of all networks.
        revision, token: branch, tag or commit, and token, of a checkpoint on the Hub.

    Raises:
        ValueError: if a value is out of range, or settings contradict each other.
    """

    environment: str
    output: Path
    world_model: str = NO_WORLD
    agent: str = "drqv2"
    preset: str = "cpu"
    demos: int = 0
    num_steps: int = 10_000
    seed: int = 0
    label: str | None = None
    real_ratio: float = 0.5
    frame_size: int | None = None
    num_stack: int = 3
    action_repeat: int = 2
    max_steps: int = 100
    success_bonus: float = 10.0
    evaluate_every: int = 500
    num_evaluation_episodes: int = 10
    learning_starts: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    clone_updates: int = 2000
    first_step: int | None = None
    warmup_updates: int | None = None
    warmup_vq_updates: int | None = None
    transformer_every: int | None = None
    vq_every: int | None = None
    imagine_every: int | None = None
    num_starts: int | None = None
    horizon: int | None = None
    max_imagined: int = 20_000
    max_imagined_age: int | None = None
    truncate_quantile: float | None = None
    dtype: RolloutDtype = "float32"
    model_batch_size: int | None = None
    model_learning_rate: float = 1e-4
    mixed_precision: MixedPrecision = "no"
    lpips_weights: str | None = None
    data: str | None = None
    data_root: str | None = None
    data_share: float = 0.0
    save_minutes: float = 5.0
    tracker: str = "trackio"
    run_name: str | None = None
    videos: bool = True
    device: str = "cpu"
    revision: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        check_choice("agent", self.agent, AGENTS)
        check_agent(self.learns_as)
        check_choice("tracker", self.tracker, TRACKERS)
        if self.agent == CLONE and (self.uses_world or not self.demos):
            raise ValueError("the agent 'clone' learns from demonstrations alone: give demos, and no world model")
        check_choice("preset", self.preset, ("cpu", "paper"))
        fewest = {"demos": 0, "num_steps": 1, "evaluate_every": 1, "num_evaluation_episodes": 1, "save_minutes": 0}
        for name, minimum in fewest.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        if not 0 <= self.real_ratio <= 1:
            raise ValueError(
                f"real_ratio is the share of real transitions in a batch, in [0, 1]; got {self.real_ratio}"
            )
        if self.uses_world:
            self.schedule()
            self.learner_settings()
            return
        if self.real_ratio < 1 and self.real_ratio != type(self).real_ratio:
            raise ValueError("real_ratio is for runs with a world model, whose transitions are mixed in")
        given = [name for name in (*SCHEDULE_SETTINGS, "data", "lpips_weights") if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: only for runs with a world model; name one, or leave them out")

    @property
    def learns_as(self) -> str:
        """The agent whose networks these are."""
        return "drqv2" if self.agent == CLONE else self.agent

    @property
    def uses_world(self) -> bool:
        """Whether the agent imagines."""
        return self.world_model != NO_WORLD

    def schedule(self) -> ImaginationSchedule:
        """The schedule of the world model: the preset's, but for what is set."""
        changes = {name: getattr(self, name) for name in SCHEDULE_SETTINGS}
        changes = {name: value for name, value in changes.items() if value is not None}
        for name in ("transformer_every", "vq_every"):
            if changes.get(name) == 0:
                changes[name] = None
        return replace(schedule_preset(self.preset), **changes)

    def learner_settings(self) -> LearnerSettings:
        """The settings of the world model's updates."""
        batch_size = MODEL_BATCH_SIZES[self.preset] if self.model_batch_size is None else self.model_batch_size
        return LearnerSettings(
            num_future_frames=self.schedule().horizon,
            batch_size=batch_size,
            learning_rate=self.model_learning_rate,
            vq_learning_rate=self.model_learning_rate,
            lpips_weights=self.lpips_weights,
            mixed_precision=self.mixed_precision,
            data=self.data,
            data_root=self.data_root,
            data_share=self.data_share,
        )

    def record(self) -> dict[str, Any]:
        """What determines the results, as JSON."""
        values = {name: value for name, value in asdict(self).items() if name not in NOT_RECORDED}
        if self.agent != CLONE:
            del values["clone_updates"]
        if not self.uses_world:
            return {name: value for name, value in values.items() if name not in WORLD_SETTINGS}
        schedule, settings = self.schedule(), self.learner_settings()
        values |= {name: getattr(schedule, name) for name in SCHEDULE_SETTINGS}
        return values | {"model_batch_size": settings.batch_size}


SCHEDULE_SETTINGS = (
    "first_step",
    "warmup_updates",
    "warmup_vq_updates",
    "transformer_every",
    "vq_every",
    "imagine_every",
    "num_starts",
    "horizon",
)
WORLD_SETTINGS = (
    *SCHEDULE_SETTINGS,
    "real_ratio",
    "max_imagined",
    "max_imagined_age",
    "truncate_quantile",
    "dtype",
    "model_batch_size",
    "model_learning_rate",
    "mixed_precision",
    "lpips_weights",
    "data",
    "data_root",
    "data_share",
)
MODEL_BATCH_SIZES = {"paper": 16, "cpu": 4}


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked the run to stop, and its state is saved."""


def run_agent(settings: AgentRunSettings) -> int | None:
    """Let an agent learn, and write what became of it. The same call goes on after a stop, or finds that it is done.

    The folder then holds run.json (settings), evaluations.jsonl, metrics.jsonl, videos/, state/ (all that is needed to
    go on), agent.zip and world_model/, a checkpoint. Everything in it is written aside and renamed.

    Args:
        settings: settings of the run.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        ImportError: if a package is missing; names the extra.
        FileExistsError: if the folder holds another run.
        BlockingIOError: if another process writes the folder.
        ValueError, OSError: if environment, demonstrations, world model or data do not fit or cannot be read.
        NonFiniteLossError: if a loss of the world model is not finite.

    Example:
        >>> from pathlib import Path
        >>> from ivideogpt_hf.rl.run import AgentRunSettings, run_agent
        >>> settings = AgentRunSettings(
        ...     environment="push2d/goal-shown",
        ...     output=Path("push"),
        ...     num_steps=20,
        ...     max_steps=10,
        ...     evaluate_every=20,
        ...     num_evaluation_episodes=2,
        ...     tracker="none",
        ... )
        >>> run_agent(settings)
        >>> sorted(path.name for path in Path("push").iterdir())  # doctest: +ELLIPSIS
        ['agent.zip', 'evaluations.jsonl', ..., 'run.json', 'state', 'videos']
    """
    require_trial_packages()
    run = AgentRun(settings)
    try:
        return run.run()
    finally:
        run.close()


class AgentRun:
    """What `run_agent` does: all that can be wrong with settings shows when it is made, before anything is written.

    Args:
        settings: settings of the run.

    Attributes:
        settings: settings of the run.
        agent: the agent.
        imagined: imagined experience; None without a world model.
    """

    def __init__(self, settings: AgentRunSettings) -> None:
        self.settings, self.output = settings, Path(settings.output)
        self._environments: list[SimulatorEnv] = []
        if settings.tracker != "none" and find_spec(settings.tracker) is None:
            raise ImportError(
                f"tracker {settings.tracker} is not installed: pip install {settings.tracker}, or set tracker to none"
            )
        if settings.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {settings.device} was asked for, but torch sees no CUDA device; use cpu")
        self._make_world_and_environment()
        self._demonstrator = self._make_environment("demonstration") if settings.demos else None
        if self._demonstrator is not None:
            self._check_expert(self._demonstrator)
        self.evaluated = self._make_environment("evaluation")
        self.agent = self._make_agent()
        self.imagined = self._make_imagined()
        if self.imagined is not None and settings.real_ratio == 0:
            first, begins = self.imagined.schedule.first_step, self.agent.learning_starts
            if first > begins:
                raise ValueError(
                    f"real_ratio is 0, and the agent learns from step {begins} on, when nothing is imagined until step "
                    f"{first}: raise learning_starts, or lower first_step"
                )
        self._evaluated_step = -1
        self._seconds_before, self._started = 0.0, time.perf_counter()
        self._saved = time.perf_counter()
        self._stop = Stop()
        self.successes: deque[bool] = deque(maxlen=NUM_RECENT_EPISODES)

    # -- what takes part ----------------------------------------------------------------------------------------------

    def _make_environment(self, purpose: str) -> SimulatorEnv:
        settings = self.settings
        environment = SimulatorEnv(
            settings.environment,
            self.frame_size,
            purpose=purpose,
            num_stack=settings.num_stack,
            action_repeat=settings.action_repeat,
            max_steps=settings.max_steps,
            success_bonus=settings.success_bonus,
            seed=settings.seed,
        )
        self._environments.append(environment)
        return environment

    def _make_world_and_environment(self) -> None:
        """A world model may need the actions of the environment, and the environment the frame size of the model."""
        settings, self.start = self.settings, None
        pixels = settings.frame_size or FRAME_PIXELS
        self.frame_size = (pixels, pixels)
        self.environment = self._make_environment("training")
        if not settings.uses_world:
            return
        schedule = settings.schedule()
        start = open_world(
            settings.world_model,
            self.environment.action_space,
            num_future_frames=schedule.horizon,
            seed=settings.seed,
            revision=settings.revision,
            token=settings.token,
        )
        if start.grown and not schedule.trains:
            raise ValueError(
                f"{settings.world_model} has no {' and no '.join(start.grown)}, which it would have to be trained for, "
                "and no updates are asked for: let it be trained, or take another checkpoint"
            )
        if start.is_new and not schedule.warmup_vq_updates:
            raise ValueError(
                f"{settings.world_model} makes new networks, and tokens of an untrained VQ model mean nothing: give "
                "warmup_vq_updates, such as 500"
            )
        spec = start.world.spec
        if settings.frame_size is None and spec.frame_size != self.frame_size:
            self.close()
            self.frame_size = spec.frame_size
            self.environment = self._make_environment("training")
        check_world(spec, self.environment.action_space, self.frame_size, schedule.horizon, settings.world_model)
        num_frames = spec.num_context_frames + schedule.horizon
        if settings.max_steps + 1 < num_frames:
            raise ValueError(
                f"episodes have {settings.max_steps + 1} frames, and the world model is trained on clips of "
                f"{num_frames}: lower the horizon, or raise max_steps"
            )
        self.start: StartingWorld | None = start

    def _check_expert(self, environment: SimulatorEnv) -> None:
        simulator = environment.simulator
        simulator.reset(0)
        try:
            simulator.expert_action()
        except ValueError as error:
            raise ValueError(f"{self.settings.demos} demonstrations were asked for, but {error}") from error

    def _make_agent(self) -> OffPolicyAlgorithm:
        settings = self.settings
        names = ("learning_starts", "batch_size", "learning_rate")
        overrides = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
        buffer: dict[str, Any] = {"real_ratio": settings.real_ratio if settings.uses_world else 1.0}
        buffer |= {"max_imagined": settings.max_imagined, "max_imagined_age": settings.max_imagined_age}
        return make_agent(
            settings.learns_as,
            DummyVecEnv([lambda: self.environment]),
            settings.preset,
            seed=settings.seed,
            device=settings.device,
            buffer=buffer,
            **overrides,
        )

    def _make_imagined(self) -> ImaginedExperience | None:
        settings = self.settings
        if self.start is None:
            return None
        learner = WorldModelLearner(
            self.start.world.to(settings.device),
            settings.learner_settings(),
            seed=settings.seed,
            trains_codebooks=self.start.is_new,
        )
        return ImaginedExperience(
            learner,
            settings.schedule(),
            seed=settings.seed,
            truncate_quantile=settings.truncate_quantile,
            dtype=settings.dtype,
        )

    @property
    def buffer(self) -> MixedReplayBuffer:
        """The agent's buffer."""
        buffer = self.agent.replay_buffer
        assert isinstance(buffer, MixedReplayBuffer)
        return buffer

    @property
    def num_imagined(self) -> int:
        """Number of imagined steps so far."""
        return 0 if self.imagined is None else self.imagined.num_imagined

    @property
    def seconds(self) -> float:
        """Time that the run took so far, over all stops."""
        return self._seconds_before + time.perf_counter() - self._started

    def close(self) -> None:
        """Free the renderers."""
        while self._environments:
            self._environments.pop().close()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> int | None:
        """Run to the end, or until a signal; see `run_agent`."""
        with lock(self.output), stop_signals() as self._stop:
            self._claim()
            (self.output / VIDEO_FOLDER).mkdir(exist_ok=True)
            recover_folder(self.output / STATE_FOLDER)
            if (self.output / STATE_FOLDER).is_dir():
                self._load()
            else:
                self._begin()
            self._accelerator = self._start_tracker()
            try:
                if self.settings.agent == CLONE:
                    self._clone()
                elif self.agent.num_timesteps < self.settings.num_steps:
                    self._learn()
                self._finish()
            except Interrupted:
                print(f"stopped by a signal after step {self.agent.num_timesteps}; the same command goes on")
                return INTERRUPTED
            finally:
                self._accelerator.end_training()
        return None

    def _claim(self) -> None:
        record = self.settings.record()
        if self.start is not None:
            world = self.start.world
            record["world_model_hashes"] = [weights_hash(world.vq_model), weights_hash(world.transformer)]
        record |= {
            "command": describe_command(),
            "versions": describe_versions("stable-baselines3", "gymnasium"),
        }
        claim(self.output, RUN_FILE, record, noun="run of an agent", identity_of=_identity)

    def _start_tracker(self) -> Any:
        settings = self.settings
        run = RunArguments(
            output_dir=str(self.output),
            num_updates=settings.num_steps,
            seed=settings.seed,
            mixed_precision="no",
            tracker=settings.tracker,  # type: ignore[arg-type] # Accelerate says what it does not know
            run_name=settings.run_name,
        )
        with _unchanged_random_numbers():
            accelerator = start_run(run)
        start_trackers(accelerator, run, settings.record())
        return accelerator

    def _begin(self) -> None:
        """Demonstrations, and the state before the first step."""
        for name in (EVALUATIONS_FILE, TRAINING_LOG_FILE):
            (self.output / name).unlink(missing_ok=True)
        _seed_everything(self.settings.seed)
        if self._demonstrator is not None:
            demonstrations = demonstrate(self._demonstrator, self.settings.demos, seed=self.settings.seed)
            print(demonstrations)
            self.demonstrations = demonstrations
            for episode in demonstrations.episodes:
                self.buffer.add_episode(episode.frames, episode.actions, episode.rewards)

    demonstrations: Demonstrations

    def _clone(self) -> None:
        """Fit the actor to the demonstrations. It never changes afterwards, so that its one evaluation stands for each
        step at which others are evaluated."""
        settings, agent = self.settings, self.agent
        assert isinstance(agent, DrQv2)
        network = nn.Sequential(agent.encoder, agent.actor)
        assert isinstance(agent.action_space, spaces.Box)
        policy = MeanActionPolicy(network, agent.action_space.low, agent.action_space.high)
        optimizer = torch.optim.Adam(network.parameters(), lr=CLONE_RATE)
        generator = torch.Generator(agent.device).manual_seed(settings.seed)
        clone(
            policy,
            optimizer,
            self.demonstrations,
            num_updates=settings.clone_updates,
            batch_size=agent.batch_size,
            num_stack=settings.num_stack,
            augment=lambda observations: random_shift(observations, agent.max_shift, generator),
            seed=settings.seed,
        )
        entry = self.evaluate()
        for step in range(
            settings.evaluate_every, settings.num_steps + settings.evaluate_every, settings.evaluate_every
        ):
            self._write({**entry, "step": min(step, settings.num_steps)})
        self._evaluated_step = settings.num_steps

    def _learn(self) -> None:
        settings = self.settings
        self.agent.set_logger(Logger(None, [_Metrics(self.output / TRAINING_LOG_FILE, self._accelerator)]))
        if self._logged:
            self.agent.logger.name_to_value.update(self._logged["values"])
            self.agent.logger.name_to_count.update(self._logged["counts"])
        first = self.agent.num_timesteps
        with tqdm(total=settings.num_steps, initial=first, unit="step", smoothing=0.05) as bar:
            between = _BetweenSteps(self, bar)
            callbacks: list[BaseCallback] = [between] if self.imagined is None else [between, self.imagined]
            self.agent.learn(
                settings.num_steps - first,
                CallbackList(callbacks),
                log_interval=LOG_EPISODES,
                reset_num_timesteps=False,
            )

    _logged: dict[str, Any] | None = None

    def between_steps(self) -> None:
        """Evaluate and save where it is time to; called where a run can go on.

        Raises:
            Interrupted: if a signal asked to stop.
        """
        step = self.agent.num_timesteps
        if step % self.settings.evaluate_every == 0 and step != self._evaluated_step:
            self.evaluate()
            self.save()
        elif self._stop.requested or time.perf_counter() - self._saved >= 60 * self.settings.save_minutes:
            self.save()
        if self._stop.requested:
            raise Interrupted

    def _finish(self) -> None:
        """The last evaluation, the agent, and the world model as a checkpoint."""
        if self._evaluated_step != self.settings.num_steps:
            self.evaluate()
            self.save()
        if self.imagined is not None:
            aside = self.output / f"{WORLD_FOLDER}{PARTIAL}"
            shutil.rmtree(aside, ignore_errors=True)
            self.imagined.learner.world.save_pretrained(aside)
            recover_folder(self.output / WORLD_FOLDER)
            replace_folder(self.output / WORLD_FOLDER, aside)
        aside = self.output / f"{Path(AGENT_FILE).stem}{PARTIAL}.zip"
        self.agent.save(aside)
        aside.replace(self.output / AGENT_FILE)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the agent without noise, and write the result and a video; returns the entry."""
        settings, step = self.settings, self.agent.num_timesteps
        video = self.output / VIDEO_FOLDER / f"step-{step:08d}.gif"
        real_video = video if settings.videos and self.imagined is None else None
        seeds = range(settings.num_evaluation_episodes)
        # An evaluation may draw random numbers. What is learnt must not depend on it.
        with _unchanged_random_numbers():
            evaluation = evaluate_policy(self.agent, self.evaluated, seeds, video=real_video).record()
            if settings.videos and self.imagined is not None:
                self._draw(video)
        self._evaluated_step = step
        self.last_success = evaluation["success"]
        entry = {"step": step, "imagined_steps": self.num_imagined, **evaluation, "seconds": round(self.seconds, 1)}
        self._write(entry)
        return entry

    def _write(self, entry: dict[str, Any]) -> None:
        with (self.output / EVALUATIONS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        numbers = {f"evaluation/{name}": value for name, value in entry.items() if isinstance(value, (int, float))}
        self._accelerator.log(numbers, step=entry["step"])

    last_success: float | None = None

    def _draw(self, file: Path) -> None:
        """An evaluation episode, beside what the world model makes of its actions, anew from real frames every few
        steps."""
        assert self.imagined is not None
        world, horizon = self.imagined.learner.world, self.settings.schedule().horizon
        episode = play_episode(self.evaluated, lambda seen: self.agent.predict(seen, deterministic=True)[0], 0)
        frames, actions = torch.from_numpy(episode.frames), torch.from_numpy(episode.actions)
        num_context = world.spec.num_context_frames
        lasts = list(range(num_context - 1, len(episode) - horizon + 1, horizon))[:NUM_VIDEO_CHUNKS]
        if not lasts:  # the simulator ended the episode too early
            return
        contexts = torch.stack([frames[last - num_context + 1 : last + 1] for last in lasts])
        acts = torch.stack([actions[last : last + horizon] for last in lasts])
        imagined = world.rollout(contexts, acts, sampling=Sampling(seed=0), outputs=("frames",)).frames.cpu()
        real = torch.stack([frames[last + 1 : last + 1 + horizon] for last in lasts])
        clip = side_by_side(real.flatten(0, 1), imagined.flatten(0, 1))
        write_video(clip, file, fps=10, scale=-(-DRAWN_PIXELS // frames.shape[-1]))

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that is needed to go on. A kill leaves the state before, or this one."""
        target = self.output / STATE_FOLDER
        aside = target.with_name(f"{target.name}{PARTIAL}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        state = {
            "agent": _agent_state(self.agent),
            "environment": _with_tensors(self.environment.state_dict()),
            "imagined": None if self.imagined is None else self.imagined.state_dict(),
            "learner": None if self.imagined is None else self.imagined.learner.state_dict(),
            "random": _random_state(),
            "evaluated_step": self._evaluated_step,
            "last_success": self.last_success,
            "successes": list(self.successes),
            "seconds": self.seconds,
        }
        torch.save(state, aside / STATE_FILE)
        self.buffer.save(aside / BUFFER_FILE)
        replace_folder(target, aside)
        self._saved = time.perf_counter()

    def _load(self) -> None:
        folder = self.output / STATE_FOLDER
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.buffer.load(folder / BUFFER_FILE)
        if self.imagined is not None:
            self.imagined.init_callback(self.agent)
            self.imagined.load_state_dict(state["imagined"])
            self.imagined.learner.load_state_dict(state["learner"])
        observation = self.environment.load_state_dict(state["environment"])
        _load_agent_state(self.agent, state["agent"])
        if observation is not None and not np.array_equal(observation, self.agent._last_obs[0]):  # type: ignore[index]
            name = self.settings.environment
            raise OSError(
                f"{name} does not come to the frame at which the run in {self.output} stopped: its "
                "version or renderer is another one; go on where the run was begun, or give another folder"
            )
        self._evaluated_step, self.last_success = state["evaluated_step"], state["last_success"]
        self.successes.extend(state["successes"])
        self._seconds_before, self._started = state["seconds"], time.perf_counter()
        self._logged = state["agent"]["logged"]
        step = self.agent.num_timesteps
        _drop_evaluations_after(self.output / EVALUATIONS_FILE, step)
        drop_entries_after(self.output / TRAINING_LOG_FILE, step)
        _load_random_state(state["random"])
        print(f"going on after step {step}")


class _BetweenSteps(BaseCallback):
    """Calls the run between two steps, and shows where it is."""

    def __init__(self, run: AgentRun, bar: Any) -> None:
        super().__init__()
        self.run, self.bar = run, bar

    def _on_rollout_start(self) -> None:
        self.run.between_steps()

    def _on_step(self) -> bool:
        run = self.run
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if done and "is_success" in info:
                run.successes.append(bool(info["is_success"]))
        shown: dict[str, Any] = {"imagined": run.num_imagined}
        if run.successes:
            shown["success"] = f"{sum(run.successes) / len(run.successes):.2f}"
        if run.last_success is not None:
            shown["evaluated"] = f"{run.last_success:.2f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(len(self.locals["dones"]))
        return True


class _Metrics(KVWriter):
    """Writes what an agent logs to a file of JSON lines, and to the tracker."""

    def __init__(self, file: Path, accelerator: Any) -> None:
        self.file, self.accelerator = file, accelerator

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write an entry."""
        entry = {name: float(value) for name, value in key_values.items() if isinstance(value, (int, float, np.number))}
        self.accelerator.log(entry, step=step)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": step} | entry) + "\n")

    def close(self) -> None:
        """Do nothing: the file is closed after each entry."""


# -- states -----------------------------------------------------------------------------------------------------------


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("command", "versions")}


def _agent_state(agent: OffPolicyAlgorithm) -> dict[str, Any]:
    """All that changes in an agent but its buffer: weights, optimisers, counts, and where it stands."""
    _, variables = agent._get_torch_save_params()
    noise = agent.action_noise
    return {
        "parameters": agent.get_parameters(),
        "variables": {name: recursive_getattr(agent, name).detach().clone() for name in variables},
        "attributes": {name: getattr(agent, name) for name in COUNTS},
        "last_obs": None if agent._last_obs is None else torch.from_numpy(np.array(agent._last_obs)),
        "last_episode_starts": (
            None if agent._last_episode_starts is None else torch.from_numpy(np.array(agent._last_episode_starts))
        ),
        "successes": [float(success) for success in agent.ep_success_buffer or ()],
        "action_space": agent.action_space.np_random.bit_generator.state,
        "noise": None if noise is None else _with_tensors(vars(noise)),
        "logged": {
            "values": {name: float(value) for name, value in agent.logger.name_to_value.items() if _is_number(value)},
            "counts": {name: int(count) for name, count in agent.logger.name_to_count.items()},
        }
        if hasattr(agent, "_logger")
        else None,
    }


COUNTS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _load_agent_state(agent: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    agent.set_parameters(state["parameters"], exact_match=True, device=agent.device)
    for name, value in state["variables"].items():
        recursive_getattr(agent, name).data.copy_(value)
    for name, value in state["attributes"].items():
        setattr(agent, name, value)
    last, starts = state["last_obs"], state["last_episode_starts"]
    agent._last_obs = None if last is None else last.numpy()
    agent._last_episode_starts = None if starts is None else starts.numpy()
    # What `learn` would make anew if it was not there.
    agent.ep_info_buffer = deque(maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(state["successes"], maxlen=agent._stats_window_size)
    agent.action_space.np_random.bit_generator.state = state["action_space"]
    if agent.action_noise is not None and state["noise"] is not None:
        for name, value in state["noise"].items():
            setattr(agent.action_noise, name, value.numpy() if isinstance(value, Tensor) else value)


def _with_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with tensors in place of arrays and of what else a file of weights cannot hold."""
    kept = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            kept[name] = torch.from_numpy(value.copy())
        elif isinstance(value, (int, float, str, bool, type(None), Tensor)):
            kept[name] = value
    return kept


def _random_state() -> dict[str, Any]:
    """The states of all generators of this process that agents of stable-baselines3 draw from."""
    version, numbers, gaussian = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(numbers), gaussian],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _load_random_state(state: dict[str, Any]) -> None:
    version, numbers, gaussian = state["python"]
    random.setstate((version, tuple(numbers), gaussian))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def _unchanged_random_numbers() -> Iterator[None]:
    """Random numbers go on after the block as if it had not been."""
    state = _random_state()
    try:
        yield
    finally:
        _load_random_state(state)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _drop_evaluations_after(file: Path, step: int) -> None:
    """Remove evaluations that a run wrote after the state from which it now goes on."""
    if not file.exists():
        return
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    write_text(file, "".join(line for line in lines if json.loads(line)["step"] <= step))
