"""Collect the small Meta-world data set that the embedded default checkpoint is trained on.

Needs an environment of its own, kept apart from the package's:

    pip install "metaworld==3.1.1" packaging
    MUJOCO_GL=egl python scripts/collect_metaworld.py datasets/default

Writes one npz per episode under train/ and test/: frames (T, 3, 64, 64) uint8; actions (T-1, 4) float32 in [-1, 1],
where actions[t] leads from frame t to frame t+1; rewards (T-1,) float32, summed over the repeated action.
"""

import sys
import time
from pathlib import Path

import metaworld.policies
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

TASKS = ("plate-slide-v3", "drawer-open-v3", "button-press-topdown-wall-v3")
EPISODES_PER_TASK = 100
HELD_OUT_PER_TASK = 10
NUM_FRAMES = 51
ACTION_REPEAT = 2
FRAME_SIZE = 64
# Half of the episodes act well. With those alone a model could guess the action from the frames, and ignore it.
BEHAVIOURS = ("expert", "noisy expert", "random", "noisy expert", "random", "mixed")


def make_environment(task, seed):
    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"](seed=seed)
    env._freeze_rand_vec = False  # a new object position at every reset
    env.max_path_length = 10**9
    model = env.model
    model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = 2 * FRAME_SIZE
    renderer = mujoco.Renderer(model, 2 * FRAME_SIZE, 2 * FRAME_SIZE)
    return env, renderer


def render(env, renderer):
    """One upright frame (3, 64, 64) uint8. Shadows would cost ten times the rest; the box average smooths edges."""
    renderer.update_scene(env.data, camera="corner")
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    image = renderer.render()[::-1].astype(np.float32)  # this camera hangs upside down
    image = image.reshape(FRAME_SIZE, 2, FRAME_SIZE, 2, 3).mean(axis=(1, 3))
    return image.round().astype(np.uint8).transpose(2, 0, 1)


class RandomWalk:
    """Random actions that keep their direction for a while: white noise alone would hardly move the arm."""

    def __init__(self, rng):
        self.rng = rng
        self.direction = rng.uniform(-1, 1, 4)

    def __call__(self):
        if self.rng.random() < 0.15:
            self.direction = self.rng.uniform(-1, 1, 4)
        return self.direction + 0.3 * self.rng.standard_normal(4)


def choose_action(behaviour, expert_action, walk, rng, progress):
    if behaviour == "mixed":  # random first, then the expert recovers from wherever that led
        behaviour = "random" if progress < 0.4 else "expert"
    if behaviour == "random":
        action = walk()
    else:
        noise = 0.4 if behaviour == "noisy expert" else 0.0
        action = np.clip(expert_action, -1, 1) + noise * rng.standard_normal(4)
    return np.clip(action, -1, 1).astype(np.float32)


def collect_episode(env, renderer, policy, behaviour, rng):
    observation, _ = env.reset()
    walk = RandomWalk(rng)
    frames, actions, rewards = [render(env, renderer)], [], []
    for step in range(NUM_FRAMES - 1):
        action = choose_action(behaviour, policy.get_action(observation), walk, rng, step / NUM_FRAMES)
        reward = 0.0
        for _ in range(ACTION_REPEAT):
            observation, step_reward, *_ = env.step(action)
            reward += step_reward
        frames.append(render(env, renderer))
        actions.append(action)
        rewards.append(reward)
    return {"frames": np.stack(frames), "actions": np.stack(actions), "rewards": np.array(rewards, np.float32)}


def main(folder):
    start = time.time()
    for task_index, task in enumerate(TASKS):
        env, renderer = make_environment(task, seed=task_index)
        policy = metaworld.policies.ENV_POLICY_MAP[task]()
        for index in range(EPISODES_PER_TASK):
            split = "test" if index < HELD_OUT_PER_TASK else "train"
            behaviour = BEHAVIOURS[index % len(BEHAVIOURS)]
            episode = collect_episode(env, renderer, policy, behaviour, np.random.default_rng([task_index, index]))
            path = folder / split / f"{task}-{index:03d}-{behaviour.replace(' ', '-')}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, **episode)
        renderer.close()
        print(f"{task}: {EPISODES_PER_TASK} episodes, {time.time() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
