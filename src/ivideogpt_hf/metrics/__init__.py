"""Distances between frames, for training, evaluation and planning."""
