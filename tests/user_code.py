"""Code as users write it, for a type checker (`make types`) and to run (tests/test_user_code.py).

Nothing here is told to a checker that a user would not write: no `type: ignore`, no `cast`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ivideogpt_hf import (
    CEM,
    EXAMPLE_EPISODE,
    ICEM,
    MPPI,
    IVideoGPTPipeline,
    Observation,
    PlannerPolicy,
    RandomShooting,
    RemoteWorldModel,
    Rollout,
    RolloutCost,
    Sampling,
    SegmentDataset,
    SegmentSpec,
    Source,
    Step,
    World,
    WorldModel,
    WorldModelEnv,
    WorldModelVectorEnv,
    WorldState,
    imagine,
    load_clips,
    open_episodes,
    read_actions,
    read_video,
    side_by_side,
    write_video,
)
from ivideogpt_hf.metrics.frames import psnr
from ivideogpt_hf.planning.objectives import (
    ActionPenalty,
    FeatureError,
    FrameChoice,
    Objective,
    PerceptualError,
    PixelError,
    RewardSum,
    SuccessClassifier,
    TerminalValue,
    TokenError,
    Uncertainty,
    WeightedSum,
)
from ivideogpt_hf.planning.planners import Planner
from ivideogpt_hf.world.state import State

StateT = TypeVar("StateT", bound=State)


def predict(world: WorldModel) -> Rollout:
    """README's six lines."""
    frames, actions = read_video(EXAMPLE_EPISODE), read_actions(EXAMPLE_EPISODE)
    rollout = world.rollout(frames[None, :2], actions[None, 1:4], sampling=Sampling(seed=0))
    print(rollout.frames.shape, rollout.rewards)
    return rollout


def step_and_branch(world: WorldModel, folder: Path) -> WorldState:
    """Step a world, branch it, keep it in a file."""
    state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
    step, state = world.step(state, torch.tensor([[0.0, 1.0, 0.0, 0.0]]), sampling=Sampling(seed=0))
    frame: Tensor = step.frame
    print(frame.shape, step.reward.item(), step.log_prob)
    branches = state.fork(2)
    candidates = 2 * torch.rand(1, 3, 2, world.spec.action_dim) - 1
    best = world.rollout(state, candidates, outputs=("rewards",)).rewards.sum(-1).argmax()
    print(int(best), branches.index([0]).batch_size, WorldState.cat([state, branches]).batch_size)
    state.save(folder / "state.safetensors")
    return WorldState.load(folder / "state.safetensors")


def play(world: World[StateT], frames: Tensor) -> StateT:
    """A function that takes any world: its states are opaque, and of one type."""
    spec = world.spec
    state = world.reset(spec.resize_frames(frames))
    action = torch.zeros(1, spec.action_dim)
    step, state = world.step(state, action, outputs=("frames",), horizon_policy="error")
    state = world.observe(state, action, step.frame)

    def steer(seen: Observation) -> Tensor:
        return torch.zeros(len(seen.frame), spec.action_dim)

    def stop(number: int, step: Step) -> bool:
        return step.frame is None or number == 1

    dream = imagine(world, state, steer, horizon=2, sampling=Sampling(seed=0))
    rollout = world.rollout(state, steer, num_frames=3, num_samples=2, decode_steps="last", on_step=stop)
    print(dream.frames.shape, rollout.log_probs.shape)
    return state.fork(2).index([1])


def planners(world: World[Any]) -> list[Planner]:
    """Every planner, within the bounds that a checkpoint tells."""
    low, high = world.spec.action_bounds
    return [
        CEM(low=low, high=high, horizon=2, num_candidates=4, num_elites=2, num_iterations=2),
        ICEM(low=low, high=high, horizon=2, num_candidates=4, num_elites=2, num_iterations=2),
        MPPI(low=low, high=high, horizon=2, num_candidates=4, std=0.5),
        RandomShooting(low=low, high=high, horizon=2, num_candidates=4),
    ]


def brightness(frames: Tensor) -> Tensor:
    """A feature, a value or a logit (M,) of frames (M, 3, H, W) uint8."""
    return frames.float().mean((1, 2, 3)) / 255


class Stillness:
    """An objective of a user's own."""

    outputs = frozenset({"frames"})
    decode_steps: FrameChoice = "all"

    def __call__(self, rollout: Rollout, actions: Tensor) -> Tensor:
        frames: Tensor = rollout.frames
        return frames.float().diff(dim=2).square().mean((2, 3, 4, 5))


