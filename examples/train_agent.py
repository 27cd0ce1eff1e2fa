"""Train a stock PPO agent of stable-baselines3 in imagined worlds: not one step of it is real.

    pip install 'ivideogpt-hf[rl]'
    python examples/train_agent.py --num-steps 512

Prints the mean reward of an episode before and after, over the same starts. A few hundred steps show that it works, not
what it can do.
"""

import argparse

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from ivideogpt_hf import WorldModelVectorEnv


class ForStableBaselines(VecEnv):
    """A `WorldModelVectorEnv` as stable-baselines3 wants its vector environments, which are older than gymnasium's."""

    def __init__(self, worlds):
        self.worlds = worlds
        super().__init__(worlds.num_envs, worlds.single_observation_space, worlds.single_action_space)

    def reset(self):
        observations, _ = self.worlds.reset(seed=self._seeds[0])
        self._reset_seeds()
        return observations

    def step_async(self, actions):
        self._actions = actions

    def step_wait(self):
        observations, rewards, terminations, truncations, infos = self.worlds.step(self._actions)
        is_over = terminations | truncations
        per_world = [{"TimeLimit.truncated": bool(truncated)} for truncated in truncations]
        for row in np.flatnonzero(is_over):
            per_world[row]["terminal_observation"] = infos["final_obs"][row]
        return observations, rewards.astype(np.float32), is_over, per_world

    def close(self):
        self.worlds.close()

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.worlds, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError("the worlds of a batch share their attributes")

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise NotImplementedError("the worlds of a batch have no methods of their own")

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False for _ in self._get_indices(indices)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="default", help="with actions and rewards")
    parser.add_argument("--num-steps", type=int, default=512, help="over all worlds")
    parser.add_argument("--num-worlds", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    worlds = WorldModelVectorEnv(args.checkpoint, num_envs=args.num_worlds, horizon=args.horizon)
    environment = VecMonitor(ForStableBaselines(worlds))
    environment.seed(args.seed)
    agent = PPO("CnnPolicy", environment, n_steps=2 * args.horizon, batch_size=64, n_epochs=4, seed=args.seed)

    def mean_reward():
        environment.seed(args.seed)
        return evaluate_policy(agent, environment, n_eval_episodes=args.num_worlds)[0]

    before = mean_reward()
    agent.learn(args.num_steps, progress_bar=False)
    print(f"steps: {agent.num_timesteps}   reward of an episode: {before:.3f} -> {mean_reward():.3f}")


if __name__ == "__main__":
    main()
