"""An agent's run, in its folder: demonstrations, steps, evaluations, and a state from which it goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped] # it has none

from ...extras import require_packages
from ...provenance import describe_command, describe_versions
from ...run_folder import PARTIAL, RUN_FILE, claim, lock, naming, recover_folder, replace_folder
from ..environments.demonstrations import Demonstrations, demonstrate
from ..environments.evaluation import evaluate_policy, write_beside_imagined
from ..environments.simulator import SimulatorEnv
from ..imagination.experience import ImaginationSchedule, ImaginedExperience
from ..imagination.learner import WorldModelLearner
from ..imagination.worlds import StartingWorld, check_world, open_world
from ..replay.buffer import MixedReplayBuffer
from ..results.finished_runs import EVALUATIONS_FILE

require_packages("stable_baselines3", "accelerate", purpose="reinforcement learning")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback, CallbackList  # noqa: E402
from stable_baselines3.common.logger import Logger  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from ...training.arguments import RunArguments  # noqa: E402
from ...training.callbacks import TRAINING_LOG_FILE, drop_entries_after  # noqa: E402
from ...training.launch import start_run, start_trackers  # noqa: E402
from ...training.loop import Stop, stop_signals  # noqa: E402
from ...training.trainer import INTERRUPTED  # noqa: E402
from ..agents.by_name import make_agent  # noqa: E402
from .callbacks import BetweenSteps, MetricsWriter  # noqa: E402
from .settings import AgentRunSettings  # noqa: E402
from .state import (  # noqa: E402
    agent_state,
    load_agent_state,
    load_random_state,
    random_state,
    read_state,
    seed_everything,
    unchanged_random_numbers,
    with_tensors,
)

STATE_FOLDER, STATE_FILE, BUFFER_FILE = "state", "state.pt", "buffer.safetensors"
STATE = (
    "agent",
    "environment",
    "imagined",
    "learner",
    "random",
    "evaluated_step",
    "last_success",
    "successes",
    "seconds",
)
AGENT_FILE, WORLD_FOLDER, VIDEO_FOLDER = "agent.zip", "world_model", "videos"
FRAME_PIXELS = 64  # of an environment without a world model
NUM_RECENT_EPISODES = 20  # over which the bar shows success
LOG_EPISODES = 1


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked the run to stop, and its state is saved."""