def objectives(world: WorldModel, goal: Tensor) -> list[Objective]:
    """Every objective for a goal image (B, 3, H, W) uint8, the user's own included."""
    tokens = world.rollout(world.reset(goal[:, None].expand(-1, 2, -1, -1, -1)), torch.zeros(1, 1, 4)).tokens[:, 0]

    def difference(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean((1, 2, 3))

    return [
        PixelError(goal, frames="all", reduction="sum"),
        PerceptualError(goal, difference),
        FeatureError(goal, lambda frames: brightness(frames)[:, None]),
        TokenError(tokens),
        SuccessClassifier(brightness),
        RewardSum(discount=0.9),
        TerminalValue(brightness),
        ActionPenalty(),
        Uncertainty(),
        WeightedSum([(1.0, RewardSum()), (0.1, ActionPenalty())]),
        Stillness(),
    ]


def plan(world: WorldModel) -> Tensor:
    """README's planner and policy; and every planner and objective once."""
    frames = read_video(EXAMPLE_EPISODE)
    low, high = world.spec.action_bounds
    planner = CEM(low=low, high=high, horizon=2, num_candidates=4, num_elites=2)
    policy = PlannerPolicy(world, planner, RewardSum())
    action = policy.select_action(frames[1:2])
    state = world.reset(frames[None, :2])
    for search in planners(world):
        print(search.plan(RolloutCost(world, state, RewardSum())).actions.shape)
    for objective in objectives(world, frames[5:6]):
        print(RolloutCost(world, state, objective)(torch.zeros(1, 2, 2, 4)).shape)
    return action


def act_in_environments(world: WorldModel) -> None:
    """One imagined world, and a batch of them."""
    environment = WorldModelEnv(horizon=2, render_mode="rgb_array")
    observation, _ = environment.reset(seed=0)
    observation, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
    print(observation.shape, reward + 1, terminated or truncated)
    starts = read_video(EXAMPLE_EPISODE, max_frames=2)[None]
    worlds = WorldModelVectorEnv(world, starts, num_envs=2, reward=lambda step: step.log_prob)
    worlds.reset(seed=0)
    rewards: np.ndarray = worlds.step(worlds.action_space.sample())[1]
    print(rewards.mean(), worlds.state.batch_size)


def run_pipeline(world: WorldModel, folder: Path) -> None:
    """From files to files."""
    pipe = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    generator = torch.Generator().manual_seed(0)
    actions = read_actions(EXAMPLE_EPISODE)[1:3]
    out = pipe(EXAMPLE_EPISODE, actions=actions, num_samples=2, generator=generator, output_type="pt")
    write_video(side_by_side(read_video(EXAMPLE_EPISODE)[2:4], *out.frames[0]), folder / "futures.mp4", scale=4)


def load_data(folder: str) -> int:
    """Training clips in batches, clips by number, and episodes."""
    clips = load_clips(folder, batch_size=2, segment=SegmentSpec(num_frames=4), actions=True, seed=0)
    batch = next(iter(clips))
    clips.load_state_dict(clips.state_dict())
    dataset = SegmentDataset(Source(folder), SegmentSpec(4), actions=True)
    frames: Tensor = dataset[0]["frames"]
    print(batch["frames"].shape, frames.shape, dataset.action_dim)
    return len(open_episodes(folder))


def measure(world: WorldModel) -> float:
    """How near a prediction is to what happened, and the model on another device and in another precision."""
    frames, actions = read_video(EXAMPLE_EPISODE), read_actions(EXAMPLE_EPISODE)
    rollout = world.to(dtype=torch.float32).rollout(
        frames[None, :2], actions[None, 1:3], outputs=("frames", "statistics")
    )
    print(rollout.statistics.frames_per_second)
    return psnr(rollout.frames, frames[None, 2:4]).mean().item()


def use_everything(folder: Path, data: str) -> None:
    """All of it in this process."""
    local = WorldModel.default()
    world: World[Any] = local
    predict(local)
    step_and_branch(local, folder)
    play(local, read_video(EXAMPLE_EPISODE, max_frames=2)[None])
    print(world.device, plan(local))
    act_in_environments(local)
    run_pipeline(local, folder)
    print(load_data(data), measure(local))


def use_server(url: str) -> None:
    """A served world wherever a world is taken."""
    with RemoteWorldModel(url) as remote:
        world: World[Any] = remote
        state = play(remote, read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        rollout = world.rollout(state, torch.zeros(1, 2, 4), outputs=("rewards",))
        policy = PlannerPolicy(world, planners(world)[0], RewardSum())
        print(rollout.rewards.shape, policy.select_action(read_video(EXAMPLE_EPISODE, max_frames=1)))
