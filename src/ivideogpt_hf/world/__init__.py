"""The world model: states, stepping, rollouts."""
