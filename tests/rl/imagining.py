"""Small agents and world models that imagine."""

from ivideogpt_hf.rl.agents.by_name import FrameFeatures
from ivideogpt_hf.rl.agents.drqv2 import DrQv2
from ivideogpt_hf.rl.environments.simulator import SimulatorEnv
from ivideogpt_hf.rl.imagination.experience import ImaginationSchedule, ImaginedExperience
from ivideogpt_hf.rl.imagination.learner import LearnerSettings, WorldModelLearner
from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
from tests.conftest import build_world

SCHEDULE = {
    "first_step": 10,
    "warmup_updates": 2,
    "warmup_vq_updates": 0,
    "transformer_every": 4,
    "vq_every": None,
    "imagine_every": 5,
    "num_starts": 3,
    "horizon": 3,
    "first_rounds": 2,
    "first_actions": "policy",
}
SIZES = {"num_channels": 4, "strides": (2, 2), "trunk_dim": 8, "hidden_dim": 16}


def make_environment(**options):
    return SimulatorEnv("push2d/goal-shown", (16, 16), **{"max_steps": 8, "action_repeat": 1} | options)


def make_agent(kind=DrQv2, **options):
    options = {"learning_starts": 10, "batch_size": 4, "buffer_size": 500, "seed": 0, "device": "cpu"} | options
    if kind is DrQv2:
        return DrQv2("CnnPolicy", make_environment(), std_steps=20, policy_kwargs=SIZES, **options)
    policy = {
        "features_extractor_class": FrameFeatures,
        "features_extractor_kwargs": {"num_channels": 4, "strides": (2, 2), "trunk_dim": 8},
        "normalize_images": False,
        "net_arch": [16],
    }
    buffer = {"replay_buffer_class": MixedReplayBuffer, "replay_buffer_kwargs": {"seed": 0}}
    return kind("MlpPolicy", make_environment(), policy_kwargs=policy, **buffer, **options)


def make_imagined(schedule=None, world=None, **options):
    world = world or build_world(action_dim=2, predict_reward=True)
    learner = WorldModelLearner(world, LearnerSettings(num_future_frames=3, batch_size=2))
    return ImaginedExperience(learner, ImaginationSchedule(**SCHEDULE | (schedule or {})), **options)


def learnt(num_steps=14, kind=DrQv2, imagined=None, **options):
    """An agent after some steps with imagined experience."""
    imagined, agent = imagined or make_imagined(), make_agent(kind, **options)
    return agent.learn(num_steps, callback=imagined), imagined


def imagined_only(agent, size=4000):
    agent.replay_buffer.real_ratio = 0.0
    return agent.replay_buffer.sample(size)
