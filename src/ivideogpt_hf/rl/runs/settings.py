"""Settings of an agent's run: what there is to choose, and what of it determines the results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...data.clips.segments import check_choice
from ..agents.by_name import OFF_POLICY, check_agent
from ..agents.presets import preset
from ..imagination.experience import ImaginationSchedule, RolloutDtype, schedule_preset
from ..imagination.learner import LearnerSettings, MixedPrecision
from ..results.finished_runs import PPO_NAME

NO_WORLD = "none"
CLONE = "clone"  # name of the agent that takes no step of its own
AGENTS = (*OFF_POLICY, CLONE, PPO_NAME)
TRACKERS = ("none", "trackio", "tensorboard", "wandb")
# Settings that change what a run writes beside its results, or how fast.
NOT_RECORDED = ("output", "save_minutes", "tracker", "run_name", "device", "revision", "token", "videos")
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
AGENT_SETTINGS = ("learning_starts", "batch_size", "gradient_steps", "learning_rate")
# Settings that the other agents have no use for.
UNUSED = {
    CLONE: ("learning_starts", "gradient_steps", "learning_rate"),
    PPO_NAME: (
        *("learning_starts", "gradient_steps", "real_ratio", "truncate_quantile"),
        *("first_step", "transformer_every", "vq_every", "imagine_every"),
    ),
}
# An agent that imagines has more data, and is updated more often. docs/results/agents.md has what both are worth.
IMAGINING_GRADIENT_STEPS = {"cpu": 3}
REAL_RATIOS = {"paper": 1 / 2, "cpu": 1 / 3}
# A small transformer has a few hundred small updates in which it must learn what the agent's rewards are.
MODEL_BATCH_SIZES = {"paper": 16, "cpu": 4}
MODEL_LEARNING_RATES = {"paper": 1e-4, "cpu": 6e-4}
VQ_LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class AgentRunSettings:
    """Settings of a run. None takes the preset's value.

    Attributes:
        environment: name of a simulator, see `make_simulator`.
        output: folder to write.
        world_model: folder, Hub id or embedded name of a checkpoint, yaml file of new networks; "none": without
            imagination.
        agent: name of an agent of `ivideogpt_hf.rl.agents.by_name`; "clone": the networks of DrQ-v2, whose actor is
            fitted to the demonstrations, without any step of its own; "ppo": PPO of stable-baselines3, all of whose
            steps are imagined, and which ``num_steps`` counts.
        preset: "cpu" or "paper": sizes of the agent, and schedule of the world model.
        demos: number of demonstrations in the buffer before the first step.
        num_steps: number of real steps of the agent.
        seed: seed of everything: episodes, networks, actions, clips, rollouts.
        label: name of the run's group in comparisons; None: it is named by its settings.
        real_ratio: share of real transitions in a batch; None: a third with the preset "cpu", and half with "paper".
        frame_size: height and width of the frames; None: those of the world model, or 64 without one.
        num_stack, action_repeat, max_steps, success_bonus: arguments of `SimulatorEnv`.
        evaluate_every: number of steps from one evaluation to the next.
        num_evaluation_episodes: number of episodes of an evaluation, always the same ones.
        learning_starts, batch_size, gradient_steps, learning_rate: arguments of the agent; ``gradient_steps`` is the
            number of updates after each step; None: 1 with the preset "cpu", 3 if it imagines, and 2 with "paper".
        clone_updates: number of updates of the agent "clone".
        first_step, warmup_updates, warmup_vq_updates, transformer_every, vq_every, imagine_every, num_starts, horizon:
            fields of `ImaginationSchedule`; 0 for one of the "every" of updates: never.
        max_imagined, max_imagined_age: arguments of `MixedReplayBuffer`.
        truncate_quantile, dtype: arguments of `ImaginedExperience`.
        model_batch_size, model_learning_rate, mixed_precision, lpips_weights, data, data_root, data_share: fields of
            `LearnerSettings`. The learning rate is that of both networks; None: 1e-4, but 6e-4 for the transformer with
            the preset "cpu", which is meant for small ones.
        save_minutes: number of minutes after which the state is saved, at the next step.
        tracker: tracker that gets the metrics: "trackio", "tensorboard" or "wandb"; "none": metrics.jsonl alone.
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
    real_ratio: float | None = None
    frame_size: int | None = None
    num_stack: int = 3
    action_repeat: int = 2
    max_steps: int = 100
    success_bonus: float = 10.0
    evaluate_every: int = 500
    num_evaluation_episodes: int = 10
    learning_starts: int | None = None
    batch_size: int | None = None
    gradient_steps: int | None = None
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
    model_learning_rate: float | None = None
    mixed_precision: MixedPrecision = "no"
    lpips_weights: str | None = None
    data: str | None = None
    data_root: str | None = None
    data_share: float = 0.0
    save_minutes: float = 5.0
    tracker: str = "none"
    run_name: str | None = None
    videos: bool = True
    device: str = "cpu"
    revision: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        check_choice("agent", self.agent, AGENTS)
        if self.agent in OFF_POLICY:
            check_agent(self.agent)
        check_choice("tracker", self.tracker, TRACKERS)
        if self.agent == CLONE and (self.uses_world or not self.demos):
            raise ValueError("the agent 'clone' learns from demonstrations alone: give demos, and no world model")
        if self.agent == PPO_NAME and not (self.uses_world and self.demos):
            raise ValueError(
                "the agent 'ppo' learns in imagined worlds that begin with frames of demonstrations: give demos, and a "
                "world model"
            )
        check_choice("preset", self.preset, ("cpu", "paper"))
        fewest = {"demos": 0, "num_steps": 1, "evaluate_every": 1, "num_evaluation_episodes": 1, "save_minutes": 0}
        for name, minimum in fewest.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        for name in ("gradient_steps", "batch_size", "frame_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.real_ratio is not None and not 0 <= self.real_ratio <= 1:
            raise ValueError(
                f"real_ratio is the share of real transitions in a batch, in [0, 1]; got {self.real_ratio}"
            )
        self._refuse(*UNUSED.get(self.agent, ()), why=f"the agent {self.agent!r} has no use for it")
        if self.uses_world:
            horizon = self.schedule().horizon
            self.learner_settings()
            if self.max_imagined < horizon:
                raise ValueError(
                    f"max_imagined must be at least the {horizon} steps of a rollout, got {self.max_imagined}"
                )
            return
        names = ["real_ratio", *SCHEDULE_SETTINGS, "model_batch_size", "model_learning_rate", "data", "data_root"]
        names += ["lpips_weights", "max_imagined_age", "truncate_quantile"]
        self._refuse(*names, why="only for runs with a world model; name one")

    def _refuse(self, *names: str, why: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: {why}, or leave it out")

    @property
    def uses_world(self) -> bool:
        """Whether the agent imagines."""
        return self.world_model != NO_WORLD

    def agent_settings(self) -> dict[str, Any]:
        """The arguments of the agent that can be set, as they are in this run."""
        values = {name: preset(self.preset)[name] for name in AGENT_SETTINGS}
        if self.share_of_real() < 1:
            values["gradient_steps"] = IMAGINING_GRADIENT_STEPS.get(self.preset, values["gradient_steps"])
        return values | {name: getattr(self, name) for name in AGENT_SETTINGS if getattr(self, name) is not None}

    def share_of_real(self) -> float:
        """The share of real transitions in a batch."""
        if not self.uses_world:
            return 1.0
        return REAL_RATIOS[self.preset] if self.real_ratio is None else self.real_ratio

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
        rate = self.model_learning_rate
        return LearnerSettings(
            num_future_frames=self.schedule().horizon,
            batch_size=batch_size,
            learning_rate=MODEL_LEARNING_RATES[self.preset] if rate is None else rate,
            vq_learning_rate=VQ_LEARNING_RATE if rate is None else rate,
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
        if self.agent in OFF_POLICY:
            values |= self.agent_settings()
        if not self.uses_world:
            return {name: value for name, value in values.items() if name not in WORLD_SETTINGS}
        schedule, settings = self.schedule(), self.learner_settings()
        values |= asdict(schedule)
        if self.agent in OFF_POLICY:
            values["real_ratio"] = self.share_of_real()
        return values | {"model_batch_size": settings.batch_size, "model_learning_rate": settings.learning_rate}