class AgentRun:
    """A run of an off-policy agent: all that can be wrong with settings shows when it is made, before anything is
    written.

    Args:
        settings: settings of the run.

    Attributes:
        settings: settings of the run.
        agent: the agent.
        learner: world model and its updates; None without a world model.
        imagined: imagined experience; None without it.
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
        self.learner = self._make_learner()
        self.imagined = self._make_imagined()
        if self.imagined is not None and settings.real_ratio == 0:
            self._check_imagination_alone(self.imagined.schedule)
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
        settings = self.settings
        pixels = settings.frame_size or FRAME_PIXELS
        self.frame_size = (pixels, pixels)
        self.environment = self._make_environment("training")
        if not settings.uses_world:
            return
        schedule = settings.schedule()
        start = open_world(
            settings.world_model,
            self.action_space,
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
        check_world(spec, self.action_space, self.frame_size, schedule.horizon, settings.world_model)
        num_frames = spec.num_context_frames + schedule.horizon
        if settings.max_steps + 1 < num_frames:
            raise ValueError(
                f"episodes have {settings.max_steps + 1} frames, and the world model is trained on clips of "
                f"{num_frames}: lower the horizon, or raise max_steps"
            )
        if not settings.demos and schedule.first_step + 1 < num_frames:
            raise ValueError(
                f"the world model is first trained after {schedule.first_step} steps, on clips of {num_frames} frames, "
                f"which are not there yet: raise first_step to {num_frames - 1}, lower the horizon, or give demos"
            )
        self.start = start

    start: StartingWorld | None = None

    @property
    def action_space(self) -> spaces.Box:
        """The box of the environment's actions."""
        space = self.environment.action_space
        assert isinstance(space, spaces.Box)
        return space

    def _check_expert(self, environment: SimulatorEnv) -> None:
        simulator = environment.simulator
        simulator.reset(0)
        try:
            simulator.expert_action()
        except ValueError as error:
            raise ValueError(f"{self.settings.demos} demonstrations were asked for, but {error}") from error

    @property
    def agent_name(self) -> str:
        """The agent whose networks learn."""
        return self.settings.agent

    def _make_agent(self) -> Any:
        settings = self.settings
        buffer: dict[str, Any] = {"real_ratio": settings.share_of_real()}
        buffer |= {"max_imagined": settings.max_imagined, "max_imagined_age": settings.max_imagined_age}
        return make_agent(
            self.agent_name,
            DummyVecEnv([lambda: self.environment]),
            settings.preset,
            seed=settings.seed,
            device=settings.device,
            buffer=buffer,
            **settings.agent_settings(),
        )

    def _check_imagination_alone(self, schedule: ImaginationSchedule) -> None:
        """Check that there is always something imagined to learn from: a batch without it would be real."""
        first, begins, age = schedule.first_step, self.agent.learning_starts, self.settings.max_imagined_age
        if first > begins:
            raise ValueError(
                f"real_ratio is 0, and the agent learns from step {begins} on, when nothing is imagined until step "
                f"{first}: raise learning_starts, or lower first_step"
            )
        rounds, updates = schedule.imagine_every, schedule.transformer_every
        if age is None or updates is None:
            return
        most = max((step + rounds - 1) // updates - step // updates for step in range(0, rounds * updates, rounds))
        if age <= most:
            raise ValueError(
                f"real_ratio is 0, and what is imagined expires after {age} updates of the world model, of which there "
                f"are up to {most} until the next round: raise max_imagined_age to {most + 1}, or leave it out"
            )

    def _make_learner(self) -> WorldModelLearner | None:
        settings = self.settings
        if self.start is None:
            return None
        return WorldModelLearner(
            self.start.world.to(settings.device),
            settings.learner_settings(),
            seed=settings.seed,
            trains_codebooks=self.start.is_new,
        )

    def _make_imagined(self) -> ImaginedExperience | None:
        settings = self.settings
        if self.learner is None:
            return None
        return ImaginedExperience(
            self.learner,
            settings.schedule(),
            seed=settings.seed,
            truncate_quantile=settings.truncate_quantile,
            dtype=settings.dtype,
            verbose=1,
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
                if self.agent.num_timesteps < self.settings.num_steps:
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
            record["world_model_hashes"] = self.start.hashes
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
        with unchanged_random_numbers():
            accelerator = start_run(run)
            start_trackers(accelerator, run, settings.record())
        return accelerator

    def _begin(self) -> None:
        """Demonstrations, and the state before the first step."""
        for name in (EVALUATIONS_FILE, TRAINING_LOG_FILE):
            (self.output / name).unlink(missing_ok=True)
        seed_everything(self.settings.seed)
        if self._demonstrator is not None:
            demonstrations = demonstrate(self._demonstrator, self.settings.demos, seed=self.settings.seed)
            print(demonstrations)
            self.demonstrations = demonstrations
            for episode in demonstrations.episodes:
                self.buffer.add_episode(episode.frames, episode.actions, episode.rewards)

    demonstrations: Demonstrations

    def _learn(self) -> None:
        settings = self.settings
        self.agent.set_logger(Logger(None, [MetricsWriter(self.output / TRAINING_LOG_FILE, self._accelerator)]))
        if self._logged:
            self.agent.logger.name_to_value.update(self._logged["values"])
            self.agent.logger.name_to_count.update(self._logged["counts"])
        first = self.agent.num_timesteps
        with tqdm(total=settings.num_steps, initial=first, unit="step", smoothing=0.05) as bar:
            between = BetweenSteps(self, bar)
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
        every = self.settings.evaluate_every
        if self._evaluated_step < 0 or step // every > self._evaluated_step // every:
            self.evaluate()
            self.save()
        elif self._stop.requested or time.perf_counter() - self._saved >= 60 * self.settings.save_minutes:
            self.save()
        if self._stop.requested:
            raise Interrupted

    def _finish(self) -> None:
        """The last evaluation, the agent, and the world model as a checkpoint."""
        if self._evaluated_step < self.settings.num_steps:
            self.evaluate()
            self.save()
        if self.learner is not None:
            aside = self.output / f"{WORLD_FOLDER}{PARTIAL}"
            shutil.rmtree(aside, ignore_errors=True)
            self.learner.world.save_pretrained(aside)
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
        real_video = video if settings.videos and self.learner is None else None
        seeds = range(settings.num_evaluation_episodes)
        # An evaluation may draw random numbers. What is learnt must not depend on it.
        with unchanged_random_numbers():
            evaluation = evaluate_policy(self.agent, self.evaluated, seeds, video=real_video).record()
            if settings.videos and self.learner is not None:
                world, horizon = self.learner.world, settings.schedule().horizon
                write_beside_imagined(self.agent, self.evaluated, world, video, horizon=horizon)
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

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that is needed to go on. A kill leaves the state before, or this one."""
        target = self.output / STATE_FOLDER
        aside = target.with_name(f"{target.name}{PARTIAL}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        state = {
            "agent": agent_state(self.agent),
            "environment": with_tensors(self.environment.state_dict()),
            "imagined": None if self.imagined is None else self.imagined.state_dict(),
            "learner": None if self.learner is None else self.learner.state_dict(),
            "random": random_state(),
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
        state = read_state(folder / STATE_FILE, STATE)
        self.buffer.load(folder / BUFFER_FILE)
        with naming(folder / STATE_FILE):
            self._take_up(state)
        step = self.agent.num_timesteps
        drop_entries_after(self.output / EVALUATIONS_FILE, step, "step")
        drop_entries_after(self.output / TRAINING_LOG_FILE, step)
        print(f"going on after step {step}")

    def _take_up(self, state: dict[str, Any]) -> None:
        """Put back what a state says; what a file of another run says, libraries refuse by errors of any kind."""
        if self.imagined is not None:
            self.imagined.init_callback(self.agent)
            self.imagined.load_state_dict(state["imagined"])
        if self.learner is not None:
            self.learner.load_state_dict(state["learner"])
        observation = self.environment.load_state_dict(state["environment"])
        load_agent_state(self.agent, state["agent"])
        if observation is not None and not np.array_equal(observation, self.agent._last_obs[0]):
            name = self.settings.environment
            raise OSError(
                f"{name} does not come to the frame at which the run in {self.output} stopped: its "
                "version or renderer is another one; go on where the run was begun, or give another folder"
            )
        self._evaluated_step, self.last_success = state["evaluated_step"], state["last_success"]
        self.successes.extend(state["successes"])
        self._seconds_before, self._started = float(state["seconds"]), time.perf_counter()
        self._logged = state["agent"]["logged"]
        load_random_state(state["random"])


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("command", "versions")}
