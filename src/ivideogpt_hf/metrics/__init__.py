"""Distances between frames and the use of codes, for training, evaluation and planning."""

# Name of the Frechet video distance on the features of I3D, in results, tables and cards.
FVD = "FVD (I3D)"
