"""Distances between frames and the use of codes, for training, evaluation and planning."""
