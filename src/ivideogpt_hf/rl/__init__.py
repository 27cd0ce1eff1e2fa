"""Reinforcement learning from images, with real and with imagined experience."""
