# /// script
# requires-python = ">=3.11"
# dependencies = ["ivideogpt-hf[rl]"]
# ///
"""Train a stock PPO agent of stable-baselines3 in imagined worlds: not one step of it is real.

    pip install ".[rl]"    # in a clone of the repository
    python examples/train_agent.py --num-steps 512

Prints the mean reward of an episode before and after, over the same starts. A few hundred steps show that it works, not
what it can do.
"""

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from ivideogpt_hf import WorldModelVectorEnv
from ivideogpt_hf.rl.environments.imagined import ImaginedWorlds


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
    environment = VecMonitor(ImaginedWorlds(worlds))
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
